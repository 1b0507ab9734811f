"""Where a network looks: the attention of one query as a map, and the effective receptive field of a position.

The efficient attention of SegFormer (Xie et al. 2021) and PVTv2 lets every position of a stage ask, but only the
positions of a reduced map answer: with reduction R a key stands for R x R positions. `BlockAttention.query`
undoes this, so that maps of all stages lie on their stage's grid. Attention says from where a block mixes values in; it
is no explanation of the decision (Jain and Wallace 2019, arXiv 1902.10186).

Effective receptive field: Luo et al. 2016, arXiv 1701.04128.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from transkd_lite.data.labels import VOID, LabelSpace
from transkd_lite.metrics import as_batch, predict
from transkd_lite.models.attention import capture_attention
from transkd_lite.models.output import SegModel

__all__ = [
    "EVERY",
    "BlockAttention",
    "Choice",
    "Looks",
    "View",
    "attend",
    "class_share",
    "linear_cka",
    "look",
    "overlays",
    "receptive_field",
    "stage_similarity",
    "view",
]

Block = tuple[int, int]


@dataclass(frozen=True)
class BlockAttention:
    """What one block of a network attends to.

    - weights: (N, heads, H * W, h * w), rows add up to 1; queries and keys row by row.
    - size: (H, W) of the stage's grid, on which the queries lie.
    - reduction: R; a key stands for R x R positions from the top left on, and h = H // R, w = W // R. What is
      left over at the right and at the bottom belongs to no key.
    """

    weights: Tensor
    size: tuple[int, int]
    reduction: int

    def __post_init__(self) -> None:
        (height, width), (h, w) = self.size, self.key_size
        if self.weights.shape[-2:] != (height * width, h * w):
            raise ValueError(
                f"weights must be (N, heads, {height * width}, {h * w}) for a grid {self.size} and reduction "
                f"{self.reduction}, got {tuple(self.weights.shape)}"
            )

    @property
    def num_heads(self) -> int:
        """Heads of the block."""
        return self.weights.shape[1]

    @property
    def key_size(self) -> tuple[int, int]:
        """(h, w), the grid of the keys."""
        return self.size[0] // self.reduction, self.size[1] // self.reduction

    def keys(self, position: tuple[int, int], *, head: int = 1, image: int = 0) -> Tensor:
        """The attention of one query on the grid of the keys, (h, w), adding up to 1.

        Args:
            position: (row, column) of the query on the stage's grid, from 0.
            head: from 1, as stages and blocks are counted.
            image: which of the N, from 0.

        Raises:
            ValueError: a position, head or image that is not there.
        """
        (height, width), (row, column) = self.size, position
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(f"position {position} is not on the grid of {height} rows and {width} columns")
        if not 1 <= head <= self.num_heads:
            raise ValueError(f"head {head}: this block has heads 1 to {self.num_heads}")
        if not 0 <= image < len(self.weights):
            raise ValueError(f"image {image}: attention was captured for images 0 to {len(self.weights) - 1}")
        return self.weights[image, head - 1, row * width + column].unflatten(0, self.key_size)

    def query(self, position: tuple[int, int], *, head: int = 1, image: int = 0) -> Tensor:
        """The same on the stage's grid, (H, W), every key's weight shared out evenly over its positions."""
        r, (height, width) = self.reduction, self.size
        keys = self.keys(position, head=head, image=image) / r**2
        spread = keys.repeat_interleave(r, 0).repeat_interleave(r, 1)
        return F.pad(spread, (0, width - spread.shape[1], 0, height - spread.shape[0]))


@torch.no_grad()
def attend(model: SegModel, images: Tensor, blocks: Sequence[Block] | None = None) -> dict[Block, BlockAttention]:
    """Run `model` on images (N, 3, H, W) in evaluation mode and keep the attention of blocks (None: of all).

    Stages and blocks are counted from 1. The model comes back in the mode in which it was.
    Raises ValueError for networks without such attention and for blocks that do not exist.

    >>> from transkd_lite.models import create_model
    >>> seen = attend(create_model("segformer_b0", 19), torch.rand(1, 3, 64, 128))
    >>> seen[3, 2].num_heads, seen[3, 2].size, seen[3, 2].key_size
    (5, (4, 8), (2, 4))
    """
    depths = model.spec.depths
    if blocks is None:
        blocks = [(stage, b) for stage, depth in enumerate(depths, start=1) for b in range(1, depth + 1)]
    was_training = model.training
    try:
        with capture_attention(model.eval(), blocks) as captured:
            model(images)
    finally:
        model.train(was_training)
    stages: Any = getattr(model, "backbone", model).stages
    seen = {}
    for (stage, block), weights in captured.attention.items():
        convolution = stages[stage - 1].blocks[block - 1].attn.sr
        reduction = 1 if convolution is None else int(convolution.stride[0])
        height, width = captured.features[stage - 1].shape[2:]
        seen[stage, block] = BlockAttention(weights, (height, width), reduction)
    return seen


def class_share(attention: BlockAttention, labels: Tensor) -> tuple[float, float]:
    """How much of its attention a query gives to positions of its own class, on average, and by chance.

    Args:
        attention: of N images.
        labels: (N, H, W) train ids on the stage's grid; 255 is void and neither asks nor counts as a class.

    Returns:
        The mean share in [0, 1] over all images, heads and labelled queries, and the same for attention that
        is even over all keys: what the sizes of the classes alone would give.

    Raises:
        ValueError: labels of another shape, or without a labelled position.
    """
    expected, got = (len(attention.weights), *attention.size), tuple(labels.shape)
    if got != expected:
        raise ValueError(f"labels must be {expected}, got {got}: resize them to the grid first")
    ids = labels.flatten(1).long()
    asks = ids != VOID
    if not asks.any():
        raise ValueError("labels hold no class, only void: choose other images")
    classes = torch.arange(int(ids[asks].max()) + 1, device=labels.device)
    maps = (labels[:, None] == classes[:, None, None]).float()
    members = F.avg_pool2d(maps, attention.reduction).flatten(2)  # (N, classes, keys): how much of a key is of each
    own = ids.where(asks, 0)[:, :, None].expand(-1, -1, members.shape[2])
    same = members.gather(1, own)  # (N, queries, keys): how much of a key is of the query's class
    given = (attention.weights.mean(1) * same).sum(2)  # the share is linear in the heads: average them first
    return float(given[asks].mean()), float(same.mean(2)[asks].mean())


def receptive_field(model: SegModel, images: Tensor, stage: int) -> Tensor:
    """Which pixels the feature f in the middle of a stage depends on: its effective receptive field.

    At each pixel the root mean square, over images (N, 3, H, W) and N random signs e of the channels, of
    d(e'f) / d pixel, summed over colours. Its expectation is |df / d pixel|, all channels counted alike; the
    plain sum of the channels would not do, because LayerNorm holds it nearly constant. The model runs in
    evaluation mode and comes back in the mode in which it was; its parameters get no gradient.

    Returns (H, W), adding up to 1. Raises ValueError for a stage that is not there.
    """
    if not 1 <= stage <= len(model.spec.channels):
        raise ValueError(f"stage {stage}: {model.spec.name} has stages 1 to {len(model.spec.channels)}")
    was_training = model.training
    pixels = images.detach().clone().requires_grad_()
    try:
        feature = model.eval()(pixels).features[stage - 1]
    finally:
        model.train(was_training)
    middle = feature[:, :, feature.shape[2] // 2, feature.shape[3] // 2]
    signs = torch.randint(2, middle.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (gradient,) = torch.autograd.grad((signs.to(middle) * middle).sum(), pixels)
    field = gradient.square().sum(1).mean(0).sqrt()
    return field / field.sum()


# --- How alike two networks see: linear centred kernel alignment (CKA) between all their stages.
#
# Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited", arXiv 1905.00414. For n examples
# with centred features X (n, p) and Y (n, q), and the linear kernels K = X X', L = Y Y',
#
#     CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)).
#
# Two estimators of HSIC. "biased" is the paper's, |X'Y|² (Frobenius): with few examples and many channels it comes
# out near 1 for anything. "unbiased" is HSIC_1 of Song et al. 2012 (JMLR 13), which Nguyen et al. 2021 (arXiv
# 2010.15327) put into CKA: it leaves out each example's product with itself, and is near 0 for unrelated features.
# Both cost O(n p q) here: with linear kernels no (n, n) matrix is needed.
#
# The examples of a feature map are its positions, in all images together. Neighbouring positions are not
# independent, which no estimator knows; compare numbers that come from the same images and positions.


def linear_cka(x: Tensor, y: Tensor, *, estimator: str = "unbiased") -> float:
    """Alignment of two sets of features of the same examples; the order of channels does not matter.

    Args:
        x: (n, p), one row an example.
        y: (n, q), the same examples in the same order.
        estimator: "unbiased" (at least 4 examples) or "biased" (at least 2).

    Returns:
        1 for features that differ by a rotation, a reflection, an isotropic scale and a shift; about 0
        ("unbiased": on average 0, and so sometimes below) for unrelated ones; nan where one of them is constant.

    Raises:
        ValueError: unknown estimator, other shapes, or too few examples.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [0.0, 0.0]])
    >>> round(linear_cka(x, -5 * x.flip(1) + 7), 6)
    1.0
    """
    least = {"unbiased": 4, "biased": 2}
    if estimator not in least:
        raise ValueError(f"estimator must be one of {', '.join(map(repr, least))}; got {estimator!r}")
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            f"x and y must be (n, p) and (n, q) of the same n examples, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}: for maps see stage_similarity"
        )
    n = len(x)
    if n < least[estimator]:
        raise ValueError(f"the {estimator} estimator needs at least {least[estimator]} examples, got {n}")

    def hsic(x: Tensor, y: Tensor) -> Tensor:
        """HSIC up to a factor that cancels: (n - 1)² of the biased one, n (n - 3) of the unbiased one.

        With the diagonals of K and L set to zero HSIC_1 is  tr(KL) + 1'K1 1'L1 / ((n-1)(n-2)) - 2 1'KL1 / (n-2).
        """
        cross = (x.T @ y).square().sum()
        if estimator == "biased":
            return cross
        own_x, own_y = x.square().sum(1), y.square().sum(1)  # the diagonals
        row_x, row_y = x @ x.sum(0) - own_x, y @ y.sum(0) - own_y  # K1 and L1
        trace = cross - own_x @ own_y
        return trace + row_x.sum() * row_y.sum() / ((n - 1) * (n - 2)) - 2 * (row_x @ row_y) / (n - 2)

    x, y = (z.double() - z.double().mean(0) for z in (x, y))
    own = hsic(x, x) * hsic(y, y)
    return float(hsic(x, y) / own.sqrt()) if own > 0 else float("nan")


def stage_similarity(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Unbiased linear CKA between every stage of one network and every stage of another.

    Maps are averaged over the cells of one grid, the coarsest, so that all pairs have the same examples, one for each
    image and cell: a coarse position stands beside the mean of the fine ones that it covers. Enlarging the coarse maps
    instead would count the same vector often.

    Args:
        first, second: the features of `SegOutput`, (N, C_i, H_i, W_i) each, of the same N images.

    Returns:
        (len(first), len(second)), rows the stages of the first network.

    Raises:
        ValueError: different numbers of images.
    """
    maps = [*first, *second]
    if len({len(m) for m in maps}) != 1:
        raise ValueError(f"maps must be of the same images, got {[len(m) for m in maps]} images")
    size = min(m.shape[2] for m in maps), min(m.shape[3] for m in maps)
    rows = [F.adaptive_avg_pool2d(m, size).permute(0, 2, 3, 1).flatten(0, 2) for m in maps]
    return torch.tensor([[linear_cka(x, y) for y in rows[len(first) :]] for x in rows[: len(first)]])


# --- What the attention panel shows, as pure values: pictures of attention over the image.
#
#     looks = look({"teacher": teacher, "student": student}, pictures, labels, space)
#     overlays(looks, Choice(stage=3, row=20, column=60))
#
# Static figures and tests call these, too.

DARK, MIDDLE, BRIGHT = "#00224e", "#7d7c78", "#fee838"  # of cividis
ENLARGE = 4  # screen pixels of a picture's pixel
GREY = 0.35  # how much of the picture shines through the attention
EVERY = "all"


@dataclass(frozen=True)
class Choice:
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


@dataclass(frozen=True)
class Looks:
    """N pictures uint8 (H, W, 3) with labels (N, H, W) of train ids, and of each network all its attention and
    its label maps.
    """

    pictures: Sequence[NDArray[np.uint8]]
    labels: Tensor
    space: LabelSpace
    attention: Mapping[str, Mapping[Block, BlockAttention]]
    predictions: Mapping[str, Sequence[NDArray[np.uint8]]]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the pictures."""
        return self.labels.shape[1], self.labels.shape[2]

    def depth(self, stage: int) -> int:
        """The most blocks that a network has in this stage."""
        return max(block for seen in self.attention.values() for s, block in seen if s == stage)

    def num_heads(self, stage: int) -> int:
        """The most heads that a network has in this stage."""
        return max(seen[stage, 1].num_heads for seen in self.attention.values())

    def class_name(self, train_id: int) -> str:
        """Name of a class, "void" for what has none."""
        return "void" if train_id == VOID else self.space.names[train_id]

    def class_at(self, image: int, row: int, column: int) -> str:
        """Name of the labelled class at a pixel."""
        return self.class_name(int(self.labels[image, row, column]))

    def chosen(self, choice: Choice) -> list[str]:
        """The networks that a choice names. Raises ValueError for one that is not there."""
        if choice.network not in (EVERY, *self.attention):
            raise ValueError(f"network must be one of {[EVERY, *self.attention]}, got {choice.network!r}")
        return [name for name in self.attention if choice.network in (EVERY, name)]


@dataclass(frozen=True)
class View:
    """One network's answer to a choice.

    - block, head: the ones shown; position: the query's on the stage's grid; weights: (H_i, W_i), adding up to 1.
    - own_class: the share of attention on positions of the query's labelled class, nan at void.
    - peak: (row, column) of the stage's grid in the middle of the strongest key; share: that key's weight.
    - keys: how many there are; effective: exp(entropy), from 1 (one key has all) to `keys` (all alike).
    - distance: mean distance of keys from the query, weighted by attention, in positions of the stage's grid.
    """

    block: int
    head: int
    position: tuple[int, int]
    weights: Tensor
    own_class: float
    peak: tuple[int, int]
    share: float
    keys: int
    effective: float
    distance: float


def look(
    networks: Mapping[str, SegModel], pictures: Sequence[Any], labels: Sequence[ArrayLike], space: LabelSpace
) -> Looks:
    """Run every network once on the pictures and keep all attention.

    Args:
        networks: by name; SegFormers or PVTv2s of four stages.
        pictures: RGB pictures of one size, PIL or uint8 arrays (H, W, 3).
        labels: a map (H, W) of train ids for each.
        space: the classes' names.

    Raises:
        ValueError: no networks, pictures of several sizes, or networks without such attention.
    """
    if not networks:
        raise ValueError("look needs at least one network, got none: pass {name: network}")
    batch = as_batch(pictures)
    return Looks(
        [np.asarray(picture) for picture in pictures],
        torch.stack([torch.from_numpy(np.array(label, np.int64)) for label in labels]),
        space,
        {name: attend(model, batch) for name, model in networks.items()},
        {name: predict(model, pictures) for name, model in networks.items()},
    )


def view(looks: Looks, network: str, choice: Choice) -> View:
    """What one network's block and head attend to from the chosen pixel.

    Raises ValueError for a stage, image or pixel that is not there.
    """
    seen = looks.attention[network]
    depth = max((block for stage, block in seen if stage == choice.stage), default=0)
    if depth == 0:
        raise ValueError(f"stage {choice.stage}: {network} has stages 1 to {max(seen)[0]}")
    block = min(choice.block, depth)
    attention = seen[choice.stage, block]
    head = min(choice.head, attention.num_heads)
    (height, width), (rows, columns) = looks.size, attention.size
    position = choice.row * rows // height, choice.column * columns // width
    weights = attention.query(position, head=head, image=choice.image)
    labels, own_class = looks.labels[choice.image], float("nan")
    if labels[choice.row, choice.column] != VOID:
        own = (labels == labels[choice.row, choice.column]).float()
        own_class = float((weights * F.adaptive_avg_pool2d(own[None], attention.size)[0]).sum())
    keys = attention.keys(position, head=head, image=choice.image).double()
    r, (h, w) = attention.reduction, keys.shape
    ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    middle = (r - 1) / 2  # of a key, from its first position on
    away = torch.hypot(r * ys + middle - position[0], r * xs + middle - position[1])
    best = int(keys.argmax())
    return View(
        *(block, head, position, weights, own_class),
        peak=(best // w * r + r // 2, best % w * r + r // 2),
        share=float(keys.max()),
        keys=h * w,
        effective=float(torch.special.entr(keys).sum().exp()),
        distance=float((keys * away).sum()),
    )


def overlays(looks: Looks, choice: Choice) -> dict[str, NDArray[np.uint8]]:
    """Pictures (4 H, 4 W, 3): the chosen one, then for each chosen network its attention laid over it.

    A map is scaled to its own largest weight, dark blue for none and yellow for the most, and the frame is the
    query's position on the stage's grid.
    """
    views = {name: view(looks, name, choice) for name in looks.chosen(choice)}
    layers = {"image": Image.fromarray(looks.pictures[choice.image])}
    grey, nearest = layers["image"].convert("L"), Image.Resampling.NEAREST
    for name, seen in views.items():
        levels = Image.fromarray(np.uint8(255 * seen.weights.numpy() / float(seen.weights.max())))
        colours = ImageOps.colorize(levels.resize(grey.size, nearest), DARK, BRIGHT, MIDDLE)
        layers[name] = Image.blend(colours, grey.convert("RGB"), GREY)
    (row, column), (rows, columns) = seen.position, seen.weights.shape
    width, height = ENLARGE * grey.width, ENLARGE * grey.height
    tall, wide = height // rows, width // columns
    frame = (column * wide, row * tall, (column + 1) * wide - 1, (row + 1) * tall - 1)
    out = {}
    for name, layer in layers.items():
        large = layer.resize((width, height), nearest)
        draw = ImageDraw.Draw(large)
        draw.rectangle(frame, outline="black", width=4)
        draw.rectangle(frame, outline="white", width=2)
        out[name] = np.asarray(large)
    return out
