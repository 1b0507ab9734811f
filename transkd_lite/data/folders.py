"""Finding the files of a dataset on disk and pairing each image with its label.

A layout (see ``official``) lists the images and the labels of a split by key; this module walks folders,
turns what it finds into keys, and pairs the two. Whatever can be wrong with a tree of folders is found
here.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transkd_lite.data.decode import DataError

__all__ = [
    "Listing",
    "Pair",
    "existing_folder",
    "files_by_key",
    "fold_pairs",
    "pair_up",
    "read_lines",
    "read_list",
]

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
            (
                kind,
                f"every {kind} needs its {other} of the same name, but {path} has none: add it or remove the {kind}",
            )
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
