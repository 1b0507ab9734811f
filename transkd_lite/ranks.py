"""Ranks of methods over blocks, the difference that they must have to count, and a winner measured afresh.

A block is what all methods went through alike: a seed, a class, a budget. Sources: Friedman 1937, Nemenyi 1963;
Demsar 2006, *Statistical comparisons of classifiers over multiple data sets*.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import stats

__all__ = ["average_ranks", "critical_difference", "friedman", "held_out_winner", "indistinct_groups"]


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
        raise ValueError(
            "a winner is chosen on some blocks and measured on another: two blocks are needed, got 1"
        )
    gains = complete.drop(columns=baseline).sub(complete[baseline], axis=0)
    rows = []
    for block, gain in gains.iterrows():
        others = gains.drop(index=block).mean()
        winner = others.idxmax()
        rows.append({"block": block, "winner": winner, "chosen": others[winner], "held_out": gain[winner]})
    return pd.DataFrame(rows)
