"""`fit`: train the teacher, the student alone, or the student with any method; stop it and go on at will.

One loop for all (the method gives a dictionary of loss terms and has no loop of its own). `accelerate`
finds the device and the other processes. With `out_dir` the run leaves a folder that can be resumed, and
finishes it with ``metrics.json``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from tqdm.auto import tqdm

from transkd_lite.data.transforms import make_transform
from transkd_lite.metrics import (
    PROTOCOLS,
    SegMetrics,
    evaluate,
    match_classes,
    require_scorable,
    resolve_precision,
)
from transkd_lite.models.head import folded_heads
from transkd_lite.models.output import SegModel
from transkd_lite.training.checkpoint import RunFolder
from transkd_lite.training.config import TrainConfig, learning_rate
from transkd_lite.training.folder import provenance
from transkd_lite.training.interrupts import StopRequest
from transkd_lite.training.step import TrainStep, synced_batch_norm
from transkd_lite.training.stream import SampleStore, UnreadableSampleError, batches, mix_seed

__all__ = [
    "FitResult",
    "NonFiniteLossError",
    "Progress",
    "Trainer",
    "determinism",
    "device_name",
    "fit",
    "make_trainer",
    "own_random_state",
    "peak_mb",
]

# --- What a training run borrows from its process and gives back: random state, kernel choice; and its peak memory.


@contextlib.contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """The caller's random state is the same after training as before."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


@contextlib.contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Only kernels with a reproducible result, if wanted; afterwards the setting is as before."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def device_name(device: torch.device) -> str:
    """The graphics card's name, or the kind of device: what a record of a run says."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_mb(device: torch.device) -> float | None:
    """Peak memory in MB: of the device's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if os.name != "posix":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


# --- How a run tells where it is: one bar for a person who looks on, a line now and then for a log.

LINE_EVERY_S = 15.0
MODES = ("auto", "bar", "lines", "none")


class Progress:
    """A tqdm bar in a terminal or notebook, otherwise a line at most every 15 s.

    mode: "auto", "bar", "lines" or "none". "auto" asks the environment variable TRANSKD_PROGRESS first (a
    batch sets it to "lines"), then whether standard error is a terminal or the code runs in a notebook.
    """

    def __init__(self, total: int, start: int = 0, mode: str = "auto", title: str = "train") -> None:
        if mode not in MODES:
            raise ValueError(f"progress must be one of {', '.join(map(repr, MODES))}; got {mode!r}")
        if mode == "auto":
            mode = os.environ.get("TRANSKD_PROGRESS", "") or ("bar" if _someone_watches() else "lines")
        self.total, self.step, self.title, self.mode = total, start, title, mode
        self._last_line = time.monotonic()
        self._bar = tqdm(total=total, initial=start, desc=title, unit="step") if mode == "bar" else None

    def update(self, step: int, **values: float) -> None:
        """Show that `step` steps are done, with a few numbers beside it."""
        text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self.step)
        elif self.mode == "lines" and (
            step >= self.total or time.monotonic() - self._last_line > LINE_EVERY_S
        ):
            self._last_line = time.monotonic()
            sys.stdout.write(f"{self.title}: step {step}/{self.total}, {text}\n")
            sys.stdout.flush()
        self.step = step

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _someone_watches() -> bool:
    in_notebook = "ipykernel" in sys.modules and type(sys.stdout).__module__.startswith("ipykernel")
    return in_notebook or sys.stderr.isatty()


# --- The loop behind `fit`: one class that holds everything a run needs to go on, and nothing else.
#
# The host waits for the device once per logging interval: until then a step's terms stay on the device. All
# random states follow from (seed, step, process), so the step number in a checkpoint stands for them.


class NonFiniteLossError(RuntimeError):
    """A loss term became infinite or not a number."""


class Trainer:
    """Student, method, optimiser, position and history of one run.

    `run` advances it; `state_dict` and `load_state_dict` are whole: a run that goes on from them ends with
    the same weights and the same history as one that never stopped.
    """

    def __init__(
        self,
        step_module: TrainStep,
        config: TrainConfig,
        accelerator: Accelerator,
        *,
        num_steps: int,
        num_samples: int,
    ) -> None:
        self.modules = step_module
        self.config, self.accelerator = config, accelerator
        self.num_steps, self.num_samples = num_steps, num_samples
        self.device = accelerator.device
        self.trained = [p for p in step_module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=step_module.precision == "fp16")
        self.prepared: nn.Module = accelerator.prepare_model(
            step_module, evaluation_mode=accelerator.num_processes == 1
        )
        self.step = 0
        self.seconds = 0.0
        self.threads = [(0, torch.get_num_threads())]  # from that step on
        self.history: list[dict[str, float]] = []
        self.names: list[str] = []
        self._pending: list[Tensor] = []  # one vector of terms for each step since the last row
        self._elapsed = 0.0

    # -- one step

    def train_batch(self, images: Tensor, labels: Tensor) -> None:
        """One optimiser step; nothing here waits for the device."""
        config = self.config
        torch.manual_seed(mix_seed(config.seed, self.step, self.accelerator.process_index, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        terms = self.prepared(images, labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(terms["total"]).backward()
        if config.grad_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.trained, config.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.names = list(terms)
        self._pending.append(torch.stack([term.detach().float() for term in terms.values()]))
        self.step += 1

    def learning_rate(self, step: int) -> float:
        """The schedule's value at a step."""
        return learning_rate(self.config, step, self.num_steps, self.num_samples / self.config.batch_size)

    def run(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        after_step: Callable[[Trainer], bool],
        channels_last: bool = False,
    ) -> bool:
        """Train on the batches until they end (True) or after_step says stop (False)."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.modules.train()
        since = time.monotonic()
        for images, labels in batches:
            images = images.to(self.device, non_blocking=True, memory_format=layout)
            self.train_batch(images, labels.to(self.device, non_blocking=True))
            if self.step % self.config.log_every == 0 or self.step == self.num_steps:
                self.log(self._elapsed + time.monotonic() - since)
                since = time.monotonic()
            self._elapsed += time.monotonic() - since
            if not after_step(self):
                return False
            since = time.monotonic()  # scoring and saving are not counted as training
        return True

    # -- what is told

    def log(self, seconds: float) -> None:
        """Fetch the terms since the last row (the one wait), check them, and add a row of their means."""
        values = self._fetch()
        steps, self._pending, self._elapsed = len(values), [], 0.0
        self.seconds += seconds
        means = dict(zip(self.names, values.mean(0).tolist(), strict=True))
        row = {
            "step": self.step,
            "epoch": self.step * self.config.batch_size / self.num_samples,
            "lr": self.learning_rate(self.step - 1),
            "loss": means.pop("total"),
            **means,
            **{f"weight_{name}": float(weight) for name, weight in self._weights().items()},
            "images_per_s": steps * self.config.batch_size / max(seconds, 1e-9),
        }
        self.history.append(row)

    def last_row(self) -> dict[str, float]:
        """The row of the step just done, made now where no logging interval ends."""
        if not self.history or self.history[-1]["step"] != self.step:
            self.log(self._elapsed)
        return self.history[-1]

    def _weights(self) -> dict[str, float]:
        """The method's weights as they are at this step: some rise over a warm-up."""
        method = self.modules.method
        if method is None:
            return {}
        warmup, seen = getattr(method, "warmup", {}), float(getattr(method, "steps_seen", 0))
        risen = {name: min(1.0, seen / steps) for name, steps in warmup.items()}
        return {name: weight * risen.get(name, 1.0) for name, weight in method.weights.items()}

    def _fetch(self) -> Tensor:
        """Terms of the pending steps (steps, terms), meaned over processes, in float64 on the host.

        Raises `NonFiniteLossError` naming the first step and term that broke.
        """
        stacked = torch.stack(self._pending)
        if self.accelerator.num_processes > 1:
            stacked = self.accelerator.reduce(stacked, "mean")
        values = stacked.double().cpu()
        broken = (~values.isfinite()).nonzero().tolist()
        if broken:
            row = broken[0][0]
            terms = [self.names[c] for r, c in broken if r == row]
            named = [t for t in terms if t != "total"] or terms
            self._raise_broken(self.step - len(values) + row, named, values[row])
        return values

    def _raise_broken(self, step: int, names: list[str], values: Tensor) -> None:
        found = ", ".join(f"{name} = {float(values[self.names.index(name)])}" for name in names)
        raise NonFiniteLossError(
            f"every loss term must be finite; at step {step} (counted from 0) {found}, with lr "
            f"{self.learning_rate(step):.3g} in {self.modules.precision}: lower lr or its weight, set "
            "grad_clip or precision='fp32'; the checkpoints before that step are whole"
        )

    # -- what is kept

    def state_dict(self) -> dict[str, Any]:
        """Everything, in tensors and plain values.

        Raises `NonFiniteLossError` rather than give a broken state.
        """
        if self._pending:
            self._fetch()
        norm = torch.stack(torch._foreach_norm([p.detach() for p in self.trained])).sum()
        if not bool(norm.isfinite()):
            raise NonFiniteLossError(
                f"every weight must be finite; after step {self.step - 1} some are not (the gradient "
                "overflowed): lower lr, set grad_clip or precision='fp32'; the checkpoints before are whole"
            )
        method = self.modules.method
        return {
            "step": self.step,
            "precision": self.modules.precision,
            "threads": self.threads,
            "student": self.modules.student.state_dict(),
            "method": {} if method is None else method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "names": list(self.names),
            "pending": [t.cpu() for t in self._pending],
            "history": json.dumps(self.history),
            "seconds": self.seconds,
            "elapsed": self._elapsed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, with as many threads as then where this machine has the cores.

        Warns (`UserWarning`), once for each change, where it has not: the last digits will differ.
        """
        self.threads = list(state.get("threads", self.threads))
        before = self.threads[-1][1]
        if before <= (os.cpu_count() or 1):
            torch.set_num_threads(before)
        if torch.get_num_threads() != before:
            self.threads.append((state["step"], torch.get_num_threads()))
            warnings.warn(
                f"this run had {before} threads and goes on at step {state['step']} with the "
                f"{torch.get_num_threads()} of this machine: its last digits are not those of a run that never stopped",
                stacklevel=2,
            )
        self.modules.student.load_state_dict(state["student"])
        if self.modules.method is not None:
            self.modules.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.names = state["names"]
        self._pending = [t.to(self.device) for t in state["pending"]]
        self.history = json.loads(state["history"])
        self.seconds, self._elapsed, self.step = state["seconds"], state["elapsed"], state["step"]


def make_trainer(
    student: SegModel,
    teacher: SegModel | None,
    method: nn.Module | None,
    config: TrainConfig,
    accelerator: Accelerator,
    num_samples: int,
) -> Trainer:
    """The trainer of a run at its first step; the networks are moved to the accelerator's device."""
    device, weights = accelerator.device, config.class_weights
    for module in (student, teacher, method):
        if module is not None:
            module.to(device)
    if teacher is not None:
        teacher.eval()
    step = TrainStep(
        _compiled(student, config),
        _compiled(teacher, config),
        method,
        supervise=config.supervise,
        class_weights=None if weights is None else torch.tensor(weights, device=device),
        precision=resolve_precision(config.precision, device),
        world_size=accelerator.num_processes,
    )
    num_steps = config.num_steps(num_samples)
    return Trainer(step, config, accelerator, num_steps=num_steps, num_samples=num_samples)


def _compiled(network: Any, config: TrainConfig) -> Any:
    return torch.compile(network) if config.compile and network is not None else network


# --- `fit`: train the teacher, the student alone, or the student with any method; stop it and go on at will.

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
            **provenance(),
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
