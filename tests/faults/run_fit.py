"""One small training, run in a process of its own by tests that kill it, signal it or start it twice.

`start` forks from a server that has imported everything once, so that a process costs a tenth of a second.
"""

import multiprocessing
import os
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transkd_lite.distill.methods import create_method
from transkd_lite.models.weights import create_model
from transkd_lite.training.config import TrainConfig
from transkd_lite.training.loop import fit
from transkd_lite.training.step import Trainer

SIZE, NUM_CLASSES = 32, 3
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate")


class Scenes:
    """Noise with a learnable label; a sample whose marker file is gone cannot be read."""

    def __init__(self, num: int, marker: Path | None = None) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (num, SIZE, SIZE, 3), dtype=np.uint8)
        self.marker = marker

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.marker is not None and index == 2:
            self.marker.read_bytes()
        image = self.images[index]
        return {"image": image, "label": (image[..., 0] // 86).astype(np.uint8)}


def networks(method: str | None, dropout: float = 0.1) -> tuple[Any, Any, Any]:
    """A student, and a teacher and a method if one is named; always the same."""
    torch.manual_seed(0)
    options = {"drop_path": dropout, "head_dropout": dropout}
    student = create_model("segformer_b0", NUM_CLASSES, **options)
    if method is None:
        return student, None, None
    teacher = create_model("segformer_b0", NUM_CLASSES)
    return student, teacher, create_method(method, student, teacher)


class Moments:
    """The clock of a training: the last step that has ended, and how often its folder has changed since.

    Every step is printed as it ends; `at` says what the process does to itself then. It is killed before the first
    change at or after `strike`, a pair (step, change), which is the same on every machine.
    """

    def __init__(self, folder: Path, at: Mapping[int, Callable[[], Any]], strike: tuple[int, int] | None) -> None:
        self.folder, self.at, self.strike = str(folder), at, strike
        self.step, self.changes = 0, Counter[int]()

    def start(self) -> None:
        original = Trainer.train_batch

        def train_batch(trainer: Trainer, *batch: torch.Tensor) -> None:
            original(trainer, *batch)
            self.step = trainer.step
            print("step", self.step, flush=True)
            self.at.get(self.step, int)()

        Trainer.train_batch = train_batch  # type: ignore[method-assign]
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Python calls this before whatever it does to a file."""
        changes = event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if changes and str(arguments[0]).startswith(self.folder):
            self.changes[self.step] += 1
            if self.strike is not None and (self.step, self.changes[self.step]) >= self.strike:
                signal.raise_signal(signal.SIGKILL)


def die_in_mid_write() -> None:
    """From now on the system ends this process when a file of its has 20 MB, which is half a checkpoint."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, 20_000_000))


def train(out_dir: Path, weights: Path, log: Path, environment: dict[str, str], options: dict[str, Any]) -> None:
    """The body of the process: fit, then save weights and history; whatever is printed goes to the log."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ.update(environment)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    warnings.simplefilter("default")
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # so loader processes notice when this one is killed
    heard = Path(options.pop("heard", out_dir))  # whose changes are counted
    moments = Moments(heard, options.pop("at", {}), options.pop("strike", None))
    marker, num, scored = options.pop("marker", None), options.pop("num", 6), options.pop("scored", False)
    student, teacher, distiller = networks(options.pop("method", None), options.pop("dropout", 0.1))
    settings = {"steps": 8, "batch_size": 2, "lr": 1e-3, "log_every": 3, "checkpoint_every": 2, "precision": "fp32"}
    moments.start()
    result = fit(
        student,
        Scenes(num, Path(marker) if marker else None),
        config=TrainConfig.from_dict({**settings, **options}),
        teacher=teacher,
        method=distiller,
        val_data=Scenes(3) if scored else None,
        out_dir=out_dir,
        resume=True,
        progress="none",
    )
    history = result.history.drop(columns="images_per_s").to_dict(orient="list")
    saved = {"student": student.state_dict(), "history": history, "resumed": result.resumed_from}
    saved["metrics"] = {protocol: result.metrics.get(protocol) for protocol in ("full", "paper")}
    torch.save(saved | {"changes": dict(moments.changes)}, weights)


class Process:
    """A training under way. `log` is what it has printed so far."""

    def __init__(self, process: BaseProcess, log: Path) -> None:
        self.process, self._log = process, log

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def wait_for_step(self, step: int) -> None:
        """Until that step has ended; `AssertionError` if the process ends before."""
        while f"step {step}\n" not in self.log:
            alive = self.process.is_alive()
            time.sleep(0.01)
            assert alive or f"step {step}\n" in self.log, self.log

    def end(self) -> int:
        """The exit code, once it has ended; minus the signal where one ended it."""
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    def finish(self) -> str:
        """The log of a process that must end well."""
        assert self.end() == 0, self.log
        return self.log


def start(folder: Path, weights: Path, environment: dict[str, str] | None = None, **options: Any) -> Process:
    """Begin (or go on with) a training in `folder`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["run_fit", "transkd_lite.distill", "torchmetrics"])
    log = weights.with_name(f"{weights.stem}-{time.monotonic_ns()}.log")
    alone = not options.get("workers")  # daemons may not have loader processes
    arguments = (folder, weights, log, environment or {}, options)
    process = context.Process(target=train, args=arguments, daemon=alone)
    process.start()
    return Process(process, log)
