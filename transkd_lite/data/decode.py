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

__all__ = ["DataError", "Decoder", "Size", "read_image", "read_label", "read_pair", "target_size"]

Source = Mapping[
    str, Any
]  # {"bytes": the encoded file or None, "path": its name or None}, as `datasets` has it
Size = int | tuple[int, int] | None  # the shorter side, or (height, width), or as the file is

_EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}


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


def read_image(source: Source, size: Size = None) -> Image.Image:
    """The photograph as PIL RGB, resized bilinearly with antialiasing; DataError when that is impossible."""
    return _image(_open(source, "image"), source, size)


def read_label(source: Source, table: np.ndarray, size: Size = None) -> Image.Image:
    """The label as PIL "L" of train ids, resized by nearest neighbour; ``table`` (256,) translates values.

    Raises DataError for colour or 16-bit files, and for a value where ``table`` holds ``ILLEGAL``.
    """
    return _label(_open(source, "label"), source, table, size)


def read_pair(
    image: Source, label: Source, table: np.ndarray, size: Size = None
) -> tuple[Image.Image, Image.Image]:
    """Both files of one sample; DataError as well when their sizes differ."""
    photo, ids = open_pair(image, label)
    return _image(photo, image, size), _label(ids, label, table, size)


def open_pair(image: Source, label: Source) -> tuple[Image.Image, Image.Image]:
    """Read both headers and compare what they state; no pixel is decoded yet."""
    photo, ids = _open(image, "image"), _open(label, "label")
    _require_ids(ids, label)
    if photo.size != ids.size:
        raise DataError(
            "image and label have one size, but {} is {}x{} and {} is {}x{} (width x height): resize the label "
            "with nearest neighbour, or remove both".format(
                _name(image), *photo.size, _name(label), *ids.size
            ),
            "size",
        )
    return photo, ids


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
        out = dict(batch)
        if "image" in batch and "label" in batch:
            files = zip(batch["image"], batch["label"], strict=True)
            pairs = [read_pair(image, label, self.table, self.size) for image, label in files]
            out["image"], out["label"] = [image for image, _ in pairs], [label for _, label in pairs]
        elif "image" in batch:
            out["image"] = [read_image(image, self.size) for image in batch["image"]]
        elif "label" in batch:
            out["label"] = [read_label(label, self.table, self.size) for label in batch["label"]]
        return out


def _image(picture: Image.Image, source: Source, size: Size) -> Image.Image:
    if picture.mode not in _EIGHT_BIT:
        raise DataError(
            f"images have 8 bits a channel, but {_name(source)} is {picture.mode}: save it as RGB"
        )
    with _explained(source, "image"):
        pixels = picture.convert("RGB")
    wanted = target_size(size, *pixels.size)
    return pixels if pixels.size == wanted else pixels.resize(wanted, Image.Resampling.BILINEAR)


def _label(picture: Image.Image, source: Source, table: np.ndarray, size: Size) -> Image.Image:
    _require_ids(picture, source)
    with _explained(source, "label"):
        picture.load()
    wanted = target_size(size, *picture.size)
    if picture.size != wanted:
        picture = picture.resize(wanted, Image.Resampling.NEAREST)
    values = np.asarray(picture, dtype=np.uint8)
    train_ids = table[values]
    if (train_ids == ILLEGAL).any():
        raise DataError(_illegal(int(values[train_ids == ILLEGAL].max()), table, source), "label")
    return Image.fromarray(train_ids)


def _name(source: Source) -> str:
    return source.get("path") or "a file inside the dataset"


def _open(source: Source, kind: str) -> Image.Image:
    path, data = source.get("path"), source.get("bytes")
    if data is None and path and not os.path.exists(path):
        state = "is a broken symbolic link" if os.path.islink(path) else "does not exist"
        raise DataError(f"{kind} {path} {state}: restore the file")
    with _explained(source, kind):
        return Image.open(io.BytesIO(data) if data is not None else path)  # type: ignore[arg-type]


@contextmanager
def _explained(source: Source, kind: str) -> Iterator[None]:
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


def _require_ids(picture: Image.Image, source: Source) -> None:
    """Labels hold one 8-bit number a pixel, stored exactly."""
    if picture.mode.startswith(("I", "F")):
        rule = f"labels have 8 bits, but {_name(source)} has 16 or 32 (PIL mode {picture.mode})"
    elif picture.mode not in ("1", "L", "P"):
        rule = f"labels hold class numbers, but {_name(source)} holds colours (PIL mode {picture.mode})"
    elif picture.format in ("JPEG", "WEBP"):
        rule = f"labels are stored exactly, but {_name(source)} is a lossy {picture.format}"
    else:
        return
    raise DataError(f"{rule}: give the file of ids, as 8-bit grey or palette PNG", "label")


def _illegal(value: int, table: np.ndarray, source: Source) -> str:
    legal = np.flatnonzero(table[:VOID] != ILLEGAL)
    are_train_ids = np.array_equal(table[legal], legal)
    hint = "mend the file (folder and hub can map values: label_map={value: train id})"
    if are_train_ids and len(legal) == 19 and value <= 44:
        hint = "this looks like labelIds, pass label_ids=True (cityscapes, acdc)"
    numbers = f"{legal[0]}-{legal[-1]}" if legal[-1] - legal[0] + 1 == len(legal) else str(legal.tolist())
    return f"label {value} in {_name(source)}: {'train ids' if are_train_ids else 'ids'} are {numbers} and 255; {hint}"
