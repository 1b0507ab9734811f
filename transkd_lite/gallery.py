"""What a batch looks like: the same validation images segmented by its networks, and the files that stay of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from transkd_lite.conditions import score_conditions
from transkd_lite.data import label_space
from transkd_lite.data.labels import LabelSpace
from transkd_lite.experiment import Experiment
from transkd_lite.models import load_model
from transkd_lite.prediction import predict
from transkd_lite.report import best_first
from transkd_lite.results import DATA, Batch, load_batch, save_tables, students, teachers
from transkd_lite.runs import STUDENT_FILE, atomic_write, read_run
from transkd_lite.variants import label_variants

__all__ = ["Gallery", "load_gallery", "save_results"]

SHIPPED_NETWORKS = {
    "teacher": DATA / "weights" / "streets-segformer_b1.safetensors",
    "transkd-base": DATA / "weights" / "streets-segformer_b0-transkd-base.safetensors",
}


@dataclass(frozen=True)
class Gallery:
    """N pictures uint8 (H, W, 3), their label space, and for "label" and each network N maps (H, W) of train ids."""

    images: list[Any]
    rows: dict[str, list[NDArray[np.uint8]]]
    space: LabelSpace


def load_gallery(batch: Batch, num_images: int = 5, data_root: str | None = None) -> Gallery | None:
    """Segment the first validation images by the teacher and by the first seed's student of every method.

    Args:
        batch: the runs; for a shipped table of streets, the networks that come with the course are used.
        num_images: how many images.
        data_root: where the data set lies, for those that need it.

    Returns:
        None where no weights are here.
    """
    rows = batch.table.sort_values("seed", kind="stable")
    first = batch.table.iloc[0]
    if batch.root is None:
        networks = SHIPPED_NETWORKS if first["dataset"] == "streets" else {}
        parameters = {"dataset": first["dataset"], **{name: int(first[name]) for name in ("height", "width")}}
    else:
        named = pd.concat([teachers(rows).assign(method="teacher"), students(rows)])
        lowest = named.drop_duplicates("method").itertuples()
        networks = {row.method: batch.root / row.run / STUDENT_FILE for row in lowest}
        parameters = read_run(batch.root / first["run"]).info["parameters"]
    networks = {name: path for name, path in networks.items() if path.is_file()}
    if not networks:
        return None
    experiment = Experiment.from_parameters({**parameters, "data_root": data_root})
    data = experiment.open_split("val", num_images)
    images = [sample["image"] for sample in data]
    maps = {"label": [np.asarray(sample["label"]) for sample in data]}
    for name, path in networks.items():
        maps[name] = predict(load_model(path), images, normalize=experiment.normalize)
    return Gallery(images, maps, label_space(data))


def save_results(root: Path, folder: Path) -> list[Path]:
    """Save a batch's table, its curves, the figure of its scores and its scores by condition, into `folder`.

    Scores by condition are taken for streets, whose validation scenes need no files.
    """
    from transkd_lite import plots

    batch = load_batch(root)
    runs, best = best_first(label_variants(students(batch.table))), teachers(batch.table)["miou"]
    figure = plots.methods(runs, reference={} if best.empty else {"teacher": best.iloc[0]})
    saved = [*save_tables(batch, folder), atomic_write(folder / f"{batch.name}.png", plots.to_png(figure))]
    if batch.table["dataset"].iloc[0] == "streets":  # last, for every network is run again
        scores = score_conditions(batch)
        if len(scores):
            saved.append(atomic_write(folder / f"{batch.name}_conditions.csv", scores.to_csv(index=False)))
    return saved
