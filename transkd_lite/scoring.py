"""Networks that are not trained here: scored as they are, scored again, or saved for shipping."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from transkd_lite.experiment import Experiment
from transkd_lite.loading import to_tensors
from transkd_lite.metrics import PROTOCOLS, evaluate, require_scorable
from transkd_lite.models import load_model, save_model
from transkd_lite.models.files import METADATA_KEY, read_metadata
from transkd_lite.parameters import ParameterError, find_file, weights_file
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

__all__ = ["evaluate_run", "save_half", "score_pretrained", "training_parameters"]


def score_pretrained(
    experiment: Experiment, num_classes: int, val_data: Any, folder: str | Path | None
) -> dict[str, Any]:
    """Score a network that is not trained; its folder looks like that of a training of zero steps."""
    if folder is not None and is_finished(folder):
        return read_json(Path(folder) / METRICS_FILE)
    start = time.perf_counter()
    device = "cuda" if experiment.device == "auto" and torch.cuda.is_available() else "cpu"
    model = experiment.build_student(num_classes).to(device).eval()
    with contextlib.suppress(ValueError, OSError):  # of another library: nothing is said of its classes
        model.label_space = load_model(find_file(str(experiment.pretrained))).label_space
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


def training_parameters(source: Path, weights: Path) -> dict[str, Any]:
    """The parameters of the training, as far as the run folder or the file of weights tells them."""
    recorded = read_json(source / RUN_FILE)
    if weights.suffix == ".safetensors" and "parameters" not in recorded:
        recorded = (read_metadata(weights, METADATA_KEY) or {}).get("provenance", {})
    return dict(recorded.get("parameters") or {})


def evaluate_run(source: str | Path, settings: Mapping[str, Any], split: str = "val") -> dict[str, Any]:
    """Score a run folder's network, or a file of weights, by both protocols.

    Args:
        source: a run folder or a file saved by `save_model`; what it says of its training is the data and their size.
        settings: parameters that replace those; with another data set, all of its images are taken.
        split: which images.

    Returns:
        A dictionary of scores for each protocol, and beside them "data": dataset, split, number of images, size in
        pixels of the first of them, normalize.

    Raises:
        ParameterError: nothing says which data, they cannot be opened, or the network was not made for them.
    """
    source = Path(source)
    file = weights_file(source)
    recorded, kept = training_parameters(source, file), ["height", "width", "normalize"]
    if settings.get("dataset", recorded.get("dataset")) == recorded.get("dataset"):
        kept += ["dataset", "data_seed", "data_options", "val_images"]
    known = {name: recorded[name] for name in kept if name in recorded} | dict(settings)
    missing = [name for name in ("dataset", "height", "width") if name not in known]
    if missing:
        raise ParameterError(
            f"{source} does not say on which images it was trained: pass "
            f"{' '.join(f'--set {name}=…' for name in missing)} (and --data-root, where the data set has files)"
        )
    experiment = Experiment.from_parameters({"val_images": None, **known})
    model = load_model(file)
    try:
        data = experiment.open_split(split, experiment.val_images)
        require_scorable(model, data)
    except (OSError, ValueError) as error:
        raise ParameterError(f"{source} on {experiment.dataset}, split {split}: {error}") from error
    scores = {p: evaluate(model, data, protocol=p, normalize=experiment.normalize) for p in PROTOCOLS}
    size = to_tensors(data[0])[1].shape
    shown = {"dataset": experiment.dataset, "split": split, "images": len(data), "size": list(size)}
    shown["normalize"] = experiment.normalize
    return {"data": shown, **{protocol: score.to_dict() for protocol, score in scores.items()}}
