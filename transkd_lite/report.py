"""What a batch of runs says: means with their spread, differences with intervals, gains by class and by budget.

A difference between two methods is taken seed by seed: the two runs of a pair share the student's initial weights, the
labelled images and the order of the batches, so what differs is the method, and what is left of chance. With few seeds
the interval of the mean difference is Student's (n - 1 degrees of freedom): wide, and honestly so. The bootstrap's
stands beside it (`comparison` says what each is worth).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from transkd_lite.comparison import (
    bootstrap_interval,
    excludes_zero,
    held_out_winner,
    holm,
    paired_t,
    probability_of_superiority,
    student_interval,
)
from transkd_lite.paper import beside_the_paper, claims, published
from transkd_lite.results import (
    DATA,
    PROTOCOLS,
    Batch,
    default_table,
    load_batch,
    origin,
    results_table,
    save_tables,
    shipped_tables,
    students,
    teachers,
)
from transkd_lite.runs import caveats
from transkd_lite.variants import cells, label_history, label_variants

__all__ = [
    "DATA",
    "PROTOCOLS",
    "Batch",
    "beside_the_paper",
    "best_first",
    "budget_gains",
    "caveats",
    "cells",
    "claims",
    "class_gains",
    "default_table",
    "gap_closed",
    "label_history",
    "label_variants",
    "load_batch",
    "origin",
    "paired_differences",
    "per_class",
    "published",
    "results_table",
    "save_tables",
    "score_blocks",
    "shipped_tables",
    "students",
    "summary",
    "teachers",
    "verdict",
    "winner",
]


def summary(table: pd.DataFrame, value: str = "miou") -> pd.DataFrame:
    """Runs, mean, standard deviation (n - 1), lowest and highest of `value` for every method, best mean first."""
    groups = table.groupby("method", sort=False)[value]
    out = groups.agg(runs="count", mean="mean", sd="std", low="min", high="max")
    return out.sort_values("mean", ascending=False)


def best_first(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table sorted by their methods' mean mIoU, best first; those of one method keep their order."""
    return table.set_index("method").loc[summary(table).index].reset_index()


def paired_differences(
    table: pd.DataFrame, baseline: str = "none", *, value: str = "miou", level: float = 0.95
) -> pd.DataFrame:
    """Mean difference of every other method to `baseline`, seed by seed, with its intervals.

    Args:
        table: one row a run; one run for each method and seed.
        baseline: the method to compare with.
        value: the column to compare.
        level: coverage of the intervals.

    Returns:
        Columns method, baseline, pairs, mean; low, high (Student); boot_low, boot_high (bootstrap over seeds); p
        (two-sided paired t-test), p_holm (p corrected for the number of methods), superiority (probability that a run
        of the method beats one of the baseline). Intervals and p are nan with fewer than two pairs.

    Raises:
        ValueError: the baseline is not in the table, or a method has two runs of one seed.
    """
    _require(table, baseline)
    scores = score_blocks(table, value=value)
    others = [name for name in scores if name != baseline]
    rows = [_paired(scores, name, baseline, level) for name in others]
    out = pd.DataFrame(rows, columns=_PAIRED)
    return out.assign(p_holm=holm(out["p"])) if rows else out


_PAIRED = [
    *("method", "baseline", "pairs", "mean", "low", "high", "boot_low", "boot_high"),
    *("p", "p_holm", "superiority"),
]


def _require(table: pd.DataFrame, baseline: str) -> None:
    if baseline not in set(table["method"]):
        known = ", ".join(dict.fromkeys(table["method"]))
        raise ValueError(f"baseline {baseline!r} has no run here; methods with runs: {known}")


def _paired(scores: pd.DataFrame, method: str, baseline: str, level: float) -> dict[str, Any]:
    difference = (scores[method] - scores[baseline]).dropna()
    mean, low, high = student_interval(difference, level)
    _, boot_low, boot_high = bootstrap_interval(difference, level)
    return {
        **{"method": method, "baseline": baseline, "pairs": len(difference), "mean": mean},
        **{"low": low, "high": high, "boot_low": boot_low, "boot_high": boot_high, "p": paired_t(difference)},
        "superiority": probability_of_superiority(scores[method], scores[baseline]),
    }


def score_blocks(table: pd.DataFrame, by: str = "seed", value: str = "miou") -> pd.DataFrame:
    """Scores as blocks (rows) of methods (columns), the form that ranks and differences are taken of.

    Args:
        table: one row a run; one run for each method and seed.
        by: "seed": a row is a seed, its value the column `value`; "class": a row is a class, its value the mean IoU
            over seeds. Seeds are independent of each other; classes share images and compete for pixels.

    Raises:
        ValueError: another `by`, or a method that has two runs of one seed.
    """
    if by not in ("seed", "class"):
        raise ValueError(f'by = {by!r}: a block is a "seed" or a "class"')
    if table.duplicated(["method", "seed"]).any():
        raise ValueError(
            "one run for each method and seed is compared; select one dataset, budget and protocol, and tell "
            "variants of a method apart with label_variants"
        )
    if by == "class":
        return per_class(table).dropna(how="all")
    order = list(dict.fromkeys(table["method"]))
    return table.pivot(index="seed", columns="method", values=value)[order].rename_axis(columns=None)


def per_class(table: pd.DataFrame) -> pd.DataFrame:
    """Mean IoU of every class (rows, in the data's order) for every method (columns)."""
    columns = [name for name in table if name.startswith("iou_")]
    means = table.groupby("method", sort=False)[columns].mean().T
    return means.rename(index=lambda name: name.removeprefix("iou_"))


def class_gains(table: pd.DataFrame, baseline: str = "none", level: float = 0.95) -> pd.DataFrame:
    """What every method gains on every class over `baseline`, seed by seed, with Student's interval.

    Returns:
        Columns class, method, mean, low, high in [-1, 1], classes in the data's order; intervals are nan with fewer
        than two pairs. With many classes and methods some intervals exclude zero by luck alone: 1 in 20 at 95%.
    """
    _require(table, baseline)
    rows = []
    for column in (name for name in table if name.startswith("iou_")):
        scores = score_blocks(table, value=column)
        for method in (name for name in scores if name != baseline):
            mean, low, high = student_interval(scores[method] - scores[baseline], level)
            name = column.removeprefix("iou_")
            rows.append({"class": name, "method": method, "mean": mean, "low": low, "high": high})
    return pd.DataFrame(rows, columns=["class", "method", "mean", "low", "high"])


def budget_gains(tables: Mapping[str, pd.DataFrame], baseline: str = "none") -> pd.DataFrame:
    """The difference of every method to `baseline` in every budget of several tables: what more steps or labels do.

    Args:
        tables: name -> rows of students, one protocol; a budget (see `cells`) without the baseline is left out.

    Returns:
        Columns batch, dataset, train_images, steps, baseline_miou, and those of `paired_differences`.
    """
    parts = []
    for name, table in tables.items():
        for rows in cells(table).values():
            rows = label_variants(rows)
            alone = rows.loc[rows["method"] == baseline]
            if len(alone) and rows["method"].nunique() > 1:
                first = alone.iloc[0]
                own = {key: first[key] for key in ("dataset", "train_images", "steps")}
                own |= {"baseline_miou": alone["miou"].mean()}
                found = paired_differences(rows, baseline)
                parts.append(pd.DataFrame({"batch": name, **own}, index=found.index).join(found))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def winner(table: pd.DataFrame, baseline: str = "none") -> str:
    """Who wins and how much of it is luck, in Markdown: computed from the runs, with every correction said."""
    differences = paired_differences(table, baseline)
    if differences.empty:
        return f"Only **{baseline}** has runs: there is nothing to compare it with."
    best = differences.loc[differences["mean"].idxmax()]
    text = f"The highest mean beside **{baseline}** has **{best['method']}**, {_points(best['mean'])} from it"
    if best["pairs"] < 2:
        return f"{text}, on {best['pairs']} common seed. **Nothing can be concluded**: run more seeds."
    sure = differences.query("p_holm < 0.05")
    told = ", ".join(f"**{name}**" for name in sure["method"]) or "none"
    blocks = score_blocks(table).dropna()
    lines = [
        f"{text} ({best['pairs']} seeds, 95% interval {_points(best['low'])} to {_points(best['high'])}).",
        f"After Holm's correction for {len(differences)} comparisons, told from **{baseline}** by the paired t-test: "
        f"{told}.",
    ]
    if len(blocks) > 1 and len(differences) > 1:
        held = held_out_winner(blocks, baseline)
        lines.append(
            "Chosen on all seeds but one and measured on that one, the best method gains "
            f"{_points(held['held_out'].mean())} on average, where it was chosen {_points(held['chosen'].mean())}."
        )
    return " ".join(lines)


def _points(value: float) -> str:
    return f"{100 * value:+.1f} points"


def gap_closed(table: pd.DataFrame, teacher: float, baseline: str = "none") -> pd.Series:
    """Share of the distance from the mean of `baseline` to the teacher's score that each method covers."""
    means = table.groupby("method", sort=False)["miou"].mean()
    return (means - means[baseline]) / (teacher - means[baseline])


def verdict(table: pd.DataFrame, differences: pd.DataFrame, teacher: float | None) -> str:
    """What the runs say, in a few sentences of Markdown: means, then each difference and whether it excludes zero.

    More than four differences come as two lists, the largest first.
    """
    spread = "; ".join(
        f"**{name}** {100 * row['mean']:.1f}" + ("" if math.isnan(row["sd"]) else f" ± {100 * row['sd']:.1f}")
        for name, row in summary(table).iterrows()
    )
    lines = [f"mIoU in %, mean ± standard deviation over seeds: {spread}."]
    if teacher is not None:
        lines.append(f"The teacher reaches {100 * teacher:.1f}.")
    if len(differences) > 4 and differences["low"].notna().all():
        return " ".join(lines) + "\n\n" + _lists(differences.sort_values("mean", ascending=False))
    return " ".join(lines + [_sentence(row) for row in differences.itertuples()])


def _lists(differences: pd.DataFrame) -> str:
    """The methods whose interval excludes zero, and those whose interval does not, a line each."""
    sure = excludes_zero(differences["low"], differences["high"])
    heads = {True: "leaves out zero", False: "contains zero, so that luck is not ruled out"}
    lines = []
    for is_sure, head in heads.items():
        told = [
            f"**{row.method}** {100 * row.mean:+.1f} ({100 * row.low:+.1f} to {100 * row.high:+.1f})"
            for row in differences[sure == is_sure].itertuples()
        ]
        baseline = differences["baseline"].iloc[0]
        lines.append(f"- The 95% interval of the difference to **{baseline}**, in points, {head}: ")
        lines[-1] += f"{', '.join(told) or 'for no method'}."
    return "\n".join(lines)


def _sentence(row: Any) -> str:
    text = f"**{row.method}** differs from **{row.baseline}** by {100 * row.mean:+.1f} points"
    if math.isnan(row.low):
        return f"{text} on one seed, which says nothing about chance."
    sure = (
        "which leaves out zero"
        if excludes_zero(row.low, row.high)
        else "which contains zero: luck is not ruled out"
    )
    return f"{text} (95% interval {100 * row.low:+.1f} to {100 * row.high:+.1f}, {sure})."
