"""What a batch of runs says: one tidy table, means with their spread, and paired differences.

A difference between two methods is taken seed by seed: the two runs of a pair share the student's initial weights, the
labelled images and the order of the batches, so what differs is the method, and what is left of chance. With few seeds
the interval of the mean difference is Student's (n - 1 degrees of freedom): wide, and honestly so.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from transkd_lite.runs import BATCH_FILE, HISTORY_FILE, Run, atomic_write, list_runs, read_json

__all__ = [
    "DATA",
    "PROTOCOLS",
    "Batch",
    "beside_the_paper",
    "gap_closed",
    "load_batch",
    "paired_differences",
    "per_class",
    "published",
    "results_table",
    "save_tables",
    "students",
    "summary",
    "teachers",
    "verdict",
]

PROTOCOLS = ("full", "paper")
DATA = Path(__file__).resolve().parents[1] / "data"
SHIPPED = "demo"  # the batch whose tables come with the course
_PARAMETERS = ("train_images", "seed", "steps", "batch_size", "lr", "augment", "height", "width")


@dataclass(frozen=True)
class Batch:
    """The finished runs of one batch: their table, their training curves, and the folder they lie in, if it is here."""

    name: str
    table: pd.DataFrame
    history: pd.DataFrame
    root: Path | None = None


def load_batch(root: str | os.PathLike[str] | None) -> Batch:
    """Read a folder of run folders, or, for None, the tables of the demo that come with the course.

    Raises:
        FileNotFoundError: nothing finished lies there.
    """
    if root is not None:
        return Batch(Path(root).name, results_table(root), _histories(root), Path(root))
    tables = [DATA / "results" / name for name in (f"{SHIPPED}.csv", f"{SHIPPED}_history.csv")]
    for path in tables:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: run `transkd reproduce {SHIPPED}` and pass run_dir")
    table, history = (pd.read_csv(path, keep_default_na=False, na_values=[""]) for path in tables)
    return Batch(f"{SHIPPED} (shipped tables)", table, history)


def save_tables(batch: Batch, folder: str | os.PathLike[str]) -> list[Path]:
    """Write `<batch>.csv` and `<batch>_history.csv`, which `load_batch` reads where the run folders are not."""
    named = {f"{batch.name}.csv": batch.table, f"{batch.name}_history.csv": batch.history}
    return [atomic_write(Path(folder) / name, table.to_csv(index=False)) for name, table in named.items()]


def _histories(root: str | os.PathLike[str]) -> pd.DataFrame:
    """Step, loss and cross entropy of every finished student run, with its method and seed."""
    parts = []
    for run in _finished(root):
        path = run.folder / HISTORY_FILE
        if run.name.startswith("student-") and path.is_file():
            parameters = run.info.get("parameters", {})
            own = {"method": parameters.get("method"), "seed": parameters.get("seed")}
            parts.append(pd.read_csv(path)[["step", "loss", "ce"]].assign(**own))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def results_table(root: str | os.PathLike[str]) -> pd.DataFrame:
    """One row for every finished training run below `root` and every protocol.

    Args:
        root: a folder of run folders, such as `runs/demo`.

    Returns:
        Columns dataset, protocol, teacher, student, method, options (JSON), train_images, seed, steps, batch_size, lr,
        augment, height, width, precision, device, torch, commit, run, wall_s, miou, pixel_accuracy and one
        `iou_<class>` each; scores in [0, 1]. A teacher's row has method "none" and a run named `teacher-…`.

    Raises:
        FileNotFoundError: no finished training run lies below `root`.
    """
    rows = [row for run in _finished(root) for row in _rows(run)]
    if not rows:
        raise FileNotFoundError(
            f"{root} holds no finished training run: make some with `transkd reproduce PROFILE`, or give the "
            "folder of another profile"
        )
    return pd.DataFrame(rows)


def _finished(root: str | os.PathLike[str]) -> list[Run]:
    """The finished runs of the current batch (its `batch.json` names them), the student alone before the others."""
    named = read_json(Path(root) / BATCH_FILE).get("runs")
    runs = [
        run for run in list_runs(root) if run.state == "finished" and (named is None or run.name in named)
    ]
    return sorted(runs, key=lambda run: run.info.get("parameters", {}).get("method", "none") != "none")


def _rows(run: Run) -> Iterator[dict[str, Any]]:
    parameters, info = run.info.get("parameters", {}), run.info
    for protocol in PROTOCOLS:
        scores = run.metrics.get(protocol)
        if not scores:
            continue
        yield {
            "dataset": parameters.get("dataset"),
            "protocol": protocol,
            "teacher": parameters.get("teacher") or "",
            "student": parameters.get("network"),
            "method": parameters.get("method", "none"),
            "options": json.dumps(parameters.get("options", {}), sort_keys=True),
            **{name: parameters.get(name) for name in _PARAMETERS},
            "steps": info.get("num_steps") or parameters.get("steps"),
            "precision": info.get("precision"),
            "device": info.get("device"),
            "torch": info.get("versions", {}).get("torch"),
            "commit": info.get("commit"),
            "run": run.name,
            "wall_s": run.metrics.get("wall_s"),
            "miou": scores["miou"],
            "pixel_accuracy": scores["pixel_accuracy"],
            **{f"iou_{name}": value for name, value in scores["iou"].items()},
        }


def students(table: pd.DataFrame, protocol: str = "full") -> pd.DataFrame:
    """The rows of one protocol without the teachers', in the table's order."""
    return table[(table["protocol"] == protocol) & ~_of_teachers(table)]


def teachers(table: pd.DataFrame, protocol: str = "full") -> pd.DataFrame:
    """The teachers' rows of one protocol."""
    return table[(table["protocol"] == protocol) & _of_teachers(table)]


def _of_teachers(table: pd.DataFrame) -> pd.Series:
    return table["run"].str.startswith("teacher-")


def summary(table: pd.DataFrame, value: str = "miou") -> pd.DataFrame:
    """Runs, mean, standard deviation (n - 1), lowest and highest of `value` for every method, best mean first."""
    groups = table.groupby("method", sort=False)[value]
    out = groups.agg(runs="count", mean="mean", sd="std", low="min", high="max")
    return out.sort_values("mean", ascending=False)


def paired_differences(
    table: pd.DataFrame, baseline: str = "none", *, value: str = "miou", level: float = 0.95
) -> pd.DataFrame:
    """Mean difference of every other method to `baseline`, seed by seed, with its interval.

    Args:
        table: one row a run; one run for each method and seed.
        baseline: the method to compare with.
        value: the column to compare.
        level: coverage of Student's interval.

    Returns:
        Columns method, baseline, pairs, mean, low, high, p (two-sided paired t-test); low, high and p are nan with
        fewer than two pairs.

    Raises:
        ValueError: the baseline is not in the table, or a method has two runs of one seed.
    """
    if baseline not in set(table["method"]):
        known = ", ".join(dict.fromkeys(table["method"]))
        raise ValueError(f"baseline {baseline!r} has no run here; methods with runs: {known}")
    if table.duplicated(["method", "seed"]).any():
        raise ValueError(
            "one run for each method and seed is compared; select one dataset, budget and protocol"
        )
    scores = table.pivot(index="seed", columns="method", values=value)
    others = [name for name in dict.fromkeys(table["method"]) if name != baseline]
    return pd.DataFrame([_paired(scores, name, baseline, level) for name in others])


def _paired(scores: pd.DataFrame, method: str, baseline: str, level: float) -> dict[str, Any]:
    difference = (scores[method] - scores[baseline]).dropna()
    mean, count = float(difference.mean()), len(difference)
    row = {"method": method, "baseline": baseline, "pairs": count, "mean": mean}
    if count < 2:
        return {**row, "low": math.nan, "high": math.nan, "p": math.nan}
    error = float(difference.std() / math.sqrt(count))
    reach = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, count - 1)) if error > 0 else math.nan
    return {**row, "low": mean - reach, "high": mean + reach, "p": p}


def per_class(table: pd.DataFrame) -> pd.DataFrame:
    """Mean IoU of every class (rows, in the data's order) for every method (columns)."""
    columns = [name for name in table if name.startswith("iou_")]
    means = table.groupby("method", sort=False)[columns].mean().T
    return means.rename(index=lambda name: name.removeprefix("iou_"))


def gap_closed(table: pd.DataFrame, teacher: float, baseline: str = "none") -> pd.Series:
    """Share of the distance from the mean of `baseline` to the teacher's score that each method covers."""
    means = table.groupby("method", sort=False)["miou"].mean()
    return (means - means[baseline]) / (teacher - means[baseline])


def published() -> pd.DataFrame:
    """The paper's own numbers (mIoU in %), with their source: a table to set beside, never to mix with, ours."""
    return pd.read_csv(DATA / "paper.csv")


def beside_the_paper(table: pd.DataFrame, teacher: float | None) -> pd.DataFrame:
    """The paper's rows with what was measured here beside them; a row that was not run says so.

    Args:
        table: the students' rows of one protocol.
        teacher: the teacher's mIoU in [0, 1], if it was scored.
    """
    means, counts = table.groupby("method")["miou"].mean(), table.groupby("method")["miou"].count()
    rows = []
    for network, miou in published()[["network", "cityscapes_miou"]].itertuples(index=False):
        method = _PAPER_ROWS[network.split(" (")[0].split(",")[0]]
        here = "not run"
        if method == "teacher" and teacher is not None:
            here = f"measured, {100 * teacher:.2f}"
        elif method in means:
            here = f"measured, {100 * means[method]:.2f} (mean of {counts[method]})"
        rows.append(
            {"network": network, "published, Cityscapes": f"published, {miou:.2f}", "measured here": here}
        )
    return pd.DataFrame(rows)


_PAPER_ROWS = {
    "teacher SegFormer-B2": "teacher",
    "student SegFormer-B0": "none",
    "+ TransKD-Base": "transkd-base",
    "+ TransKD-GL": "transkd-gl",
    "+ TransKD-EA": "transkd-ea",
}


def verdict(table: pd.DataFrame, differences: pd.DataFrame, teacher: float | None) -> str:
    """What the runs say, in a few sentences of Markdown: means, then each difference and whether it excludes zero."""
    spread = "; ".join(
        f"**{name}** {100 * row['mean']:.1f}" + ("" if math.isnan(row["sd"]) else f" ± {100 * row['sd']:.1f}")
        for name, row in summary(table).iterrows()
    )
    lines = [f"mIoU in %, mean ± standard deviation over seeds: {spread}."]
    if teacher is not None:
        lines.append(f"The teacher reaches {100 * teacher:.1f}.")
    return " ".join(lines + [_sentence(row) for row in differences.itertuples()])


def _sentence(row: Any) -> str:
    text = f"**{row.method}** differs from **{row.baseline}** by {100 * row.mean:+.1f} points"
    if math.isnan(row.low):
        return f"{text} on one seed, which says nothing about chance."
    sure = (
        "which leaves out zero"
        if row.low > 0 or row.high < 0
        else "which contains zero: luck is not ruled out"
    )
    return f"{text} (95% interval {100 * row.low:+.1f} to {100 * row.high:+.1f}, {sure})."
