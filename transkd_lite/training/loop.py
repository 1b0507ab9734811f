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
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from tqdm.auto import tqdm

from transkd_lite.data.transforms import make_transform
from transkd_lite.metrics import PROTOCOLS, evaluate, match_classes, require_scorable, resolve_precision
from transkd_lite.models.head import folded_heads
from transkd_lite.models.output import SegModel
from transkd_lite.training.checkpoint import RunFolder
from transkd_lite.training.config import TrainConfig, learning_rate
from transkd_lite.training.folder import is_finished
from transkd_lite.training.interrupts import StopRequest
from transkd_lite.training.step import SyncedBatchNorm, TrainStep
from transkd_lite.training.stream import SampleStore, UnreadableSampleError, batches, mix_seed

__all__ = [
    "FitResult",
    "NonFiniteLossError",
    "Trainer",
    "determinism",
    "device_name",
    "fit",
    "own_random_state",
    "peak_mb",
    "show_progress",
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


@contextlib.contextmanager
def show_progress(
    total: int, start: int = 0, mode: str = "auto", title: str = "train"
) -> Iterator[Callable[..., None]]:
    """A tqdm bar in a terminal or notebook, otherwise a line at most every 15 s; yields show(step, **numbers).

    mode: "auto", "bar", "lines" or "none". "auto" asks the environment variable TRANSKD_PROGRESS first (a
    batch sets it to "lines"), then whether standard error is a terminal or the code runs in a notebook.
    """
    if mode not in MODES:
        raise ValueError(f"progress must be one of {', '.join(map(repr, MODES))}; got {mode!r}")
    if mode == "auto":
        in_notebook = "ipykernel" in sys.modules and type(sys.stdout).__module__.startswith("ipykernel")
        watched = in_notebook or sys.stderr.isatty()
        mode = os.environ.get("TRANSKD_PROGRESS", "") or ("bar" if watched else "lines")
    last_line = time.monotonic()
    bar = tqdm(total=total, initial=start, desc=title, unit="step") if mode == "bar" else None

    def show(step: int, **numbers: float) -> None:
        nonlocal last_line
        text = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        if bar is not None:
            bar.set_postfix_str(text, refresh=False)
            bar.update(step - bar.n)
        elif mode == "lines" and (step >= total or time.monotonic() - last_line > LINE_EVERY_S):
            last_line = time.monotonic()
            sys.stdout.write(f"{title}: step {step}/{total}, {text}\n")
            sys.stdout.flush()

    with bar or contextlib.nullcontext():
        yield show


# --- What a run is at a step: everything that it needs to go on, and nothing else.
#
# The host waits for the device once per logging interval: until then a step's terms stay on the device. All
# random states follow from (seed, step, process), so the step number in a checkpoint stands for them.


class NonFiniteLossError(RuntimeError):
    """A loss term became infinite or not a number."""


_PLAIN = ("step", "names", "seconds", "elapsed", "threads")


class Trainer:
    """Student, method, optimiser, position and history of one run; the networks are moved to the accelerator's device.

    `state_dict` and `load_state_dict` are whole: a run that goes on from them ends with the same weights and the
    same history as one that never stopped.
    """

    def __init__(
        self,
        student: SegModel,
        teacher: SegModel | None,
        method: nn.Module | None,
        config: TrainConfig,
        accelerator: Accelerator,
        num_samples: int,
    ) -> None:
        self.config, self.accelerator, self.num_samples = config, accelerator, num_samples
        self.device, self.num_steps = accelerator.device, config.num_steps(num_samples)
        for module in (student, teacher, method):
            if module is not None:
                module.to(self.device)
        if teacher is not None:
            teacher.eval()
        compiled: Any = torch.compile if config.compile else lambda network: network
        weights = config.class_weights
        self.modules = TrainStep(
            compiled(student),
            None if teacher is None else compiled(teacher),
            method,
            supervise=config.supervise,
            class_weights=None if weights is None else torch.tensor(weights, device=self.device),
            precision=resolve_precision(config.precision, self.device),
            world_size=accelerator.num_processes,
        )
        self.trained = [p for p in self.modules.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )  # fmt: skip
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.modules.precision == "fp16")
        alone = accelerator.num_processes == 1
        self.prepared: nn.Module = accelerator.prepare_model(self.modules, evaluation_mode=alone)
        # What has a state of its own, and, below, the plain values of a state.
        self.stateful = {"student": student, "method": method, "optimizer": self.optimizer, "scaler": self.scaler}
        self.step = 0
        self.seconds, self.elapsed = 0.0, 0.0  # of all rows of the history, and since the last row
        self.clock = time.monotonic()  # set it to leave out what is not training
        self.threads = [(0, torch.get_num_threads())]  # from that step on
        self.history: list[dict[str, float]] = []
        self.names: list[str] = []
        self.pending: list[Tensor] = []  # one vector of terms for each step since the last row

    def train_batch(self, images: Tensor, labels: Tensor) -> None:
        """One optimiser step; nothing here waits for the device."""
        config = self.config
        torch.manual_seed(mix_seed(config.seed, self.step, self.accelerator.process_index, 1))
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        images = images.to(self.device, non_blocking=True, memory_format=layout)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        terms = self.prepared(images, labels.to(self.device, non_blocking=True))
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(terms["total"]).backward()
        if config.grad_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.trained, config.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.names = list(terms)
        self.pending.append(torch.stack([term.detach().float() for term in terms.values()]))
        self.step += 1
        self._read_clock()

    def learning_rate(self, step: int) -> float:
        """The schedule's value at a step."""
        return learning_rate(self.config, step, self.num_steps, self.num_samples / self.config.batch_size)

    def is_due(self, every: int | None) -> bool:
        """Whether the step just done ends an interval of so many (None: never), and is not the run's last."""
        return every is not None and self.step % every == 0 and self.step < self.num_steps

    def stops(self, stop: StopRequest) -> bool:
        """Whether a signal came; several processes agree on it, and only where they wait for each other anyway."""
        if self.accelerator.num_processes > 1:
            if self.step % self.config.log_every:
                return False
            asked = torch.tensor(float(stop.signal or 0), device=self.device)
            stop.signal = int(self.accelerator.gather(asked).max()) or None
        return stop.signal is not None

    def log(self) -> dict[str, float]:
        """Fetch the terms since the last row (the one wait), check them, and add a row of their means."""
        values = self._fetch()
        self._read_clock()
        means = dict(zip(self.names, values.mean(0).tolist(), strict=True))
        method = self.modules.method
        weights = {} if method is None else {name: float(weight) for name, weight in method.weights.items()}
        for name, steps in getattr(method, "warmup", {}).items():  # as they are at this step
            weights[name] *= min(1.0, float(method.steps_seen) / steps)
        row = {
            "step": self.step,
            "epoch": self.step * self.config.batch_size / self.num_samples,
            "lr": self.learning_rate(self.step - 1),
            "loss": means.pop("total"),
            **means,
            **{f"weight_{name}": weight for name, weight in weights.items()},
            "images_per_s": len(values) * self.config.batch_size / max(self.elapsed, 1e-9),
        }
        self.history.append(row)
        self.seconds += self.elapsed
        self.pending, self.elapsed = [], 0.0
        return row

    def _read_clock(self) -> None:
        now = time.monotonic()
        self.elapsed += now - self.clock
        self.clock = now

    def _fetch(self) -> Tensor:
        """Terms of the pending steps (steps, terms), meaned over processes, in float64 on the host.

        Raises `NonFiniteLossError` naming the first step and term that broke.
        """
        stacked = torch.stack(self.pending)
        if self.accelerator.num_processes > 1:
            stacked = self.accelerator.reduce(stacked, "mean")
        values = stacked.double().cpu()
        broken = (~values.isfinite()).any(1).nonzero().flatten().tolist()
        if not broken:
            return values
        step = self.step - len(values) + broken[0]
        first = dict(zip(self.names, values[broken[0]].tolist(), strict=True))
        terms = {name: value for name, value in first.items() if not math.isfinite(value)}
        if len(terms) > 1:
            terms.pop("total", None)  # it breaks with any of them
        found = ", ".join(f"{name} = {value}" for name, value in terms.items())
        raise NonFiniteLossError(
            f"every loss term must be finite; at step {step} (counted from 0) {found}, with lr "
            f"{self.learning_rate(step):.3g} in {self.modules.precision}: lower lr or its weight, set "
            "grad_clip or precision='fp32'; the checkpoints before that step are whole"
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything, in tensors and plain values.

        Raises `NonFiniteLossError` rather than give a broken state.
        """
        if self.pending:
            self._fetch()
        norm = torch.stack(torch._foreach_norm([p.detach() for p in self.trained])).sum()
        if not bool(norm.isfinite()):
            raise NonFiniteLossError(
                f"every weight must be finite; after step {self.step - 1} some are not (the gradient "
                "overflowed): lower lr, set grad_clip or precision='fp32'; the checkpoints before are whole"
            )
        state: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        state |= {name: {} if part is None else part.state_dict() for name, part in self.stateful.items()}
        state |= {"pending": [terms.cpu() for terms in self.pending], "history": json.dumps(self.history)}
        return state | {"precision": self.modules.precision}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, with as many threads as then where this machine has the cores.

        Warns (`UserWarning`), once for each change, where it has not: the last digits will differ.
        """
        state = {"threads": self.threads, **state}
        for name, part in self.stateful.items():
            if part is not None:
                part.load_state_dict(state[name])
        for name in _PLAIN:
            setattr(self, name, state[name])
        self.pending = [terms.to(self.device) for terms in state["pending"]]
        self.history = json.loads(state["history"])
        before = self.threads[-1][1]
        if before <= (os.cpu_count() or 1):
            torch.set_num_threads(before)
        if (now := torch.get_num_threads()) != before:
            self.threads = [*self.threads, (self.step, now)]
            warnings.warn(
                f"this run had {before} threads and goes on at step {self.step} with the {now} of this machine: its "
                "last digits are not those of a run that never stopped",
                stacklevel=2,
            )


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
    and compared on resume. progress: see `show_progress`.

    The total loss of a step is ce + method.combine(terms). Metrics are {"full": …, "paper": …} on val_data.

    Raises `ValueError` (settings that do not fit each other, the data, or the folder resumed),
    `FileExistsError` (the folder holds a run and resume is False), `RunLockedError` (another process works
    there), `NonFiniteLossError`, `UnreadableSampleError` (a sample whose file is gone) and `OSError` (a disk that
    is full). SIGTERM and Ctrl-C save first. A resumed run keeps the precision that "auto" chose at its beginning,
    and its number of threads; it warns where this machine has too few cores for them.
    """
    if (teacher is None) != (method is None):
        given, missing = ("a teacher", "a method") if method is None else ("a method", "a teacher")
        raise ValueError(f"teacher and method are given both or neither; got {given} without {missing}")
    # A method may hold parts that a batch does not use (a checkpoint's second squeeze layer).
    unused = DistributedDataParallelKwargs(find_unused_parameters=method is not None)
    # Without a GPU accelerate joins other processes only if it is told to use the CPU.
    cpu = config.device == "cpu" or not torch.accelerator.is_available()
    accelerator = Accelerator(mixed_precision="no", cpu=cpu, kwargs_handlers=[unused])
    own_space = getattr(student, "label_space", None)
    untrained = config.steps == 0  # its classes are still those of its own weights
    num_classes, space = match_classes(student.spec.num_classes, own_space if untrained else None, train_data)
    store = SampleStore(train_data, config.cache_mb, num_classes)
    student.label_space = space or own_space
    if val_data is not None:
        require_scorable(student, val_data, what="val_data")
    config.check_fits(store.image_size, student.spec.num_classes)
    num_steps = config.num_steps(len(store))
    score = functools.partial(evaluate, student, val_data, normalize=config.normalize)
    # What must be the same for a run to be gone on with.
    identity: dict[str, Any] = {f"config.{k}": v for k, v in config.to_dict().items() if k not in _FREE}
    identity |= {f"parameters.{name}": value for name, value in (parameters or {}).items()}
    identity |= {"student": student.spec.to_json(), "train_images": len(store), "teacher": None, "method": None}
    if teacher is not None:
        identity |= {"teacher": teacher.spec.to_json(), "method": method.name}
        identity |= {f"weight.{name}": float(weight) for name, weight in method.weights.items()}
    folder = RunFolder(out_dir, identity, accelerator.is_main_process)
    where = folder.path if folder.kept else None
    with contextlib.ExitStack() as held, contextlib.ExitStack() as borrowed:
        held.enter_context(folder.lock())
        folder.check(resume)
        if is_finished(folder.path):
            history, metrics = folder.load_finished(student)
            student.to(accelerator.device).eval()
            return FitResult(history, metrics, int(metrics.get("steps", num_steps)), where)
        state: dict[str, Any] = {"precision": resolve_precision(config.precision, accelerator.device)}
        state |= (folder.load_checkpoint() if resume else None) or {}
        folder.begin(
            {
                "parameters": dict(parameters or config.to_dict()), "config": config.to_dict(), "seed": config.seed,
                "num_steps": num_steps, "precision": state["precision"], "device": device_name(accelerator.device),
                "processes": accelerator.num_processes, "threads": str(torch.get_num_threads()),
            }
        )  # fmt: skip
        held.enter_context(folder.noting_failure())
        accelerator.wait_for_everyone()
        begun = time.monotonic()
        borrowed.enter_context(own_random_state(accelerator.device))
        borrowed.enter_context(determinism(config.deterministic))
        borrowed.callback(torch.set_num_threads, torch.get_num_threads())
        config = dataclasses.replace(config, precision=state["precision"])
        trainer = Trainer(student, teacher, method, config, accelerator, len(store))
        if "step" in state:
            trainer.load_state_dict(state)
        resumed_from = trainer.step
        if accelerator.num_processes > 1:
            borrowed.enter_context(SyncedBatchNorm(accelerator.num_processes))
        borrowed.enter_context(folded_heads(student, teacher))
        stop = borrowed.enter_context(StopRequest())
        title = student.spec.name if method is None else f"{student.spec.name} + method"
        mode = progress if accelerator.is_main_process else "none"
        show = borrowed.enter_context(show_progress(num_steps, resumed_from, mode, title))
        loader = batches(
            store,
            make_transform(augment=config.augment, crop=config.crop, normalize=config.normalize),
            batch_size=config.batch_size,
            seed=config.seed,
            steps=range(resumed_from, num_steps),
            workers=config.workers,
            pin_memory=accelerator.device.type == "cuda",
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        trainer.modules.train()
        trainer.clock = time.monotonic()
        stopping = False
        try:
            for images, labels in loader:
                trainer.train_batch(images, labels)
                scoring = val_data is not None and trainer.is_due(config.eval_every)
                if scoring or trainer.is_due(config.log_every) or trainer.step == num_steps:
                    row = trainer.log()
                    if scoring:
                        row["val_miou"] = score(protocol="full").miou
                    show(trainer.step, loss=row["loss"], images_per_s=row["images_per_s"])
                stopping = trainer.stops(stop)
                if stopping or trainer.is_due(config.checkpoint_every):
                    folder.save(trainer)
                if stopping:
                    break
                trainer.clock = time.monotonic()  # scoring and saving are not counted as training
        except UnreadableSampleError:
            if trainer.step > resumed_from:
                folder.save(trainer)  # a sample that vanished does not cost the steps before it
            raise
        borrowed.close()
        if stopping:
            stop.leave()
        student.eval()
        metrics = {} if val_data is None else {name: score(protocol=name).to_dict() for name in PROTOCOLS}
        metrics |= {"steps": trainer.step, "wall_s": trainer.seconds, "session_s": time.monotonic() - begun}
        metrics |= {"peak_mb": peak_mb(accelerator.device)}
        if trainer.history:
            metrics["loss"] = trainer.history[-1]["loss"]
        folder.finish(student, trainer, metrics)
        accelerator.wait_for_everyone()
        return FitResult(pd.DataFrame(trainer.history), metrics, resumed_from, where)
