"""What a training run keeps on disk: checkpoints while it is unfinished, then the student, history and metrics.

One process writes; the others that share the run's batches read, and know which folder it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file

from . import runs
from .checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from .models.output import SegModel
from .models.weights import save_model
from .trainer import Trainer

__all__ = ["RunFolder"]


class RunFolder:
    """One run's folder; `writes` says whether this process is the one that writes.

    identity: what must be the same for the run to be gone on with.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], writes: bool = True) -> None:
        self.path, self.identity, self.writes = path, identity, writes

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the folder while the run lasts."""
        return runs.lock_run(self.path) if self.writes else contextlib.nullcontext()

    def check(self, resume: bool) -> None:
        """Raise `FileExistsError` where a run would be overwritten, `ValueError` where it had other parameters."""
        if not self.is_finished and not list_checkpoints(self._checkpoints):
            return
        if not resume:
            raise FileExistsError(
                f"a new run needs a folder of its own; {self.path} holds a run: "
                "pass resume=True to go on with it, or choose another out_dir"
            )
        before = runs.read_json(self.path / runs.RUN_FILE).get("identity", self.identity)
        _require_same(before, self.identity, self.path)

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended and left its metrics."""
        return runs.is_finished(self.path)

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoint"

    def begin(self, description: Mapping[str, Any]) -> None:
        """Say in run.json what is running; what a killed writer left behind goes."""
        if self.writes:
            runs.sweep_temporary(self.path)
            runs.write_json(self.path / runs.RUN_FILE, {**description, "identity": dict(self.identity)})

    def load_checkpoint(self) -> tuple[int, dict[str, Any]] | None:
        """Step and state of the last whole checkpoint, None if there is none."""
        return load_checkpoint(self._checkpoints)

    def load_finished(self, student: SegModel) -> tuple[pd.DataFrame, dict[str, Any]]:
        """History and metrics of the finished run, its weights put into the student."""
        student.load_state_dict(load_file(self.path / runs.STUDENT_FILE))
        return pd.read_csv(self.path / runs.HISTORY_FILE), runs.read_json(self.path / runs.METRICS_FILE)

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
        info = runs.read_json(self.path / runs.RUN_FILE)
        kept = ("parameters", "seed", "precision", "device", "versions", "commit", "dirty")
        provenance = {key: info.get(key) for key in kept} | {"steps": trainer.step, "wall_s": trainer.seconds}
        save_model(student, self.path / runs.STUDENT_FILE, provenance=provenance)
        self._write_history(trainer)
        threads = ", then ".join(f"{n} from step {step}" if step else str(n) for step, n in trainer.threads)
        ended = {"wall_s": trainer.seconds, "peak_mb": metrics["peak_mb"], "threads": threads}
        runs.update_run(self.path, state="finished", **ended, error=None)
        runs.write_json(self.path / runs.METRICS_FILE, metrics)
        self._drop_checkpoints()

    def note_end(self, error: BaseException) -> None:
        """Say in run.json why the run has not finished."""
        if not self.writes:
            return
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        state, message = ("interrupted", None) if stopped else ("failed", f"{type(error).__name__}: {error}")
        with contextlib.suppress(OSError):  # a full disk: the error itself matters more
            runs.update_run(self.path, state=state, error=message)

    def _write_history(self, trainer: Trainer) -> None:
        history = pd.DataFrame(trainer.history).to_csv(index=False)
        runs.atomic_write(self.path / runs.HISTORY_FILE, history)

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
