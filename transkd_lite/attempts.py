"""One attempt at a run: what is checked before, and what happens in its folder around the notebook's execution."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from transkd_lite.planning import PlannedRun
from transkd_lite.runs import METRICS_FILE, hash_parameters, provenance, read_run, update_run, write_json

__all__ = [
    "ASIDE",
    "FAILED",
    "finish_lesson",
    "preflight",
    "restore_metrics",
    "thread_limit",
    "wait_for_lock",
    "withhold_metrics",
]

FAILED, WITHHELD, ASIDE = "failed.ipynb", "metrics.withheld.json", "running.ipynb"
_LOCK_PATIENCE_S = 60.0


def preflight(pending: Sequence[PlannedRun]) -> None:
    """Check what the plan could not check without torch: names of networks and methods, method options, data."""
    experiments = {run.folder: run.experiment for run in pending if run.experiment is not None}
    checked: set[str] = set()
    for run in pending:
        if run.experiment is None:
            continue
        teacher = experiments.get(run.needs or "")
        run.experiment.check_names(teacher.network if teacher else None)
        data = hash_parameters({key: getattr(run.experiment, key) for key in ("dataset", "data_root")})
        if data not in checked:
            run.experiment.check_data()
            checked.add(data)


@contextlib.contextmanager
def thread_limit(threads: int | None) -> Iterator[None]:
    """Kernels inherit the environment of the process that starts them."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    if threads is not None:
        os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def wait_for_lock(folder: Path) -> None:
    """After a worker was killed its kernel may hold the folder for a moment longer."""
    until = time.monotonic() + _LOCK_PATIENCE_S
    while time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError):
            if read_run(folder).state == "running":
                time.sleep(0.5)
                continue
        return


def withhold_metrics(folder: Path) -> None:
    """A run whose notebook failed after training is not finished; what was trained is kept for the next attempt."""
    if (folder / METRICS_FILE).exists():
        os.replace(folder / METRICS_FILE, folder / WITHHELD)


def restore_metrics(folder: Path) -> None:
    """Training that was whole before its notebook failed need not be repeated."""
    if (folder / WITHHELD).exists():
        os.replace(folder / WITHHELD, folder / METRICS_FILE)


def finish_lesson(run: PlannedRun, folder: Path, wall_s: float) -> None:
    """A lesson's result is its executed notebook; its records are written here, the metrics last."""
    info = {
        "kind": run.kind,
        "notebook": run.notebook.name,
        "parameters": run.parameters,
        "state": "finished",
    }
    update_run(folder, **provenance(), **info, error=None)
    write_json(folder / METRICS_FILE, {"wall_s": round(wall_s, 2)})
