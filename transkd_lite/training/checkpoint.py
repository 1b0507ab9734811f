"""Checkpoints that are whole or absent: the digest of the content is part of the file's name.

One file holds everything a run needs to go on. It appears by a rename, the last two are kept, and a file
whose content does not have the digest of its name is passed over for the one before, with a warning.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from safetensors.torch import load_file

from transkd_lite.data.files import atomic_write, sweep_temporary
from transkd_lite.models.output import SegModel
from transkd_lite.models.weights import save_model
from transkd_lite.training.folder import (
    HISTORY_FILE,
    METRICS_FILE,
    RUN_FILE,
    STUDENT_FILE,
    is_finished,
    lock_run,
    read_json,
    update_run,
    write_json,
)

if TYPE_CHECKING:
    from transkd_lite.training.loop import Trainer

__all__ = ["RunFolder", "list_checkpoints", "load_checkpoint", "save_checkpoint"]

_NAME = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.pt")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write state (tensors and plain values) as the checkpoint of a step; then drop all but the newest
    `keep`.

    Raises `OSError` naming the file if it cannot be written; the checkpoints before it stay.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = atomic_write(folder / f"step-{step:08d}-{_digest(content)}.pt", content)
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files by step, the newest last."""
    return sorted(p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name))


def load_checkpoint(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """Step and state of the newest whole checkpoint, None if there is none; only tensors and plain values
    are read.

    Warns (`UserWarning`) for every damaged file that is passed over.
    """
    for path in reversed(list_checkpoints(folder)):
        match = _NAME.fullmatch(path.name)
        assert match is not None
        content = path.read_bytes()
        if _digest(content) == match[2]:
            return int(match[1]), torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        warnings.warn(
            f"checkpoint {path} is damaged ({len(content)} bytes that do not have the digest of its name); "
            "falling back to the one before",
            stacklevel=2,
        )
    return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


# --- What a training run keeps on disk: checkpoints while it is unfinished, then the student, history and metrics.
#
# One process writes; the others that share the run's batches read, and know which folder it is.


class RunFolder:
    """One run's folder; `writes` says whether this process is the one that writes.

    identity: what must be the same for the run to be gone on with.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], writes: bool = True) -> None:
        self.path, self.identity, self.writes = path, identity, writes

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the folder while the run lasts."""
        return lock_run(self.path) if self.writes else contextlib.nullcontext()

    def check(self, resume: bool) -> None:
        """Raise `FileExistsError` where a run would be overwritten, `ValueError` where it had other parameters."""
        if not self.is_finished and not list_checkpoints(self._checkpoints):
            return
        if not resume:
            raise FileExistsError(
                f"a new run needs a folder of its own; {self.path} holds a run: "
                "pass resume=True to go on with it, or choose another out_dir"
            )
        before = read_json(self.path / RUN_FILE).get("identity", self.identity)
        _require_same(before, self.identity, self.path)

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended and left its metrics."""
        return is_finished(self.path)

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoint"

    def begin(self, description: Mapping[str, Any]) -> None:
        """Say in run.json what is running; what a killed writer left behind goes."""
        if self.writes:
            sweep_temporary(self.path)
            write_json(self.path / RUN_FILE, {**description, "identity": dict(self.identity)})

    def load_checkpoint(self) -> tuple[int, dict[str, Any]] | None:
        """Step and state of the last whole checkpoint, None if there is none."""
        return load_checkpoint(self._checkpoints)

    def load_finished(self, student: SegModel) -> tuple[pd.DataFrame, dict[str, Any]]:
        """History and metrics of the finished run, its weights put into the student."""
        student.load_state_dict(load_file(self.path / STUDENT_FILE))
        return pd.read_csv(self.path / HISTORY_FILE), read_json(self.path / METRICS_FILE)

    def save(self, trainer: Trainer) -> None:
        """Keep the trainer's state and history."""
        state = trainer.state_dict()  # on every process, since they check the losses together
        if self.writes:
            save_checkpoint(self._checkpoints, trainer.step, state)
            self._write_history(trainer)

    def finish(self, student: SegModel, trainer: Trainer, metrics: Mapping[str, Any]) -> None:
        """The student, the history, then the metrics: a folder with metrics.json has all the rest."""
        if not self.writes:
            return
        info = read_json(self.path / RUN_FILE)
        kept = ("parameters", "seed", "precision", "device", "versions", "commit", "dirty")
        provenance = {key: info.get(key) for key in kept} | {"steps": trainer.step, "wall_s": trainer.seconds}
        save_model(student, self.path / STUDENT_FILE, provenance=provenance)
        self._write_history(trainer)
        threads = ", then ".join(f"{n} from step {step}" if step else str(n) for step, n in trainer.threads)
        ended = {"wall_s": trainer.seconds, "peak_mb": metrics["peak_mb"], "threads": threads}
        update_run(self.path, state="finished", **ended, error=None)
        write_json(self.path / METRICS_FILE, metrics)
        self._drop_checkpoints()

    def note_end(self, error: BaseException) -> None:
        """Say in run.json why the run has not finished."""
        if not self.writes:
            return
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        state, message = ("interrupted", None) if stopped else ("failed", f"{type(error).__name__}: {error}")
        with contextlib.suppress(OSError):  # a full disk: the error itself matters more
            update_run(self.path, state=state, error=message)

    def _write_history(self, trainer: Trainer) -> None:
        history = pd.DataFrame(trainer.history).to_csv(index=False)
        atomic_write(self.path / HISTORY_FILE, history)

    def _drop_checkpoints(self) -> None:
        for path in list_checkpoints(self._checkpoints):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._checkpoints.rmdir()


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Compare what both know: a name that only one version of this library has tells nothing."""
    changed = [
        f"{name}: {before[name]!r} there, {now[name]!r} now"
        for name in sorted(before.keys() & now.keys())
        if before[name] != now[name]
    ]
    if changed:
        raise ValueError(
            f"a run is resumed with the parameters it began with; in {folder} these differ: "
            f"{'; '.join(changed)}. Give the same, or choose another out_dir"
        )
