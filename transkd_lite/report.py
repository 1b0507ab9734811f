"""What a batch of runs says: means with their spread, differences with intervals, gains by class and by budget.

A difference between two methods is taken seed by seed: the two runs of a pair share the student's initial weights, the
labelled images and the order of the batches, so what differs is the method, and what is left of chance. With few seeds
the interval of the mean difference is Student's (n - 1 degrees of freedom): wide, and honestly so. The bootstrap's
stands beside it (`comparison` says what each is worth).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from transkd_lite.comparison import (
    Interval,
    bootstrap_interval,
    excludes_zero,
    holm,
    paired_t,
    probability_of_superiority,
    student_interval,
)
from transkd_lite.variants import cells, label_variants

__all__ = [
    "best_first",
    "budget_gains",
    "class_gains",
    "paired_differences",
    "per_class",
    "score_blocks",
    "summary",
    "verdict",
]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Runs, mean, standard deviation (n - 1), lowest and highest mIoU for every method, best mean first."""
    groups = table.groupby("method", sort=False)["miou"]
    out = groups.agg(runs="count", mean="mean", sd="std", low="min", high="max")
    return out.sort_values("mean", ascending=False)


def best_first(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table sorted by their methods' mean mIoU, best first; those of one method keep their order."""
    return table.set_index("method").loc[summary(table).index].reset_index()


def paired_differences(table: pd.DataFrame, baseline: str = "none") -> pd.DataFrame:
    """Mean difference of every other method to `baseline`, seed by seed, with its 95% intervals.

    Args:
        table: one row a run; one run for each method and seed.
        baseline: the method to compare with.

    Returns:
        Columns method, baseline, pairs, mean; low, high (Student); boot_low, boot_high (bootstrap over seeds); p
        (two-sided paired t-test), p_holm (p corrected for the number of methods), superiority (probability that a run
        of the method beats one of the baseline). Intervals and p are nan with fewer than two pairs.

    Raises:
        ValueError: the baseline is not in the table, or a method has two runs of one seed.
    """
    scores = score_blocks(table)
    if baseline not in scores:
        raise ValueError(f"baseline {baseline!r} has no run here; methods with runs: {', '.join(scores)}")
    rows = []
    for method in scores.columns.drop(baseline):
        difference = (scores[method] - scores[baseline]).dropna()
        means = (*student_interval(difference), *bootstrap_interval(difference)[1:])
        chance = (paired_t(difference), probability_of_superiority(scores[method], scores[baseline]))
        rows.append((method, baseline, len(difference), *means, *chance))
    names = ["method", "baseline", "pairs", *Interval._fields, "boot_low", "boot_high", "p", "superiority"]
    out = pd.DataFrame(rows, columns=names)
    out.insert(names.index("superiority"), "p_holm", holm(out["p"]))
    return out


def score_blocks(table: pd.DataFrame) -> pd.DataFrame:
    """mIoU of every seed (rows) and method (columns): the blocks that ranks and differences are taken of.

    Raises:
        ValueError: a method has two runs of one seed.
    """
    if table.duplicated(["method", "seed"]).any():
        raise ValueError(
            "one run for each method and seed is compared; select one dataset, budget and protocol, and tell "
            "variants of a method apart with label_variants"
        )
    order = list(dict.fromkeys(table["method"]))
    return table.pivot(index="seed", columns="method", values="miou")[order].rename_axis(columns=None)


def per_class(table: pd.DataFrame) -> pd.DataFrame:
    """Mean IoU of every class (rows, in the data's order) for every method (columns)."""
    columns = [name for name in table if name.startswith("iou_")]
    means = table.groupby("method", sort=False)[columns].mean().T
    return means.rename(index=lambda name: name.removeprefix("iou_"))


def class_gains(table: pd.DataFrame, baseline: str = "none") -> pd.DataFrame:
    """What every method gains on every class over `baseline`, seed by seed, with Student's interval.

    Returns:
        Columns class, method, mean, low, high in [-1, 1], classes in the data's order; intervals are nan with fewer
        than two pairs. With many classes and methods some intervals exclude zero by luck alone: 1 in 20 at 95%.
    """
    gains = {
        column.removeprefix("iou_"): paired_differences(table.assign(miou=table[column]), baseline)
        for column in table
        if column.startswith("iou_")
    }
    rows = pd.concat(gains, names=["class"]).reset_index("class")
    return rows[["class", "method", "mean", "low", "high"]].reset_index(drop=True)


def budget_gains(tables: Mapping[str, pd.DataFrame], baseline: str = "none") -> pd.DataFrame:
    """The difference of every method to `baseline` in every budget of several tables: what more steps or labels do.

    Args:
        tables: name -> rows of students, one protocol; a budget (see `cells`) without the baseline is left out.

    Returns:
        The columns of `paired_differences`, and batch, dataset, train_images, steps, baseline_miou.
    """
    parts = []
    for name, table in tables.items():
        for rows in map(label_variants, cells(table).values()):
            alone = rows[rows["method"] == baseline]
            if len(alone) and rows["method"].nunique() > 1:
                own = alone.iloc[0][["dataset", "train_images", "steps"]]
                found = paired_differences(rows, baseline)
                parts.append(found.assign(batch=name, **own, baseline_miou=alone["miou"].mean()))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def verdict(table: pd.DataFrame, differences: pd.DataFrame, teacher: float | None) -> str:
    """What the runs say in Markdown: means, then each difference, largest first, by whether it excludes zero."""
    spread = "; ".join(
        f"**{name}** {100 * row['mean']:.1f}" + ("" if math.isnan(row["sd"]) else f" ± {100 * row['sd']:.1f}")
        for name, row in summary(table).iterrows()
    )
    text = f"mIoU in %, mean ± standard deviation over seeds: {spread}."
    if teacher is not None:
        text += f" The teacher reaches {100 * teacher:.1f}."
    sure, unsure = "leaves out zero", "contains zero, so that luck is not ruled out"
    single = "is not known on one seed, which says nothing about chance"
    told: dict[str, list[str]] = {sure: [], unsure: [], single: []}
    for row in differences.sort_values("mean", ascending=False).itertuples():
        gain = f"**{row.method}** {100 * row.mean:+.1f}"
        if math.isnan(row.low):
            told[single].append(gain)
        else:
            head = sure if excludes_zero(row.low, row.high) else unsure
            told[head].append(f"{gain} ({100 * row.low:+.1f} to {100 * row.high:+.1f})")
    baseline = next(iter(differences["baseline"]), "")
    lines = [
        f"- The 95% interval of the difference to **{baseline}**, in points, {head}: {', '.join(gains)}."
        for head, gains in told.items()
        if gains
    ]
    return "\n".join([text, "", *lines]).strip()
