"""The published numbers, and ours beside them: never mixed, each cell with its origin."""

from __future__ import annotations

import pandas as pd

from transkd_lite.results import DATA

__all__ = ["beside_the_paper", "published"]


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
        method = _PAPER_ROWS[network.split(" (")[0].split(",")[0]]
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
