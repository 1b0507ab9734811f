"""Where a network looks: the attention of one query as a map, and the effective receptive field of a position.

The efficient attention of SegFormer (Xie et al. 2021) and PVTv2 lets every position of a stage ask, but only the
positions of a reduced map answer: with reduction R a key stands for R x R positions. `BlockAttention.query`
undoes this, so that maps of all stages lie on their stage's grid. Attention says from where a block mixes values in; it
is no explanation of the decision (Jain and Wallace 2019, arXiv 1902.10186).
"""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from transkd_lite.data.labels import VOID, LabelSpace
from transkd_lite.metrics import as_batch, predict
from transkd_lite.models.attention import attention_map
from transkd_lite.models.naming import family_of
from transkd_lite.models.output import SegModel

__all__ = [
    "Choice", "Looks", "attend", "class_share", "linear_cka", "linear_fit", "overlays", "r_squared", "receptive_field",
    "stage_similarity",
]  # fmt: skip

Block = tuple[int, int]


class BlockAttention(NamedTuple):
    """What one block of a network attends to.

    weights: (N, heads, H * W, h * w), rows add up to 1; queries and keys row by row.
    size: (H, W) of the stage's grid, on which the queries lie.
    reduction: R; a key stands for R x R positions from the top left on, and h = H // R, w = W // R. What is
        left over at the right and at the bottom belongs to no key.
    """

    weights: Tensor
    size: tuple[int, int]
    reduction: int

    @property
    def num_heads(self) -> int:
        """Heads of the block."""
        return self.weights.shape[1]

    @property
    def key_size(self) -> tuple[int, int]:
        """(h, w), the grid of the keys."""
        return self.size[0] // self.reduction, self.size[1] // self.reduction

    def query(self, position: tuple[int, int], *, head: int = 1, image: int = 0) -> Tensor:
        """The attention of one query on the stage's grid, (H, W), adding up to 1; a key's weight shared out evenly.

        position: (row, column) of the query on the stage's grid, from 0. head: from 1, as stages and blocks are
        counted. image: which of the N, from 0. Raises `IndexError` for one that is not there.
        """
        r, (height, width) = self.reduction, self.size
        if min(*position, head - 1, image) < 0:
            raise IndexError(f"positions and images count from 0, heads from 1; got {position}, {image} and {head}")
        keys = self.weights.unflatten(2, self.size)[image, head - 1, *position].unflatten(0, self.key_size) / r**2
        spread = keys.repeat_interleave(r, 0).repeat_interleave(r, 1)
        return F.pad(spread, (0, width - spread.shape[1], 0, height - spread.shape[0]))


@torch.no_grad()
def attend(model: SegModel, images: Tensor) -> dict[Block, BlockAttention]:
    """Run `model` on images (N, 3, H, W) in evaluation mode and keep the attention of every (stage, block), from 1.

    A copy of the model is run, so that the model stays as it is. Raises `ValueError` for networks without such
    attention.

    >>> from transkd_lite.models.weights import create_model
    >>> seen = attend(create_model("segformer_b0", 19), torch.rand(1, 3, 64, 128))
    >>> seen[3, 2].num_heads, seen[3, 2].size, seen[3, 2].key_size
    (5, (4, 8), (2, 4))
    """
    seen: dict[Block, BlockAttention] = {}
    if family_of(model.spec.name) not in ("segformer", "pvt"):
        raise ValueError(f"{model.spec.name} has no attention to show: choose a SegFormer or a PVTv2")

    def keep(key: Block, module: Any, args: tuple[Tensor, Sequence[int]], output: Tensor) -> None:
        (height, width), reduction = args[1], 1 if module.sr is None else module.sr.stride[0]
        seen[key] = BlockAttention(attention_map(module, *args), (height, width), reduction)

    twin: Any = copy.deepcopy(model).eval()
    for i, stage in enumerate(getattr(twin, "backbone", twin).stages, start=1):
        for j, block in enumerate(stage.blocks, start=1):
            block.attn.register_forward_hook(partial(keep, (i, j)))
    twin.encode(images)  # the head attends to nothing
    return seen


def class_share(attention: BlockAttention, labels: Tensor) -> tuple[float, float]:
    """How much of its attention a query gives to positions of its own class, on average, and by chance.

    labels: (N, H, W) train ids on the stage's grid; 255 is void and neither asks nor counts as a class.

    Returns the mean share in [0, 1] over all images, heads and labelled queries, and the same for attention that is
    even over all keys: what the sizes of the classes alone would give; nan where all is void. Raises `ValueError` for
    labels of another shape.
    """
    if labels.shape != (expected := (len(attention.weights), *attention.size)):
        raise ValueError(f"labels must be {expected}, got {tuple(labels.shape)}: resize them to the grid first")
    asks = labels != VOID
    maps = (F.one_hot(labels.long() * asks) * asks[..., None]).permute(0, 3, 1, 2).float()  # (N, classes, H, W)
    members = F.avg_pool2d(maps, attention.reduction).flatten(2)  # (N, classes, keys): how much of a key is of each
    same = maps.flatten(2).transpose(1, 2) @ members  # (N, queries, keys): how much of a key is of the query's class
    given = (attention.weights.mean(1) * same).sum(2)  # the share is linear in the heads: average them first
    return float(given[asks.flatten(1)].mean()), float(same.mean(2)[asks.flatten(1)].mean())


def receptive_field(model: SegModel, images: Tensor, stage: int) -> Tensor:
    """Effective receptive field of the feature f in the middle of a stage, from 1 (Luo et al. 2016, arXiv 1701.04128).

    At each pixel the root mean square, over images (N, 3, H, W) and N random signs e of the channels, of
    d(e'f) / d pixel, summed over colours. The expectation of its square is |df / d pixel|^2, all channels counted
    alike; the plain sum of the channels would not do, because LayerNorm holds it nearly constant. Returns (H, W),
    adding up to 1. A copy of the model is run in evaluation mode, so that the model stays as it is.
    """
    pixels = images.detach().clone().requires_grad_()
    feature, _ = copy.deepcopy(model).eval().encode(pixels)[stage - 1]  # without the head
    middle = feature[:, :, feature.shape[2] // 2, feature.shape[3] // 2]
    signs = torch.randint(2, middle.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (gradient,) = torch.autograd.grad((signs.to(middle) * middle).sum(), pixels)
    field = gradient.square().sum(1).mean(0).sqrt()
    return field / field.sum()


# --- How alike two networks see: linear centred kernel alignment (CKA) between all their stages.
#
# Kornblith et al. 2019, arXiv 1905.00414. For n examples with centred features X (n, p) and Y (n, q), and the linear
# kernels K = X X', L = Y Y':  CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)). Their HSIC, tr(KL), is "biased": with few
# examples and many channels CKA is near 1 for anything. "unbiased" is HSIC_1 of Song et al. 2012 (JMLR 13), put into
# CKA by Nguyen et al. 2021 (arXiv 2010.15327): it leaves out each example's product with itself. A feature map's
# examples are its positions; neighbours are not independent, so compare numbers of the same images and positions.


def linear_cka(x: Tensor, y: Tensor, *, estimator: str = "unbiased") -> float:
    """Alignment of two sets of features of the same examples; the order of channels does not matter.

    x, y: (n, p) and (n, q), the same n examples in the same order; at least 4. estimator: "unbiased" or "biased".

    Returns 1 for features that differ by a rotation, a reflection, an isotropic scale and a shift; about 0 ("unbiased":
    on average 0, and so sometimes below) for unrelated ones; nan where one of them is constant.
    Raises `ValueError` for an unknown estimator, other shapes, or too few examples.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [0.0, 0.0]])
    >>> round(linear_cka(x, -5 * x.flip(1) + 7), 6)
    1.0
    """
    n, given = len(x), f"got {tuple(x.shape)}, {tuple(y.shape)} and {estimator!r}"
    if estimator not in ("unbiased", "biased") or not x.ndim == y.ndim == 2 or len(y) != n or n < 4:
        known = "the same n examples, 4 or more, and estimator 'unbiased' or 'biased'"
        raise ValueError(f"x and y must be (n, p) and (n, q) of {known}; {given}: for maps see stage_similarity")
    centred = (z.double() - z.double().mean(0) for z in (x, y))
    k, l = (z @ z.T if estimator == "biased" else (z @ z.T).fill_diagonal_(0) for z in centred)

    def hsic(k: Tensor, l: Tensor) -> Tensor:
        """HSIC_1 up to a factor that cancels; with their diagonals, centred K and L have no sums but tr(KL)."""
        return (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ l.sum(0)) / (n - 2)

    return float(hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt())


def stage_similarity(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Unbiased linear CKA between every stage of one network and every stage of another.

    Maps are averaged over the cells of one grid, the coarsest, so that all pairs have the same examples, one for each
    image and cell. first, second: the features of `SegOutput`, (N, C_i, H_i, W_i) each, of the same N images.
    Returns (len(first), len(second)), rows the stages of the first network.
    """
    maps = [*first, *second]
    size = min(m.shape[2] for m in maps), min(m.shape[3] for m in maps)
    rows = [F.adaptive_avg_pool2d(m, size).permute(0, 2, 3, 1).flatten(0, 2) for m in maps]
    return torch.tensor([[linear_cka(x, y) for y in rows[len(first) :]] for x in rows[: len(first)]])


def linear_fit(x: Tensor, y: Tensor, x_new: Tensor, *, ridge: float = 1e-6) -> Tensor:
    """What the linear layer with bias that best predicts y from x, by least squares, predicts from x_new.

    x, y: tokens (..., p) and (..., q) of the same places; x_new: (..., p) of other images. ridge: what is added to the
    variance of every channel of x, as a part of their mean; 0.01 where the places are few. Returns (..., q).
    """
    x, y = (tokens.double().flatten(0, -2) for tokens in (x, y))
    centred = x - x.mean(0)
    gram = centred.T @ centred
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    return (x_new - x.mean(0)) @ torch.linalg.solve(gram, centred.T @ y) + y.mean(0)


def r_squared(predicted: Tensor, wanted: Tensor) -> float:
    """Share of the variance of `wanted` that a prediction explains: 1 if equal, 0 for its mean; both (..., q)."""
    spread = wanted - wanted.flatten(0, -2).mean(0)
    return 1 - float((wanted - predicted).square().sum() / spread.square().sum())


# --- What the attention panel and its static twins show, as pure values: pictures of attention over the image.

DARK, MIDDLE, BRIGHT = "#00224e", "#7d7c78", "#fee838"  # of cividis
EVERY = "all"


class Choice(NamedTuple):
    """What is asked: image from 0; stage, block and head from 1; the query's pixel; one network's name or "all".

    A network with fewer blocks or heads than asked shows its last.
    """

    image: int = 0
    stage: int = 4
    block: int = 1
    head: int = 1
    row: int = 0
    column: int = 0
    network: str = EVERY


class Looks:
    """What several networks see on some pictures: all their attention, and their label maps.

    networks: SegFormers or PVTv2s of four stages. pictures: RGB pictures of one size, PIL or uint8 arrays (H, W, 3).
    labels: a map (H, W) of train ids for each. space: the classes' names.

    Raises `ValueError` for pictures of several sizes, and for networks without such attention.
    """

    def __init__(
        self, networks: Mapping[str, SegModel], pictures: Sequence[Any], labels: Sequence[ArrayLike], space: LabelSpace
    ) -> None:
        batch = as_batch(pictures)
        self.pictures, self.space = [np.asarray(picture) for picture in pictures], space
        self.labels = torch.stack([torch.from_numpy(np.array(label, np.int64)) for label in labels])
        self.attention = {name: attend(model, batch) for name, model in networks.items()}
        self.predictions = {name: predict(model, pictures) for name, model in networks.items()}

    def class_at(self, image: int, row: int, column: int, network: str | None = None) -> str:
        """Name of the class at a pixel, the labelled one or the one that a network predicts; "void" for none."""
        maps = self.labels if network is None else self.predictions[network]
        return dict(enumerate(self.space.names)).get(int(maps[image][row, column]), "void")

    def view(self, network: str, choice: Choice) -> SimpleNamespace:
        """What one network's block and head attend to from the chosen pixel; distances and peak in pixels.

        position: the query's on the stage's grid; weights: (H_i, W_i), adding up to 1; block, head: the ones shown.
        predicted: the class that the network predicts at the query; keys: how many there are.
        peak: (row, column) of the middle of the strongest key; there: the class labelled there; share: its weight.
        effective: exp(entropy), from 1 (one key has all) to `keys` (all alike). distance: mean distance of positions
        from the query, weighted by attention. own_class: the share of attention on its labelled class, nan at void.

        Raises `LookupError` for a network, stage, image or pixel that is not there.
        """
        blocks = [attention for (stage, _), attention in self.attention[network].items() if stage == choice.stage]
        attention = blocks[: choice.block][-1]
        head, labels = min(choice.head, attention.num_heads), self.labels[choice.image]
        (rows, columns), r, (height, width) = attention.size, attention.reduction, labels.shape
        row, column = choice.row * rows // height, choice.column * columns // width
        weights = attention.query((row, column), head=head, image=choice.image)
        own = (labels == labels[choice.row, choice.column]).float()
        own_class = (weights * F.adaptive_avg_pool2d(own[None], attention.size)[0]).sum()
        ys, xs = torch.meshgrid(torch.arange(rows) - row, torch.arange(columns) - column, indexing="ij")
        top = divmod(int(weights.argmax()), columns)  # the first position of the strongest key
        peak = (2 * top[0] + r) * height // (2 * rows), (2 * top[1] + r) * width // (2 * columns)
        return SimpleNamespace(
            position=(row, column), weights=weights, block=len(blocks[: choice.block]), head=head,
            predicted=self.class_at(choice.image, choice.row, choice.column, network),
            peak=peak, there=self.class_at(choice.image, *peak), share=float(r**2 * weights.max()),
            keys=attention.weights.shape[3],
            effective=float(torch.special.entr(weights.double()).sum().exp() / r**2),
            distance=float((weights * torch.hypot(height / rows * ys, width / columns * xs)).sum()),
            own_class=float("nan") if labels[choice.row, choice.column] == VOID else float(own_class),
        )  # fmt: skip

    def chosen(self, choice: Choice) -> dict[str, SimpleNamespace]:
        """The views of the networks that a choice names."""
        names = self.attention if choice.network == EVERY else [choice.network]
        return {name: self.view(name, choice) for name in names}


def overlays(looks: Looks, choice: Choice) -> dict[str, NDArray[np.uint8]]:
    """Pictures, small ones enlarged to about 512 pixels: the chosen one, then each chosen network's attention over it.

    A map is scaled to its largest weight, from dark blue to yellow; the frame is the query's position on the grid.
    """
    views = looks.chosen(choice)
    layers = {"image": Image.fromarray(looks.pictures[choice.image])}
    grey, nearest = layers["image"].convert("L"), Image.Resampling.NEAREST
    for name, seen in views.items():
        levels = Image.fromarray(np.uint8(255 * seen.weights.numpy() / float(seen.weights.max())))
        colours = ImageOps.colorize(levels.resize(grey.size, nearest), DARK, BRIGHT, MIDDLE)
        layers[name] = Image.blend(colours, grey.convert("RGB"), 0.35)  # so that the picture shines through
    (row, column), (rows, columns), times = seen.position, seen.weights.shape, max(1, 512 // grey.width)
    tall, wide = times * grey.height / rows, times * grey.width / columns
    frame = (column * wide, row * tall, (column + 1) * wide - 1, (row + 1) * tall - 1)
    out = {}
    for name, layer in layers.items():
        large = layer.resize((times * grey.width, times * grey.height), nearest)
        for colour, width in (("black", 4), ("white", 2)):
            ImageDraw.Draw(large).rectangle(frame, outline=colour, width=width)
        out[name] = np.asarray(large)
    return out
