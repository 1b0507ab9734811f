"""A batch: every run of a profile through papermill, one after the other, side by side, or on a Dask cluster.

Strict where papermill is lenient: everything that has a name is checked before anything runs; a notebook must
reach its last cell; a failed one is kept as `failed.ipynb` beside the run and named, and the others go on. A
run whose folder holds `metrics.json` and its executed notebook is finished and skipped, so a batch can be
killed and started again at any time. papermill, dask, nbconvert and torch are imported only when something
has to run.
"""

import contextlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from transkd_lite.attempts import (
    ASIDE,
    FAILED,
    finish_lesson,
    preflight,
    restore_metrics,
    thread_limit,
    wait_for_lock,
    withhold_metrics,
)
from transkd_lite.notebook_files import NotebookFailed, require_whole, to_html, without_notes
from transkd_lite.parameters import ParameterError, check_parameters, read_signature
from transkd_lite.planning import PlannedRun, plan
from transkd_lite.profiles import Profile
from transkd_lite.runs import (
    BATCH_FILE,
    METRICS_FILE,
    atomic_write,
    hash_parameters,
    is_finished,
    lock_run,
    read_json,
    sweep_temporary,
    update_run,
    write_json,
)
from transkd_lite.summary import Outcome, is_done, progress_line

__all__ = ["NotebookFailed", "execute_notebook", "refresh_notebook", "render_report", "reproduce"]

REPORT_FILE = "report.json"
_STARTS = 3  # kernels that start at the same moment can race for a port: such a start is repeated


def reproduce(
    profile: Profile,
    *,
    runs: Path = Path("runs"),
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    jobs: int = 1,
    scheduler: str | None = None,
    echo: Callable[[str], None] = print,
) -> Outcome:
    """Execute every unfinished run of a profile into `runs/<profile>/` and render the report.

    Args:
        profile: what to run.
        runs: the folder of all batches.
        methods, seeds: these instead of the profile's.
        jobs: notebooks side by side on this machine.
        scheduler: address of a Dask scheduler whose workers see the same files, instead of this machine.
        echo: takes one line of progress at a time.

    Raises:
        ParameterError: something that has a name is wrong; nothing has run.
        RunLockedError: another batch works in this folder.
    """
    if jobs < 1:
        raise ParameterError(f"jobs = {jobs}: it must be at least 1")
    root = (runs / profile.name).resolve()
    outcome = Outcome(root, plan(profile, methods, seeds))
    pending = [run for run in outcome.runs if not is_done(root, run)]
    if pending:
        preflight(pending)
    with lock_run(root):
        sweep_temporary(root)
        if pending:
            echo(f"{len(pending)} of {len(outcome.runs)} runs to do in {root}")
        for run, error in _execute_all(pending, root, jobs, scheduler):
            outcome.executed.append(run.folder)
            if error:
                outcome.errors[run.folder] = error
            echo(progress_line(len(outcome.executed), len(pending), root, run, error))
        _report(profile, outcome)
    return outcome


def execute(run: PlannedRun, root: Path, threads: int | None = None, needed: str | None = None) -> str:
    """Execute one run into its folder and return "" or, where it failed, what went wrong.

    `threads` limits the kernel's threads; `needed` is the outcome of the run that this one waits for.
    """
    folder = root / run.folder
    if run.needs and (needed or not is_finished(root / run.needs)):
        return f"not started: it needs {run.needs}, which failed"
    folder.mkdir(parents=True, exist_ok=True)
    wait_for_lock(folder)
    restore_metrics(folder)
    start = time.perf_counter()
    try:
        with thread_limit(threads):
            _execute_run(run, folder)
    except Exception as error:
        withhold_metrics(folder)
        update_run(folder, state="failed", error=str(error))
        return str(error)
    (folder / FAILED).unlink(missing_ok=True)
    if run.experiment is None:
        finish_lesson(run, folder, time.perf_counter() - start)
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
    except Exception as error:
        if aside.is_file():
            os.replace(aside, folder / FAILED)
            raise NotebookFailed(f"{error}; see {folder / FAILED}") from error
        raise
    os.replace(aside, folder / run.notebook.name)


def execute_notebook(notebook: Path, target: Path, parameters: dict[str, Any]) -> None:
    """Execute a notebook with papermill, strictly, into `target`.

    Raises:
        NotebookFailed: a cell raised, the kernel died, or a cell was left out (`sys.exit()` ends a notebook
            early).
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    # It warns about every parameter that is annotated `int | None`; names and types were checked before.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    for attempt in range(1, _STARTS + 1):
        try:
            papermill.execute_notebook(
                str(notebook), str(target), parameters=parameters, kernel_name="python3", progress_bar=False,
                cwd=str(notebook.parent), extra_arguments=["--log-level=50"],
            )  # fmt: skip
            break
        except PapermillExecutionError as error:
            raise NotebookFailed(
                f"{notebook.name}: cell [{error.exec_count}] raised {error.ename}: {error.evalue}"
            ) from error
        except RuntimeError as error:
            if attempt < _STARTS and "before replying" in str(error):
                time.sleep(attempt)
                continue
            raise NotebookFailed(f"{notebook.name}: {error}") from error
    require_whole(notebook.name, json.loads(target.read_text(encoding="utf-8")))


def _execute_all(
    pending: Sequence[PlannedRun], root: Path, jobs: int, scheduler: str | None
) -> Iterator[tuple[PlannedRun, str]]:
    """Execute runs and yield each with its outcome as it ends."""
    if not pending:
        return
    if scheduler is None and jobs == 1:
        for run in pending:
            yield run, execute(run, root)
    else:
        yield from _execute_on_dask(pending, root, jobs, scheduler)


def _execute_on_dask(
    pending: Sequence[PlannedRun], root: Path, jobs: int, scheduler: str | None
) -> Iterator[tuple[PlannedRun, str]]:
    """Send the runs to a cluster; when a worker dies in mid-notebook, the notebook runs again elsewhere."""
    import dask
    from distributed import Client, LocalCluster, as_completed

    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 3}))
        threads = None
        address: Any = scheduler
        if scheduler is None:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            threads = max(1, cores // jobs)
            address = stack.enter_context(
                LocalCluster(
                    n_workers=jobs,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=None,
                    memory_limit=0,
                )
            )
        client = stack.enter_context(_connect(Client, address))
        batch = uuid.uuid4().hex[:8]
        futures: dict[Any, PlannedRun] = {}
        for run in pending:
            needed = next((f for f, r in futures.items() if r.folder == run.needs), None)
            key = f"{run.folder}-{batch}"
            futures[client.submit(execute, run, root, threads, needed, key=key, pure=False, retries=1)] = run
        for future in as_completed(futures):
            error = future.exception() if future.status == "error" else None
            yield futures[future], f"{type(error).__name__}: {error}" if error else future.result()


def _connect(client: Any, address: Any) -> Any:
    """A client of the cluster, or an error that names the address."""
    try:
        return client(address, timeout="20s")
    except (OSError, ValueError) as error:
        raise ParameterError(f"no Dask scheduler answers at {address}: {error}") from error


def _report(profile: Profile, outcome: Outcome) -> None:
    """Render the report unless the one there was made of the same; a failure is an error of the batch.

    `batch.json` lists the run folders that belong to the batch: runs of other parameters may lie beside them.
    """
    if profile.report is None:
        return
    root = outcome.root
    folders = dict.fromkeys(run.folder for run in (*plan(profile), *outcome.runs) if run.experiment)
    inputs = {folder: _stamp(root / folder / METRICS_FILE) for folder in folders}
    inputs["notebook"] = _stamp(profile.notebooks / f"{profile.report}.ipynb")
    outcome.report = root / "report.html"
    if outcome.report.is_file() and read_json(root / REPORT_FILE) == inputs:
        return
    write_json(root / BATCH_FILE, {"profile": profile.name, "about": profile.about, "runs": list(folders)})
    try:
        if not any(stamp for folder, stamp in inputs.items() if folder.startswith("student-")):
            raise NotebookFailed("not rendered: no student has finished")
        render_report(profile, root)
    except Exception as error:
        outcome.errors["report"] = str(error)
        return
    outcome.report_rendered = True
    write_json(root / REPORT_FILE, inputs)


def _stamp(path: Path) -> str:
    """What a file holds, shortly; "" if there is none."""
    return hash_parameters({"text": path.read_text(encoding="utf-8")}) if path.is_file() else ""


def render_report(profile: Profile, root: Path) -> Path:
    """Execute the profile's report on the runs in `root` and write `report.html`, without code, in one file.

    Raises:
        NotebookFailed: a cell raised or was left out; the executed notebook is kept as `report.failed.ipynb`.
    """
    notebook = profile.notebooks / f"{profile.report}.ipynb"
    parameters = {"run_dir": str(root)}
    if profile.parameters.get("data_root"):
        parameters["data_root"] = str(profile.parameters["data_root"])
    check_parameters(parameters, read_signature(notebook).hints, notebook.name)
    aside, target = root / ASIDE, root / "report.ipynb"
    try:
        execute_notebook(notebook, aside, parameters)
    except NotebookFailed as error:
        os.replace(aside, root / "report.failed.ipynb")
        raise NotebookFailed(f"{error}; see {root / 'report.failed.ipynb'}") from error
    os.replace(aside, target)
    (root / "report.failed.ipynb").unlink(missing_ok=True)
    return atomic_write(root / "report.html", to_html(target))


def refresh_notebook(notebook: Path) -> float:
    """Execute a notebook from its defaults, store its outputs in place, and return the seconds it took.

    The file changes only when every cell has run; papermill's own notes are taken out again.

    Raises:
        NotebookFailed: a cell raised or was left out; the notebook is as before.
    """
    aside = notebook.with_name(f".{notebook.name}")
    start = time.perf_counter()
    try:
        execute_notebook(notebook, aside, {})
        executed = json.loads(aside.read_text(encoding="utf-8"))
    finally:
        aside.unlink(missing_ok=True)
    atomic_write(notebook, without_notes(executed))
    return time.perf_counter() - start
