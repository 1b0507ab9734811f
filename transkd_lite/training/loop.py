"""`fit`: train the teacher, the student alone, or the student with any method; stop it and go on at will.

One loop for all (the method gives a dictionary of loss terms and has no loop of its own). `accelerate`
finds the device and the other processes. With `out_dir` the run leaves a folder that can be resumed, and
finishes it with `metrics.json`.
"""

import contextlib
import dataclasses
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from tqdm.auto import tqdm

from transkd_lite.data.whole import write_json
from transkd_lite.metrics import PROTOCOLS, evaluate, match_classes, require_scorable, resolve_precision
from transkd_lite.models.head import folded_heads
from transkd_lite.models.output import SegModel
from transkd_lite.training.checkpoint import RunFolder
from transkd_lite.training.config import TrainConfig, check_name
from transkd_lite.training.folder import PROGRESS_FILE, is_finished, lock_run
from transkd_lite.training.interrupts import StopRequest
from transkd_lite.training.step import SyncedBatchNorm, Trainer
from transkd_lite.training.stream import SampleStore, UnreadableSampleError, batches
from transkd_lite.training.teacher_cache import TeacherCache

__all__ = ["FitResult", "determinism", "device_name", "fit", "own_random_state", "peak_mb", "show_progress"]

# --- What a training run borrows from its process and gives back: random state, kernel choice; and its peak memory.


def own_random_state(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """The caller's random state is the same after training as before."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


@contextlib.contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Only kernels with a reproducible result, if wanted; afterwards the setting is as before."""
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark


def device_name(device: torch.device) -> str:
    """The graphics card's name, or the kind of device: what a record of a run says."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_mb(device: torch.device) -> float | None:
    """Peak memory in MB: of the device's allocator, or on Linux of this process (getrusage would count its parent)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**10 if status.exists() else None


# --- How a run tells where it is: one bar for a person who looks on, a line now and then for a log.


@contextlib.contextmanager
def show_progress(total: int, start: int, mode: str, title: str, file: Path | None) -> Iterator[Callable[..., None]]:
    """A tqdm bar in a terminal or notebook, otherwise a line at most every 15 s; yields show(step, **numbers).

    file: where the same is written for others to read, as often.
    mode: "auto", "bar", "lines" or "none". "auto" asks whether standard error is a terminal or the code runs in a
    notebook.
    """
    if check_name(mode, ("auto", "bar", "lines", "none"), "progress") == "auto":
        mode = "bar" if sys.stderr.isatty() or type(sys.stdout).__module__.startswith("ipykernel") else "lines"
    begun, last_line = time.monotonic(), -math.inf
    bar = tqdm(total=total, initial=start, desc=title, unit="step", miniters=1) if mode == "bar" else None

    def show(step: int, **numbers: float) -> None:
        nonlocal last_line
        text = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        if bar is not None:
            bar.set_postfix_str(text, refresh=False)
            bar.update(step - bar.n)
        now = time.monotonic()
        if step >= total or now - last_line > 15:
            last_line = now
            if mode == "lines":
                sys.stdout.write(f"{title}: step {step}/{total}{text and f', {text}'}\n")
                sys.stdout.flush()
            if file is not None:
                left_s = round((now - begun) / (step - start) * (total - step))
                with contextlib.suppress(OSError):  # a full disk must not cost the run
                    write_json(file, {"step": step, "steps": total, "left_s": left_s, **numbers})

    with bar or contextlib.nullcontext():
        yield show


# --- `fit`: train the teacher, the student alone, or the student with any method; stop it and go on at will.

# What may differ between a run and its continuation: none of it changes the weights, but for rounding.
_FREE = ("workers", "cache_mb", "checkpoint_every", "eval_every", "device", "log_every")


class FitResult(NamedTuple):
    """What a run leaves: history (one row a logging interval), metrics, where it went on from, its folder."""

    history: pd.DataFrame
    metrics: dict[str, Any]
    resumed_from: int
    out_dir: Path | None


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

    Raises `ValueError` (settings that do not fit each other, the data, or the folder resumed; `DamagedRunError`, which
    is one, for a finished run whose files are not what it left), `FileExistsError` (the folder holds a run and resume
    is False), `RunLockedError` (another process works there), `NonFiniteLossError`, `UnreadableSampleError` (a sample
    whose file is gone) and `OSError` (a disk that is full). SIGTERM and Ctrl-C save first, and so does a last
    scoring that fails. A resumed run keeps the precision that "auto" chose at its beginning, and its number of threads;
    it warns where this machine has too few cores for them.
    """
    if (teacher is None) != (method is None):
        got = "a teacher without a method" if method is None else "a method without a teacher"
        raise ValueError(f"teacher and method are given both or neither; got {got}")
    # A method may hold parts that a batch does not use (a checkpoint's second squeeze layer).
    unused = DistributedDataParallelKwargs(find_unused_parameters=method is not None)
    # Without a GPU accelerate joins other processes only if it is told to use the CPU.
    cpu = config.device == "cpu" or not torch.accelerator.is_available()
    try:
        accelerator = Accelerator(mixed_precision="no", cpu=cpu, kwargs_handlers=[unused])
    except ValueError as error:  # its settings are those of the process
        advice = "restart the kernel, or make yours with mixed_precision='no'"
        raise ValueError(f"fit makes its Accelerator without mixed precision: {advice}") from error
    own_space = getattr(student, "label_space", None)
    # Of a network that is not trained the classes are still those of its own weights.
    num_classes, space = match_classes(student.spec.num_classes, own_space if config.steps == 0 else None, train_data)
    store = SampleStore(train_data, config.cache_mb, num_classes)
    student.label_space = space or own_space
    if val_data is not None:
        require_scorable(student, val_data, what="val_data")
    config.check_fits(store.image_size, student.spec.num_classes)
    num_steps = config.num_steps(len(store))
    score = functools.partial(evaluate, student, val_data, normalize=config.normalize)
    # What must be the same for a run to be gone on with.
    identity: dict[str, Any] = {f"config.{k}": v for k, v in config.to_dict().items() if k not in _FREE}
    identity |= {f"parameters.{name}": value for name, value in (parameters or {}).items() if name != "data_root"}
    identity |= {"student": student.spec.to_json(), "train_images": len(store), "teacher": None, "method": None}
    if teacher is not None:
        identity |= {"teacher": teacher.spec.to_json(), "method": method.name}
        identity |= {f"weight.{name}": float(weight) for name, weight in method.weights.items()}
        identity |= {f"option.{name}": value for name, value in method.options.items()}
    folder = RunFolder(out_dir, identity, accelerator.is_main_process)
    where = folder.path if folder.kept else None
    with contextlib.ExitStack() as held, contextlib.ExitStack() as borrowed:
        if folder.writes:
            held.enter_context(lock_run(folder.path, patience_s=1.0))  # who only looks holds it for a moment
        if not resume:
            folder.check_new()
        elif is_finished(folder.path):
            history, metrics = folder.load_finished(student)
            student.to(accelerator.device).eval()
            return FitResult(history, metrics, int(metrics.get("steps", num_steps)), where)
        state: dict[str, Any] = {"precision": resolve_precision(config.precision, accelerator.device)}
        state |= (folder.load_checkpoint() if resume else None) or {}
        description = {
            "parameters": dict(parameters or config.to_dict()), "config": config.to_dict(), "seed": config.seed,
            "num_steps": num_steps, "precision": state["precision"], "device": device_name(accelerator.device),
            "processes": accelerator.num_processes, "threads": str(torch.get_num_threads()),
        }  # fmt: skip
        held.enter_context(folder.running(description))
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
            borrowed.enter_context(SyncedBatchNorm())
        borrowed.enter_context(folded_heads(student, teacher))
        again = num_steps * config.batch_size > len(store) * config.num_states  # samples come twice in the same state
        if teacher is not None and config.teacher_cache == "auto" and again and config.batch_size > 1:
            cache = TeacherCache(teacher, store, config, method.reads, accelerator.device)
            borrowed.callback(cache.close)
            trainer.cache = cache if cache.place else None
        stop = borrowed.enter_context(StopRequest())
        title = student.spec.name if method is None else f"{student.spec.name} + {method.name}"
        mode = progress if accelerator.is_main_process and num_steps else "none"
        told_in = folder.path / PROGRESS_FILE if folder.writes else None
        show = borrowed.enter_context(show_progress(num_steps, resumed_from, mode, title, told_in))
        numbers: dict[str, float] = {}
        steps, rank = range(resumed_from, num_steps), accelerator.process_index
        trainer.modules.train()
        trainer.clock = time.monotonic()
        stopping = False
        try:
            for batch in batches(store, config, steps, rank, accelerator.num_processes):
                trainer.train_batch(*batch)
                scoring = val_data is not None and trainer.is_due(config.eval_every)
                if scoring or trainer.is_due(config.log_every) or trainer.step == num_steps:
                    row = trainer.log()
                    if scoring:
                        row["val_miou"] = score(protocol="full").miou
                    numbers = {"loss": row["loss"], "images_per_s": row["images_per_s"]}
                show(trainer.step, **numbers)
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
        try:
            metrics = {} if val_data is None else {name: score(protocol=name).to_dict() for name in PROTOCOLS}
        except BaseException:
            folder.save(trainer)  # scoring that fails or is stopped costs no step
            raise
        metrics |= {"steps": trainer.step, "wall_s": trainer.seconds, "session_s": time.monotonic() - begun}
        metrics["peak_mb"] = peak_mb(accelerator.device)
        if teacher is not None:
            metrics["teacher_cache"] = "off" if trainer.cache is None else trainer.cache.place
        if trainer.history:
            metrics["loss"] = trainer.history[-1]["loss"]
        folder.finish(student, trainer, metrics)
        accelerator.wait_for_everyone()
        return FitResult(pd.DataFrame(trainer.history), metrics, resumed_from, where)
