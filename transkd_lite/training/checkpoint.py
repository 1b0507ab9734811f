"""Checkpoints that are whole or absent: the digest of the content is part of the file's name.

One file holds everything a run needs to go on, what must be the same then among it. It appears by a rename, the last
two are kept, and a file whose content does not have the digest of its name is passed over for the one before, with a
warning.
"""

import contextlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from transkd_lite.data import whole
from transkd_lite.data.whole import HISTORY_FILE, RUN_FILE, STUDENT_FILE, atomic_write, read_json, verified, write_json
from transkd_lite.models.output import SegModel
from transkd_lite.models.weights import read_tensors, save_model
from transkd_lite.training.folder import is_finished, provenance, read_run
from transkd_lite.training.step import Trainer

__all__ = ["RunFolder", "list_checkpoints"]


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files by step, the newest last."""
    return sorted(folder.glob("step-*.pt"))


class RunFolder:
    """What a training run keeps on disk: checkpoints while it is unfinished, then the student, history and metrics.

    path: None keeps nothing. identity: what must be the same for the run to be gone on with.
    writes: whether this process is the one that writes; the others that share the run's batches only read.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: Mapping[str, Any], writes: bool = True) -> None:
        self.path = Path(path or os.devnull)  # which holds nothing
        self.kept, self.identity = path is not None, json.loads(json.dumps(identity, default=whole.plain))
        self.writes = writes and self.kept
        self.checkpoints = self.path / "checkpoint"

    def check_new(self) -> None:
        """Raise `FileExistsError` where a run would be overwritten."""
        if is_finished(self.path) or list_checkpoints(self.checkpoints):
            advice = "pass resume=True to go on with it, or choose another out_dir"
            raise FileExistsError(f"a new run needs a folder of its own; {self.path} holds a run: {advice}")

    def _check_identity(self, before: Mapping[str, Any]) -> None:
        """Raise `ValueError` where the run in the folder had other parameters."""
        now = self.identity
        # A name that only one version of this library knows tells nothing.
        known = sorted(before.keys() & now.keys())
        changed = [f"{k}: {before[k]!r} there, {now[k]!r} now" for k in known if before[k] != now[k]]
        if changed:
            rule = f"a run is resumed with the parameters it began with; in {self.path} these differ"
            raise ValueError(f"{rule}: {'; '.join(changed)}. Give the same, or choose another out_dir")

    @contextlib.contextmanager
    def running(self, description: Mapping[str, Any]) -> Iterator[None]:
        """Say in run.json what is running, and where, and after an exception why it has not finished.

        What a killed writer left behind goes.
        """
        if self.writes:
            whole.sweep_temporary(self.path, self.checkpoints)
            self.info = {"state": "running", **description, **provenance(), "identity": self.identity}
            write_json(self.path / RUN_FILE, self.info)
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            state, message = ("interrupted", None) if stopped else ("failed", f"{type(error).__name__}: {error}")
            with contextlib.suppress(OSError):  # a full disk: the error itself matters more
                if self.writes and not is_finished(self.path):
                    write_json(self.path / RUN_FILE, self.info | {"state": state, "error": message})
            raise

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The trainer's state in the newest whole checkpoint, None if there is none.

        Only tensors and plain values are read. Warns (`UserWarning`) for every damaged file that is passed over.
        Raises `ValueError` where the run had other parameters.
        """
        paths = list_checkpoints(self.checkpoints)
        for path in reversed(paths):
            content = path.read_bytes()
            if path.stem.endswith(whole.digest(content)):
                state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                # A checkpoint of an earlier version has none.
                self._check_identity(state.pop("identity", None) or read_json(self.path / RUN_FILE).get("identity", {}))
                return state
            found = f"checkpoint {path} is damaged ({len(content)} bytes that do not have the digest of its name)"
            warnings.warn(f"{found}; falling back to the one before, or to the beginning", stacklevel=2)
        if paths:  # none is whole: the run begins anew, but is no other one
            self._check_identity(read_json(self.path / RUN_FILE).get("identity", {}))
        return None

    def load_finished(self, student: SegModel) -> tuple[pd.DataFrame, dict[str, Any]]:
        """History and metrics of the finished run, its weights put into the student.

        Raises `ValueError` where the run had other parameters, `DamagedRunError` where a file is not as it was then.
        """
        run = read_run(self.path)
        self._check_identity(run.info.get("identity", {}))
        student.load_state_dict(read_tensors(verified(self.path / STUDENT_FILE)))
        if self.writes:  # a kill may have come between the metrics and this
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        return pd.read_csv(verified(self.path / HISTORY_FILE)), run.metrics

    def save(self, trainer: Trainer) -> None:
        """Keep the trainer's state as the newest checkpoint, and its history.

        Raises `OSError` naming the file if it cannot be written; the checkpoints before it stay.
        """
        if not self.kept:
            return
        state = trainer.state_dict()  # on every process, since they check the losses together
        if not self.writes:
            return
        buffer = io.BytesIO()
        torch.save(state | {"identity": self.identity}, buffer)
        content = buffer.getvalue()
        atomic_write(self.checkpoints / f"step-{trainer.step:08d}-{whole.digest(content)}.pt", content)
        for old in list_checkpoints(self.checkpoints)[:-2]:
            old.unlink(missing_ok=True)
        self._write_history(trainer)

    def finish(self, student: SegModel, trainer: Trainer, metrics: Mapping[str, Any]) -> None:
        """The student, the history, then the metrics: a folder with metrics.json has all the rest."""
        if not self.writes:
            return
        kept = ("parameters", "seed", "precision", "device", "versions", "commit", "dirty")
        origin = {key: self.info.get(key) for key in kept} | {"steps": trainer.step, "wall_s": trainer.seconds}
        save_model(student, self.path / STUDENT_FILE, provenance=origin)
        self._write_history(trainer)
        threads = ", then ".join(f"{n} from step {step}" if step else str(n) for step, n in trainer.threads)
        ended = {name: metrics[name] for name in ("wall_s", "peak_mb", "teacher_cache") if name in metrics}
        write_json(self.path / RUN_FILE, self.info | {"state": "finished", "threads": threads, **ended, "error": None})
        whole.seal(self.path, metrics)
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _write_history(self, trainer: Trainer) -> None:
        names = None if trainer.history else ["step", "epoch", "lr", "loss", "ce", "images_per_s"]
        atomic_write(self.path / HISTORY_FILE, pd.DataFrame(trainer.history, columns=names).to_csv(index=False))
