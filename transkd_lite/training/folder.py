"""Run folders: names, whole-or-nothing files, the lock of a folder, its state, and where a run came from.

A folder that has `metrics.json` is finished. Nothing here imports torch: a finished batch is recognised
at once. Temporary file, flush, fsync, rename, fsync of the folder: a kill at any moment leaves the old file
or the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from transkd_lite.data.files import atomic_write
from transkd_lite.training.config import check_plain

__all__ = [
    "Run", "RunLockedError", "caveats", "digest", "hash_parameters", "is_finished", "list_runs", "lock_run",
    "provenance", "read_json", "read_run", "run_name", "update_run", "write_json",
]  # fmt: skip

RUN_FILE, METRICS_FILE, HISTORY_FILE, STUDENT_FILE = ("run.json", "metrics.json", "history.csv", "student.safetensors")
BATCH_FILE = "batch.json"  # in a batch's folder: the run folders that belong to it
_LOCK_FILE = ".lock"


class RunLockedError(RuntimeError):
    """Another live process works in this run folder."""


def write_json(path: str | os.PathLike[str], value: Mapping[str, Any]) -> Path:
    """Write a mapping as indented JSON, whole or not at all."""
    return atomic_write(path, json.dumps(value, indent=2, default=_plain) + "\n")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object; a missing or broken file gives an empty one."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def digest(content: bytes | memoryview) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()[:16]


def hash_parameters(parameters: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of the parameters; the order of keys, and list or tuple, make no difference.

    >>> hash_parameters({"lr": 0.1, "size": (1, 2)}) == hash_parameters({"size": [1, 2], "lr": 0.1})
    True
    """
    text = json.dumps(parameters, sort_keys=True, separators=(",", ":"), default=_plain)
    return digest(text.encode())[:8]


def run_name(kind: str, method: str, seed: int, parameters: Mapping[str, Any]) -> str:
    """The name of a run folder, `<kind>-<method>-s<seed>-<hash of the parameters>`.

    >>> run_name("student", "none", 0, {"lr": 0.1})
    'student-none-s0-9c9ba942'
    """
    return check_plain(f"{kind}-{method}-s{seed}-{hash_parameters(parameters)}", "a run folder")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else os.fspath(value)  # of numpy or torch; or a path


@contextlib.contextmanager
def lock_run(folder: str | os.PathLike[str], patience_s: float = 0) -> Iterator[None]:
    """Hold a run folder for this process. The system drops the lock when the process dies, however it dies.

    Raises `RunLockedError` naming the folder and the process that still holds it after `patience_s`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(FileLock(folder / _LOCK_FILE, timeout=patience_s))
        except Timeout:
            holder = read_json(folder / RUN_FILE).get("pid", "unknown")
            raise RunLockedError(
                f"one process works in a run folder at a time; {folder} is held by process {holder}: "
                "wait for it, stop it, or choose another out_dir"
            ) from None
        yield


def is_finished(folder: str | os.PathLike[str]) -> bool:
    """Whether the folder holds a finished run, that is, a readable `metrics.json`."""
    return bool(read_json(Path(folder) / METRICS_FILE))


@dataclass(frozen=True)
class Run:
    """One run folder as it is on disk. state: finished, running, interrupted or failed."""

    folder: Path
    state: str
    info: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read one run folder.

    Raises `FileNotFoundError` if it is none (neither run.json nor metrics.json).
    """
    folder = Path(folder)
    info, metrics = read_json(folder / RUN_FILE), read_json(folder / METRICS_FILE)
    if not info and not metrics:
        raise FileNotFoundError(f"a run folder holds {RUN_FILE} or {METRICS_FILE}; {folder} has neither")
    # Where nobody holds the lock, what still says "running" was killed before it could write anything else.
    state = "failed" if info.get("state") == "failed" else "interrupted"
    if metrics:
        state = "finished"
    elif (folder / _LOCK_FILE).exists():
        try:
            with FileLock(folder / _LOCK_FILE, timeout=0):
                pass
        except OSError as error:  # without permission to write there it cannot be known
            state = "running" if isinstance(error, Timeout) else state
    return Run(folder, state, info, metrics)


def list_runs(root: str | os.PathLike[str]) -> list[Run]:
    """Every run folder below root, by path; an empty list if there is none."""
    runs = []
    for folder in sorted({path.parent for name in (RUN_FILE, METRICS_FILE) for path in Path(root).rglob(name)}):
        with contextlib.suppress(FileNotFoundError):
            runs.append(read_run(folder))
    return runs


def update_run(folder: str | os.PathLike[str], **values: Any) -> None:
    """Merge values into the folder's `run.json`."""
    path = Path(folder) / RUN_FILE
    write_json(path, read_json(path) | values)


def caveats(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a reader of several runs' scores must know, in sentences: old initial values, unlike precision or threads.

    runs: mappings with "precision", "threads" and "initial_values", as run.json and the rows of tables have them.
    """
    runs = list(runs)
    sentences = []
    if any(run.get("initial_values") != "published" for run in runs):
        sentences.append(
            "Measured with heads whose initial values were too large (a first cross entropy of 7.5 at 20 classes, "
            "where the published heads begin with 3.1); to be measured again."
        )
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
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "command": " ".join(map(os.path.basename, sys.argv[:1])) or "interactive",
        "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": commit,
        "dirty": dirty,
    }
