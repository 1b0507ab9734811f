"""Reading one photograph or one label file, resized, with an error that names the file and what is wrong.

Every dataset of the project ends here: a row of its table names two files (or holds their bytes), and
`Decoder` turns a batch of rows into PIL images. Labels leave as 8-bit train ids whatever numbers the file
holds.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from transkd_lite.data.labels import ILLEGAL, VOID

__all__ = ["DataError", "Decoder", "Size", "read_image", "read_label", "read_pair", "target_size"]

Source = Mapping[
    str, Any
]  # {"bytes": the encoded file or None, "path": its name or None}, as `datasets` stores it
Size = int | tuple[int, int] | None  # the shorter side, or (height, width), or as the file is

_EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}


class DataError(ValueError):
    """A file or folder of a dataset breaks a rule; the message names it and says what to do."""


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
    picture = _open(source, "image")
    if picture.mode not in _EIGHT_BIT:
        raise DataError(
            f"images have 8 bits a channel, but {_name(source)} is of PIL mode {picture.mode}: save it as RGB"
        )
    wanted = target_size(size, *picture.size)
    picture = _load(picture, source).convert("RGB")
    return picture if picture.size == wanted else picture.resize(wanted, Image.Resampling.BILINEAR)


def read_label(source: Source, table: np.ndarray, size: Size = None) -> Image.Image:
    """The label as PIL "L" of train ids, resized by nearest neighbour; ``table`` (256,) translates values.

    Raises DataError for colour or 16-bit files, and for a value where ``table`` holds ``ILLEGAL``.
    """
    picture = _open(source, "label")
    _require_ids(picture, source)
    values = np.asarray(_load(picture, source), dtype=np.uint8)
    train_ids = table[values]
    if (train_ids == ILLEGAL).any():
        _raise_illegal(values[train_ids == ILLEGAL], table, source)
    label = Image.fromarray(train_ids)
    wanted = target_size(size, *label.size)
    return label if label.size == wanted else label.resize(wanted, Image.Resampling.NEAREST)


def read_pair(
    image: Source, label: Source, table: np.ndarray, size: Size = None
) -> tuple[Image.Image, Image.Image]:
    """Both files of one sample; DataError as well when their sizes differ."""
    require_same_size(image, label)
    return read_image(image, size), read_label(label, table, size)


def require_same_size(image: Source, label: Source) -> None:
    """Compare the sizes that the two headers state (nothing is decoded)."""
    photo, ids = _open(image, "image").size, _open(label, "label").size
    if photo != ids:
        raise DataError(
            f"image and label have one size, but {_name(image)} is {photo[0]}x{photo[1]} and "
            f"{_name(label)} is {ids[0]}x{ids[1]} (width x height): "
            "resize the label with nearest neighbour, or remove both"
        )


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
            pairs = [
                read_pair(image, label, self.table, self.size)
                for image, label in zip(batch["image"], batch["label"], strict=True)
            ]
            out["image"], out["label"] = [image for image, _ in pairs], [label for _, label in pairs]
        elif "image" in batch:
            out["image"] = [read_image(image, self.size) for image in batch["image"]]
        elif "label" in batch:
            out["label"] = [read_label(label, self.table, self.size) for label in batch["label"]]
        return out


def _name(source: Source) -> str:
    return source.get("path") or "a file inside the dataset"


def _open(source: Source, kind: str) -> Image.Image:
    """Read the header; every way that can fail becomes one DataError that says which file and why."""
    path, data = source.get("path"), source.get("bytes")
    try:
        return Image.open(io.BytesIO(data) if data is not None else path)  # type: ignore[arg-type]
    except UnidentifiedImageError:
        reason = "is empty" if _is_empty(source) else "is not an image that Pillow can read"
        raise DataError(f"{kind} {_name(source)} {reason}: copy it again from the archive") from None
    except FileNotFoundError:
        reason = "is a broken symbolic link" if path and os.path.islink(path) else "does not exist"
        raise DataError(f"{kind} {path} {reason}: restore the file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{kind} {_name(source)} cannot be read ({_reason(error)}): repair or remove it"
        ) from None


def _load(picture: Image.Image, source: Source) -> Image.Image:
    """Decode the pixels; a truncated or damaged file becomes a DataError."""
    try:
        picture.load()
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{_name(source)} is damaged ({_reason(error)}): copy it again from the archive"
        ) from None
    return picture


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _is_empty(source: Source) -> bool:
    data, path = source.get("bytes"), source.get("path")
    return len(data) == 0 if data is not None else bool(path) and os.path.getsize(str(path)) == 0


def _require_ids(picture: Image.Image, source: Source) -> None:
    if picture.mode.startswith(("I", "F")):
        raise DataError(
            f"labels have 8 bits, but {_name(source)} is a 16- or 32-bit file: save it as 8-bit grey PNG"
        )
    if picture.mode not in ("1", "L", "P"):
        raise DataError(
            f"labels hold one class number a pixel, but {_name(source)} is of PIL mode {picture.mode}: "
            "it looks like a colour drawing; give the file with ids (grey or palette PNG)"
        )
    if picture.format in ("JPEG", "WEBP"):
        raise DataError(
            f"labels must be stored exactly, but {_name(source)} is {picture.format}: save ids as PNG"
        )


def _raise_illegal(values: np.ndarray, table: np.ndarray, source: Source) -> None:
    legal = [str(value) for value in np.flatnonzero(table != ILLEGAL) if value != VOID]
    trains_on_ids = np.array_equal(table[: len(legal)], np.arange(len(legal)))
    hint = "map such values with label_map={value: train id}, or mend the file"
    if trains_on_ids and len(legal) == 19 and int(values.max()) <= 33:
        hint = "this looks like labelIds, pass label_ids=True"
    kind = "train ids are" if trains_on_ids else "its ids are"
    raise DataError(
        f"label {int(values.max())} in {_name(source)}: {kind} {_ranges(legal)} and {VOID}; {hint}"
    )


def _ranges(legal: list[str]) -> str:
    numbers = [int(value) for value in legal]
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return ", ".join(legal)
