"""Is a difference between methods more than luck? Intervals, ranks, and corrections for many comparisons.

Pure functions of numbers; `report` applies them to tables of runs. What is resampled decides what an interval speaks
about: seeds (another initialisation and order of batches, the same images) or validation images (other images, the
same two networks). None of them speaks about another choice of training images.

What three to five seeds can give is little, and worth knowing in numbers. The bootstrap never leaves the range of the
differences it saw, so that for symmetric differences it misses the truth at least once in 2^(n - 1) times: n = 3 covers
at most 75%, n = 5 at most 94%, whatever level is asked for. Student's interval keeps its level if differences are about
normal, and pays with width. A test that assumes nothing but symmetry has no p below 2^(1 - n): see `smallest_p`.

Sources: Efron and Tibshirani 1993 (bootstrap); Vargha and Delaney 2000 (probability of superiority); Holm 1979. Ranks
have a module of their own, `ranks`, whose names can be had from here too.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from transkd_lite.ranks import (
    Friedman,
    average_ranks,
    check_level,
    critical_difference,
    friedman,
    held_out_winner,
    indistinct_groups,
)

__all__ = [
    "Friedman",
    "Interval",
    "average_ranks",
    "bootstrap_images",
    "bootstrap_interval",
    "critical_difference",
    "excludes_zero",
    "friedman",
    "held_out_winner",
    "holm",
    "image_confusions",
    "indistinct_groups",
    "paired_t",
    "probability_of_superiority",
    "smallest_p",
    "student_interval",
]

_EXACT = 50_000  # as many resamples as are listed one by one: up to six pairs
_NAN = math.nan


class Interval(NamedTuple):
    """A mean with the ends of its interval, which are nan where there is too little to say."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return bool(excludes_zero(self.low, self.high))


def excludes_zero(low: Any, high: Any) -> Any:
    """Whether intervals lie on one side of zero: for numbers, arrays or columns of ends; nan ends say no.

    >>> excludes_zero(-0.1, 0.2), excludes_zero(0.1, 0.2)
    (False, True)
    """
    return (low > 0) | (high < 0)


def _finite(values: ArrayLike, level: float) -> NDArray[np.float64]:
    """The values that are there, one-dimensional, after a check of the level."""
    check_level(level)
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ValueError(f"differences must be one-dimensional, one a pair; got shape {array.shape}")
    return array[~np.isnan(array)]


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else _NAN


def student_interval(differences: ArrayLike, level: float = 0.95) -> Interval:
    """Student's interval of the mean difference, n - 1 degrees of freedom; nan ends with fewer than two pairs.

    >>> [round(v, 4) for v in student_interval([0.01, 0.02, 0.03])]
    [0.02, -0.0048, 0.0448]
    """
    values = _finite(differences, level)
    mean = _mean(values)
    if len(values) < 2:
        return Interval(mean, _NAN, _NAN)
    reach = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return Interval(mean, mean - reach, mean + reach)


def paired_t(differences: ArrayLike) -> float:
    """Two-sided p of the paired t-test; nan with fewer than two pairs or without any spread."""
    values = _finite(differences, 0.95)
    if len(values) < 2 or np.ptp(values) == 0:
        return _NAN
    error = values.std(ddof=1) / math.sqrt(len(values))
    return float(2 * stats.t.sf(abs(values.mean()) / error, len(values) - 1))


@cache
def _resamples(count: int, num_resamples: int, seed: int) -> NDArray[np.intp]:
    """Indices (B, count) of resamples with replacement: every one there is, or random ones where they are too many."""
    if count**count <= _EXACT:
        return np.array(list(product(range(count), repeat=count)), np.intp)
    return np.random.default_rng(seed).integers(0, count, (num_resamples, count))


def bootstrap_interval(
    differences: ArrayLike, level: float = 0.95, *, num_resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of the mean paired difference, resampling pairs, that is, seeds.

    Up to six pairs all n^n resamples are taken, and nothing is random; from seven on `num_resamples` are drawn. With
    few pairs the interval is too narrow (see the module's text): read it beside `student_interval`.

    Args:
        differences: (n,) one difference a seed; nan entries (a missing partner) are left out.
        level: coverage that is asked for, between 0 and 1.
        num_resamples, seed: how many, and of which random stream, where they are drawn.

    Returns:
        The mean and the two percentiles; nan ends with fewer than two pairs.

    >>> bootstrap_interval([0.0, 1.0], level=0.5)
    Interval(mean=0.5, low=0.375, high=0.625)
    """
    values = _finite(differences, level)
    mean = _mean(values)
    if len(values) < 2:
        return Interval(mean, _NAN, _NAN)
    means = values[_resamples(len(values), num_resamples, seed)].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))


def smallest_p(num_pairs: int) -> float:
    """The smallest two-sided p that a test of signs can give with so many pairs: 2^(1 - n).

    >>> [smallest_p(n) for n in (1, 3, 5, 6)]
    [1.0, 0.25, 0.0625, 0.03125]
    """
    if num_pairs < 1:
        raise ValueError(f"num_pairs = {num_pairs}: at least one pair is needed")
    return 2.0 ** (1 - num_pairs)


def probability_of_superiority(scores: ArrayLike, baseline: ArrayLike) -> float:
    """P(a run of the method beats a run of the baseline), over all pairs of runs, ties counting half.

    0.5 says that they are alike. With n and m runs it moves in steps of 1 / (n m): with few runs 0 and 1 come easily.

    >>> probability_of_superiority([0.3, 0.5], [0.3, 0.4])
    0.625
    """
    a, b = (_finite(values, 0.95) for values in (scores, baseline))
    if not len(a) or not len(b):
        return _NAN
    return float((np.sign(a[:, None] - b[None, :]).mean() + 1) / 2)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """p values corrected for being many (Holm 1979): the chance of one false claim among all stays below the level.

    A nan stays nan and does not count.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, np.float64)
    out = np.full(p.shape, _NAN)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    out[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order])) if len(order) else out[order]
    return out


def image_confusions(predictions: ArrayLike, labels: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """A confusion matrix for each image (N, K, K): rows true, columns predicted; void and unknown ids do not count.

    Args:
        predictions, labels: N label maps (H, W) of train ids; all of one size, or lists of maps.

    >>> image_confusions([[[0, 1]]], [[[0, 255]]], 2).tolist()
    [[[1, 0], [0, 0]]]
    """
    out = []
    for prediction, label in zip(predictions, labels, strict=True):  # type: ignore[arg-type]
        p, t = np.asarray(prediction, np.int64).ravel(), np.asarray(label, np.int64).ravel()
        if p.shape != t.shape:
            raise ValueError(f"a prediction has {p.size} pixels, its label {t.size}: resize it to the label")
        keep = (t < num_classes) & (p < num_classes)
        counts = np.bincount(t[keep] * num_classes + p[keep], minlength=num_classes**2)
        out.append(counts.reshape(num_classes, num_classes))
    return np.array(out, np.int64).reshape(-1, num_classes, num_classes)


def _miou(confusions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean IoU of every matrix (..., K, K) over the classes that occur or are predicted."""
    hits = np.diagonal(confusions, axis1=-2, axis2=-1)
    union = confusions.sum(-1) + confusions.sum(-2) - hits
    there = union > 0
    return (hits / np.where(there, union, 1)).sum(-1) / np.maximum(there.sum(-1), 1)


def bootstrap_images(
    confusions: ArrayLike,
    others: ArrayLike,
    level: float = 0.95,
    *,
    num_resamples: int = 2_000,
    seed: int = 0,
) -> Interval:
    """Interval of the mIoU difference of two networks over other validation images like these.

    The same images are drawn for both (paired), their matrices are summed, and mIoU is taken of the sums: it is no
    mean over images. Images must be independent: frames of one drive are not, and make the interval too narrow.

    Args:
        confusions, others: (N, K, K) of `image_confusions`, the same N images.

    Returns:
        The difference on all images (first minus other), and the percentiles; nan ends with one image.
    """
    a, b = (np.asarray(matrices, np.float64) for matrices in (confusions, others))
    check_level(level)
    if a.shape != b.shape or a.ndim != 3 or not len(a):
        raise ValueError(
            f"both networks need matrices (N, K, K) of the same images; got {a.shape} and {b.shape}"
        )
    n = len(a)
    whole = float(_miou(a.sum(0)) - _miou(b.sum(0)))
    if n < 2:
        return Interval(whole, _NAN, _NAN)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), num_resamples).astype(np.float64)
    drawn = [(counts @ m.reshape(n, -1)).reshape(-1, *m.shape[1:]) for m in (a, b)]
    low, high = np.quantile(_miou(drawn[0]) - _miou(drawn[1]), [(1 - level) / 2, (1 + level) / 2])
    return Interval(whole, float(low), float(high))
