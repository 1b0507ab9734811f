"""What is checked and told before anything runs, about how long it will take, and a profile for images of one's own."""

import io
import math
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from transkd_lite.data.labels import label_space
from transkd_lite.data.tools import Report
from transkd_lite.data.whole import atomic_write
from transkd_lite.experiments.experiment import Experiment
from transkd_lite.experiments.profile import PlannedRun, Profile, plan
from transkd_lite.training.config import ParameterError, check_plain

__all__ = ["look", "new_profile", "preflight"]

_REST_S = 20  # of a notebook, beside training and scoring


def preflight(pending: Sequence[PlannedRun], root: Path) -> tuple[str, float]:
    """Check what a plan cannot check without torch, and time a step of each kind of run.

    pending: the runs to do. root: the folder that theirs lie in.
    Returns lines that tell data, machine, runs and time, and the seconds of all runs, one after the other.
    Raises `ParameterError`: see `look`.
    """
    experiments = {run.folder: run.experiment for run in pending}
    looked: dict[str, tuple[float, str, str]] = {}
    seconds = 0.0
    for run in pending:
        if run.experiment is not None:  # no lesson
            key, here = str(replace(run.experiment, seed=0)), replace(run.experiment, out_dir=str(root / run.folder))
            looked[key] = looked.get(key) or look(here, experiments.get(run.needs or ""))
            seconds += looked[key][0]
    told = dict.fromkeys(text for _, *texts in looked.values() for text in texts)
    total = [f"in all about {seconds / 60:.0f} min, one after the other; guessed from one step"] * bool(looked)
    return "\n".join([*told, *total]), seconds


def look(experiment: Experiment, teacher: Experiment | None = None) -> tuple[float, str, str]:
    """Find what would end a run later or be ignored, and time one step of it.

    teacher: the experiment of the teacher, where that is a run that has not ended yet.
    Returns about how many seconds training and scoring take; data and machine; and the run, in words.
    Raises `ParameterError`: a name, a setting, the data, a file of weights or a teacher that does not fit the rest.
    """
    import torch

    from transkd_lite.metrics import predict, resolve_precision
    from transkd_lite.training.loop import device_name, fit

    drawn = experiment.dataset == "streets"
    ignored = {"data_root": drawn and experiment.data_root, "data_seed": not drawn and experiment.data_seed}
    for name in filter(ignored.get, ignored):
        raise ParameterError(f"{name} would be ignored with dataset {experiment.dataset}: leave it out")
    experiment.check_names()  # opening the data may take minutes
    config, (train, val) = experiment.config(), experiment.open_data()
    space = label_space(train)

    def sizes(split: Any) -> list[tuple[int, int]]:
        if drawn or experiment.size:
            return [split[0]["label"].size[::-1]] * len(split)
        files = split.with_format(None)["label"]  # their heads tell
        return [Image.open(io.BytesIO(f["bytes"]) if f.get("bytes") else f["path"]).size[::-1] for f in files]

    seen, scored = sizes(train), sizes(val)
    low, high = (tuple(map(edge, zip(*seen, *scored, strict=True))) for edge in (min, max))
    span = " to ".join(f"{height} x {width}" for height, width in dict.fromkeys((low, high)))
    if min(low) < 32:
        raise ParameterError(f"images must be at least 32 x 32 pixels, these are {span}: set height and width")
    if len({*seen}) > 1 and config.crop is None and config.batch_size > 1 and config.steps != 0:
        rule = f"the images of a mini-batch must have one size; these are {span} pixels"
        raise ParameterError(f"{rule}: set crop, and pad where some are smaller, or resize all to height and width")
    config.check_fits((min(height for height, _ in seen), min(width for _, width in seen)), space.num_classes)
    steps = config.num_steps(len(train))
    batch_size = config.batch_size if config.device == "auto" and torch.cuda.is_available() else 1
    short: dict[str, Any] = {"steps": 4 if steps else 0, "epochs": None, "warmup_steps": 0, "batch_size": batch_size}
    trial = replace(config, **short, log_every=1, compile=False)
    try:
        tutor = None if teacher is None else teacher.build_student(space.num_classes)
        student, tutor, method = experiment.build(space.num_classes, space, tutor)
        with warnings.catch_warnings(action="ignore"):
            history = fit(student, train, config=trial, teacher=tutor, method=method, progress="none").history
        if steps:
            speed = history["images_per_s"].max()
        else:  # it is only scored
            begun = time.monotonic()
            predict(student, train[0]["image"], normalize=config.normalize)
            speed = 1 / (time.monotonic() - begun)
    except (OSError, TypeError, ValueError) as error:
        raise ParameterError(f"network {experiment.network}, method {experiment.method}: {error}") from error
    device = next(student.parameters()).device
    passes = sum(map(math.prod, scored)) / math.prod(config.crop or high)  # two over val, of a third of a step each
    crops = f", in crops of {config.crop[0]} x {config.crop[1]}" if config.crop else ""
    data = f"""{experiment.dataset} {experiment.data_root or ""}: {span} pixels (height x width)
{len(train)} images for training{crops}, {len(val)} for validation
{space.num_classes} classes: {", ".join(space.names)}
{device_name(device)}, {torch.get_num_threads()} threads, {resolve_precision(config.precision, device)}"""
    seconds = _REST_S + (steps * config.batch_size + passes) / speed
    what = f"{experiment.network}, method {experiment.method}, {steps} steps of {config.batch_size} images: about"
    return seconds, data, f"{what} {seconds / 60:.1f} min each"


# --- `transkd new`: a profile for images of one's own.


def new_profile(folder: Path, report: Report, options: Mapping[str, Any]) -> tuple[Path, str]:
    """Write `<name of the folder>.yaml` into a folder: teacher, student alone and distilled, with what was found.

    report: what `check_dataset` finds. options: of `open_dataset`, with which it did.
    Images of one size that a mini-batch can hold are trained on as they are, larger or unlike ones in crops; all are
    scored at their own size. Very large ones are resized. Without a split val, the last fifth of train is held out.
    Steps are as many as take about 20 minutes on this machine, at most 100 epochs.
    Returns the file and what `preflight` tells of it.
    Raises `ParameterError`: there is a profile already, or something is wrong with the data.
    """
    import torch

    name = check_plain(folder.resolve().name, "the name of a profile")
    path = folder / f"{name}.yaml"
    counts = {split.split: split.num_images for split in report.splits}
    if path.exists() or not counts["train"] or any(split.problems for split in report.splits):
        raise ParameterError(f"{path} exists already: choose another folder" if path.exists() else str(report))
    side, batch_size = (512, 8) if torch.cuda.is_available() else (192, 4)
    sizes = [size[::-1] for split in report.splits for size in split.sizes.elements()]
    middle = [int(statistics.median(edge)) for edge in zip(*sizes, strict=True)]
    folds = min(5, counts["train"])
    held_out = {} if counts.get("val") else {"fold": [folds - 1, folds]}
    shared: dict[str, Any] = {"dataset": report.name, "data_root": str(report.root.resolve())}
    shared |= {"data_options": {**options, **held_out}, "augment": "standard", "batch_size": batch_size}
    if math.prod(middle) > 2**20 or min(map(min, sizes)) < 32:
        shared["height"], shared["width"] = (32 * round(side * length / min(middle) / 32) for length in middle)
    elif len({*sizes}) > 1 or max(middle) > side:
        crop = [min(side, length) for length in middle]
        shared |= {"crop": crop, "pad": any(size[0] < crop[0] or size[1] < crop[1] for size in sizes)}
    weights = "data/weights/streets128-segformer_b1.safetensors"
    teacher = {"network": "segformer_b1", "pretrained": weights, "lr": 3.0e-4}
    students: dict[str, Any] = {"network": "segformer_b0", "lr": 1.0e-3}
    grid: dict[str, Any] = {"methods": ["none", "transkd-base"], "seeds": [0, 1]}
    about = f"images of {report.root.resolve().name}"
    planned = Profile(name, about, parameters=shared, teacher=teacher, students=students, **grid)
    shared |= {"steps": 100, "warmup_steps": 20}
    fixed = _REST_S * len(runs := plan(planned))
    wanted = int(100 * (20 * 60 - fixed) / (preflight(runs, folder)[1] - fixed))
    shared["steps"] = max(100, min(wanted, 100 * counts["train"] // batch_size))
    found = [*str(report).splitlines()[:-1], *[f"val is the last of {folds} parts of train (fold)"] * len(held_out)]
    content = {"about": about, "parameters": shared, "teacher": teacher, "students": students | grid}
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110)
    told = preflight(plan(planned), folder)[0]
    return atomic_write(path, "".join(f"# {line}\n" for line in found) + text), told
