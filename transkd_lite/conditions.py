"""Scores of a batch's networks under each condition alone, such as fog, night, rain and snow of streets and ACDC.

A run's `metrics.json` holds its scores over all validation images. The networks lie beside it, so that their scores
under each condition can be taken afterwards; the table of them ships with the others in `data/results`.
"""

from __future__ import annotations

import pandas as pd

from transkd_lite import results
from transkd_lite.experiment import Experiment
from transkd_lite.metrics import evaluate_by
from transkd_lite.models import load_model
from transkd_lite.report import paired_differences
from transkd_lite.results import Batch, students
from transkd_lite.runs import STUDENT_FILE, read_run

__all__ = ["condition_gains", "load_conditions", "score_conditions"]

COLUMNS = ["run", "method", "seed", "condition", "images", "miou"]


def score_conditions(
    batch: Batch, rows: pd.DataFrame | None = None, data_root: str | None = None
) -> pd.DataFrame:
    """Score the students of a folder of runs on each condition of their validation images ("full" protocol).

    A progress bar appears on stderr when it takes more than five seconds.

    Args:
        batch: runs whose folder is here.
        rows: only the runs of these rows of its table; all students by default.
        data_root: where the data set lies, for those that need it.

    Returns:
        Columns run, method, seed, condition, images, miou: a row for each run and condition; no row for a run whose
        network is gone, and none where the data have no column "condition".

    Raises:
        ValueError: the batch is a shipped table, without networks.
    """
    if batch.root is None:
        raise ValueError(f"{batch.name} holds no networks: pass the folder of its runs, such as runs/demo")
    from tqdm.auto import tqdm

    found, data = [], None
    rows = students(batch.table) if rows is None else rows
    for run in tqdm(rows.itertuples(), "scores by condition", len(rows), unit="network", delay=5):
        weights = batch.root / run.run / STUDENT_FILE
        if not weights.is_file():
            continue
        parameters = read_run(weights.parent).info["parameters"]
        experiment = Experiment.from_parameters({**parameters, "data_root": data_root})
        data = data or experiment.open_split("val", experiment.val_images)
        if "condition" not in data.column_names:
            break
        images = pd.Series(data["condition"]).value_counts()
        scores = evaluate_by(load_model(weights), data, normalize=experiment.normalize)
        found += [
            (run.run, run.method, run.seed, name, int(images[name]), own.miou) for name, own in scores.items()
        ]
    return pd.DataFrame(found, columns=COLUMNS)


def load_conditions(name: str) -> pd.DataFrame:
    """The shipped scores by condition of the table `name`, such as "demo"; empty where there are none."""
    path = results.DATA / "results" / f"{name}_conditions.csv"
    return results.read_table(path) if path.is_file() else pd.DataFrame(columns=COLUMNS)


def condition_gains(table: pd.DataFrame, baseline: str = "none") -> pd.DataFrame:
    """What every method gains over `baseline` under each condition, seed by seed, with Student's interval.

    Args:
        table: that of `score_conditions`.

    Returns:
        Columns condition, method, pairs, mean, low, high in [-1, 1]; intervals are nan with fewer than two pairs.
    """
    gains = {name: paired_differences(part, baseline) for name, part in table.groupby("condition")}
    rows = pd.concat(gains, names=["condition"]).reset_index("condition")
    return rows[["condition", "method", "pairs", "mean", "low", "high"]].reset_index(drop=True)
