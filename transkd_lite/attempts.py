"""One attempt at a run: what is checked before, and what happens in its folder around the notebook's execution."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from transkd_lite.execution import execute_notebook
from transkd_lite.notebook_files import NotebookFailed, NotebookInterrupted
from transkd_lite.planning import PlannedRun
from transkd_lite.runs import (
    METRICS_FILE,
    hash_parameters,
    is_finished,
    provenance,
    read_run,
    update_run,
    write_json,
)

__all__ = ["ASIDE", "execute", "kernel_environment", "preflight"]

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


# glibc gives memory back to the system at every large free unless told otherwise, and a Dask worker tells it to do so
# early: a training step, which frees hundreds of tensors, then spends up to a third of its time on page faults.
_KEEP_FREED_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextlib.contextmanager
def kernel_environment(threads: int | None) -> Iterator[None]:
    """What a kernel inherits from the process that starts it: freed memory is kept, threads are limited if given."""
    wanted = _KEEP_FREED_MEMORY | ({} if threads is None else dict.fromkeys(_THREADS, str(threads)))
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _wait_for_lock(folder: Path) -> None:
    """After a worker was killed its kernel may hold the folder for a moment longer."""
    until = time.monotonic() + _LOCK_PATIENCE_S
    while time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError):
            if read_run(folder).state == "running":
                time.sleep(0.5)
                continue
        return


def _withhold_metrics(folder: Path) -> None:
    """A run whose notebook failed after training is not finished; what was trained is kept for the next attempt."""
    if (folder / METRICS_FILE).exists():
        os.replace(folder / METRICS_FILE, folder / WITHHELD)


def _restore_metrics(folder: Path) -> None:
    """Training that was whole before its notebook failed need not be repeated."""
    if (folder / WITHHELD).exists():
        os.replace(folder / WITHHELD, folder / METRICS_FILE)


def _finish_lesson(run: PlannedRun, folder: Path, wall_s: float) -> None:
    """A lesson's result is its executed notebook; its records are written here, the metrics last."""
    info = {
        "kind": run.kind,
        "notebook": run.notebook.name,
        "parameters": run.parameters,
        "state": "finished",
    }
    update_run(folder, **provenance(), **info, error=None)
    write_json(folder / METRICS_FILE, {"wall_s": round(wall_s, 2)})


def execute(run: PlannedRun, root: Path, threads: int | None = None, needed: str | None = None) -> str:
    """Execute one run into its folder and return "" or, where it failed, what went wrong.

    `threads` limits the kernel's threads; `needed` is the outcome of the run that this one waits for.
    """
    folder = root / run.folder
    if run.needs and (needed or not is_finished(root / run.needs)):
        return f"not started: it needs {run.needs}, which failed"
    folder.mkdir(parents=True, exist_ok=True)
    _wait_for_lock(folder)
    _restore_metrics(folder)
    start = time.perf_counter()
    try:
        with kernel_environment(threads):
            _execute_run(run, folder)
    except NotebookInterrupted as error:
        _withhold_metrics(folder)
        update_run(folder, state="interrupted", error=None)
        return str(error)
    except Exception as error:
        _withhold_metrics(folder)
        update_run(folder, state="failed", error=str(error))
        return str(error)
    (folder / FAILED).unlink(missing_ok=True)
    if run.experiment is None:
        _finish_lesson(run, folder, time.perf_counter() - start)
    return ""


def _execute_run(run: PlannedRun, folder: Path) -> None:
    """Execute the notebook aside; it gets its own name when the last cell has run and the run is finished."""
    aside = folder / ASIDE
    aside.unlink(missing_ok=True)
    parameters = dict(run.parameters)
    if run.experiment is not None:
        parameters["out_dir"] = str(folder)
    try:
        execute_notebook(run.notebook, aside, parameters)
        if run.experiment is not None and not is_finished(folder):
            raise NotebookFailed(f"{run.notebook.name} ended without writing {METRICS_FILE} to {folder}")
    except NotebookInterrupted:
        aside.unlink(missing_ok=True)
        raise
    except Exception as error:
        if aside.is_file():
            os.replace(aside, folder / FAILED)
            raise NotebookFailed(f"{error}; see {folder / FAILED}") from error
        raise
    os.replace(aside, folder / run.notebook.name)
