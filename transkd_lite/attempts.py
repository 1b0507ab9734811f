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


def execute(run: PlannedRun, root: Path, threads: int | None = None, needed: str | None = None) -> str:
    """Execute one run into its folder and return "" or, where it failed, what went wrong.

    The notebook is executed aside and gets its own name when its last cell has run and the run is finished. Where it
    fails after training, what was trained is kept for the next attempt, but does not count as finished.
    `threads` limits the kernel's threads; `needed` is the outcome of the run that this one waits for.
    """
    folder = root / run.folder
    if run.needs and (needed or not is_finished(root / run.needs)):
        return f"not started: it needs {run.needs}, which failed"
    folder.mkdir(parents=True, exist_ok=True)
    metrics, withheld, aside = (folder / name for name in (METRICS_FILE, WITHHELD, ASIDE))
    until = (
        time.monotonic() + _LOCK_PATIENCE_S
    )  # the kernel of a killed worker may hold the folder a moment longer
    with contextlib.suppress(FileNotFoundError):
        while read_run(folder).state == "running" and time.monotonic() < until:
            time.sleep(0.5)
    if withheld.exists():
        os.replace(withheld, metrics)
    aside.unlink(missing_ok=True)
    start = time.perf_counter()
    own = {} if run.experiment is None else {"out_dir": str(folder)}
    try:
        with kernel_environment(threads):
            execute_notebook(run.notebook, aside, run.parameters | own)
        if run.experiment is not None and not is_finished(folder):
            raise NotebookFailed(f"{run.notebook.name} ended without writing {METRICS_FILE} to {folder}")
    except Exception as error:
        message = str(error)
        if metrics.exists():
            os.replace(metrics, withheld)
        if isinstance(error, NotebookInterrupted):
            aside.unlink(missing_ok=True)
            update_run(folder, state="interrupted", error=None)
            return message
        if aside.is_file():
            os.replace(aside, folder / FAILED)
            message += f"; see {folder / FAILED}"
        update_run(folder, state="failed", error=message)
        return message
    os.replace(aside, folder / run.notebook.name)
    (folder / FAILED).unlink(missing_ok=True)
    if (
        run.experiment is None
    ):  # a lesson's result is its notebook; the records are written here, the metrics last
        info = {"kind": run.kind, "notebook": run.notebook.name, "parameters": run.parameters}
        update_run(folder, **provenance(), **info, state="finished", error=None)
        write_json(metrics, {"wall_s": round(time.perf_counter() - start, 2)})
    return ""
