"""Checkpoints that are whole or absent: the digest of the content is part of the file's name.

One file holds everything a run needs to go on. It appears by a rename, the last two are kept, and a file
whose content does not have the digest of its name is passed over for the one before, with a warning.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from .runs import atomic_write

__all__ = ["list_checkpoints", "load_checkpoint", "save_checkpoint"]

_NAME = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.pt")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write state (tensors and plain values) as the checkpoint of a step; then drop all but the newest
    `keep`.

    Raises `OSError` naming the file if it cannot be written; the checkpoints before it stay.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = atomic_write(folder / f"step-{step:08d}-{_digest(content)}.pt", content)
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files by step, the newest last."""
    return sorted(p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name))


def load_checkpoint(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """Step and state of the newest whole checkpoint, None if there is none; only tensors and plain values
    are read.

    Warns (`UserWarning`) for every damaged file that is passed over.
    """
    for path in reversed(list_checkpoints(folder)):
        match = _NAME.fullmatch(path.name)
        assert match is not None
        content = path.read_bytes()
        if _digest(content) == match[2]:
            return int(match[1]), torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        warnings.warn(
            f"checkpoint {path} is damaged ({len(content)} bytes that do not have the digest of its name); "
            "falling back to the one before",
            stacklevel=2,
        )
    return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
