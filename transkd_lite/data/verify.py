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

import numpy as np

from transkd_lite.data.decode import DataError, read_image, read_label, require_same_size
from transkd_lite.data.folders import Pair

__all__ = ["cache_folder", "fingerprint", "problem_of", "verify", "verify_pair"]

CHECKS = ("files", "headers", "none")


def cache_folder() -> Path:
    """Where this project keeps what it can make again: ``TRANSKD_CACHE``, or the user's cache folder."""
    import pooch

    return Path(os.environ.get("TRANSKD_CACHE") or pooch.os_cache("transkd_lite"))


def fingerprint(pairs: Sequence[Pair], *parts: bytes) -> str:
    """Sixteen hex digits over the files' names, sizes and times of change, and over ``parts``."""
    digest = hashlib.sha256()
    for path in (path for pair in pairs for path in (pair.image, pair.label)):
        try:
            state = os.stat(path)
            line = f"{path.absolute()}\0{state.st_size}\0{state.st_mtime_ns}\n"
        except OSError:
            line = f"{path.absolute()}\0missing\n"
        digest.update(line.encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def verify(pairs: Sequence[Pair], table: np.ndarray, check: str = "files") -> None:
    """Raise the DataError of the first pair that is not sound.

    Args:
        table: (256,) file value -> train id.
        check: "files" decodes every image and label, "headers" compares sizes and modes only, "none" does
            nothing.
    """
    if check not in CHECKS:
        raise ValueError(f"check is one of {', '.join(CHECKS)}, got {check!r}: choose one of these")
    if check == "none":
        return
    marker = cache_folder() / "verified" / fingerprint(pairs, table.tobytes(), check.encode())
    if marker.exists():
        return
    look = verify_pair if check == "files" else _verify_headers
    for error in each_problem(pairs, lambda pair: problem_of(pair, table, look)):
        if error is not None:
            raise error
    with contextlib.suppress(OSError):  # a read-only home only means that the next opening looks again
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def each_problem(
    pairs: Sequence[Pair], look: Callable[[Pair], DataError | None], title: str = "checking files"
) -> Iterator[DataError | None]:
    """``look`` at every pair in threads (Pillow decodes outside the interpreter lock), in order.

    A progress bar appears on stderr when it takes more than five seconds.
    """
    from tqdm.auto import tqdm

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from tqdm(
            pool.map(look, pairs, chunksize=1), title, len(pairs), unit="pair", delay=5, leave=False
        )


def verify_pair(pair: Pair, table: np.ndarray) -> None:
    """Decode both files of a pair; DataError when one is damaged, sizes differ or a value is illegal."""
    image, label = {"path": str(pair.image)}, {"path": str(pair.label)}
    require_same_size(image, label)
    read_label(label, table)
    read_image(image)


def problem_of(
    pair: Pair, table: np.ndarray, look: Callable[[Pair, np.ndarray], None] = verify_pair
) -> DataError | None:
    """The DataError of a pair, or None when it is sound."""
    try:
        look(pair, table)
    except DataError as error:
        return error
    return None


def _verify_headers(pair: Pair, table: np.ndarray) -> None:
    require_same_size({"path": str(pair.image)}, {"path": str(pair.label)})
