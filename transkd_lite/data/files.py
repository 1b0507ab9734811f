"""The files of a dataset: written whole, read with an error that names them, paired, looked into once, kept resized.

Nothing here imports torch, and `datasets` only when a table is kept resized.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from transkd_lite.data.labels import ILLEGAL, VOID, lookup_table

if TYPE_CHECKING:
    import datasets

__all__ = [
    "DataError",
    "Decoder",
    "Files",
    "Listing",
    "Pair",
    "Size",
    "atomic_write",
    "cache_folder",
    "cached",
    "existing_folder",
    "files_by_key",
    "fingerprint",
    "fold_pairs",
    "open_files",
    "over_pairs",
    "pair_up",
    "read_files",
    "read_lines",
    "read_list",
    "sweep_temporary",
    "target_size",
    "verify",
]

_TEMPORARY = ".tmp-"


def atomic_write(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Write a file whole or not at all; on any error the old file stays and the temporary one goes.

    Raises `OSError` naming the file and the size (a full disk, a folder without permission).
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            size = f"{len(data) / 1e6:.1f} MB"
            raise OSError(
                error.errno,
                f"could not write {size} ({error.strerror}); free space or choose another folder",
                str(path),
            ) from error
        raise
    if os.name != "nt":  # there a folder cannot be opened, and a rename is durable enough
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    return path


def sweep_temporary(folder: str | os.PathLike[str]) -> int:
    """Remove what a killed writer left behind (call it only under the folder's lock); returns how many
    files.
    """
    left = [p for p in Path(folder).rglob(_TEMPORARY + "*") if p.is_file()]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


# --- Reading one photograph or one label file, resized, with an error that names the file and what is wrong.
#
# Every dataset ends here: a row of its table names two files (or holds their bytes), and `Decoder` turns a
# batch of rows into PIL images. Labels leave as 8-bit train ids, whatever numbers the file holds.

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


# --- Finding the files of a dataset on disk and pairing each image with its label.
#
# A layout (see `data.datasets`) lists the images and the labels of a split by key; this module walks folders,
# turns what it finds into keys, and pairs the two. Whatever can be wrong with a tree of folders is found
# here.

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


@dataclass(frozen=True)
class Pair:
    """One sample: its two files and, where the dataset knows one, the weather or light it was taken in."""

    image: Path
    label: Path
    condition: str | None = None

    @property
    def files(self) -> dict[str, dict[str, str]]:
        """Both files as `read_files` takes them."""
        return {"image": {"path": str(self.image)}, "label": {"path": str(self.label)}}


@dataclass(frozen=True)
class Listing:
    """What a layout found for one split: files by key, and how the label files number their classes."""

    images: dict[str, Path]
    labels: dict[str, Path]
    where: Path
    ids: dict[int, int] | None = None  # file value -> train id; None: the files hold train ids
    conditions: dict[str, str] = field(default_factory=dict)

    def unpaired(self) -> list[tuple[str, str]]:
        """What has no partner, images first, then labels: which of the two, and a message about its file."""
        files = {"image": self.images, "label": self.labels}
        return [
            (kind, f"every {kind} needs its {other} of the same name, but {path} has none: add it or remove the {kind}")
            for kind, other in (("image", "label"), ("label", "image"))
            for key, path in files[kind].items()
            if key not in files[other]
        ]

    def pairs(self) -> list[Pair]:
        """The samples that have both files, in the order of their keys."""
        keys = sorted(self.images.keys() & self.labels.keys())
        return [Pair(self.images[key], self.labels[key], self.conditions.get(key)) for key in keys]

    def only(self, keys: Collection[str]) -> Listing:
        """The samples that a split list names; DataError for a name that has no image."""
        if missing := [key for key in keys if key not in self.images]:
            advice = "add the image or remove the line"
            raise DataError(f"a split list names {missing[0]!r}, but {self.where} lacks it: {advice}")
        return self.without((self.images.keys() | self.labels.keys()) - set(keys))

    def without(self, keys: Collection[str]) -> Listing:
        """All samples but these."""
        images = {key: path for key, path in self.images.items() if key not in keys}
        return replace(self, images=images, labels={k: p for k, p in self.labels.items() if k not in keys})


def pair_up(listing: Listing) -> list[Pair]:
    """The samples of a split; DataError when it is empty or a file has no partner."""
    if unpaired := listing.unpaired():
        more = f" (and {len(unpaired) - 1} more files)" if len(unpaired) > 1 else ""
        raise DataError(unpaired[0][1] + more, "pair")
    if not listing.images:
        raise DataError(f"a split has at least one image, but {listing.where} holds none: unpack its files")
    return listing.pairs()


def fold_pairs(pairs: Sequence[Pair], split: str, fold: Any) -> list[Pair]:
    """The part (index, count) = ``fold`` of train that is held out, for split "val", or all else, for "train".

    Parts follow the order of the samples, so that neighbouring frames of a video stay on one side of a cut.
    """
    if split not in ("train", "val"):
        raise ValueError(f"folds are made of train: with fold={fold!r} open train or val, got {split!r}")
    numbers = tuple(fold) if isinstance(fold, Sequence) else ()
    if len(numbers) != 2 or not all(type(n) is int for n in numbers) or not 0 <= numbers[0] < numbers[1] > 1:
        raise ValueError(f"fold is (index from 0, count from 2), got {fold!r}: for example fold=(0, 3)")
    index, count = numbers
    if len(pairs) < count:
        raise ValueError(f"train has {len(pairs)} samples, too few for {count} folds: ask for fewer")
    low, high = (len(pairs) * k // count for k in (index, index + 1))
    return list(pairs[low:high] if split == "val" else [*pairs[:low], *pairs[high:]])


def existing_folder(path: Path, what: str, hint: str) -> Path:
    """``path`` when it is a folder; otherwise FileNotFoundError that says what should be there."""
    if path.is_dir():
        return path
    state = "is a file" if path.is_file() else "is a broken link" if path.is_symlink() else "does not exist"
    raise FileNotFoundError(f"{what} should be in {path}, but that {state}: {hint}")


def files_by_key(folder: Path, *, ending: str = "", recursive: bool = False) -> dict[str, Path]:
    """Images of ``folder`` by key: the name, or with ``recursive`` the path below ``folder``, without its
    suffix.

    Args:
        ending: what the stem must end with, such as ``_leftImg8bit``; it is not part of the key.
        recursive: look into folders below as well, following symbolic links but never in a circle.

    Raises DataError when two files share a key, a folder cannot be listed or a name is not valid Unicode.
    """

    def stop(error: OSError) -> None:
        raise DataError(f"folder {error.filename} cannot be listed ({error.strerror}): mend its permissions")

    paths, seen = list[Path](), set[str]()
    for parent, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        real = os.path.realpath(parent)
        if not recursive or real in seen:
            folders.clear()
        paths += [Path(parent, name) for name in names if real not in seen]
        seen.add(real)
    found: dict[str, Path] = {}
    for path in sorted(paths):
        if path.suffix.lower() not in SUFFIXES or not path.stem.endswith(ending) or path.name.startswith("."):
            continue
        if os.fsencode(path).decode(errors="replace") != str(path):
            raise DataError(f"file names are valid UTF-8, but {os.fsencode(path)!r} is not: rename the file")
        key = path.relative_to(folder).as_posix().removesuffix(path.suffix).removesuffix(ending)
        if key in found:
            raise DataError(f"files are matched by name, but {found[key]} and {path} share one: remove one")
        found[key] = path
    return found


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a small text file without blanks; errors name the file and say ``what`` it should hold."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"{what} should be in {path}, but it does not exist: write one a line")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): write {what} into it, in UTF-8") from None
    if not any(lines):
        raise DataError(f"{path} is empty: it should hold {what}, one a line")
    return [line for line in lines if line]


def read_list(path: Path) -> list[str]:
    """The keys that a split list names, one a line; DataError when one comes twice.

    A suffix goes, and so does what surrounds the name in "/JPEGImages/a.jpg /SegmentationClassAug/a.png".
    """
    keys = []
    for line in read_lines(path, "names of images"):
        name = line.split(" /")[0].rsplit("/", 1)[-1] if line.startswith("/") else line
        keys.append(str(Path(name).with_suffix("")) if Path(name).suffix.lower() in SUFFIXES else name)
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"a split lists every image once, but {path} lists {twice!r} again: remove it")
    return keys


# --- Looking into every file of a split once, before anything is trained on it.
#
# Decoding a whole split costs minutes for Cityscapes, so the verdict "all is well" is remembered in the user's
# cache folder under a hash of every file's name, size and time of change; a changed file is looked at again.

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
    looks = {"files": lambda pair: read_files(pair.files, table), "headers": lambda pair: open_files(pair.files)}
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


# --- Resized samples kept in one memory-mapped Arrow file, so that no worker decodes and shrinks a photograph
# twice.
#
# A Cityscapes pair costs 2 MB at 512x1024 and is read back as fast as memory is copied.


def cached(
    table: datasets.Dataset, pairs: Sequence[Pair], decoder: Decoder, cache: Literal[True] | str | Path
) -> datasets.Dataset:
    """The same samples from an Arrow file, which is made first where it does not exist yet.

    Args:
        table: rows of file names; its label space goes along.
        pairs: the same files; a changed file, size or table makes another Arrow file.
        cache: True for the user's cache folder, or the folder to use.
    """
    import datasets

    def raw(row: dict[str, Any]) -> dict[str, Any]:
        """PIL images as uncompressed PPM and PGM files, which `Decoder` opens like any other."""
        files = {kind: io.BytesIO() for kind in ("image", "label")}
        for kind, file in files.items():
            row[kind].save(file, "PPM")
        return {kind: {"bytes": file.getvalue(), "path": None} for kind, file in files.items()}

    folder = cache_folder() / "arrow" if cache is True else Path(cache)
    file = folder / f"{fingerprint(pairs, decoder.values, repr(decoder.size).encode())}.arrow"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f"{file.stem}-{os.getpid()}.partial"
        decoded = table.with_transform(decoder)
        try:
            decoded.map(raw, cache_file_name=str(aside), features=table.features, desc="caching")
            os.replace(aside, file)
        finally:
            aside.unlink(missing_ok=True)
    resized = datasets.Dataset.from_file(str(file))
    resized.info.description = table.info.description
    return resized.with_transform(Decoder(lookup_table(ILLEGAL).tobytes()))
