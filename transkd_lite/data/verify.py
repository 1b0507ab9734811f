"""Looking into every file of a split once, before anything is trained on it.

Decoding a whole split costs minutes for Cityscapes, so the verdict "all is well" is remembered in the user's
cache folder under a hash of every file's name, size and time of change; a changed file is looked at again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from transkd_lite.data.decode import DataError, open_files, read_files
from transkd_lite.data.folders import Pair

__all__ = ["cache_folder", "fingerprint", "over_pairs", "verify"]

T = TypeVar("T")


def cache_folder() -> Path:
    """Where this project keeps what it can make again: ``TRANSKD_CACHE``, or the user's cache folder."""
    import pooch

    return Path(os.environ.get("TRANSKD_CACHE") or pooch.os_cache("transkd_lite"))


def fingerprint(pairs: Sequence[Pair], *parts: bytes) -> str:
    """Sixteen hex digits over the files' names, sizes and times of change, and over ``parts``."""
    digest = hashlib.sha256(b"\0".join(parts))
    for path in (path for pair in pairs for path in (pair.image, pair.label)):
        digest.update(os.fsencode(path.absolute()))
        with contextlib.suppress(OSError):  # a missing file has a fingerprint too; reading it is what fails
            state = path.stat()
            digest.update(f"{state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def over_pairs(look: Callable[[Pair], T], pairs: Sequence[Pair]) -> Iterator[T | DataError]:
    """What ``look`` returns for every pair, or its DataError, in order; in threads (Pillow decodes outside the
    interpreter lock).

    A progress bar appears on stderr when it takes more than five seconds.
    """
    from tqdm.auto import tqdm

    def attempt(pair: Pair) -> T | DataError:
        try:
            return look(pair)
        except DataError as error:
            return error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(attempt, pairs)
        yield from tqdm(found, "checking files", len(pairs), unit="pair", delay=5, leave=False)


def verify(pairs: Sequence[Pair], table: np.ndarray, check: str = "files") -> None:
    """Raise the DataError of the first pair that is not sound.

    Args:
        table: (256,) file value -> train id.
        check: "files" decodes every image and label, "headers" compares only what the headers state, "none"
            does nothing.
    """
    looks = {
        "files": lambda pair: read_files(pair.files, table),
        "headers": lambda pair: open_files(pair.files),
    }
    if check not in (*looks, "none"):
        known = ", ".join((*looks, "none"))
        raise ValueError(f"check is one of {known}, got {check!r}: choose one of these")
    marker = cache_folder() / "verified" / fingerprint(pairs, table.tobytes(), check.encode())
    if check == "none" or marker.exists():
        return
    for found in over_pairs(looks[check], pairs):
        if isinstance(found, DataError):
            raise found
    with contextlib.suppress(OSError):  # a read-only home only means that the next opening looks again
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
