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

__all__ = ["linear_cka", "stage_similarity"]


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
