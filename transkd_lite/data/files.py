"""The files of a dataset: written whole, read with an error that names them, paired, looked into once, kept resized.

Nothing here imports torch or, at top level, `datasets`. A *row* is one sample as `datasets` has it: {"image": {"path":
…}, "label": {"path": …}}, with "bytes" in place of the path where a table holds the file itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from transkd_lite.data.labels import ILLEGAL, VOID, lookup_table

if TYPE_CHECKING:
    import datasets

__all__ = [
    "DataError", "Decoder", "Listing", "Row", "Size", "atomic_write", "cached", "list_files", "over_rows",
    "read_lines", "read_list", "sweep_temporary", "target_size", "verify",
]  # fmt: skip

_TEMPORARY = ".tmp-"


def atomic_write(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Write a file whole or not at all; on any error the old file stays and the temporary one goes.

    Raises `OSError` naming the file and the size (a full disk, a folder without permission).
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
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


def sweep_temporary(folder: str | os.PathLike[str]) -> None:
    """Remove what a killed writer left behind (call it only under the folder's lock)."""
    for path in [path for path in Path(folder).rglob(_TEMPORARY + "*") if path.is_file()]:
        path.unlink(missing_ok=True)


# --- Reading one sample, resized, with an error that names the file and what is wrong.

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


@dataclass(frozen=True)
class Decoder:
    """Turns a batch of table rows into PIL images; `datasets` calls it at every access, compares and hashes it.

    table: file value -> train id, see `lookup_table`.
    """

    table: bytes
    size: Size = None

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = [self.read(dict(zip(batch, row, strict=True))) for row in zip(*batch.values(), strict=True)]
        return {name: [row[name] for row in rows] for name in batch}

    def read(self, row: Row) -> Row:
        """The row with PIL images for its files: the photograph in RGB, resized bilinearly with antialiasing, and the
        label as "L" of train ids, resized by nearest neighbour.

        Raises `DataError` for a file that cannot be read, images of 16 bits, labels that are not 8-bit numbers stored
        exactly, sizes that differ, and a value where `table` holds `ILLEGAL`.
        """
        pictures: Row = {}
        names = {kind: row[kind].get("path") or "a file in the table" for kind in ("image", "label") if kind in row}
        for kind, name in names.items():
            data = row[kind].get("bytes")
            try:
                pictures[kind] = picture = Image.open(name if data is None else io.BytesIO(data))
                picture.load()
            except Exception as error:  # Pillow has many for a file that is not what it should be
                reason = f"{type(error).__name__}: {error}"
                raise DataError(f"{kind} {name} cannot be read ({reason}): copy it again from the archive") from None
            found = f"{name} is {picture.format} of Pillow's mode {picture.mode}"
            if kind == "image" and picture.mode.startswith(("I", "F")):
                raise DataError(f"images have 8 bits a channel, but {found}: save it as RGB")
            if kind == "label" and (picture.mode not in ("1", "L", "P") or picture.format in ("JPEG", "WEBP")):
                rule = "labels are 8-bit class numbers, stored exactly"
                raise DataError(f"{rule}, but {found}: give the file of ids, as grey or palette PNG", "label")
        if len({picture.size for picture in pictures.values()}) > 1:
            sizes = " and ".join("{} is {}x{}".format(names[kind], *pictures[kind].size) for kind in names)
            advice = "resize the label with nearest neighbour, or remove both"
            raise DataError(f"image and label have one size, but {sizes} (width x height): {advice}", "size")
        if image := pictures.get("image"):
            wanted = target_size(self.size, *image.size)
            pictures["image"] = image.convert("RGB").resize(wanted, Image.Resampling.BILINEAR)
        if label := pictures.get("label"):
            label = label.resize(target_size(self.size, *label.size), Image.Resampling.NEAREST)
            values = np.asarray(label, dtype=np.uint8).tobytes()
            train_ids = values.translate(self.table)
            if ILLEGAL in train_ids:
                value = max(value for value in set(values) if self.table[value] == ILLEGAL)
                legal = [value for value in range(VOID) if self.table[value] != ILLEGAL]
                numbers = f"{legal[0]}-{legal[-1]}" if len(legal) > legal[-1] - legal[0] else str(legal)
                hint = "pass label_ids=True (labelIds of cityscapes, acdc) or label_map={value: train id} (folder, hub)"
                raise DataError(f"label {value} in {names['label']}: ids are {numbers} and {VOID}; {hint}", "label")
            pictures["label"] = Image.frombytes("L", label.size, train_ids)
        return row | pictures


# --- Finding the files of a dataset on disk and pairing each image with its label.

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


@dataclass(frozen=True)
class Listing:
    """What a layout found for one split: files by key, and how the label files number their classes."""

    images: dict[str, Path]
    labels: dict[str, Path]
    where: Path
    ids: dict[int, int] | None = None  # file value -> train id; None: the files hold train ids
    by_condition: bool = False  # the first folder of a key is the weather or light

    def unpaired(self) -> list[str]:
        """A message about every file without a partner, images first."""
        files = {"image": self.images, "label": self.labels}
        return [
            f"every {kind} needs its {other} of the same name, but {path} has none: add it or remove the {kind}"
            for kind, other in (("image", "label"), ("label", "image"))
            for key, path in files[kind].items()
            if key not in files[other]
        ]

    def rows(self) -> list[Row]:
        """The samples that have both files, in the order of their keys."""
        return [
            {"image": {"path": str(self.images[key])}, "label": {"path": str(self.labels[key])}}
            | ({"condition": key.split("/")[0]} if self.by_condition else {})
            for key in sorted(self.images.keys() & self.labels.keys())
        ]

    def only(self, keys: Collection[str]) -> Listing:
        """The samples that a split list names; DataError for a name without any file."""
        if missing := set(keys) - self.images.keys() - self.labels.keys():
            advice = "add the image or remove the line"
            raise DataError(f"a split list names {min(missing)!r}, but {self.where} lacks it: {advice}")
        images, labels = ({k: p for k, p in files.items() if k in keys} for files in (self.images, self.labels))
        return replace(self, images=images, labels=labels)


def list_files(
    root: Path, images: str, labels: str, *, ids: dict[int, int] | None = None, endings: tuple[str, str] = ("", "")
) -> Listing:
    """The pictures in two folders below `root`, and below these, by key: the path without suffix and ending.

    ids: how the label files number their classes, see `Listing`.
    endings: what the stems of images and of labels end with, such as `_leftImg8bit`.

    Symbolic links are followed, but never in a circle. Raises `FileNotFoundError` without the two folders, DataError
    when two files share a key or a folder cannot be listed.
    """

    def stop(error: OSError) -> None:
        raise DataError(f"folder {error.filename} cannot be listed ({error.strerror}): mend its permissions")

    def by_key(folder: Path, ending: str) -> dict[str, Path]:
        found, seen = dict[str, Path](), set[str]()
        for parent, folders, names in os.walk(folder, onerror=stop, followlinks=True):
            real = os.path.realpath(parent)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            for path in (Path(parent, name) for name in sorted(names) if not name.startswith(".")):
                key = path.relative_to(folder).as_posix().removesuffix(path.suffix)
                if path.suffix.lower() not in SUFFIXES or not key.endswith(ending):
                    continue
                key = key.removesuffix(ending)
                if key in found:
                    raise DataError(f"files are matched by name, but {found[key]} and {path} share one: remove one")
                found[key] = path
        return found

    for kind, folder in (("images", root / images), ("labels", root / labels)):
        if not folder.is_dir():
            advice = "`transkd data fetch` says what to unpack"
            raise FileNotFoundError(f"{kind} should be in {folder}, but that is no folder: {advice}")
    return Listing(by_key(root / images, endings[0]), by_key(root / labels, endings[1]), root / images, ids)


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a small text file without blanks; errors name the file and say `what` it should hold."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"{what} should be in {path}, but it does not exist: write one a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): write {what} into it, one a line, in UTF-8") from None
    return [line.strip() for line in lines if line.strip()]


def read_list(path: Path) -> set[str]:
    """The keys that a split list names, one a line.

    A suffix goes, and so does what surrounds the name in "/JPEGImages/a.jpg /SegmentationClassAug/a.png".
    """
    lines = read_lines(path, "names of images")
    names = (line.split(" /")[0].rsplit("/", 1)[-1] if line.startswith("/") else line for line in lines)
    return {str(Path(name).with_suffix("")) if Path(name).suffix.lower() in SUFFIXES else name for name in names}


# --- Looking into every file of a split once, before anything is trained on it.
#
# Decoding a whole split costs minutes for Cityscapes, so the verdict "all is well" is remembered in the user's
# cache folder under a hash of every file's name, size and time of change; a changed file is looked at again.


def _cache_file(kind: str, rows: Iterable[Row], *parts: bytes) -> Path:
    """A file name in `TRANSKD_CACHE`, or the user's cache folder, for what was made of these files and `parts`."""
    import pooch

    digest = hashlib.sha256(b"\0".join(parts))
    for path in (row[kind]["path"] for row in rows for kind in ("image", "label")):
        digest.update(os.fsencode(os.path.abspath(path)))
        with contextlib.suppress(OSError):  # a missing file has a fingerprint too; reading it is what fails
            state = os.stat(path)
            digest.update(f"{state.st_size} {state.st_mtime_ns}".encode())
    return Path(os.environ.get("TRANSKD_CACHE") or pooch.os_cache("transkd_lite")) / kind / digest.hexdigest()[:16]


def over_rows(look: Callable[[Row], Any], rows: Sequence[Row]) -> list[Any]:
    """What `look` returns for every row, in threads (Pillow decodes outside the interpreter lock).

    A progress bar appears on stderr when it takes more than five seconds.
    """
    from tqdm.contrib.concurrent import thread_map

    return thread_map(look, rows, desc="checking files", unit="pair", delay=5, leave=False)


def verify(rows: Sequence[Row], table: bytes) -> None:
    """Decode every image and label; raise the DataError of the first that is not sound."""
    marker = _cache_file("verified", rows, table)
    if os.path.exists(marker):  # unlike Path.exists, False in a home that cannot be searched
        return

    def look(row: Row) -> None:
        Decoder(table).read(row)

    over_rows(look, rows)
    with contextlib.suppress(OSError):  # a read-only home only means that the next opening looks again
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


# --- Resized samples kept in one memory-mapped Arrow file, so that no worker decodes and shrinks a photograph
# twice.
#
# A Cityscapes pair costs 2 MB at 512x1024 and is read back as fast as memory is copied.


def cached(
    table: datasets.Dataset, rows: Sequence[Row], decoder: Decoder, cache: Literal[True] | str | Path
) -> datasets.Dataset:
    """The same samples from an Arrow file, which is made first where it does not exist yet.

    table: rows of file names; its label space goes along.
    rows: the same files; a changed file, size or table makes another Arrow file.
    cache: True for the user's cache folder, or the folder to use.
    """

    def raw(row: Row) -> Row:
        """PIL images as uncompressed PPM and PGM files, which `Decoder` opens like any other."""
        files = {kind: io.BytesIO() for kind in ("image", "label")}
        for kind, file in files.items():
            row[kind].save(file, "PPM")
        return {kind: {"bytes": file.getvalue(), "path": None} for kind, file in files.items()}

    file = _cache_file("arrow", rows, decoder.table, repr(decoder.size).encode()).with_suffix(".arrow")
    if cache is not True:
        file = Path(cache, file.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"cache_file_name": str(file), "load_from_cache_file": True, "features": table.features}
    kept = table.with_transform(decoder).map(raw, desc="caching", **options)
    return kept.with_transform(Decoder(lookup_table(ILLEGAL)))
