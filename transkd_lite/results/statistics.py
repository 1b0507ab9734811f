"""Is a difference between methods more than luck? Intervals, ranks, and corrections for many comparisons.

Pure functions of numbers; `comparison` applies them to tables of runs. What is resampled decides what an interval
speaks about: seeds (another initialisation and order of batches, the same images) or validation images (other
images, the same two networks). None of them speaks about another choice of training images.

What three to five seeds can give is little, and worth knowing in numbers. The bootstrap never leaves the range of the
differences it saw, so that for symmetric differences it misses the truth at least once in 2^(n - 1) times: n = 3 covers
at most 75%, n = 5 at most 94%, whatever level is asked for. Student's interval keeps its level if differences are about
normal, and pays with width. A test that assumes nothing but symmetry has no p below 2^(1 - n).

Sources: Efron and Tibshirani 1993 (bootstrap); Vargha and Delaney 2000 (probability of superiority); Holm 1979;
Friedman 1937, Nemenyi 1963 and Demsar 2006, *Statistical comparisons of classifiers over multiple data sets* (ranks).
"""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

__all__ = [
    "Interval", "average_ranks", "bootstrap_images", "bootstrap_interval", "critical_difference", "excludes_zero",
    "held_out_winner", "holm", "image_confusions", "indistinct_groups", "paired_t",
    "probability_of_superiority", "student_interval",
]  # fmt: skip

# --- Ranks of methods over blocks, the difference that they must have to count, and a winner measured afresh.
#
# A block is what all methods went through alike: a seed, a class, a budget. One in which a method has no score is
# left out.


def average_ranks(blocks: pd.DataFrame) -> pd.Series:
    """Mean rank of every method over blocks: 1 is best, ties share the mean of their ranks. Best first.

    blocks: one row a block (a seed, a class, a cell), one column a method, higher is better; a block in which a
        method has no score is left out.
    Raises `ValueError`: fewer than two methods, or no block in which all have a score.

    >>> average_ranks(pd.DataFrame({"none": [1, 2], "kd": [3, 2]})).to_dict()
    {'kd': 1.25, 'none': 1.75}
    """
    complete = blocks.dropna()
    if complete.empty or complete.shape[1] < 2:
        gaps = blocks.columns[blocks.isna().any()].tolist()
        raise ValueError(f"ranks need two methods and a block in which all score: leave out those with gaps, {gaps}")
    return complete.rank(axis=1, ascending=False).mean().sort_values(kind="stable")


def critical_difference(num_methods: int, num_blocks: int) -> float:
    r"""Nemenyi's critical difference of average ranks at 95%: q sqrt(k (k + 1) / (6 N)) (Demsar 2006, section 3.2.2).

    q is the quantile of the studentised range for k methods and infinitely many degrees of freedom, over sqrt 2. Two
    methods whose average ranks differ by less are not told apart, all pairs taken together.

    >>> round(critical_difference(4, 14), 2)
    1.25
    """
    q = float(stats.studentized_range.ppf(0.95, num_methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(num_methods * (num_methods + 1) / (6 * num_blocks))


def indistinct_groups(ranks: pd.Series, difference: float) -> list[tuple[str, ...]]:
    """The largest sets of methods whose average ranks all lie within `difference`: the bars of the diagram.

    >>> indistinct_groups(pd.Series({"a": 1.0, "b": 2.0, "c": 2.8, "d": 5.0}), 1.5)
    [('a', 'b'), ('b', 'c')]
    """
    ordered = ranks.sort_values(kind="stable")
    groups: dict[str, tuple[str, ...]] = {}  # by the last of each: a later one with the same last is a part of it
    for rank in ordered:
        group = tuple(ordered.index[ordered.between(rank, rank + difference)])
        if len(group) > 1:
            groups.setdefault(group[-1], group)
    return list(groups.values())


def held_out_winner(blocks: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """What the best method gains where it was not chosen: for each block, the winner of the other blocks.

    The largest of many means is partly the luckiest, so its own difference overstates it. Choosing on all blocks but
    one and measuring on that one has no such bias (it is an estimate for "the method that would be chosen").

    blocks: as for `average_ranks`, two blocks or more.
    baseline: the column to compare with; it is no candidate.
    Returns one row a block: winner (of the others), chosen (its mean difference there), held_out (its difference here).
    """
    complete = blocks.dropna()
    gains = complete.drop(columns=baseline).sub(complete[baseline], axis=0)
    others = (gains.sum() - gains) / (len(gains) - 1)  # means over all blocks but one
    winner = others.idxmax(axis=1)
    held_out = [gains.at[block, name] for block, name in winner.items()]
    out = pd.DataFrame({"winner": winner, "chosen": others.max(axis=1), "held_out": held_out})
    return out.rename_axis("block").reset_index()


# --- Intervals of a difference, its p, and the correction for many.


class Interval(NamedTuple):
    """A mean with the ends of its interval, which are nan where there is too little to say."""

    mean: float
    low: float
    high: float


def excludes_zero(low: Any, high: Any) -> Any:
    """Whether intervals lie on one side of zero: for numbers, arrays or columns of ends; nan ends say no.

    >>> excludes_zero(-0.1, 0.2), excludes_zero(0.1, 0.2)
    (False, True)
    """
    return (low > 0) | (high < 0)


def student_interval(differences: ArrayLike) -> Interval:
    """Student's 95% interval of the mean difference, n - 1 degrees of freedom; nan ends with fewer than two pairs.

    >>> [round(v, 4) for v in student_interval([0.01, 0.02, 0.03])]
    [0.02, -0.0048, 0.0448]
    """
    values = pd.Series(differences, dtype=float).dropna()
    mean, reach = float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * values.sem())
    return Interval(mean, mean - reach, mean + reach)


def paired_t(differences: ArrayLike) -> float:
    """Two-sided p of the paired t-test; nan with fewer than two pairs or without any spread."""
    values = pd.Series(differences, dtype=float).dropna()
    if values.nunique() < 2:
        return math.nan
    return float(2 * stats.t.sf(abs(values.mean()) / values.sem(), len(values) - 1))


def bootstrap_interval(differences: ArrayLike, level: float = 0.95) -> Interval:
    """Percentile bootstrap interval of the mean paired difference, resampling pairs, that is, seeds.

    Up to six pairs all n^n resamples are taken, and nothing is random; from seven on 10,000 are drawn. With few pairs
    the interval is too narrow (see the module's text): read it beside `student_interval`.

    differences: (n,) one difference a seed; nan entries (a missing partner) are left out.
    level: coverage that is asked for, between 0 and 1.
    Returns the mean and the two percentiles; nan ends with fewer than two pairs.

    >>> bootstrap_interval([0.0, 1.0], level=0.5)
    Interval(mean=0.5, low=0.375, high=0.625)
    """
    values = pd.Series(differences, dtype=float).dropna().to_numpy()
    n = len(values)
    if n < 2:
        return Interval(float(values.mean()) if n else math.nan, math.nan, math.nan)
    draws = np.indices((n,) * n).reshape(n, -1).T if n <= 6 else np.random.default_rng(0).integers(0, n, (10_000, n))
    low, high = np.quantile(values[draws].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def probability_of_superiority(scores: ArrayLike, baseline: ArrayLike) -> float:
    """P(a run of the method beats a run of the baseline), over all pairs of runs, ties counting half; nan without any.

    0.5 says that they are alike. With n and m runs it moves in steps of 1 / (n m): with few runs 0 and 1 come easily.

    >>> probability_of_superiority([0.3, 0.5], [0.3, 0.4])
    0.625
    """
    a, b = (pd.Series(values, dtype=float).dropna().to_numpy() for values in (scores, baseline))
    return float((np.sign(a[:, None] - b).mean() + 1) / 2) if len(a) and len(b) else math.nan


def holm(p_values: ArrayLike) -> pd.Series:
    """p values corrected for being many (Holm 1979): the chance of one false claim among all stays below the level.

    A nan stays nan and does not count.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = pd.Series(p_values, dtype=float)
    ordered = p.dropna().sort_values()
    return (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1).reindex(p.index)


# --- Two networks on the same validation images.


def image_confusions(predictions: ArrayLike, labels: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """A confusion matrix for each image (N, K, K): rows true, columns predicted; void and unknown ids do not count.

    predictions, labels: N label maps (H, W) of train ids; all of one size, or lists of maps.

    >>> image_confusions([[[0, 1]]], [[[0, 255]]], 2).tolist()
    [[[1, 0], [0, 0]]]
    """
    edges = np.arange(num_classes + 1) - 0.5
    pairs = zip(labels, predictions, strict=True)  # type: ignore[arg-type]
    return np.array([np.histogram2d(np.ravel(t), np.ravel(p), [edges, edges])[0] for t, p in pairs], np.int64)


def bootstrap_images(confusions: ArrayLike, others: ArrayLike) -> Interval:
    """95% interval of the mIoU difference of two networks over other validation images like these.

    The same images are drawn for both (paired), their matrices are summed, and mIoU is taken of the sums, over the
    classes that occur or are predicted: it is no mean over images. Images must be independent: frames of one drive
    are not, and make the interval too narrow.

    confusions, others: (N, K, K) of `image_confusions`, the same N images.
    Returns the difference on all images (first minus other), and the percentiles of 2,000 draws; nan ends with one
    image.
    """
    both = np.stack([np.asarray(confusions, np.float64), np.asarray(others, np.float64)])
    n = both.shape[1]
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), 2_000)
    counts = np.vstack([np.ones(n), draws])  # first, every image once
    summed = np.einsum("dn,mnij->mdij", counts, both, optimize=True)
    hits = np.diagonal(summed, axis1=-2, axis2=-1)
    union = summed.sum(-1) + summed.sum(-2) - hits
    there = union > 0
    miou = (hits / np.where(there, union, 1)).sum(-1) / np.maximum(there.sum(-1), 1)
    whole, *drawn = miou[0] - miou[1]
    low, high = np.quantile(drawn, [0.025, 0.975]) if n > 1 else (math.nan, math.nan)
    return Interval(float(whole), float(low), float(high))
