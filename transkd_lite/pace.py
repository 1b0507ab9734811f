"""How a score grows with steps and with time, from runs that were scored on the way (`eval_every`).

A method that costs more a step must be compared by the clock too, and what was spent before the first step, such as a
pre-training, belongs to the bill.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

__all__ = ["score_curves", "time_to_reach"]


def score_curves(
    history: pd.DataFrame, table: pd.DataFrame, before: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Mean score of every method at every step at which its runs were scored, the last one included.

    Args:
        history: curves of a batch under the labels of `table` (see `label_history`).
        table: rows of students, one protocol and one budget; their scores are the curves' last points.
        before: method -> seconds spent before its first step, such as a pre-training.

    Returns:
        Columns method, step, seconds (of training, the median over seeds, for one run may have shared its machine; with
        those of `before`), mean, low, high (over seeds), runs; no row where no run was scored on the way.
    """
    if "val_miou" not in history:
        return pd.DataFrame(columns=["method", "step", "seconds", "mean", "low", "high", "runs"])
    points = history.dropna(subset="val_miou")
    ends = table.rename(columns={"steps": "step", "wall_s": "seconds", "miou": "val_miou"})
    both = pd.concat([points, ends[ends["run"].isin(points["run"])]], join="inner")
    groups = both.groupby(["method", "step"], sort=False)
    curves = groups.agg(
        seconds=("seconds", "median"),
        mean=("val_miou", "mean"),
        low=("val_miou", "min"),
        high=("val_miou", "max"),
        runs=("val_miou", "count"),
    ).reset_index()
    curves["seconds"] += curves["method"].map(dict(before or {})).fillna(0.0)
    order = {name: rank for rank, name in enumerate(dict.fromkeys(table["method"]))}
    return curves.sort_values(["method", "step"], key=lambda c: c.map(order) if c.name == "method" else c)


def time_to_reach(curves: pd.DataFrame, target: float) -> pd.DataFrame:
    """The first scored step, and the seconds until then, at which a method's mean is at least `target`.

    Returns: index method; columns step, seconds, mean; nan in all three where a method never gets there.
    """
    reached = curves[curves["mean"] >= target].sort_values("step").groupby("method", sort=False).first()
    return reached[["step", "seconds", "mean"]].reindex(dict.fromkeys(curves["method"]))
