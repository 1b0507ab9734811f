"""One picture or one label: read whole, its checksums verified, as RGB or as train ids, or refused in one sentence.

A *row* is one sample as `datasets` has it: {"image": {"path": …}, "label": {"path": …}}, with "bytes" in place of the
path where a table holds the file itself. Nothing here imports torch or `datasets`.

PNG carries a checksum for every part, which Pillow only looks at when it is asked to. JPEG and WebP carry none; there a
lost sector shows as a run of zeros, which coded pixels never have. Other formats cannot show a damage that leaves the
file's length and header alone.
"""

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, ImageSequence
from PIL.JpegImagePlugin import JpegImageFile

from transkd_lite.data.labels import ILLEGAL, VOID, Colour

__all__ = ["DataError", "Decoder", "Row", "Size", "read_bytes", "read_frames", "target_size", "to_rgb"]

Row = dict[str, Any]
Size = int | tuple[int, int] | None  # the shorter side, or (height, width), or as the file is


class DataError(ValueError):
    """A file or folder of a dataset breaks a rule; the message names it and says what to do.

    `kind` is what `check_dataset` counts it under: file, size, label or pair.
    """

    def __init__(self, message: str, kind: str = "file") -> None:
        super().__init__(message)
        self.kind = kind


def target_size(size: Size, width: int, height: int) -> tuple[int, int]:
    """(width, height) that a picture of width x height becomes; an int is the length of its shorter side.

    >>> target_size(512, 2048, 1024), target_size((180, 240), 480, 360), target_size(None, 480, 360)
    ((1024, 512), (240, 180), (480, 360))
    """
    if isinstance(size, int):
        shorter = min(width, height)
        return round(width * size / shorter), round(height * size / shorter)
    return (width, height) if size is None else (size[1], size[0])


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a regular file; OSError for a pipe or a socket, whose reader would wait for ever."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError("it is a folder, pipe, socket or device")
    return Path(path).read_bytes()


def _open(kind: str, name: str, content: bytes | None = None) -> Image.Image:
    """Read, verify and decode the file `name`, or its content; DataError where an image or a label is not stored so."""
    try:
        content = read_bytes(name) if content is None else content
        Image.open(io.BytesIO(content)).verify()
        picture = Image.open(io.BytesIO(content))
        how: Any = picture.tile[0][3] if picture.tile else ""
        picture.load()
        if _is_torn(content, picture):
            raise OSError("its coded pixels lack their end or hold 32 zeros in a row, as after a lost sector")
        if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
            raise OSError("it holds several pictures")
    except Exception as error:  # Pillow has many for a file that is not what it should be
        raise DataError(f"{kind} {name} cannot be read ({error!r}): copy it again, or save it as PNG") from None
    stored, mode = how if isinstance(how, str) else how[0], picture.mode
    found = f"{name} is {picture.format} of Pillow's mode {mode} ({stored})"
    if kind == "image" and mode.startswith(("I", "F")):
        raise DataError(f"images have 8 bits a channel, but {found}: save it as RGB")
    if kind == "image":
        return picture
    exact = picture.format not in ("JPEG", "MPO", "WEBP") and "jpeg" not in str(picture.info.get("compression"))
    halved = ";16" in stored and mode[0] != "I"  # of colours Pillow keeps the upper 8 of 16 bits
    opaque = mode[-1] != "A" or picture.getchannel("A").getextrema() == (255, 255)
    if not exact or halved or not opaque or mode.split(";")[0] not in ("1", "L", "P", "I", "F", "LA", "RGB", "RGBA"):
        raise DataError(f"labels are opaque colours or numbers, stored exactly, but {found}: give a grey PNG", "label")
    # Grey of 2 and 4 bits, and PGM of another highest number, come stretched to 0-255.
    top = how[1] if picture.format == "PPM" and len(how) == 2 else {"L;2": 3, "L;4": 15}.get(stored[:3], 255)
    return picture if top == 255 or mode != "L" else picture.point([round(n * top / 255) for n in range(256)])


def _is_torn(content: bytes, picture: Image.Image) -> bool:
    """Whether the coded pixels of a JPEG or WebP were cut off or overwritten with zeros, as whole sectors or not.

    A picture that is mostly of one colour may have such zeros when it is sound; then so has a copy.
    """
    if chunk := re.search(rb"VP8[ L](....)", content, re.DOTALL) if picture.format == "WEBP" else None:
        start, end = chunk.end(), chunk.end() + int.from_bytes(chunk[1], "little")
    elif isinstance(picture, JpegImageFile):
        start = 2 + sum(len(note) + 4 for _, note in picture.applist)  # behind cameras' notes, which have zeros
        end = content.find(b"\xff\xd9", start)
    else:
        return False
    if end < 0 or bytes(32) not in content[start:end]:
        return end < 0
    runs = [run.span() for run in re.compile(rb"\0{32,}").finditer(content, start, end)]
    copy, kind = io.BytesIO(), "WEBP" if chunk else "JPEG"
    picture.save(copy, kind, optimize=True, progressive="progressive" in picture.info)
    return bytes(32) not in copy.getvalue() or any(-first % 512 < 4 and last % 512 < 4 for first, last in runs)


def _upright(picture: Image.Image) -> Image.Image:
    """The picture turned by its EXIF orientation, or itself."""
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    return ImageOps.exif_transpose(picture) if turned else picture


def _in_rgb(picture: Image.Image) -> Image.Image:
    return (picture.convert("RGBA") if "transparency" in picture.info else picture).convert("RGB")


def to_rgb(picture: Any) -> np.ndarray:
    """One picture of whatever kind as uint8 (H, W, 3); a photograph is upright by its EXIF orientation.

    picture: PIL of any mode, a path, or an array or tensor (H, W), (H, W, C) or (C, H, W), C being 1 for grey, 3 for
        RGB, 4 for RGBA. Numbers are 0 to 255, or 0 to 1 where they are floats or truth values.
    Raises `ValueError` for another shape, and for numbers that are none of these, 16-bit ones among them.

    >>> to_rgb(np.array([[0.0, 1.0]])).tolist()
    [[[0, 0, 0], [255, 255, 255]]]
    """
    if isinstance(picture, str | os.PathLike):
        picture = _open("image", os.fspath(picture))
    if not isinstance(picture, Image.Image) or picture.mode.startswith(("I", "F")):
        is_tensor = hasattr(picture, "is_floating_point")
        if is_tensor:
            picture = (picture.float() if picture.is_floating_point() else picture).numpy(force=True)
        values = np.asarray(picture)
        depth = [size in (1, 3, 4) for size in values.shape]
        if values.ndim == 3 and depth[0] and (is_tensor or not depth[2]):
            values = np.moveaxis(values, 0, 2)
        numeric = values.dtype.kind in "biuf" and values.size > 0
        low, high = (values.min(), values.max()) if numeric else (np.nan, np.nan)
        if numeric and values.dtype.kind in "bf" and low >= 0 and high <= 1:
            values = np.rint(values * 255.0)
        fits = numeric and values.dtype != np.uint16 and 0 <= low <= high <= 255 and not (values % 1).any()
        if not fits or values.ndim not in (2, 3) or values.shape[2:] not in ((), (1,), (3,), (4,)):
            rule = "a picture is (H, W) or (H, W, 3 or 4) of numbers from 0 to 255, or of floats from 0 to 1"
            raise ValueError(f"{rule}; got {values.dtype} {values.shape} from {low} to {high}: convert it")
        picture = Image.fromarray(values.astype(np.uint8).reshape(values.shape[: 3 - (values.shape[2:] == (1,))]))
    return np.array(_in_rgb(_upright(picture)))


def read_frames(path: str | os.PathLike[str]) -> list[np.ndarray]:
    """The pictures of a file as `to_rgb` gives them: one, or every frame of an animation.

    Raises `DataError` for a file that cannot be read.
    """
    try:
        with Image.open(path) as picture:
            animated = getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO"
            frames = list(map(to_rgb, ImageSequence.Iterator(picture))) if animated else []
    except Exception as error:  # Pillow has many
        raise DataError(f"image {path} cannot be read ({error!r}): copy it again, or save it as PNG") from None
    return frames or [to_rgb(path)]


@dataclass(frozen=True)
class Decoder:
    """Turns a batch of table rows into PIL images; `datasets` calls it at every access, compares and hashes it.

    table: file value -> train id, see `lookup_table`.
    colours: (colour, train id) of labels that are drawn in colours, see `colour_ids`.
    """

    table: bytes
    size: Size = None
    colours: tuple[tuple[Colour, int], ...] = ()

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = [self.read(dict(zip(batch, row, strict=True))) for row in zip(*batch.values(), strict=True)]
        return {name: [row[name] for row in rows] for name in batch}

    def read(self, row: Row) -> Row:
        """The row with PIL images for its files: the photograph in RGB, resized bilinearly with antialiasing, and the
        label as "L" of train ids, resized by nearest neighbour.

        Raises `DataError` for a file that cannot be read or is damaged, images of 16 bits, labels that are not stored
        exactly, sizes that differ, a photograph of which nothing tells whether its label is turned, and a number or
        colour that is no class.
        """
        names = {kind: row[kind].get("path") or "a file in the table" for kind in ("image", "label") if kind in row}
        stored = {kind: _open(kind, name, row[kind].get("bytes")) for kind, name in names.items()}
        pictures = {kind: _upright(picture) for kind, picture in stored.items()}
        turned = [kind for kind in names if pictures[kind] is not stored[kind]]
        sizes = {picture.size for picture in pictures.values()}
        if len(sizes) > 1 or ("label" in names and turned == ["image"] and stored["image"].size in sizes):
            found = " and ".join("{} is {}x{}".format(names[kind], *pictures[kind].size) for kind in names)
            rule = "image and label have one size, and both are turned by an EXIF orientation or neither"
            raise DataError(f"{rule}, but {found}: resize the label, or save the turned one upright", "size")
        for kind, picture in pictures.items():
            whole = _in_rgb(picture) if kind == "image" else Image.fromarray(self._train_ids(picture, names[kind]))
            how = Image.Resampling.BILINEAR if kind == "image" else Image.Resampling.NEAREST
            pictures[kind] = whole.resize(target_size(self.size, *whole.size), how)
        return row | pictures

    def _train_ids(self, label: Image.Image, name: str) -> np.ndarray:
        """The train ids (H, W) of a label: by its numbers or by its colours, whichever are those of classes.

        A palette's numbers are its indices; RGB has numbers where its channels are equal. Raises `DataError` where
        neither are classes, or both are and differ.
        """
        colours: list[Any] = [()]  # nothing but numbers
        numbers: list[Any]
        if label.mode in ("L", "P"):
            values, palette = np.asarray(label), label.getpalette() or []
            places = numbers = [value for value, count in enumerate(label.histogram()) if count]
            colours = [tuple(palette[3 * value : 3 * value + 3]) for value in numbers]
        else:
            coloured = label.mode in ("RGB", "RGBA", "LA")
            pixels = np.asarray(label.convert("RGBA")).view("<u4")[..., 0] if coloured else np.asarray(label)
            kinds, values = np.unique(pixels, return_inverse=True)
            numbers = kinds[: VOID + 2].tolist()  # so many cannot all be classes
            places = list(range(len(numbers)))
            if coloured:
                colours = [tuple(pixel.to_bytes(4, "little")[:3]) for pixel in numbers]
                numbers = [colour[0] if len(set(colour)) == 1 else colour for colour in colours]
        known: dict[Any, int] = dict(self.colours)
        by_number = [self.table[int(number)] if number in range(256) else ILLEGAL for number in numbers]
        by_colour = [known.get(colour, ILLEGAL) for colour in colours]
        readings = [reading for reading in (by_number, by_colour) if ILLEGAL not in reading]
        if not readings:
            drawn = any(isinstance(number, tuple) for number in numbers)
            train_ids = zip(numbers, by_colour if drawn else by_number, strict=True)
            wrong = [number for number, train_id in train_ids if train_id == ILLEGAL][-1]
            legal = [value for value in range(VOID) if self.table[value] != ILLEGAL] or [VOID]
            ids = f"{legal[0]}-{legal[-1]}" if len(legal) > legal[-1] - legal[0] else str(legal)
            hint = "pass label_ids=True (labelIds), label_map or the colours of all classes in classes.txt"
            raise DataError(f"label {wrong} in {name}: ids are {ids} and {VOID}; {hint}", "label")
        if readings[0] != readings[-1]:
            found = f"{name} holds {by_number} by its numbers and {by_colour} by its colours"
            raise DataError(f"labels are read in one way, but {found}: pass label_map, or give a grey PNG", "label")
        table = np.zeros(256, dtype=np.uint8)
        table[places] = readings[0]
        return table.take(values)
