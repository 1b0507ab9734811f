"""What is checked and told before anything runs: settings, data, weights, machine, and about how long it will take."""

import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from transkd_lite.data.tools import Report
from transkd_lite.data.whole import atomic_write
from transkd_lite.experiments.experiment import Experiment
from transkd_lite.experiments.profile import PlannedRun, Profile, plan
from transkd_lite.training.config import ParameterError, check_plain

__all__ = ["new_profile", "preflight"]

NOTEBOOK_S = 20  # what a notebook takes beside training and scoring, on two cores


def preflight(pending: Sequence[PlannedRun], root: Path) -> tuple[list[str], float]:
    """Check what the plan could not check without torch, and time a step of each kind of run.

    pending: the runs to do. root: the folder that theirs lie in.
    Returns lines that tell data, machine, runs and time, and the seconds that all runs take, one after the other, as
    far as one step can tell.
    Raises `ParameterError`: see `Experiment.check`.
    """
    experiments = {run.folder: run.experiment for run in pending}
    measured: dict[str, float] = {}
    lines: dict[str, None] = {}
    groups: dict[str, list[float]] = {}
    for run in pending:
        if run.experiment is None:
            groups.setdefault("a lesson", []).append(NOTEBOOK_S)
            continue
        experiment = replace(run.experiment, out_dir=str(root / run.folder))
        key = str(replace(experiment, seed=0, out_dir=None))
        if key not in measured:
            measured[key], told = _look(experiment, experiments.get(run.needs or ""))
            lines |= dict.fromkeys(told)
        length = f"{experiment.epochs} epochs" if experiment.steps is None else f"{experiment.steps} steps"
        what = f"{run.kind}, {experiment.network}, {length} of {experiment.batch_size} images"
        groups.setdefault(what, []).append(measured[key])
    runs = [f"{len(each)} x {what}: about {sum(each) / len(each) / 60:.1f} min each" for what, each in groups.items()]
    total = sum(map(sum, groups.values()))
    return [*lines, *runs, f"in all about {total / 60:.0f} min, one run after the other (guessed from one step)"], total


def _look(experiment: Experiment, teacher: Experiment | None) -> tuple[float, list[str]]:
    """The seconds of a run, and its data and machine in words."""
    import torch

    from transkd_lite.data.labels import label_space
    from transkd_lite.metrics import resolve_precision
    from transkd_lite.training.loop import device_name
    from transkd_lite.training.step import TrainStep

    student, tutor, method = experiment.check(teacher)
    config, (train, val) = experiment.config(), experiment.open_data()
    sizes, scored = experiment.picture_sizes(train), experiment.picture_sizes(val)
    names, edges = label_space(train).names, sorted({*sizes, *scored}, key=lambda size: size[0] * size[1])
    size = config.crop or edges[-1]
    device = torch.device("cuda" if config.device == "auto" and torch.cuda.is_available() else "cpu")
    precision = resolve_precision(config.precision, device)
    images = torch.rand(1 if device.type == "cpu" else config.batch_size, 3, *size, device=device)
    labels = torch.zeros((len(images), *size), dtype=torch.long, device=device)
    networks: Any = (student.train(), tutor and tutor.to(device).eval(), method)
    step = TrainStep(*networks, precision=precision).to(device)
    with warnings.catch_warnings(action="ignore"):
        for _ in range(2):  # the first one allocates
            begun = time.perf_counter()
            step(images, labels)["total"].backward()
            float(next(student.parameters()).sum())  # waits for the device
            seconds = (time.perf_counter() - begun) / len(images)
    pixels = sum(height * width for height, width in scored) / (size[0] * size[1])
    steps = config.num_steps(len(train))
    where = f" in {experiment.data_root}" if experiment.data_root else ""
    span = " to ".join(f"{height} x {width}" for height, width in dict.fromkeys((edges[0], edges[-1])))
    crop = f", trained on crops of {size[0]} x {size[1]}" if config.crop else ""
    return NOTEBOOK_S + seconds * (steps * config.batch_size + pixels), [  # two passes over val, of a third of a step
        f"data: {experiment.dataset}{where}, {len(train)} images for training, {len(val)} for validation",
        f"size: {span} pixels (height x width), scored so{crop}",
        f"classes: {len(names)} ({', '.join(names)})",
        f"machine: {device_name(device)}, {torch.get_num_threads()} threads, {precision}",
    ]


# --- `transkd new`: a profile for pictures of one's own.

MINUTES = 20  # that all of its runs shall take
LARGE = 2**20  # pixels of a picture that is not resized


def new_profile(folder: Path, report: Report, options: Mapping[str, Any]) -> tuple[Path, list[str]]:
    """Write `<name of the folder>.yaml` into a folder: teacher, student alone and distilled, with what was found.

    report: of `find_dataset`, with train images and nothing wrong. options: of `open_dataset`, to read them.
    Images of one size that a mini-batch can hold are trained on as they are, larger or unlike ones in crops; all are
    scored at their own size. Very large ones are resized. Without a split val, the last fifth of train is held out.
    Steps are as many as take about 20 minutes on this machine, at most 100 epochs.
    Returns the file and what `preflight` tells of it.
    Raises `ParameterError`: there is a profile already.
    """
    import torch

    name = check_plain(folder.resolve().name, "the name of a profile")
    path = folder / f"{name}.yaml"
    if path.exists():
        raise ParameterError(f"{path} exists already: choose another folder, or change that profile")
    gpu = torch.cuda.is_available()
    side, counts = 512 if gpu else 192, {split.split: split.num_images for split in report.splits}
    sizes = [size[::-1] for split in report.splits for size in split.sizes.elements()]
    height, width = (int(statistics.median(edge)) for edge in zip(*sizes, strict=True))
    parameters: dict[str, Any] = {"dataset": report.name, "data_root": str(report.root.resolve())}
    held_out = {} if counts.get("val") else {"fold": [4, 5]}
    parameters["data_options"] = {**options, **held_out}
    if height * width > LARGE or min(map(min, sizes)) < 32:
        scale = side / min(height, width)
        parameters |= {"height": 32 * round(scale * height / 32), "width": 32 * round(scale * width / 32)}
    elif len({*sizes}) > 1 or max(height, width) > side:
        crop = [min(side, height // 32 * 32 or height), min(side, width // 32 * 32 or width)]
        small = any(size[0] < crop[0] or size[1] < crop[1] for size in sizes)
        parameters |= {"crop": crop} | ({"pad": True} if small else {})
    parameters |= {"augment": "standard", "batch_size": 8 if gpu else 4, "steps": 100, "warmup_steps": 20}
    teacher = {"network": "segformer_b1", "pretrained": "data/weights/streets-segformer_b1.safetensors", "lr": 3.0e-4}
    students, grid = {"network": "segformer_b0", "lr": 1.0e-3}, {"methods": ["none", "transkd-base"], "seeds": [0, 1]}
    about = f"{sum(counts.values())} images of {report.root.resolve().name}"
    planned = Profile(name, about, parameters=parameters, teacher=teacher, students=students, **grid)  # type: ignore
    seconds = preflight(plan(planned), folder / "runs" / name)[1]
    most = 100 * counts["train"] // parameters["batch_size"]
    parameters["steps"] = max(100, min(most, int(60 * MINUTES / seconds) * 100))
    told = preflight(plan(planned), folder / "runs" / name)[0]
    found = [*str(report).splitlines()[:-1], *["the last fifth of train is held out as val (fold)"] * len(held_out)]
    content = {"about": about, "parameters": parameters, "teacher": teacher, "students": students | grid}
    text = "".join(f"# {line}\n" for line in found)
    atomic_write(path, text + yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110))
    return path, told
