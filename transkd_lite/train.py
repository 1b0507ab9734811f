"""`fit`: train the teacher, the student alone, or the student with any method; stop it and go on at will.

One loop for all (the method gives a dictionary of loss terms and has no loop of its own). `accelerate`
finds the device and the other processes. With `out_dir` the run leaves a folder that can be resumed, and
finishes it with ``metrics.json``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from . import runs
from .config import TrainConfig
from .data.transforms import make_transform
from .folded_head import folded_heads
from .interrupts import StopRequest
from .loading import SampleStore, UnreadableSampleError, batches
from .metrics import PROTOCOLS, SegMetrics, evaluate, match_classes, require_scorable
from .models.output import SegModel
from .progress import Progress
from .run_folder import RunFolder
from .surroundings import determinism, device_name, own_random_state, peak_mb
from .train_step import resolve_precision, synced_batch_norm
from .trainer import NonFiniteLossError, Trainer, make_trainer

__all__ = ["FitResult", "NonFiniteLossError", "fit"]

# What may differ between a run and its continuation: none of it changes the weights that come out.
_FREE = ("workers", "cache_mb", "checkpoint_every", "eval_every", "device", "log_every")


@dataclass(frozen=True)
class FitResult:
    """What a run leaves: history (one row a logging interval), metrics, where it went on from, its folder."""

    history: pd.DataFrame
    metrics: dict[str, Any] = field(default_factory=dict)
    resumed_from: int = 0
    out_dir: Path | None = None


def fit(
    student: SegModel,
    train_data: Any,
    *,
    config: TrainConfig,
    teacher: SegModel | None = None,
    method: Any = None,
    val_data: Any = None,
    out_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    parameters: Mapping[str, Any] | None = None,
    progress: str = "auto",
) -> FitResult:
    """Train the student in place (it comes back in evaluation mode, with the label space of train_data).

    train_data, val_data: sequences of {"image": RGB, "label": uint8 train ids}, as `open_dataset` gives them.
    teacher, method: both or neither; the method is a `Distiller`, whose parts are trained along.
    out_dir: the run's folder. resume: go on from its last whole checkpoint, start where there is none, or,
    in a finished folder, load the student and return. parameters: recorded in run.json beside the config,
    and compared on resume.
    progress: "auto", "bar", "lines" or "none".

    The total loss of a step is ce + method.combine(terms). Metrics are {"full": …, "paper": …} on val_data.

    Raises `ValueError` (settings that do not fit each other, the data, or the folder resumed),
    `FileExistsError` (the folder holds a run and resume is False), `RunLockedError` (another process works
    there), `NonFiniteLossError`, `UnreadableSampleError` (a sample whose file is gone) and `OSError` (a disk that
    is full). SIGTERM and Ctrl-C save first. A resumed run keeps the precision that "auto" chose at its beginning,
    and its number of threads; it warns where this machine has too few cores for them.
    """
    _check_pair(teacher, method)
    # A method may hold parts that a batch does not use (a checkpoint's second squeeze layer).
    unused = DistributedDataParallelKwargs(find_unused_parameters=method is not None)
    # Without a GPU accelerate joins other processes only if it is told to use the CPU.
    cpu = config.device == "cpu" or not torch.accelerator.is_available()
    accelerator = Accelerator(mixed_precision="no", cpu=cpu, kwargs_handlers=[unused])
    num_classes, space = match_classes(student.spec.num_classes, None, train_data)
    store = SampleStore(train_data, config.cache_mb, num_classes)
    student.label_space = space or getattr(student, "label_space", None)
    if val_data is not None:
        require_scorable(student, val_data, what="val_data")
    run = _Fit(student, store, config, teacher, method, val_data, accelerator)
    config.check_fits(store.image_size, student.spec.num_classes)
    if out_dir is None:
        return run.go(None, progress)
    given = dict(parameters or {})
    folder = RunFolder(Path(out_dir), run.identity(given), accelerator.is_main_process)
    with folder.lock():
        return run.go_in(folder, resume, given, progress)


def _check_pair(teacher: Any, method: Any) -> None:
    if (teacher is None) != (method is None):
        given, missing = ("a teacher", "a method") if method is None else ("a method", "a teacher")
        advice = "method=create_method(name, student, teacher)" if method is None else "teacher=<network>"
        raise ValueError(
            f"teacher and method are given both or neither; got {given} without {missing}: pass {advice}"
        )


class _Fit:
    """One call of `fit`: what was given, and the trainer made of it."""

    def __init__(
        self,
        student: SegModel,
        store: SampleStore,
        config: TrainConfig,
        teacher: SegModel | None,
        method: Any,
        val_data: Any,
        accelerator: Accelerator,
    ) -> None:
        self.student, self.store, self.config = student, store, config
        self.teacher, self.method, self.val_data = teacher, method, val_data
        self.accelerator = accelerator
        self.precision = resolve_precision(config.precision, accelerator.device)
        self.num_steps = config.num_steps(len(store))
        self.folder: RunFolder | None = None
        self.resumed_from = 0

    # -- with a folder

    def identity(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What must be the same for a run to be gone on with."""
        values = {f"config.{k}": v for k, v in self.config.to_dict().items() if k not in _FREE}
        values |= {f"parameters.{k}": v for k, v in parameters.items()}
        values |= {"student": self.student.spec.to_json(), "train_images": len(self.store)}
        values |= {"teacher": None, "method": None}
        if self.teacher is not None:
            values |= {"teacher": self.teacher.spec.to_json(), "method": self.method.name}
            values |= {f"weight.{name}": float(w) for name, w in self.method.weights.items()}
        return values

    def go_in(self, folder: RunFolder, resume: bool, given: dict[str, Any], progress: str) -> FitResult:
        """Train in a folder whose lock is held."""
        folder.check(resume)
        if folder.is_finished:
            history, metrics = folder.load_finished(self.student)
            self.student.to(self.accelerator.device).eval()
            return FitResult(history, metrics, int(metrics.get("steps", self.num_steps)), folder.path)
        self.folder = folder
        state = folder.load_checkpoint() if resume else None
        if state is not None and self.config.precision == "auto":
            self.precision = state[1].get("precision", self.precision)
        folder.begin(self._describe(given))
        self.accelerator.wait_for_everyone()
        try:
            return self.go(state, progress)
        except BaseException as error:
            folder.note_end(error)
            raise

    def _describe(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return {
            "state": "running",
            "parameters": parameters or self.config.to_dict(),
            "config": self.config.to_dict(),
            "seed": self.config.seed,
            "num_steps": self.num_steps,
            "precision": self.precision,
            "device": device_name(self.accelerator.device),
            "processes": self.accelerator.num_processes,
            "threads": str(torch.get_num_threads()),
            **runs.provenance(),
        }

    # -- the run

    def go(self, checkpoint: tuple[int, dict[str, Any]] | None, progress: str) -> FitResult:
        """Train to the end, score, and finish the folder if there is one."""
        begun = time.monotonic()
        with contextlib.ExitStack() as stack:
            stack.enter_context(own_random_state(self.accelerator.device))
            stack.enter_context(determinism(self.config.deterministic))
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            config = dataclasses.replace(self.config, precision=self.precision)
            trainer = make_trainer(
                self.student, self.teacher, self.method, config, self.accelerator, len(self.store)
            )
            if checkpoint is not None:
                self.resumed_from = checkpoint[0]
                trainer.load_state_dict(checkpoint[1])
            stack.enter_context(synced_batch_norm(trainer.modules, self.accelerator.num_processes))
            stack.enter_context(folded_heads(self.student, self.teacher))
            stop = stack.enter_context(StopRequest())
            bar = self._progress(stack, trainer.step, progress)
            finished = self._train(trainer, stop, bar)
        if not finished:
            stop.leave()
        self.student.eval()
        metrics = self._metrics(trainer, time.monotonic() - begun)
        if self.folder is not None:
            self.folder.finish(self.student, trainer, metrics)
        self.accelerator.wait_for_everyone()
        where = None if self.folder is None else self.folder.path
        return FitResult(pd.DataFrame(trainer.history), metrics, self.resumed_from, where)

    def _progress(self, stack: contextlib.ExitStack, start: int, mode: str) -> Progress:
        title = self.student.spec.name if self.method is None else f"{self.student.spec.name} + method"
        mode = mode if self.accelerator.is_main_process else "none"
        return stack.enter_context(Progress(self.num_steps, start, mode, title))

    def _train(self, trainer: Trainer, stop: StopRequest, bar: Progress) -> bool:
        config = self.config
        loader = batches(
            self.store,
            make_transform(augment=config.augment, crop=config.crop, normalize=config.normalize),
            batch_size=config.batch_size,
            seed=config.seed,
            steps=range(trainer.step, self.num_steps),
            workers=config.workers,
            pin_memory=self.accelerator.device.type == "cuda",
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )

        try:
            return trainer.run(
                loader, functools.partial(self._after_step, stop, bar), bool(config.channels_last)
            )
        except UnreadableSampleError:
            if self.folder is not None and trainer.step > self.resumed_from:
                self.folder.save(trainer)  # a sample that vanished does not cost the steps before it
            raise

    def _after_step(self, stop: StopRequest, bar: Progress, trainer: Trainer) -> bool:
        """Score, tell and save where that is due; whether to go on."""
        config = self.config
        if self.val_data is not None and _due(trainer.step, config.eval_every, self.num_steps):
            trainer.last_row()["val_miou"] = self._score("full").miou
            self.student.train()
        if trainer.step % config.log_every == 0 or trainer.step == self.num_steps:
            row = trainer.history[-1]
            bar.update(trainer.step, loss=row["loss"], images_per_s=row["images_per_s"])
        stopping = self._must_stop(stop, trainer.step)
        if self.folder is not None and (
            stopping or _due(trainer.step, config.checkpoint_every, self.num_steps)
        ):
            self.folder.save(trainer)
        return not stopping

    def _must_stop(self, stop: StopRequest, step: int) -> bool:
        """Whether a signal came; several processes agree on it, and only where they wait for each other anyway."""
        if self.accelerator.num_processes == 1:
            return stop.signal is not None
        if step % self.config.log_every:
            return False
        asked = torch.tensor(float(stop.signal or 0), device=self.accelerator.device)
        stop.signal = int(self.accelerator.gather(asked).max()) or None
        return stop.signal is not None

    def _score(self, protocol: str) -> SegMetrics:
        return evaluate(self.student, self.val_data, protocol=protocol, normalize=self.config.normalize)

    def _metrics(self, trainer: Trainer, session_s: float) -> dict[str, Any]:
        scores = {} if self.val_data is None else {p: self._score(p).to_dict() for p in PROTOCOLS}
        return {
            **scores,
            "loss": trainer.history[-1]["loss"],
            "steps": trainer.step,
            "wall_s": trainer.seconds,
            "session_s": session_s,
            "peak_mb": peak_mb(self.accelerator.device),
        }


def _due(step: int, every: int | None, num_steps: int) -> bool:
    return every is not None and step % every == 0 and step < num_steps
