"""A batch: every run of a profile through papermill, one after the other, side by side, or on a Dask cluster.

Strict where papermill is lenient: everything that has a name is checked before anything runs; a notebook must
reach its last cell; a failed one is kept as `failed.ipynb` beside the run and named, and the others go on. A
run whose folder holds `metrics.json` and its executed notebook is finished and skipped, so a batch can be
killed and started again at any time; one whose files are not as it left them is an error. papermill, dask,
nbconvert and torch are imported only when something has to run. Ctrl-C and SIGTERM stop the kernels, which save
first (see `stop_kernels`).
"""

import contextlib
import functools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import psutil

from transkd_lite.data import whole
from transkd_lite.data.whole import METRICS_FILE, RUN_FILE, DamagedRunError, read_json, write_json
from transkd_lite.experiments.experiment import read_signature
from transkd_lite.experiments.notebook import NotebookFailed, NotebookInterrupted, execute_notebook, to_html
from transkd_lite.experiments.preflight import preflight
from transkd_lite.experiments.profile import PlannedRun, Profile, plan
from transkd_lite.training import folder as run_folder
from transkd_lite.training.config import ParameterError, check_parameters
from transkd_lite.training.folder import BATCH_FILE, is_finished, lock_run
from transkd_lite.training.interrupts import StopRequest

__all__ = ["Outcome", "dask_setup", "execute", "is_done", "progress_line", "render_report", "reproduce", "scores"]


@dataclass
class Outcome:
    """What a batch did: executed run folders, those found finished, and the errors by run folder (or "report")."""

    root: Path
    runs: list[PlannedRun]
    executed: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    report: Path | None = None
    report_rendered: bool = False


def is_done(root: Path, run: PlannedRun) -> bool:
    """Whether a run is finished: its metrics were written and its notebook reached the last cell. Nothing is read."""
    folder = root / run.folder
    return is_finished(folder) and (folder / run.notebook.name).is_file()


def scores(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """mIoU in percent and seconds of a run, or "-"."""
    miou, wall = metrics.get("full", {}).get("miou"), metrics.get("wall_s")
    return "-" if miou is None else f"{100 * miou:.1f}", "-" if wall is None else f"{wall:.1f}"


def progress_line(number: int, total: int, root: Path, run: PlannedRun, error: str) -> str:
    """`[ 3/14] student-none-s0-1a2b3c4d finished, 61.2 s, mIoU 41.2 %`."""
    miou, seconds = scores({} if error else read_json(root / run.folder / METRICS_FILE))
    state = f"FAILED: {error}" if error else f"finished, {seconds} s" + f", mIoU {miou} %" * (miou != "-")
    return f"[{number:>{len(str(total))}}/{total}] {run.title} {state}"


@contextlib.contextmanager
def signs_of_life(root: Path, runs: Sequence[PlannedRun], echo: Callable[[str], None], wait_s: float) -> Iterator[None]:
    """Now and then a line for each run that is running: step, loss, minutes left."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(wait_s):
            for run in runs:
                file = root / run.folder / run_folder.PROGRESS_FILE
                with contextlib.suppress(OSError, DamagedRunError):
                    if time.time() - file.stat().st_mtime < 60:  # of none that was stopped
                        at = read_json(file)
                        loss = f", loss {at['loss']:.3g}" if "loss" in at else ""  # not known before the first row
                        left = f"{at['left_s'] / 60:.0f} min left"
                        echo(f"  {run.title}: step {at['step']} of {at['steps']}{loss}, {left}")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


# --- A batch that is asked to stop: the signal reaches the notebooks' kernels, which save, and none outlives
# the batch.
#
# Jupyter starts every kernel in a session of its own, which a terminal's Ctrl-C does not reach, and nbclient would
# take a signal for a failure of the notebook. So notebooks are executed in other threads or processes; the main
# thread hears the signal, interrupts the kernels as a person would, and waits until they are gone.


def run_aside(work: Callable[[], Any], stop: StopRequest) -> Any:
    """The result of `work`, called in a thread of its own; after a signal its kernels are stopped."""
    with ThreadPool(1) as pool:  # its thread is a daemon
        result = pool.apply_async(work)
        while not result.ready() and stop.signal is None:
            result.wait(0.2)
        stop_kernels(lambda: not result.ready())
        return result.get()


def running_kernels() -> list[psutil.Process]:
    """Kernels that this process or one below it started; not the processes that a kernel started."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has gone
            if any("ipykernel_launcher" in part for part in process.cmdline()):
                found[process.pid] = (process, process.ppid())
    return [process for process, parent in found.values() if parent not in found]


def stop_kernels(busy: Callable[[], Any] = running_kernels) -> None:
    """Interrupt kernels, also those that start meanwhile, until nothing is busy; kill what does not listen."""
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM if os.name == "nt" else signal.SIGKILL):
        # One that meets a kernel between two cells is lost, and a second one during training gives up saving.
        until, told = time.monotonic() + 20, set()
        while busy() and time.monotonic() < until:
            for kernel in running_kernels():
                if kernel.pid not in told:
                    told.add(kernel.pid)
                    with contextlib.suppress(psutil.Error):
                        kernel.send_signal(number)
            time.sleep(0.1)


async def dask_setup(worker: Any) -> None:
    """Preloaded by the workers of a batch's own cluster: a terminal's Ctrl-C is the batch's to answer, not theirs."""
    signal.signal(signal.SIGINT, lambda number, frame: None)  # unlike SIG_IGN, kernels do not inherit it


# --- One attempt at a run: what is checked before, and what happens in its folder around the notebook's execution.

# glibc gives memory back to the system at every large free unless told otherwise, and a Dask worker tells it to do so
# early: a training step, which frees hundreds of tensors, then spends up to a third of its time on page faults.
KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextlib.contextmanager
def executed(target: Path, failed: Path) -> Iterator[Path]:
    """A path to execute a notebook to: in the end it is called `target`, or `failed` where something was raised.

    Raises `NotebookFailed`, which names `failed`. Of a notebook that was interrupted nothing is kept.
    """
    aside = target.with_name("running.ipynb")
    aside.unlink(missing_ok=True)
    try:
        yield aside
        os.replace(aside, target)
        failed.unlink(missing_ok=True)
    except Exception as error:
        if isinstance(error, NotebookInterrupted) or not aside.is_file():
            raise
        os.replace(aside, failed)
        raise NotebookFailed(f"{error}; see {failed}") from error
    finally:
        aside.unlink(missing_ok=True)


def execute(run: PlannedRun, root: Path, threads: int | None = None, needed: str | None = None) -> str:
    """Execute one run into its folder and return "" or, where it failed, what went wrong.

    The notebook is executed aside and gets its own name when its last cell has run and the run is finished. Where it
    fails after training, what was trained is kept for the next attempt, but does not count as finished.
    `threads` limits the kernel's threads; `needed` is the outcome of the run that this one waits for.
    """
    folder = root / run.folder
    if run.needs and (needed or not is_finished(root / run.needs)):
        return f"not started: it needs {run.needs}, which failed"
    metrics, withheld = folder / METRICS_FILE, folder / "metrics.withheld.json"
    with contextlib.suppress(run_folder.RunLockedError), lock_run(folder, patience_s=60):
        whole.sweep_temporary(folder)  # the kernel of a killed worker may hold the folder a moment longer
    if withheld.exists():
        os.replace(withheld, metrics)
    start = time.perf_counter()
    own = {} if run.experiment is None else {"out_dir": str(folder)}
    environment = KEPT_MEMORY | dict.fromkeys(THREADS if threads else (), str(threads))
    try:
        with executed(folder / run.notebook.name, folder / run_folder.FAILED_FILE) as aside:
            execute_notebook(run.notebook, aside, run.parameters | own, environment)
            if run.experiment is not None and not is_finished(folder):
                raise NotebookFailed(f"{run.notebook.name} ended without writing {METRICS_FILE} to {folder}")
    except Exception as error:
        stopped = isinstance(error, NotebookInterrupted)
        told = {"state": "interrupted" if stopped else "failed", "error": None if stopped else str(error)}
        with contextlib.suppress(DamagedRunError):  # the next attempt writes it anew
            if metrics.exists():  # they vouch for run.json, which must stay as it is
                os.replace(metrics, withheld)
            else:
                write_json(folder / RUN_FILE, read_json(folder / RUN_FILE) | told)
        return str(error)
    if run.experiment is None:  # a lesson's result is its notebook; the records are written here, the metrics last
        info = {"kind": run.kind, "notebook": run.notebook.name, "parameters": run.parameters}
        write_json(folder / RUN_FILE, run_folder.provenance() | info | {"state": "finished", "error": None})
        whole.seal(folder, {"wall_s": round(time.perf_counter() - start, 2)})
    return ""


# --- Where a batch's runs are executed: in this process one after the other, side by side, or on a Dask cluster.


def execute_all(
    pending: Sequence[PlannedRun], root: Path, jobs: int, scheduler: str | None, stop: StopRequest
) -> Iterator[tuple[PlannedRun, str]]:
    """Execute runs and yield each with its outcome as it ends; after a signal those that it did not cut short.

    On a cluster, where a worker dies in mid-notebook, the notebook runs again elsewhere. After a signal nothing more is
    started; notebooks under way on another machine's cluster run to their end.
    """
    if not pending or (scheduler is None and jobs == 1):
        for run in pending:
            error = run_aside(functools.partial(execute, run, root), stop)
            if not error or stop.signal is None:
                yield run, error
            if stop.signal is not None:
                break
        return
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster, wait

    with contextlib.ExitStack() as stack:
        threads, address = None, scheduler
        if scheduler is None:
            threads = max(1, CPU_COUNT // jobs)
            how: dict[str, Any] = {"processes": True, "memory_limit": 0, "silence_logs": logging.ERROR}
            how |= {"dashboard_address": "127.0.0.1:0", "preload": ["transkd_lite.experiments.batch"]}
            address = stack.enter_context(LocalCluster(n_workers=jobs, threads_per_worker=1, **how))
        try:
            client = stack.enter_context(Client(address, timeout="20s"))
        except (OSError, ValueError) as error:
            raise ParameterError(f"no Dask scheduler answers at {address}: {error}") from error
        running: dict[Any, PlannedRun] = {}
        for position, run in enumerate(pending):
            needed = next((future for future, other in running.items() if other.folder == run.needs), None)
            # Without a priority Dask may begin with the last run.
            how = {"pure": False, "retries": 1, "priority": -position}
            running[client.submit(execute, run, root, threads, needed, **how)] = run
        while running and stop.signal is None:
            with contextlib.suppress(TimeoutError):
                ended = wait(list(running), timeout=0.5, return_when="FIRST_COMPLETED").done
                for future in [future for future in running if future in ended]:
                    died = future.exception()
                    yield running.pop(future), f"{type(died).__name__}: {died}" if died else future.result()
        if stop.signal is not None:
            client.cancel(list(running))
            stop_kernels()


# --- A batch: every run of a profile through papermill, one after the other, side by side, or on a Dask cluster.


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

    profile: what to run.
    runs: the folder of all batches.
    methods, seeds: these instead of the profile's.
    jobs: notebooks side by side on this machine, 1 or more.
    scheduler: address of a Dask scheduler whose workers see the same files, instead of this machine.
    echo: takes one line of progress at a time.
    A finished run whose files are not as it left them is an error of the outcome; it is neither trusted nor touched.
    Raises `ParameterError`: something that has a name is wrong; nothing has run.
    Raises `RunLockedError`: another batch works in this folder.
    Raises `KeyboardInterrupt`, SystemExit: Ctrl-C or SIGTERM came; the same call goes on with what is not finished.
    """
    root = (runs / profile.name).resolve()
    outcome = Outcome(root, plan(profile, methods, seeds))
    pending = [run for run in outcome.runs if not is_done(root, run)]
    told = preflight(pending, root)[0] if pending else ""
    for path in [root / run.folder / name for run in outcome.runs if is_done(root, run) for name in whole.VOUCHED]:
        try:
            whole.verified(path)
        except DamagedRunError as damage:
            outcome.errors[path.parent.name] = str(damage)
    with lock_run(root), StopRequest() as stop, signs_of_life(root, pending, echo, 60):
        whole.sweep_temporary(root)
        if pending:
            echo(f"{told}\n{len(pending)} of {len(outcome.runs)} runs to do in {root}")
        for run, error in execute_all(pending, root, jobs, scheduler, stop):
            outcome.executed.append(run.folder)
            if error:
                outcome.errors[run.folder] = error
            echo(progress_line(len(outcome.executed), len(pending), root, run, error))
        if stop.signal is None:
            run_aside(lambda: _report(profile, outcome), stop)
    if stop.signal is not None:
        done = sum(is_done(root, run) and run.folder not in outcome.errors for run in outcome.runs)
        echo(f"stopped: {done} of {len(outcome.runs)} runs are finished; the same command goes on with the others")
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
    files = [root / folder / METRICS_FILE for folder in folders] + [profile.notebooks / f"{profile.report}.ipynb"]
    inputs = {str(file): whole.digest(file.read_bytes()) for file in files if file.is_file()}
    outcome.report, made_of = root / "report.html", root / "report.json"
    batch = {"profile": profile.name, "about": profile.about, "runs": list(folders)}
    with contextlib.suppress(DamagedRunError):  # then both are written anew
        if outcome.report.is_file() and read_json(made_of) == inputs and read_json(root / BATCH_FILE) == batch:
            return
    write_json(root / BATCH_FILE, batch)
    try:
        if not any(is_finished(root / folder) for folder in folders if folder.startswith("student-")):
            raise NotebookFailed("not rendered: no student has finished")
        render_report(profile, root)
        write_json(made_of, inputs)
        outcome.report_rendered = True
    except Exception as error:
        outcome.errors["report"] = str(error)


def render_report(profile: Profile, root: Path) -> Path:
    """Execute the profile's report on the runs in `root` and write `report.html`, without code, in one file.

    Raises `NotebookFailed`: a cell raised or was left out; the executed notebook is kept as `report.failed.ipynb`.
    """
    notebook = profile.notebooks / f"{profile.report}.ipynb"
    given = {"run_dir": root, "data_root": profile.parameters.get("data_root")}
    parameters = {name: str(path) for name, path in given.items() if path}
    check_parameters(parameters, read_signature(notebook), notebook.name)
    with executed(root / "report.ipynb", root / "report.failed.ipynb") as aside:
        execute_notebook(notebook, aside, parameters)
    title = f"{profile.name}: {profile.about}" + " (a smoke run: its scores mean nothing)" * profile.smoke
    return whole.atomic_write(root / "report.html", to_html(root / "report.ipynb", title))
