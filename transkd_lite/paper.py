"""The published numbers, and ours beside them: never mixed, each cell with its origin."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from transkd_lite.comparison import Interval, student_interval
from transkd_lite.results import DATA

__all__ = ["beside_the_paper", "claims", "published"]


def published() -> pd.DataFrame:
    """The paper's own numbers (mIoU in %), with their source: a table to set beside, never to mix with, ours."""
    return pd.read_csv(DATA / "paper.csv")


def beside_the_paper(table: pd.DataFrame, teacher: float | None, teacher_name: str = "") -> pd.DataFrame:
    """The paper's rows with what was measured here beside them; a row that was not run says so.

    Args:
        table: the students' rows of one protocol.
        teacher: the teacher's mIoU in [0, 1], if it was scored.
        teacher_name: which network taught here, for it need not be the paper's.
    """
    means, counts = table.groupby("method")["miou"].mean(), table.groupby("method")["miou"].count()
    rows = []
    columns = ["network", "cityscapes_miou", "acdc_miou"]
    for network, cityscapes, acdc in published()[columns].itertuples(index=False):
        method = _method_of(network)
        here = "not run"
        if method == "teacher" and teacher is not None:
            here = f"measured, {100 * teacher:.2f}" + (f" ({teacher_name})" if teacher_name else "")
        elif method in means:
            here = f"measured, {100 * means[method]:.2f} (mean of {counts[method]})"
        there = {
            "published, Cityscapes": f"published, {cityscapes:.2f}",
            "published, ACDC": f"published, {acdc:.2f}",
        }
        rows.append({"network": network, **there, "measured here": here})
    return pd.DataFrame(rows)


_PAPER_ROWS = {
    "teacher SegFormer-B2": "teacher",
    "student SegFormer-B0": "none",
    "+ TransKD-Base": "transkd-base",
    "+ TransKD-GL": "transkd-gl",
    "+ TransKD-EA": "transkd-ea",
}


def _method_of(network: str) -> str:
    """The method's name here of a row of the paper, such as "+ TransKD-Base (CSF + PEA)"."""
    return _PAPER_ROWS[network.split(" (")[0].split(",")[0]]


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
    numbers = published().set_index("network")[["cityscapes_miou", "acdc_miou"]]
    numbers.index = numbers.index.map(_method_of)
    scores = 100 * table.pivot(index="seed", columns="method", values="miou")
    rows = [*_differences(scores, numbers)]
    if teacher is not None:
        rows += _shares(scores, numbers, 100 * teacher)
    columns = ["claim", "unit", "cityscapes", "acdc", "mean", "low", "high", "verdict"]
    return pd.DataFrame(rows, columns=columns)


_VARIANTS = ("transkd-base", "transkd-gl", "transkd-ea")
_CLAIMED = (
    *(("none", variant) for variant in _VARIANTS),
    *(("transkd-base", "transkd-gl"), ("transkd-base", "transkd-ea"), ("transkd-gl", "transkd-ea")),
)


def _differences(scores: pd.DataFrame, numbers: pd.DataFrame) -> Iterator[tuple]:
    """Who is above whom, lower one first in `_CLAIMED`."""
    for lower, upper in _CLAIMED:
        if {lower, upper} <= set(scores):
            there = numbers.loc[upper] - numbers.loc[lower]
            found = student_interval((scores[upper] - scores[lower]).dropna())
            yield (f"{upper} above {lower}", "points", *there.round(2), *found, _verdict(found, 0.0))


def _shares(scores: pd.DataFrame, numbers: pd.DataFrame, teacher: float) -> Iterator[tuple]:
    """How much of the distance from the student alone to the teacher each variant covers."""
    for method in (name for name in _VARIANTS if {"none", name} <= set(scores)):
        there = (numbers.loc[method] - numbers.loc["none"]) / (numbers.loc["teacher"] - numbers.loc["none"])
        found = student_interval((scores[method] - scores["none"]).dropna())
        found = Interval(*(100 * value / (teacher - scores["none"].mean()) for value in found))
        share = 100 * there
        held = _verdict(found, share["cityscapes_miou"])
        yield (f"{method} closes the gap to the teacher", "%", *share.round(1), *found, held)


def _verdict(found: Interval, claimed: float) -> str:
    if math.isnan(found.low):
        return "one seed: not decided"
    return "holds" if found.low > claimed else "does not hold" if found.high < claimed else "not decided"
