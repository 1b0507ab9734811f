"""The files of a dataset: paired, looked into once, kept resized. `decoding` reads a single one.

Nothing here imports torch or, at top level, `datasets`.
"""

import contextlib
import glob
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from os.path import commonprefix
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from unicodedata import normalize

import numpy as np

from transkd_lite.data.decoding import DataError, Decoder, Row, read_bytes
from transkd_lite.data.labels import ILLEGAL, VOID, lookup_table
from transkd_lite.data.whole import TEMPORARY, fingerprint, user_cache

if TYPE_CHECKING:
    import datasets

__all__ = ["Listing", "cached", "list_files", "place", "read_lines", "read_list", "survey", "verify"]


# --- Finding the files of a dataset on disk and pairing each image with its label.

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".apng", ".ppm", ".pgm")
# Files that may lie beside pictures; any other is taken for one, and refused where Pillow cannot read it.
NOTES = ("", ".txt", ".md", ".json", ".csv", ".xml", ".yaml", ".yml", ".html", ".log", ".db", ".ini", ".mat", ".zip")


class Listing(NamedTuple):
    """What a layout found for one split: files by key, and how the label files number their classes."""

    images: dict[str, Path]
    labels: dict[str, Path]
    where: Path
    ids: Mapping[Any, int] | None = None  # file value -> train id; None: the files hold train ids
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

    def only(self, keys: Collection[str]) -> "Listing":
        """The samples that a split list names; DataError for a name without any file."""
        if missing := set(keys) - self.images.keys() - self.labels.keys():
            raise DataError(f"a split list names {min(missing)!r}, but {self.where} lacks it: remove the line")
        images, labels = ({k: p for k, p in files.items() if k in keys} for files in (self.images, self.labels))
        return self._replace(images=images, labels=labels)


def place(root: Path, name: str) -> Path:
    """Where a file or folder is: in `root`, or where the one archive that has it was unpacked into folders of its own.

    Those are up to two folders between root and name, or a folder of the same name in it.
    """
    path = root / name
    if not os.path.exists(path):
        deeper = [found for depth in ("*/", "*/*/") for found in root.glob(depth + glob.escape(name))]
        deeper = [found for found in deeper if not any(map(is_hidden, found.relative_to(root).parts))]
        path = deeper[0] if len(deeper) == 1 else path
    inner = path / path.name
    return inner if os.path.isdir(inner) and {n for n in os.listdir(path) if not is_hidden(n)} == {path.name} else path


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the notes of a file browser, a notebook or an archive."""
    return name.startswith((".", "__MACOSX"))


def list_files(
    root: Path, images: str, labels: str, *, ids: Mapping[Any, int] | None = None, endings: tuple[str, str] = ("", "")
) -> Listing:
    """The pictures in two folders below `root`, and below these, by key: the path without suffix and ending.

    ids: how the label files number their classes, see `Listing`.
    endings: what the stems of images and of labels end with, such as `_leftImg8bit`. Where all files match but for one
        ending of the images and one of the labels, such as `_mask`, these are found.

    Hidden files are passed over. Symbolic links are followed, but never in a circle. Accents match however they are
    encoded. Raises `FileNotFoundError` without the two folders, DataError when two files share a key or a folder cannot
    be listed.
    """

    def stop(error: OSError) -> None:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise FileNotFoundError(f"labels or images should be in folder {error.filename}: see `transkd data fetch`")
        raise DataError(f"folder {error.filename} cannot be listed ({error.strerror}): mend its permissions")

    def by_key(folder: Path, ending: str) -> dict[str, Path]:
        found, seen = dict[str, Path](), set[str]()
        for parent, folders, names in os.walk(folder, onerror=stop, followlinks=True):
            real = os.path.realpath(parent)
            folders[:] = [] if real in seen else [name for name in folders if not is_hidden(name)]
            for path in (Path(parent, name) for name in sorted(names) if not is_hidden(name) and real not in seen):
                key = normalize("NFC", path.relative_to(folder).as_posix().removesuffix(path.suffix))
                if path.suffix.lower() in NOTES or not key.endswith(ending):
                    continue
                if (other := found.setdefault(key.removesuffix(ending), path)) != path:
                    raise DataError(f"files are matched by name, but {other} and {path} share one: remove one")
            seen.add(real)
        return found

    folders = place(root, images), place(root, labels)
    found = list(map(by_key, folders, endings))
    ends = [commonprefix([key[::-1] for key in keys])[::-1] for keys in found]  # noqa: RUF071, letters are meant
    ends = [end.removeprefix(commonprefix(ends)) for end in ends]  # noqa: RUF071
    cut = [{key.removesuffix(end): path for key, path in keys.items()} for keys, end in zip(found, ends, strict=True)]
    if cut[0].keys() == cut[1].keys() and "" not in cut[0] and not re.search(r"\d", "".join(ends)):
        found = cut
    return Listing(found[0], found[1], folders[0], ids)


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a small text file without blanks; errors name the file and say `what` it should hold."""
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"{what} should be in {path}, but it does not exist: write one a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): write {what} into it, one a line, in UTF-8") from None
    return [line.strip() for line in lines if line.strip()]


def read_list(path: Path) -> set[str]:
    """The keys that a split list names, one a line.

    A suffix goes, and so does what surrounds the name in "/JPEGImages/a.jpg /SegmentationClassAug/a.png".
    """
    lines = (normalize("NFC", line) for line in read_lines(path, "names of images"))
    names = (line.split(" /")[0].rsplit("/", 1)[-1] if line.startswith("/") else line for line in lines)
    return {str(Path(name).with_suffix("")) if Path(name).suffix.lower() in SUFFIXES else name for name in names}


# --- Looking into every file of a split once, before anything is trained on it.
#
# Decoding a whole split costs minutes for Cityscapes, so the verdict "all is well" is remembered in the user's
# cache folder under a hash of every file's name, size and time of change; a changed file is looked at again.


def _cache_file(kind: str, rows: Iterable[Row], decoder: Decoder) -> Path:
    """A file name in the user's cache for what `decoder` made of these files."""
    digest = hashlib.sha256(repr(decoder).encode())
    for path in (row[kind]["path"] for row in rows for kind in ("image", "label")):
        digest.update(os.fsencode(os.path.abspath(path)))
        with contextlib.suppress(OSError):  # a missing file has a fingerprint too; reading it is what fails
            state = os.stat(path)
            digest.update(f"{state.st_size} {state.st_mtime_ns}".encode())
    return user_cache(kind) / digest.hexdigest()[:16]


def survey(rows: Sequence[Row], decoder: Decoder) -> tuple[Counter[tuple[int, int]], np.ndarray, list[DataError]]:
    """Decode every image and label: sizes (width, height), pixels of each of the 256 train ids, what is wrong.

    In threads, since Pillow decodes outside the interpreter lock. A progress bar appears on stderr when it takes more
    than five seconds.
    """
    from tqdm.contrib.concurrent import thread_map

    whole = replace(decoder, size=None)

    def look(row: Row) -> DataError | tuple[tuple[int, int], list[int]]:
        try:
            label = whole.read(row)["label"]
        except DataError as error:
            return error
        return label.size, label.histogram()

    found = thread_map(look, rows, desc="checking files", unit="pair", delay=5, leave=False)
    faults = [one for one in found if isinstance(one, DataError)]
    sound = [one for one in found if not isinstance(one, DataError)]
    pixels = np.sum([counts for _, counts in sound] or [[0] * 256], axis=0)
    if pixels[0] and pixels[VOID] and not pixels[1:VOID].any() and decoder.table[:2] == b"\0\1":
        seen = f"all labels of the split, from {rows[0]['label'].get('path')} on, hold 0 and {VOID} alone"
        advice = f"pass label_map={{0: 0, {VOID}: 1}}, or {{0: 0, {VOID}: {VOID}}} where {VOID} is void"
        faults.append(DataError(f"labels number their classes 0, 1 …, but {seen}: {advice}", "label"))
    return Counter(size for size, _ in sound), pixels, faults


def verify(rows: Sequence[Row], decoder: Decoder) -> None:
    """Decode every image and label; raise the DataError of the first that is not sound."""
    marker = _cache_file("verified", rows, replace(decoder, size=None))
    if os.path.exists(marker):  # unlike Path.exists, False in a home that cannot be searched
        return
    if faults := survey(rows, decoder)[2]:
        raise faults[0]
    with contextlib.suppress(OSError):  # a read-only home only means that the next opening looks again
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


# --- Resized samples kept in one memory-mapped Arrow file, so that no worker decodes and shrinks a photograph
# twice.
#
# A Cityscapes pair costs 2 MB at 512x1024 and is read back as fast as memory is copied. The file's name ends with the
# digest of its content, which is computed whenever it is opened (about a second for a gigabyte).


def cached(
    table: "datasets.Dataset", rows: Sequence[Row], decoder: Decoder, cache: Literal[True] | str | Path
) -> "datasets.Dataset":
    """The same samples from an Arrow file, which is made first where none exists whose content is whole.

    table: rows of file names; its label space goes along.
    rows: the same files; a changed file, size or table makes another Arrow file.
    cache: True for the user's cache folder, or the folder to use.
    """
    import datasets

    def raw(row: Row) -> Row:
        """PIL images as uncompressed PPM and PGM files, which `Decoder` opens like any other."""
        files = {kind: io.BytesIO() for kind in ("image", "label")}
        for kind, file in files.items():
            row[kind].save(file, "PPM")
        return {kind: {"bytes": file.getvalue(), "path": None} for kind, file in files.items()}

    key = _cache_file("arrow", rows, decoder)
    folder = key.parent if cache is True else Path(cache)
    folder.mkdir(parents=True, exist_ok=True)
    whole = [p for p in folder.glob(f"{key.name}-*.arrow") if p.stem.endswith(fingerprint(p)["sha256"][:16])]
    if not whole:
        aside = folder / f"{TEMPORARY}{os.urandom(16).hex()}.arrow"
        table.with_transform(decoder).map(raw, desc="caching", cache_file_name=str(aside), features=table.features)
        whole = [aside.replace(folder / f"{key.name}-{fingerprint(aside)['sha256'][:16]}.arrow")]
    return datasets.Dataset.from_file(str(whole[0]), info=table.info).with_transform(Decoder(lookup_table(ILLEGAL)))
