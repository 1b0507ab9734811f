"""Run folders: names, the lock of a folder, its state, and where a run came from.

A folder that has `metrics.json` is finished, and that file vouches for the others (see `data.whole`). Nothing here
imports torch: a finished batch is recognised at once.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from transkd_lite.data.whole import METRICS_FILE, RUN_FILE, DamagedRunError, digest, plain, read_json, verified
from transkd_lite.training.config import check_plain

__all__ = [
    "Run", "RunLockedError", "caveats", "is_finished", "list_runs", "lock_run", "provenance", "read_run", "run_name",
]  # fmt: skip

BATCH_FILE = "batch.json"  # in a batch's folder: the run folders that belong to it
FAILED_FILE = "failed.ipynb"  # in a run's folder: the notebook of its last attempt, where that failed
PROGRESS_FILE = "checkpoint/progress.json"  # step, steps, loss, left_s; a finished run has no such folder any more
_LOCK_FILE = ".lock"


class RunLockedError(RuntimeError):
    """Another live process works in this run folder."""


def run_name(kind: str, method: str, seed: int, parameters: Mapping[str, Any]) -> str:
    """The name of a run folder, `<kind>-<method>-s<seed>-<hash of the parameters>`.

    The hash has eight hexadecimal digits; the order of keys, and list or tuple, make no difference.

    >>> run_name("student", "none", 0, {"lr": 0.1})
    'student-none-s0-9c9ba942'
    """
    text = json.dumps(parameters, sort_keys=True, separators=(",", ":"), default=plain)
    return check_plain(f"{kind}-{method}-s{seed}-{digest(text.encode())[:8]}", "a run folder")


@contextlib.contextmanager
def lock_run(folder: str | os.PathLike[str], patience_s: float = 0) -> Iterator[None]:
    """Hold a run folder for this process. The system drops the lock when the process dies, however it dies.

    Raises `RunLockedError` naming the folder and the process that still holds it after `patience_s`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(folder / _LOCK_FILE).acquire(timeout=patience_s)
    except Timeout:
        holder = read_json(folder / RUN_FILE).get("pid", "unknown")
        rule = f"one process works in a run folder at a time; {folder} is held by process {holder}"
        raise RunLockedError(f"{rule}: wait for it, stop it, or choose another out_dir") from None
    with held:
        yield


def is_finished(folder: str | os.PathLike[str]) -> bool:
    """Whether the folder holds a finished run, that is, a `metrics.json`."""
    return (Path(folder) / METRICS_FILE).is_file()


class Run(NamedTuple):
    """One run folder as it is on disk.

    state: finished, running, interrupted, failed, or damaged (in a list of runs).
    progress: of an unfinished one step, steps, loss and left_s (seconds to go), as last told.
    note: what is damaged; of a finished run which files are gone, or that an earlier version wrote it, without digests.
    """

    folder: Path
    state: str
    info: dict[str, Any]
    metrics: dict[str, Any]
    note: str
    progress: dict[str, Any]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read one run folder; of a finished run, the files beside the records are looked for, but not read.

    Raises `FileNotFoundError` if it is none (neither run.json nor metrics.json), `DamagedRunError` if one of these
    cannot be trusted.
    """
    folder = Path(folder)
    metrics, info = read_json(folder / METRICS_FILE), read_json(verified(folder / RUN_FILE))
    if not info and not metrics:
        raise FileNotFoundError(f"a run folder holds {RUN_FILE} or {METRICS_FILE}; {folder} has neither")
    if metrics:
        files = metrics.pop("files", None)
        gone = [name for name in files or () if not (folder / name).is_file()]
        note = f"without {', '.join(gone)}" if gone else "" if files else "of an earlier version, without digests"
        return Run(folder, "finished", info, metrics, note, {})
    told = info.get("state")
    # Where nobody holds the lock, what still says "running" was killed before it could write anything else.
    failed = told == "failed" or (told == "finished" and (folder / FAILED_FILE).exists())
    state = "failed" if failed else "interrupted"
    if (folder / _LOCK_FILE).exists():
        try:
            with FileLock(folder / _LOCK_FILE, timeout=0):
                pass
        except OSError as error:  # without permission to write there it cannot be known
            state = "running" if isinstance(error, Timeout) else state
    ended = told == "finished" and state != "running" and not (folder / "checkpoint").exists()
    if ended and not any(folder.glob("metrics.*")):  # a batch withholds those of a run whose notebook failed after it
        what = f"is missing, though {RUN_FILE} says that the run is finished"
        raise DamagedRunError(f"{folder / METRICS_FILE} {what}: give the command that made the run again")
    with contextlib.suppress(DamagedRunError):  # a sign of life, no part of the run
        return Run(folder, state, info, {}, "", read_json(folder / PROGRESS_FILE))
    return Run(folder, state, info, {}, "", {})


def list_runs(root: str | os.PathLike[str]) -> list[Run]:
    """Every run folder below root, by path; an empty list if there is none. A damaged one says in `note` why it is."""
    runs = []
    for folder in sorted({path.parent for name in (RUN_FILE, METRICS_FILE) for path in Path(root).rglob(name)}):
        with contextlib.suppress(FileNotFoundError):
            try:
                runs.append(read_run(folder))
            except DamagedRunError as error:
                runs.append(Run(folder, "damaged", {}, {}, str(error), {}))
    return runs


def caveats(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a reader of several runs' scores must know, in sentences: unlike precision or threads.

    runs: mappings with "precision" and "threads", as run.json and the rows of tables have them.
    """
    runs = list(runs)
    sentences = []
    for name in ("precision", "threads"):
        counts = Counter(str(run[name]) for run in runs if run.get(name) not in (None, ""))
        if len(counts) > 1:
            found = ", ".join(f"{value} in {count} runs" for value, count in counts.items())
            sentences.append(f"The runs differ in {name} ({found}): part of a difference may come from that.")
    return sentences


def provenance() -> dict[str, Any]:
    """Where a run happens: versions, git commit and whether the tree had changes, host system, process, start time."""
    versions = {}
    for name in ("torch", "torchvision", "timm", "accelerate", "datasets", "numpy", "transkd-lite"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    commit, dirty = None, None  # where the package is installed without git
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        git = ["git", "-C", str(Path(__file__).resolve().parent)]
        git += ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]  # <commit>, or <commit>-dirty
        said = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        commit, dirty = said.removesuffix("-dirty"), said.endswith("-dirty")
    return {
        "versions": versions,
        "initial_values": "published",  # of the heads; runs without this entry began with larger ones
        "python": platform.python_version(), "platform": platform.platform(), "cpu_count": os.cpu_count(),
        "command": " ".join(map(os.path.basename, sys.argv[:1])) or "interactive", "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "commit": commit, "dirty": dirty,
    }  # fmt: skip
