"""The published numbers, and ours beside them: never mixed, each cell with its origin."""

from __future__ import annotations

import math
from itertools import combinations

import pandas as pd

from transkd_lite.comparison import Interval, student_interval
from transkd_lite.results import DATA, read_table

__all__ = ["beside_the_paper", "claims", "published"]


def published() -> pd.DataFrame:
    """The paper's own numbers (mIoU in %), with their source: a table to set beside, never to mix with, ours.

    Its column `method` is the row's name here.
    """
    return read_table(DATA / "paper.csv")


def beside_the_paper(table: pd.DataFrame, teacher: float | None, teacher_name: str = "") -> pd.DataFrame:
    """The paper's rows with what was measured here beside them; a row that was not run says so.

    Args:
        table: the students' rows of one protocol.
        teacher: the teacher's mIoU in [0, 1], if it was scored.
        teacher_name: which network taught here, for it need not be the paper's.
    """
    paper = published()
    scores = table.groupby("method")["miou"]
    here = {name: f"measured, {100 * own.mean():.2f} (mean of {own.count()})" for name, own in scores}
    if teacher is not None:
        here["teacher"] = f"measured, {100 * teacher:.2f}" + (f" ({teacher_name})" if teacher_name else "")
    return pd.DataFrame(
        {
            "network": paper["network"],
            "published, Cityscapes": paper["cityscapes_miou"].map("published, {:.2f}".format),
            "published, ACDC": paper["acdc_miou"].map("published, {:.2f}".format),
            "measured here": paper["method"].map(here).fillna("not run"),
        }
    )


def claims(table: pd.DataFrame, teacher: float | None = None) -> pd.DataFrame:
    """The paper's claims that these runs can test, each with the published figures, ours, and whether it holds.

    A difference is claimed where Cityscapes shows one; the interval is Student's, 95%, over seeds. "holds" and "does
    not hold" ask for an interval that leaves out zero, or, for a share of the gap, the published share.

    Args:
        table: the students' rows of one protocol and one budget, methods by their plain names.
        teacher: the teacher's mIoU in [0, 1]; without it no share of the gap is computed.

    Returns:
        Columns claim, unit, cityscapes, acdc, mean, low, high, verdict; a claim without its runs is left out.
    """
    paper = published().set_index("method")[["cityscapes_miou", "acdc_miou"]]
    scores = 100 * table.pivot(index="seed", columns="method", values="miou")
    variants = [name for name in paper.index if name.startswith("transkd-")]
    rows = []
    for lower, upper in (*(("none", name) for name in variants), *combinations(variants, 2)):
        if {lower, upper} <= set(scores):
            there = paper.loc[upper] - paper.loc[lower]
            found = student_interval(scores[upper] - scores[lower])
            rows.append((f"{upper} above {lower}", "points", *there.round(2), *found, _verdict(found, 0.0)))
    for method in variants:
        if teacher is not None and {"none", method} <= set(scores):
            there = 100 * (paper.loc[method] - paper.loc["none"]) / (paper.loc["teacher"] - paper.loc["none"])
            gap = (100 * teacher - scores["none"].mean()) / 100
            found = student_interval((scores[method] - scores["none"]) / gap)
            held = _verdict(found, there["cityscapes_miou"])
            rows.append((f"{method} closes the gap to the teacher", "%", *there.round(1), *found, held))
    columns = ["claim", "unit", "cityscapes", "acdc", "mean", "low", "high", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def _verdict(found: Interval, claimed: float) -> str:
    if math.isnan(found.low):
        return "one seed: not decided"
    return "holds" if found.low > claimed else "does not hold" if found.high < claimed else "not decided"
