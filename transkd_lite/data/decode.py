"""Reading one photograph or one label file, resized, with an error that names the file and what is wrong.

Every dataset ends here: a row of its table names two files (or holds their bytes), and `Decoder` turns a
batch of rows into PIL images. Labels leave as 8-bit train ids, whatever numbers the file holds.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from transkd_lite.data.labels import ILLEGAL, VOID

__all__ = ["DataError", "Decoder", "Files", "Size", "open_files", "read_files", "target_size"]

# {"bytes": the encoded file or None, "path": its name or None}, as `datasets` has it, for "image", "label" or both
Files = Mapping[str, Mapping[str, Any]]
Size = int | tuple[int, int] | None  # the shorter side, or (height, width), or as the file is


class DataError(ValueError):
    """A file or folder of a dataset breaks a rule; the message names it and says what to do.

    ``kind`` is what `check_dataset` counts it under: file, size, label or pair.
    """

    def __init__(self, message: str, kind: str = "file") -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:  # both arguments survive the way out of a worker process
        return DataError, (str(self), self.kind)


def target_size(size: Size, width: int, height: int) -> tuple[int, int]:
    """(width, height) that a picture of width x height becomes; an int is the length of its shorter side.

    >>> target_size(512, 2048, 1024), target_size((180, 240), 480, 360), target_size(None, 480, 360)
    ((1024, 512), (240, 180), (480, 360))
    """
    if size is None:
        return width, height
    if isinstance(size, int):
        shorter = min(width, height)
        return round(width * size / shorter), round(height * size / shorter)
    return size[1], size[0]


def open_files(files: Files) -> dict[str, Image.Image]:
    """Read the headers of a sample's files and compare what they state; no pixel is decoded yet.

    Raises DataError for a file that cannot be read, for colour, 16-bit or lossy labels, and where sizes differ.
    """
    pictures: dict[str, Image.Image] = {}
    for kind, source in files.items():
        path, data = source.get("path"), source.get("bytes")
        if data is None and path and not os.path.exists(path):
            state = "is a broken symbolic link" if os.path.islink(path) else "does not exist"
            raise DataError(f"{kind} {path} {state}: restore the file")
        with _explained(source, kind):
            pictures[kind] = Image.open(io.BytesIO(data) if data is not None else path)  # type: ignore[arg-type]
    if "label" in pictures:
        _require_ids(pictures["label"], _name(files["label"]))
    if len({picture.size for picture in pictures.values()}) > 1:
        sizes = " and ".join("{} is {}x{}".format(_name(files[kind]), *pictures[kind].size) for kind in files)
        raise DataError(
            f"image and label have one size, but {sizes} (width x height): resize the label with nearest "
            "neighbour, or remove both",
            "size",
        )
    return pictures


def read_files(files: Files, table: np.ndarray, size: Size = None) -> dict[str, Image.Image]:
    """The sample as PIL images: the photograph in RGB, resized bilinearly with antialiasing, and the label as "L" of
    train ids, resized by nearest neighbour; ``table`` (256,) translates its values.

    Raises DataError as `open_files`, for images of 16 bits, and for a value where ``table`` holds ``ILLEGAL``.
    """
    pictures = open_files(files)
    for kind, picture in pictures.items():
        name, wanted = _name(files[kind]), target_size(size, *picture.size)
        if kind == "image" and picture.mode.startswith(("I", "F")):
            raise DataError(f"images have 8 bits a channel, but {name} is {picture.mode}: save it as RGB")
        with _explained(files[kind], kind):
            picture.load()
            pixels = picture.convert("RGB") if kind == "image" else picture
        if pixels.size != wanted:
            smooth = Image.Resampling.BILINEAR if kind == "image" else Image.Resampling.NEAREST
            pixels = pixels.resize(wanted, smooth)
        pictures[kind] = pixels if kind == "image" else _train_ids(pixels, table, name)
    return pictures


@dataclass(frozen=True)
class Decoder:
    """Turns a batch of table rows into PIL images; `datasets` calls it at every access."""

    values: bytes  # a lookup table of 256, file value -> train id; `datasets` can compare and hash bytes
    size: Size = None

    @property
    def table(self) -> np.ndarray:
        """The (256,) uint8 lookup table."""
        return np.frombuffer(self.values, dtype=np.uint8)

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        kinds = [kind for kind in ("image", "label") if kind in batch]
        rows = zip(*(batch[kind] for kind in kinds), strict=True)
        read = [read_files(dict(zip(kinds, row, strict=True)), self.table, self.size) for row in rows]
        return batch | {kind: [sample[kind] for sample in read] for kind in kinds}


def _name(source: Mapping[str, Any]) -> str:
    return source.get("path") or "a file inside the dataset"


@contextmanager
def _explained(source: Mapping[str, Any], kind: str) -> Iterator[None]:
    """Every way in which Pillow fails on a file becomes one DataError that says which file, and why."""
    try:
        yield
    except UnidentifiedImageError:
        reason = "not an image that Pillow knows, or empty"
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    else:
        return
    raise DataError(f"{kind} {_name(source)} cannot be read ({reason}): copy it again from the archive")


def _require_ids(picture: Image.Image, name: str) -> None:
    """Labels hold one 8-bit number a pixel, stored exactly."""
    if picture.mode.startswith(("I", "F")):
        rule = f"labels have 8 bits, but {name} has 16 or 32 (PIL mode {picture.mode})"
    elif picture.mode not in ("1", "L", "P"):
        rule = f"labels hold class numbers, but {name} holds colours (PIL mode {picture.mode})"
    elif picture.format in ("JPEG", "WEBP"):
        rule = f"labels are stored exactly, but {name} is a lossy {picture.format}"
    else:
        return
    raise DataError(f"{rule}: give the file of ids, as 8-bit grey or palette PNG", "label")


def _train_ids(picture: Image.Image, table: np.ndarray, name: str) -> Image.Image:
    """The label in train ids; DataError that names the largest value that has none."""
    values = np.asarray(picture, dtype=np.uint8)
    train_ids = table[values]
    illegal = values[train_ids == ILLEGAL]
    if not illegal.size:
        return Image.fromarray(train_ids)
    value, legal = int(illegal.max()), np.flatnonzero(table[:VOID] != ILLEGAL)
    are_train_ids = np.array_equal(table[legal], legal)
    hint = "mend the file (folder and hub can map values: label_map={value: train id})"
    if are_train_ids and len(legal) == 19 and value <= 44:
        hint = "this looks like labelIds, pass label_ids=True (cityscapes, acdc)"
    numbers = f"{legal[0]}-{legal[-1]}" if legal[-1] - legal[0] + 1 == len(legal) else str(legal.tolist())
    kind = "train ids" if are_train_ids else "ids"
    raise DataError(f"label {value} in {name}: {kind} are {numbers} and 255; {hint}", "label")
