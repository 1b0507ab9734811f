"""A batch: every run of a profile through papermill, one after the other, side by side, or on a Dask cluster.

Strict where papermill is lenient: everything that has a name is checked before anything runs; a notebook must
reach its last cell; a failed one is kept as `failed.ipynb` beside the run and named, and the others go on. A
run whose folder holds `metrics.json` and its executed notebook is finished and skipped, so a batch can be
killed and started again at any time. papermill, dask, nbconvert and torch are imported only when something
has to run. Ctrl-C and SIGTERM stop the kernels, which save first (see `stopping`).
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from transkd_lite.attempts import ASIDE, preflight
from transkd_lite.execution import execute_notebook, refresh_notebook
from transkd_lite.interrupts import StopRequest
from transkd_lite.notebook_files import NotebookFailed, to_html
from transkd_lite.parameters import ParameterError, check_parameters, read_signature
from transkd_lite.planning import plan
from transkd_lite.profiles import Profile
from transkd_lite.runs import (
    BATCH_FILE,
    METRICS_FILE,
    atomic_write,
    hash_parameters,
    lock_run,
    read_json,
    sweep_temporary,
    write_json,
)
from transkd_lite.stopping import run_aside
from transkd_lite.summary import Outcome, is_done, progress_line
from transkd_lite.workers import execute_all

__all__ = ["NotebookFailed", "execute_notebook", "refresh_notebook", "render_report", "reproduce"]

REPORT_FILE = "report.json"


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
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM came; the same call goes on with what is not finished.
    """
    if jobs < 1:
        raise ParameterError(f"jobs = {jobs}: it must be at least 1")
    root = (runs / profile.name).resolve()
    outcome = Outcome(root, plan(profile, methods, seeds))
    pending = [run for run in outcome.runs if not is_done(root, run)]
    if pending:
        preflight(pending)
    with lock_run(root), StopRequest() as stop:
        sweep_temporary(root)
        if pending:
            echo(f"{len(pending)} of {len(outcome.runs)} runs to do in {root}")
        for run, error in execute_all(pending, root, jobs, scheduler, stop):
            outcome.executed.append(run.folder)
            if error:
                outcome.errors[run.folder] = error
            echo(progress_line(len(outcome.executed), len(pending), root, run, error))
        if stop.signal is None:
            run_aside(lambda: _report(profile, outcome), stop)
    if stop.signal is not None:
        done = sum(is_done(root, run) for run in outcome.runs)
        echo(
            f"stopped: {done} of {len(outcome.runs)} runs are finished; the same command goes on with the others"
        )
        stop.leave()
    return outcome


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
