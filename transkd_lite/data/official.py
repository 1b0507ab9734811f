"""The folders that the official archives unpack to, one function a dataset.

Each layout takes ``(root, split, **options)`` and returns a `Listing`. The names of the folders are those of
the
archives: leftImg8bit_trainvaltest + gtFine_trainvaltest (Cityscapes), rgb_anon_trainvaltest + gt_trainval
(ACDC), VOCtrainval_11-May-2012 (VOC), CamVid of the SegNet tutorial, and what ``transkd data prepare nyuv2``
writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from transkd_lite.data.decode import DataError
from transkd_lite.data.folders import LABEL_SUFFIXES, Listing, existing_folder, files_by_key, read_list
from transkd_lite.data.labels import (
    CAMVID,
    CITYSCAPES,
    CITYSCAPES_ID_TO_TRAIN_ID,
    NYU40,
    VOC,
    VOID,
    LabelSpace,
    voc_palette,
)

__all__ = ["ACDC_CONDITIONS", "LAYOUTS", "Layout", "read_classes"]

ACDC_CONDITIONS = ("fog", "night", "rain", "snow")
PNG = (".png",)


@dataclass(frozen=True)
class Layout:
    """How one dataset lies on disk, and what its makers say is in it."""

    find: Callable[..., Listing]
    counts: dict[str, int]  # split -> official number of images
    space: LabelSpace | None  # None: read from the root (``folder``)
    options: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()  # splits whose labels the makers keep to themselves


def cityscapes(root: Path, split: str, *, label_ids: bool | None = None) -> Listing:
    """``leftImg8bit/{split}/{city}/*_leftImg8bit.png``; ``gtFine/…/*_labelTrainIds.png`` or labelIds."""
    photos = existing_folder(
        root / "leftImg8bit" / split, "Cityscapes images", "root holds leftImg8bit and gtFine"
    )
    fine = existing_folder(
        root / "gtFine" / split, "Cityscapes labels", "unpack gtFine_trainvaltest.zip beside leftImg8bit"
    )
    images = files_by_key(photos, PNG, ending="_leftImg8bit", recursive=True)
    labels, ids = _cityscapes_labels(images, label_ids, lambda kind: _in(fine, f"_gtFine_{kind}"))
    return Listing(images, labels, ids, where=str(photos))


def acdc(
    root: Path, split: str, *, conditions: Iterable[str] = ACDC_CONDITIONS, label_ids: bool | None = None
) -> Listing:
    """``rgb_anon/{condition}/{split}/{sequence}/*_rgb_anon.png``; ``gt/…/*_gt_labelTrainIds.png`` or …Ids."""
    chosen = _conditions(conditions)
    photos = existing_folder(root / "rgb_anon", "ACDC images", "root holds rgb_anon and gt")
    truth = existing_folder(root / "gt", "ACDC labels", "unpack gt_trainval.zip beside rgb_anon")
    images = _per_condition(photos, split, chosen, "_rgb_anon")
    labels, ids = _cityscapes_labels(
        images, label_ids, lambda kind: _per_condition(truth, split, chosen, f"_gt_{kind}")
    )
    conditions_of = {key: key.split("/", 1)[0] for key in images}
    return Listing(images, labels, ids, conditions_of, where=f"{photos}/{{{','.join(chosen)}}}/{split}")


def nyuv2(root: Path, split: str) -> Listing:
    """``images/*.jpg``, ``labels40/*.png`` (1-40, 0 = void), ``train.txt``, ``test.txt``; val means test."""
    hint = "make the folder with `transkd data prepare nyuv2`"
    images = files_by_key(existing_folder(root / "images", "NYUv2 images", hint))
    labels = files_by_key(existing_folder(root / "labels40", "NYUv2 labels", hint), LABEL_SUFFIXES)
    listed = _existing_list([root / ("train.txt" if split == "train" else "test.txt")], hint)
    ids = {0: VOID} | {value: value - 1 for value in range(1, 41)}
    return _restrict(Listing(images, labels, ids, where=str(root / "images")), listed)


def voc2012(root: Path, split: str) -> Listing:
    """``JPEGImages``, ``SegmentationClass`` (trainaug: ``SegmentationClassAug``), ``ImageSets/Segmentation``.

    Without a trainaug list it is every augmented label that val does not hold: 10,582 of 12,031.
    """
    home = _voc_home(root)
    augmented = split == "trainaug"
    folder = "SegmentationClassAug" if augmented else "SegmentationClass"
    hint = (
        "trainaug needs SegmentationClassAug, made from the Semantic Boundaries Dataset" if augmented else ""
    )
    images = files_by_key(home / "JPEGImages")
    labels = files_by_key(existing_folder(home / folder, "VOC labels", hint), LABEL_SUFFIXES)
    lists = home / "ImageSets" / "Segmentation"
    names = [lists / f"{split}.txt", *([lists / "train_aug.txt"] if augmented else [])]
    if augmented and not any(path.is_file() for path in names):
        val = set(_existing_list([lists / "val.txt"]))
        stems = [stem for stem in labels if stem not in val]
    else:
        stems = _existing_list(names, "unpack VOCtrainval_11-May-2012.tar")
    return _restrict(Listing(images, labels, {c: c for c in range(21)}, where=str(home)), stems)


def camvid(root: Path, split: str) -> Listing:
    """``{split}/*`` and ``{split}annot/*.png``; file value 11 is void."""
    inside = next((path for path in (root / "CamVid", root / "camvid") if (path / "train").is_dir()), None)
    hint = f"pass root={str(inside)!r}" if inside else "root holds train, trainannot, val and valannot"
    images = files_by_key(existing_folder(root / split, f"CamVid's {split} images", hint))
    labels = files_by_key(
        existing_folder(root / f"{split}annot", f"CamVid's {split} labels", hint), LABEL_SUFFIXES
    )
    ids = {value: value for value in range(11)} | {11: VOID}
    return Listing(images, labels, ids, where=str(root / split))


def folder(root: Path, split: str, *, label_map: dict[int, int] | None = None) -> Listing:
    """Any ``images/`` + ``labels/`` + ``classes.txt``, files matched by their path without suffix.

    Splits are subfolders (``images/train``) or lists (``train.txt``). With neither, or for a split "train"
    without a list, "train" is everything that no other list names, so that splits cannot overlap.
    """
    photos = existing_folder(root / "images", "images", "root holds images, labels and classes.txt")
    drawn = existing_folder(root / "labels", "labels", "root holds images, labels and classes.txt")
    if (photos / split).is_dir():
        photos, drawn = photos / split, existing_folder(drawn / split, f"labels of {split}")
        return Listing(_tree(photos), _tree(drawn, LABEL_SUFFIXES), label_map, where=str(photos))
    listing = Listing(_tree(photos), _tree(drawn, LABEL_SUFFIXES), label_map, where=str(photos))
    if split == "all":
        return listing
    if (root / f"{split}.txt").is_file():
        return _restrict(listing, _stems_or_keys(root / f"{split}.txt", listing))
    if split != "train":
        raise FileNotFoundError(
            f"folder {root} has no split {split!r}: make images/{split} and labels/{split}, "
            f"or list its names in {split}.txt"
        )
    others = [root / f"{name}.txt" for name in ("val", "test") if (root / f"{name}.txt").is_file()]
    taken = {key for path in others for key in _stems_or_keys(path, listing)}
    return _without(listing, taken)


LAYOUTS: dict[str, Layout] = {
    "cityscapes": Layout(cityscapes, {"train": 2975, "val": 500, "test": 1525}, CITYSCAPES, ("label_ids",)),
    "acdc": Layout(
        acdc,
        {"train": 1600, "val": 406, "test": 2000},
        CITYSCAPES,
        ("conditions", "label_ids"),
        hidden=("test",),
    ),
    "nyuv2": Layout(nyuv2, {"train": 795, "test": 654, "val": 654}, NYU40),
    "voc2012": Layout(voc2012, {"train": 1464, "val": 1449, "trainaug": 10582}, VOC),
    "camvid": Layout(camvid, {"train": 367, "val": 101, "test": 233}, CAMVID),
    "folder": Layout(folder, {}, None, ("label_map",)),
}


def read_classes(root: Path) -> LabelSpace:
    """``classes.txt``: one class a line in train-id order, followed by its colour (three numbers) or not.

    Blank lines and lines that start with # do not count. Classes without a colour wear the VOC colours.
    """
    path = root / "classes.txt"
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except FileNotFoundError:
        raise FileNotFoundError(
            f"class names should be in {path}, but it does not exist: write one name a line"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): write one class name a line, in UTF-8") from None
    rows = [_class_line(line) for line in lines if line and not line.startswith("#")]
    names = tuple(name for name, _ in rows)
    if not names or len(set(names)) < len(names) or len(names) > 254:
        raise DataError(
            f"{path} should name 1 to 254 different classes, one a line, but holds {len(names)}: mend it"
        )
    defaults = voc_palette(len(names) + 1)[1:]
    return LabelSpace(
        names, tuple(colour or spare for (_, colour), spare in zip(rows, defaults, strict=True))
    )


def _class_line(line: str) -> tuple[str, tuple[int, int, int] | None]:
    match = re.fullmatch(r"(.*\S)[\s,]+(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})", line)
    if not match:
        return line, None
    red, green, blue = (min(int(part), 255) for part in match.groups()[1:])
    return match[1].rstrip(" ,"), (red, green, blue)


def _cityscapes_labels(
    images: dict[str, Path], label_ids: bool | None, find: Callable[[str], dict[str, Path]]
) -> tuple[dict[str, Path], dict[int, int] | None]:
    """labelTrainIds where they pair with as many images as labelIds do; ``label_ids`` decides when given."""
    train_ids = {} if label_ids else find("labelTrainIds")
    if label_ids is False or (train_ids and images.keys() <= train_ids.keys()):
        return train_ids, None
    ids = find("labelIds")
    if label_ids or len(images.keys() & ids.keys()) > len(images.keys() & train_ids.keys()):
        return ids, CITYSCAPES_ID_TO_TRAIN_ID
    return train_ids, None


def _in(folder: Path, ending: str) -> dict[str, Path]:
    return files_by_key(folder, PNG, ending=ending, recursive=True)


def _per_condition(base: Path, split: str, conditions: tuple[str, ...], ending: str) -> dict[str, Path]:
    present = [condition for condition in conditions if (base / condition / split).is_dir()]
    return {
        f"{condition}/{key}": path
        for condition in present
        for key, path in _in(base / condition / split, ending).items()
    }


def _conditions(conditions: Iterable[str]) -> tuple[str, ...]:
    chosen = (conditions,) if isinstance(conditions, str) else tuple(conditions)
    unknown = [name for name in chosen if name not in ACDC_CONDITIONS]
    if unknown or not chosen:
        raise ValueError(
            f"conditions are some of {', '.join(ACDC_CONDITIONS)}, got {chosen!r}: choose among these"
        )
    return chosen


def _voc_home(root: Path) -> Path:
    for home in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (home / "JPEGImages").is_dir():
            return home
    return existing_folder(
        root / "JPEGImages", "VOC images", "root holds JPEGImages, or VOCdevkit/VOC2012/JPEGImages"
    ).parent


def _existing_list(candidates: list[Path], hint: str = "") -> list[str]:
    for path in candidates:
        if path.is_file():
            return read_list(path)
    raise FileNotFoundError(
        f"the split's names should be in {candidates[0]}, but it does not exist{': ' + hint if hint else ''}"
    )


def _tree(base: Path, suffixes: Iterable[str] | None = None) -> dict[str, Path]:
    return files_by_key(base, suffixes, recursive=True) if suffixes else files_by_key(base, recursive=True)


def _stems_or_keys(path: Path, listing: Listing) -> list[str]:
    """A list may name files by path below images/ or by name alone."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    keys = [line if line in listing.images else str(Path(line).with_suffix("")) for line in lines]
    return keys if any("/" in key for key in keys) else read_list(path)


def _restrict(listing: Listing, stems: Iterable[str]) -> Listing:
    """Only the listed samples; a listed name without an image is an error that names it."""
    wanted = dict.fromkeys(stems)
    for stem in wanted:
        if stem not in listing.images:
            raise DataError(
                f"a split list names {stem!r}, but {listing.where} lacks it: add the image or remove the line"
            )
    return _without(listing, (listing.images.keys() | listing.labels.keys()) - wanted.keys())


def _without(listing: Listing, keys: Iterable[str]) -> Listing:
    gone = set(keys)
    return Listing(
        {key: path for key, path in listing.images.items() if key not in gone},
        {key: path for key, path in listing.labels.items() if key not in gone},
        listing.ids,
        listing.conditions,
        listing.where,
    )
