"""Files that are written whole or not at all, and are checked when they are read.

Written aside, flushed, synced and renamed: a kill at any moment leaves the old file or the new one. A JSON file ends
with the digest of its text; one that cannot be read, or has another digest, never counts as an empty one. The last file
of a run, `metrics.json`, holds size and SHA-256 of the others; whoever reads one of them takes its path from
`verified`. What earlier versions wrote, without digests, is read unchecked. Nothing here imports torch.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "COURSE", "DamagedRunError", "atomic_write", "digest", "find_path", "fingerprint", "plain", "read_json",
    "seal", "sweep_temporary", "user_cache", "verified", "write_json",
]  # fmt: skip

_CLONE = Path(__file__).resolve().parents[2]
# What holds notebooks/ and data/: the clone, or else what was installed with the package.
COURSE = _CLONE if (_CLONE / "notebooks" / "profiles").is_dir() else _CLONE / "transkd_lite" / "course"
RUN_FILE, METRICS_FILE, HISTORY_FILE, STUDENT_FILE = ("run.json", "metrics.json", "history.csv", "student.safetensors")
VOUCHED = (STUDENT_FILE, HISTORY_FILE, RUN_FILE)  # files for which the metrics of a finished run vouch
TEMPORARY = ".tmp-"  # how the name of every file begins that is not whole yet


def find_path(source: str | os.PathLike[str]) -> Path:
    """A path as it is given, or below the course's folder (data/weights/…) where it is only there."""
    path = Path(source).expanduser()
    return COURSE / source if not path.exists() and (COURSE / source).exists() else path


def atomic_write(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Write a file whole or not at all; on any error the old file stays and the temporary one goes.

    Raises `OSError` naming the file and the size (a full disk, a folder without permission).
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{TEMPORARY}{os.urandom(16).hex()}")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        what = f"could not write {len(data) / 1e6:.1f} MB ({error.strerror}); free space or choose another folder"
        raise OSError(error.errno, what, str(path)) from error
    finally:
        aside.unlink(missing_ok=True)
    if os.name != "nt":  # there a folder cannot be opened, and a rename is durable enough
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    return path


def sweep_temporary(*folders: Path) -> None:
    """Remove what a killed writer left in these folders, but not below them (call it only under their lock)."""
    for path in [path for folder in folders for path in folder.glob(f"{TEMPORARY}*") if path.is_file()]:
        path.unlink(missing_ok=True)


def user_cache(kind: str) -> Path:
    """The folder of one kind of what can be made again: in `TRANSKD_CACHE`, or else in the user's cache folder."""
    import pooch

    return Path(os.environ.get("TRANSKD_CACHE") or pooch.os_cache("transkd_lite")) / kind


def digest(content: bytes | memoryview) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()[:16]


# --- JSON files, each with its own digest.


class DamagedRunError(ValueError):
    """A file of a run is missing, cannot be read, or is not what was written: which one, and what to do."""


def _damaged(path: Path, found: str) -> DamagedRunError:
    """What is wrong with a file, and how it is made again: with its run where that is finished, otherwise alone."""
    what = f"the run folder {path.parent}" if path.with_name(METRICS_FILE).exists() else "it"
    return DamagedRunError(f"{path} {found}: delete {what} and give the command that made it again")


def plain(value: Any) -> Any:
    """A value of numpy or torch, or a path, as JSON can hold it."""
    return value.tolist() if hasattr(value, "tolist") else os.fspath(value)


def write_json(path: str | os.PathLike[str], value: Mapping[str, Any]) -> Path:
    """Write a mapping as indented JSON; its last entry is the SHA-256 of all text before."""
    text = json.dumps({**value, "sha256": ""}, indent=2, default=plain).removesuffix('"\n}')
    return atomic_write(path, f'{text}{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n')


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object, without the digest that it ends with; a missing file gives an empty one.

    Raises `DamagedRunError`: it cannot be read, or is not what was written.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        value = json.loads(content)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise _damaged(path, f"cannot be read ({error})") from error
    # Found by its place, not by its name, which may be what is damaged.
    ended = re.fullmatch(rb'(.*")([^"]{64})"\s*}\s*', content, re.DOTALL)
    if not isinstance(value, dict) or (ended and hashlib.sha256(ended[1]).hexdigest().encode() != ended[2]):
        raise _damaged(path, "is not what was written (its text has another SHA-256 than it ends with)")
    return {name: entry for name, entry in value.items() if name != "sha256"}


# --- The files of a finished run, for which its metrics vouch.


def fingerprint(path: Path) -> dict[str, Any]:
    """The size of a file, "bytes", and its "sha256"."""
    with path.open("rb") as file:
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def seal(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Finish a run: write `metrics.json` with the metrics, and size and SHA-256 of the run's other files."""
    paths = [path for name in VOUCHED if (path := folder / name).is_file()]
    write_json(folder / METRICS_FILE, {**metrics, "files": {path.name: fingerprint(path) for path in paths}})


def verified(path: str | os.PathLike[str]) -> Path:
    """The path of a file, after the check that it is what its finished run left.

    A file for which no `metrics.json` beside it vouches passes: of an unfinished run, of an earlier version, of no run.
    Raises `DamagedRunError`: it is missing, cannot be read, or has another size or SHA-256.
    """
    path = Path(path)
    if path.name in VOUCHED:
        kept = read_json(path.with_name(METRICS_FILE)).get("files", {}).get(path.name)
        try:
            if kept is not None and fingerprint(path) != kept:
                raise _damaged(path, f"is not what its run left (another size or SHA-256 than {METRICS_FILE} says)")
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            raise _damaged(path, "is missing" if gone else f"cannot be read ({error})") from error
    return path
