"""How alike two networks see: linear centred kernel alignment (CKA) between all their stages.

Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited", arXiv 1905.00414. For n examples
with centred features X (n, p) and Y (n, q), and the linear kernels K = X X', L = Y Y',

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)).

Two estimators of HSIC. "biased" is the paper's, |X'Y|² (Frobenius): with few examples and many channels it comes
out near 1 for anything. "unbiased" is HSIC_1 of Song et al. 2012 (JMLR 13), which Nguyen et al. 2021 (arXiv
2010.15327) put into CKA: it leaves out each example's product with itself, and is near 0 for unrelated features.
Both cost O(n p q) here: with linear kernels no (n, n) matrix is needed.

The examples of a feature map are its positions, in all images together. Neighbouring positions are not
independent, which no estimator knows; compare numbers that come from the same images and positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ESTIMATORS", "common_positions", "linear_cka", "stage_similarity"]

ESTIMATORS = ("unbiased", "biased")


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
    _check(x, y, estimator)
    x, y = (z.double() - z.double().mean(0) for z in (x, y))
    hsic = _unbiased if estimator == "unbiased" else _biased
    own = hsic(x, x) * hsic(y, y)
    return float(hsic(x, y) / own.sqrt()) if own > 0 else float("nan")


def _check(x: Tensor, y: Tensor, estimator: str) -> None:
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(map(repr, ESTIMATORS))}; got {estimator!r}")
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            f"x and y must be (n, p) and (n, q) of the same n examples, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}: bring maps to common positions first (see common_positions)"
        )
    least = 4 if estimator == "unbiased" else 2
    if len(x) < least:
        raise ValueError(f"the {estimator} estimator needs at least {least} examples, got {len(x)}")


def _biased(x: Tensor, y: Tensor) -> Tensor:
    """|X'Y|² of centred features: HSIC up to the factor (n - 1)², which cancels in CKA."""
    return (x.T @ y).square().sum()


def _unbiased(x: Tensor, y: Tensor) -> Tensor:
    """HSIC_1 up to the factor n (n - 3), from the features alone.

    With the diagonals of K and L set to zero it is  tr(KL) + 1'K1 1'L1 / ((n-1)(n-2)) - 2 1'KL1 / (n-2).
    Shifting the features changes nothing; they come centred for the sake of rounding.
    """
    n = len(x)
    own_x, own_y = x.square().sum(1), y.square().sum(1)  # the diagonals
    trace = (x.T @ y).square().sum() - own_x @ own_y
    row_x, row_y = x @ x.sum(0) - own_x, y @ y.sum(0) - own_y  # K1 and L1
    return trace + row_x.sum() * row_y.sum() / ((n - 1) * (n - 2)) - 2 * (row_x @ row_y) / (n - 2)


def common_positions(maps: Sequence[Tensor], size: tuple[int, int] | None = None) -> list[Tensor]:
    """Bring feature maps of the same images to the same examples: one row for each image and grid cell.

    Maps are averaged over the cells of one grid (adaptive average pooling): a coarse position stands beside the
    mean of the fine ones that it covers. Enlarging the coarse maps instead would count the same vector often.

    Args:
        maps: (N, C_i, H_i, W_i) each, of the same N images.
        size: (H, W) of the common grid; None for the smallest height and width among the maps.

    Returns:
        (N * H * W, C_i) for each map.

    Raises:
        ValueError: different numbers of images, or a grid finer than a map.
    """
    if len({len(m) for m in maps}) != 1:
        raise ValueError(f"maps must be of the same images, got {[len(m) for m in maps]} images")
    coarsest = (min(m.shape[2] for m in maps), min(m.shape[3] for m in maps))
    height, width = size or coarsest
    if height > coarsest[0] or width > coarsest[1]:
        raise ValueError(
            f"size {(height, width)} is finer than the coarsest map {coarsest}: averaging cannot add detail"
        )
    return [F.adaptive_avg_pool2d(m, (height, width)).permute(0, 2, 3, 1).flatten(0, 2) for m in maps]


def stage_similarity(
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    *,
    size: tuple[int, int] | None = None,
    estimator: str = "unbiased",
) -> Tensor:
    """Linear CKA between every stage of one network and every stage of another.

    Args:
        first, second: the features of `SegOutput`, of the same images.
        size: the common grid, see `common_positions`; the same for all pairs, so that their values compare.
        estimator: see `linear_cka`.

    Returns:
        (len(first), len(second)), rows the stages of the first network.
    """
    rows = common_positions([*first, *second], size)
    own, other = rows[: len(first)], rows[len(first) :]
    return torch.tensor([[linear_cka(x, y, estimator=estimator) for y in other] for x in own])
