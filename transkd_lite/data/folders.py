"""Finding the files of a dataset on disk and pairing each image with its label.

A *layout* (see ``official``) lists the images and the labels of a split by key; this module walks folders,
turns what it finds into keys, and pairs the two lists. Everything that can be wrong with a tree of folders is
found here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from transkd_lite.data.decode import DataError

__all__ = [
    "IMAGE_SUFFIXES",
    "LABEL_SUFFIXES",
    "Listing",
    "Pair",
    "existing_folder",
    "files_by_key",
    "pair_up",
    "read_list",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
LABEL_SUFFIXES = (
    ".png",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
    ".pgm",
    ".jpg",
    ".jpeg",
    ".webp",
)  # the last three are refused later


@dataclass(frozen=True)
class Pair:
    """One sample: its two files and, where the dataset knows one, the weather or light it was taken in."""

    image: Path
    label: Path
    condition: str | None = None


@dataclass(frozen=True)
class Listing:
    """What a layout found for one split: files by key, and how the label files number their classes."""

    images: dict[str, Path]
    labels: dict[str, Path]
    ids: dict[int, int] | None = None  # file value -> train id; None: the files hold train ids
    conditions: dict[str, str] = field(default_factory=dict)
    where: str = ""  # the folders that were searched, for messages

    def unpaired(self) -> tuple[list[Path], list[Path]]:
        """Images without a label, and labels without an image."""
        return (
            [path for key, path in self.images.items() if key not in self.labels],
            [path for key, path in self.labels.items() if key not in self.images],
        )

    def pairs(self) -> list[Pair]:
        """The samples that have both files, in the order of their keys."""
        keys = sorted(self.images.keys() & self.labels.keys())
        return [Pair(self.images[key], self.labels[key], self.conditions.get(key)) for key in keys]


def pair_up(listing: Listing) -> list[Pair]:
    """The samples of a split; DataError when it is empty or a file has no partner."""
    without_label, without_image = listing.unpaired()
    if without_label:
        raise DataError(_unpaired("image", "label", without_label))
    if without_image:
        raise DataError(_unpaired("label", "image", without_image))
    if not listing.images:
        raise DataError(
            f"a split needs at least one image, but there is none in {listing.where}: unpack the files there"
        )
    return listing.pairs()


def existing_folder(path: Path, expected: str, hint: str = "") -> Path:
    """``path`` when it is a folder; FileNotFoundError saying what was ``expected`` there otherwise."""
    if path.is_dir():
        return path
    state = (
        "is a file"
        if path.is_file()
        else "is a broken symbolic link"
        if path.is_symlink()
        else "does not exist"
    )
    raise FileNotFoundError(f"{expected} should be in {path}, but that {state}{': ' + hint if hint else ''}")


def files_by_key(
    folder: Path, suffixes: Iterable[str] = IMAGE_SUFFIXES, *, ending: str = "", recursive: bool = False
) -> dict[str, Path]:
    """Files of ``folder`` by key: the name, or with ``recursive`` the path below ``folder``, without ending.

    Args:
        ending: what the stem must end with, such as ``_leftImg8bit``; it is not part of the key.
        recursive: look into folders below as well, following symbolic links but never in a circle.

    Raises DataError when two files share a key, a folder cannot be listed or a name is not valid Unicode.
    """
    allowed, found = {suffix.lower() for suffix in suffixes}, dict[str, Path]()
    for path in _walk(folder) if recursive else _list(folder):
        if path.suffix.lower() not in allowed or not path.stem.endswith(ending):
            continue
        key = path.relative_to(folder).with_name(path.stem.removesuffix(ending)).as_posix()
        if key in found:
            raise DataError(
                f"files are matched by name, but {found[key]} and {path} share one: remove one of them"
            )
        found[key] = _utf8(path)
    return dict(sorted(found.items()))


def read_list(path: Path) -> list[str]:
    """The stems that a split list names, one a line; suffix, folders before it and a second column go.

    Raises DataError for an unreadable or empty list and for a stem that comes twice.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"split list {path} cannot be read ({error}): it should hold one name a line"
        ) from None
    stems = [_stem(line) for line in lines if line]
    if not stems:
        raise DataError(f"split list {path} is empty: it should hold one name a line")
    twice = sorted({stem for stem in stems if stems.count(stem) > 1}) if len(set(stems)) < len(stems) else []
    if twice:
        raise DataError(
            f"a split lists every image once, but {path} lists {twice[0]!r} again: remove the double line"
        )
    return stems


def _stem(line: str) -> str:
    name = line.split(" /")[0].rsplit("/", 1)[
        -1
    ]  # some lists say "/JPEGImages/a.jpg /SegmentationClassAug/a.png"
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else name


def _list(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir()]
    except OSError as error:
        raise DataError(
            f"folder {folder} cannot be listed ({error.strerror}): mend its permissions"
        ) from None


def _walk(folder: Path) -> list[Path]:
    found, seen = [], set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return found


def _utf8(path: Path) -> Path:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"file names are valid Unicode, but {os.fsencode(path)!r} is not: rename the file"
        ) from None
    return path


def _unpaired(kind: str, partner: str, paths: list[Path]) -> str:
    more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
    return (
        f"every {kind} needs a {partner} of the same name, but {paths[0]}{more} has none: "
        f"add the {partner} or remove the {kind}"
    )
