"""Is a difference between methods more than luck? Intervals, ranks, and corrections for many comparisons.

Pure functions of numbers; `comparison` applies them to tables of runs. What is resampled decides what an interval
speaks about: seeds (another initialisation and order of batches, the same images) or validation images (other
images, the same two networks). None of them speaks about another choice of training images.

What three to five seeds can give is little, and worth knowing in numbers. The bootstrap never leaves the range of the
differences it saw, so that for symmetric differences it misses the truth at least once in 2^(n - 1) times: n = 3 covers
at most 75%, n = 5 at most 94%, whatever level is asked for. Student's interval keeps its level if differences are about
normal, and pays with width. A test that assumes nothing but symmetry has no p below 2^(1 - n).

Sources: Efron and Tibshirani 1993 (bootstrap); Vargha and Delaney 2000 (probability of superiority); Holm 1979. Ranks
have a module of their own, `ranks`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

__all__ = [
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
    "student_interval",
]

# --- Ranks of methods over blocks, the difference that they must have to count, and a winner measured afresh.
#
# A block is what all methods went through alike: a seed, a class, a budget. Sources: Friedman 1937, Nemenyi 1963;
# Demsar 2006, *Statistical comparisons of classifiers over multiple data sets*.


def _complete(blocks: pd.DataFrame) -> pd.DataFrame:
    """The blocks in which every method has a score."""
    if blocks.shape[1] < 2:
        raise ValueError(f"ranks compare at least two methods; got {list(blocks.columns)}")
    complete = blocks.dropna()
    if complete.empty:
        missing = blocks.columns[blocks.isna().any()].tolist()
        raise ValueError(
            f"ranks need blocks in which every method has a score; missing in some block: {missing}. "
            "Leave these methods out, or finish their runs"
        )
    return complete


def average_ranks(blocks: pd.DataFrame) -> pd.Series:
    """Mean rank of every method over blocks: 1 is best, ties share the mean of their ranks. Best first.

    Args:
        blocks: one row a block (a seed, a class, a cell), one column a method, higher is better; a block in which a
            method has no score is left out.

    >>> average_ranks(pd.DataFrame({"none": [1, 2], "kd": [3, 2]})).to_dict()
    {'kd': 1.25, 'none': 1.75}
    """
    return _complete(blocks).rank(axis=1, ascending=False).mean().sort_values(kind="stable")


def friedman(blocks: pd.DataFrame) -> tuple[float, float]:
    """Do the methods differ at all? The test that comes before any comparison of two of them (Demsar 2006, eq. 7).

    Args:
        blocks: as for `average_ranks`; the blocks must be independent of each other.

    Returns:
        Chi squared, corrected for ties, and its p; nan with one block or where all methods tie.
    """
    ranks = _complete(blocks).rank(axis=1)
    n, k = ranks.shape
    centred = ranks - (k + 1) / 2
    spread = (centred**2).to_numpy().sum()
    if n < 2 or spread == 0:
        return math.nan, math.nan
    chi2 = float((k - 1) * (centred.sum() ** 2).sum() / spread)
    return chi2, float(stats.chi2.sf(chi2, k - 1))


def critical_difference(num_methods: int, num_blocks: int) -> float:
    r"""Nemenyi's critical difference of average ranks at 95%: q sqrt(k (k + 1) / (6 N)) (Demsar 2006, section 3.2.2).

    q is the quantile of the studentised range for k methods and infinitely many degrees of freedom, over sqrt 2. Two
    methods whose average ranks differ by less are not told apart, all pairs taken together.

    >>> round(critical_difference(4, 14), 2)
    1.25
    """
    if num_methods < 2 or num_blocks < 1:
        raise ValueError(f"at least two methods and one block; got {num_methods} and {num_blocks}")
    q = float(stats.studentized_range.ppf(0.95, num_methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(num_methods * (num_methods + 1) / (6 * num_blocks))


def indistinct_groups(ranks: pd.Series, difference: float) -> list[tuple[str, ...]]:
    """The largest sets of methods whose average ranks all lie within `difference`: the bars of the diagram.

    >>> indistinct_groups(pd.Series({"a": 1.0, "b": 2.0, "c": 2.8, "d": 5.0}), 1.5)
    [('a', 'b'), ('b', 'c')]
    """
    ordered = ranks.sort_values(kind="stable")
    groups: list[tuple[str, ...]] = []
    reached = 0
    for start, rank in enumerate(ordered):
        end = int((ordered <= rank + difference).sum())
        if end - start > 1 and end > reached:
            groups.append(tuple(ordered.index[start:end]))
        reached = max(reached, end)
    return groups


def held_out_winner(blocks: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """What the best method gains where it was not chosen: for each block, the winner of the other blocks.

    The largest of many means is partly the luckiest, so its own difference overstates it. Choosing on all blocks but
    one and measuring on that one has no such bias (it is an estimate for "the method that would be chosen").

    Args:
        blocks: as for `average_ranks`, two blocks or more.
        baseline: the column to compare with; it is no candidate.

    Returns:
        One row a block: winner (of the others), chosen (its mean difference there), held_out (its difference here).
    """
    complete = _complete(blocks)
    if baseline not in complete:
        raise ValueError(f"baseline {baseline!r} is not among {', '.join(map(str, complete.columns))}")
    if len(complete) < 2:
        raise ValueError("a winner is chosen on some blocks and measured on another: two blocks are needed, got 1")
    gains = complete.drop(columns=baseline).sub(complete[baseline], axis=0)
    rows = []
    for block, gain in gains.iterrows():
        others = gains.drop(index=block).mean()
        winner = others.idxmax()
        rows.append({"block": block, "winner": winner, "chosen": others[winner], "held_out": gain[winner]})
    return pd.DataFrame(rows)


# --- Is a difference between methods more than luck? Intervals, ranks, and corrections for many comparisons.


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


def _known(values: ArrayLike, level: float = 0.95) -> pd.Series:
    """The values that are there, after a check of their shape and of the level."""
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: it must lie between 0 and 1, such as 0.95")
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ValueError(f"differences must be one-dimensional, one a pair; got shape {array.shape}")
    return pd.Series(array).dropna()


def student_interval(differences: ArrayLike, level: float = 0.95) -> Interval:
    """Student's interval of the mean difference, n - 1 degrees of freedom; nan ends with fewer than two pairs.

    >>> [round(v, 4) for v in student_interval([0.01, 0.02, 0.03])]
    [0.02, -0.0048, 0.0448]
    """
    values = _known(differences, level)
    mean = float(values.mean())
    reach = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * values.sem())
    return Interval(mean, mean - reach, mean + reach)


def paired_t(differences: ArrayLike) -> float:
    """Two-sided p of the paired t-test; nan with fewer than two pairs or without any spread."""
    values = _known(differences)
    if values.nunique() < 2:
        return math.nan
    return float(2 * stats.t.sf(abs(values.mean()) / values.sem(), len(values) - 1))


def bootstrap_interval(differences: ArrayLike, level: float = 0.95) -> Interval:
    """Percentile bootstrap interval of the mean paired difference, resampling pairs, that is, seeds.

    Up to six pairs all n^n resamples are taken, and nothing is random; from seven on 10,000 are drawn. With few pairs
    the interval is too narrow (see the module's text): read it beside `student_interval`.

    Args:
        differences: (n,) one difference a seed; nan entries (a missing partner) are left out.
        level: coverage that is asked for, between 0 and 1.

    Returns:
        The mean and the two percentiles; nan ends with fewer than two pairs.

    >>> bootstrap_interval([0.0, 1.0], level=0.5)
    Interval(mean=0.5, low=0.375, high=0.625)
    """
    values = _known(differences, level)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Interval(mean, math.nan, math.nan)
    rng = np.random.default_rng(0)
    draws = np.indices((n,) * n).reshape(n, -1).T if n <= 6 else rng.integers(0, n, (10_000, n))
    low, high = np.quantile(values.to_numpy()[draws].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))


def probability_of_superiority(scores: ArrayLike, baseline: ArrayLike) -> float:
    """P(a run of the method beats a run of the baseline), over all pairs of runs, ties counting half.

    0.5 says that they are alike. With n and m runs it moves in steps of 1 / (n m): with few runs 0 and 1 come easily.

    >>> probability_of_superiority([0.3, 0.5], [0.3, 0.4])
    0.625
    """
    a, b = (_known(values).to_numpy() for values in (scores, baseline))
    if not len(a) or not len(b):
        return math.nan
    return float((np.sign(a[:, None] - b).mean() + 1) / 2)


def holm(p_values: ArrayLike) -> pd.Series:
    """p values corrected for being many (Holm 1979): the chance of one false claim among all stays below the level.

    A nan stays nan and does not count.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = pd.Series(p_values, dtype=float)
    ordered = p.dropna().sort_values()
    return (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1).reindex(p.index)


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
    return np.array(out)


def _miou(confusions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean IoU of every matrix (..., K, K) over the classes that occur or are predicted."""
    hits = np.diagonal(confusions, axis1=-2, axis2=-1)
    union = confusions.sum(-1) + confusions.sum(-2) - hits
    there = union > 0
    return (hits / np.where(there, union, 1)).sum(-1) / np.maximum(there.sum(-1), 1)


def bootstrap_images(confusions: ArrayLike, others: ArrayLike) -> Interval:
    """95% interval of the mIoU difference of two networks over other validation images like these.

    The same images are drawn for both (paired), their matrices are summed, and mIoU is taken of the sums: it is no
    mean over images. Images must be independent: frames of one drive are not, and make the interval too narrow.

    Args:
        confusions, others: (N, K, K) of `image_confusions`, the same N images.

    Returns:
        The difference on all images (first minus other), and the percentiles of 2,000 draws; nan ends with one image.
    """
    a, b = (np.asarray(matrices, np.float64) for matrices in (confusions, others))
    if a.shape != b.shape or a.ndim != 3 or not len(a):
        raise ValueError(f"both networks need matrices (N, K, K) of the same images; got {a.shape} and {b.shape}")
    n = len(a)
    whole = float(_miou(a.sum(0)) - _miou(b.sum(0)))
    if n < 2:
        return Interval(whole, math.nan, math.nan)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), 2_000).astype(np.float64)
    drawn = [_miou(np.tensordot(counts, matrices, 1)) for matrices in (a, b)]
    low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    return Interval(whole, float(low), float(high))
