"""Networks that are not trained here: scored as they are, scored again, or saved for shipping."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from transkd_lite.experiment import Experiment
from transkd_lite.metrics import PROTOCOLS, evaluate
from transkd_lite.models import load_model, save_model
from transkd_lite.parameters import weights_file
from transkd_lite.runs import (
    HISTORY_FILE,
    METRICS_FILE,
    RUN_FILE,
    STUDENT_FILE,
    atomic_write,
    is_finished,
    lock_run,
    provenance,
    read_json,
    write_json,
)

__all__ = ["evaluate_run", "save_half", "score_pretrained"]


def score_pretrained(
    experiment: Experiment, num_classes: int, val_data: Any, folder: str | Path | None
) -> dict[str, Any]:
    """Score a network that is not trained; its folder looks like that of a training of zero steps."""
    if folder is not None and is_finished(folder):
        return read_json(Path(folder) / METRICS_FILE)
    start = time.perf_counter()
    device = "cuda" if experiment.device == "auto" and torch.cuda.is_available() else "cpu"
    model = experiment.build_student(num_classes).to(device).eval()
    scores = {p: evaluate(model, val_data, protocol=p, normalize=experiment.normalize) for p in PROTOCOLS}
    metrics: dict[str, Any] = {protocol: score.to_dict() for protocol, score in scores.items()}
    metrics |= {"steps": 0, "wall_s": time.perf_counter() - start}
    if folder is not None:
        with lock_run(folder):
            record = experiment.record()
            save_model(model, Path(folder) / STUDENT_FILE, provenance={"parameters": record})
            info = {"parameters": record, "seed": experiment.seed, "num_steps": 0, "precision": "fp32"}
            write_json(
                Path(folder) / RUN_FILE, {"state": "finished", **info, "device": device, **provenance()}
            )
            atomic_write(Path(folder) / HISTORY_FILE, "step,epoch,lr,loss,ce,images_per_s\n")
            write_json(Path(folder) / METRICS_FILE, metrics)
    return metrics


def save_half(folder: str | Path, target: str | Path, *, profile: str) -> Path:
    """Save a finished run's network in half precision for shipping, with how it was made in its metadata."""
    info, metrics = read_json(Path(folder) / RUN_FILE), read_json(Path(folder) / METRICS_FILE)
    kept = ("parameters", "versions", "device", "precision", "commit", "dirty", "started", "wall_s")
    made = {"command": f"transkd train {profile}", **{name: info.get(name) for name in kept}}
    made["miou"] = {name: metrics[name]["miou"] for name in ("full", "paper") if name in metrics}
    return save_model(load_model(Path(folder) / STUDENT_FILE), target, dtype=torch.float16, provenance=made)


def evaluate_run(source: str | Path, settings: Mapping[str, Any], split: str = "val") -> dict[str, Any]:
    """Score a run folder's network, or a file of weights, by both protocols.

    Args:
        source: a run folder, whose parameters say which data, or a file saved by `save_model`.
        settings: parameters that replace those.
        split: which images.
    """
    source = Path(source)
    recorded = read_json(source / RUN_FILE).get("parameters", {})
    file = weights_file(source)
    experiment = Experiment.from_parameters({**recorded, **settings})
    data = experiment.open_split(split, experiment.val_images)
    model = load_model(file)
    return {p: evaluate(model, data, protocol=p, normalize=experiment.normalize).to_dict() for p in PROTOCOLS}
