"""Where a network looks: the attention of one query as a map, what it amounts to in numbers, and the effective
receptive field of a position.

The efficient attention of SegFormer (Xie et al. 2021) and PVTv2 lets every position of a stage ask, but only the
positions of a reduced map answer: with reduction R a key stands for R x R positions. `query_attention` undoes
this, so that maps of all stages lie on their stage's grid. Attention says from where a block mixes values in; it is
no explanation of the decision (Jain and Wallace 2019, arXiv 1902.10186).

Effective receptive field: Luo et al. 2016, arXiv 1701.04128.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from transkd_lite.data.labels import VOID
from transkd_lite.models.attention import capture_attention
from transkd_lite.models.output import SegModel

__all__ = ["AttentionSummary", "BlockAttention", "attend", "class_share", "receptive_field", "summarize"]

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

    def spread(self, weights: Tensor) -> Tensor:
        """Share the weights of keys (..., h * w) out evenly over their positions: (..., H, W), same sum."""
        r, (h, w), (height, width) = self.reduction, self.key_size, self.size
        out = weights.new_zeros(*weights.shape[:-1], height, width)
        grid = weights.unflatten(-1, (h, w)) / r**2
        out[..., : h * r, : w * r] = grid.repeat_interleave(r, -2).repeat_interleave(r, -1)
        return out

    def query(self, position: tuple[int, int], *, head: int = 1, image: int = 0) -> Tensor:
        """The attention of one query on the stage's grid, (H, W), adding up to 1; arguments as for `keys`."""
        return self.spread(self.keys(position, head=head, image=image).flatten())


@torch.no_grad()
def attend(
    model: SegModel, images: Tensor, blocks: Sequence[Block] | None = None
) -> dict[Block, BlockAttention]:
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
    sizes = [(f.shape[2], f.shape[3]) for f in captured.features]
    return {
        (stage, block): BlockAttention(weights, sizes[stage - 1], _reduction(model, stage, block))
        for (stage, block), weights in captured.attention.items()
    }


def _reduction(model: SegModel, stage: int, block: int) -> int:
    stages: Any = getattr(model, "backbone", model).stages
    convolution = stages[stage - 1].blocks[block - 1].attn.sr
    return 1 if convolution is None else int(convolution.stride[0])


@dataclass(frozen=True)
class AttentionSummary:
    """The attention of one query in four numbers.

    - peak: (row, column) of the stage's grid in the middle of the strongest key; share: that key's weight.
    - keys: how many there are; effective: exp(entropy), from 1 (one key has all) to `keys` (all alike).
    - distance: mean distance of keys from the query, weighted by attention, in positions of the stage's grid.
    """

    peak: tuple[int, int]
    share: float
    keys: int
    effective: float
    distance: float


def summarize(
    attention: BlockAttention, position: tuple[int, int], *, head: int = 1, image: int = 0
) -> AttentionSummary:
    """What the attention of one query amounts to; arguments as for `BlockAttention.keys`."""
    weights = attention.keys(position, head=head, image=image).double()
    r, (h, w) = attention.reduction, weights.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    centres = [r * index + (r - 1) / 2 for index in (rows, columns)]
    away = torch.hypot(centres[0] - position[0], centres[1] - position[1])
    best = int(weights.argmax())
    return AttentionSummary(
        peak=(best // w * r + r // 2, best % w * r + r // 2),
        share=float(weights.max()),
        keys=h * w,
        effective=float(torch.special.entr(weights).sum().exp()),
        distance=float((weights * away).sum()),
    )


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
    expected = (len(attention.weights), *attention.size)
    if tuple(labels.shape) != expected:
        raise ValueError(
            f"labels must be {expected}, got {tuple(labels.shape)}: resize them to the grid first"
        )
    ids = labels.flatten(1).long()
    asks = ids != VOID
    if not asks.any():
        raise ValueError("labels hold no class, only void: choose other images")
    members = _class_shares_of_keys(attention, labels)  # (N, classes, keys)
    own = ids.where(asks, 0)[:, :, None].expand(-1, -1, members.shape[2])
    same = members.gather(1, own)  # (N, queries, keys): how much of a key is of the query's class
    given = (attention.weights.mean(1) * same).sum(
        2
    )  # heads may be averaged first: the share is linear in them
    return float(given[asks].mean()), float(same.mean(2)[asks].mean())


def _class_shares_of_keys(attention: BlockAttention, labels: Tensor) -> Tensor:
    """How much of each key's positions is of each class, (N, classes, h * w); void is no class."""
    classes = torch.arange(int(labels[labels != VOID].max()) + 1, device=labels.device)
    members = (labels[:, None] == classes[:, None, None]).float()
    return F.avg_pool2d(members, attention.reduction).flatten(2)


def receptive_field(model: SegModel, images: Tensor, stage: int, *, seed: int = 0) -> Tensor:
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
    signs = torch.randint(2, middle.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    (gradient,) = torch.autograd.grad((signs.to(middle) * middle).sum(), pixels)
    field = gradient.square().sum(1).mean(0).sqrt()
    return field / field.sum()
