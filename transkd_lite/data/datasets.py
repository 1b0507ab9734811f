"""``open_dataset``: one table of images and labels, whatever the dataset and however its files lie.

A dataset is a Hugging Face ``datasets.Dataset`` with the columns ``image`` and ``label`` (and ``condition``
for ``streets`` and ``acdc``). The table holds file names; pixels are decoded when a row is looked at:
``image`` becomes a PIL image in RGB, ``label`` a PIL image of 8-bit train ids with 255 for void. Class names
and palette travel in ``dataset.info.description``; `label_space` reads them.

Every file is looked at once before a dataset is handed out, so that a damaged one is an error before training
starts; the verdict is remembered for as long as the files do not change (`verify`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transkd_lite.data import labels as tables
from transkd_lite.data.files import (
    DataError,
    Decoder,
    Listing,
    Pair,
    Size,
    cached,
    existing_folder,
    files_by_key,
    fold_pairs,
    pair_up,
    read_lines,
    read_list,
    verify,
)
from transkd_lite.data.labels import VOID, Colour, LabelSpace, lookup_table, voc_palette

if TYPE_CHECKING:
    import datasets

__all__ = [
    "DATASETS",
    "LAYOUTS",
    "Layout",
    "folder_splits",
    "layout_of",
    "open_dataset",
    "open_hub",
    "read_classes",
    "root_of",
]

# --- The folders that the official archives unpack to, one function a dataset.
#
# Each layout takes ``(root, split, **options)`` and returns a `Listing`. The names are those of the archives:
# leftImg8bit_trainvaltest and gtFine_trainvaltest (Cityscapes), rgb_anon_trainvaltest and gt_trainval (ACDC),
# VOCtrainval_11-May-2012 (VOC), CamVid of the SegNet tutorial, and what ``transkd data prepare nyuv2`` writes.

ACDC_CONDITIONS = ("fog", "night", "rain", "snow")


@dataclass(frozen=True)
class Layout:
    """How one dataset lies on disk, and what its makers say is in it."""

    find: Callable[..., Listing]
    counts: dict[str, int]  # split -> official number of images
    space: LabelSpace | None  # None: read from the root (``folder``)
    options: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()  # splits whose labels the makers keep to themselves


def cityscapes(root: Path, split: str, *, label_ids: bool | None = None) -> Listing:
    """``leftImg8bit/{split}/{city}/*_leftImg8bit.png``, ``gtFine/…/*_gtFine_labelTrainIds.png`` or
    ``_labelIds``.
    """
    hint = "root holds leftImg8bit and gtFine, unpacked from their archives"
    photos = existing_folder(root / "leftImg8bit" / split, "Cityscapes images", hint)
    truth = existing_folder(root / "gtFine" / split, "Cityscapes labels", hint)
    return _numbered(photos, truth, ("_leftImg8bit", "_gtFine_"), label_ids)


def acdc(
    root: Path, split: str, *, conditions: Iterable[str] = ACDC_CONDITIONS, label_ids: bool | None = None
) -> Listing:
    """``rgb_anon/{condition}/{split}/{sequence}/*_rgb_anon.png``, ``gt/…/*_gt_labelTrainIds.png`` or
    ``_labelIds``.
    """
    chosen = (conditions,) if isinstance(conditions, str) else tuple(conditions)
    if not chosen or not set(chosen) <= set(ACDC_CONDITIONS):
        known = ", ".join(ACDC_CONDITIONS)
        raise ValueError(f"conditions are some of {known}, got {chosen!r}: choose among these")
    hint = "root holds rgb_anon and gt, unpacked from their archives"
    photos, truth = existing_folder(root / "rgb_anon", "ACDC images", hint), root / "gt"
    if split != "test":
        existing_folder(truth, "ACDC labels", hint)
    parts = [f"{condition}/{split}/" for condition in chosen]
    listing = _numbered(photos, truth, ("_rgb_anon", "_gt_"), label_ids, *parts)
    return replace(listing, conditions={key: key.split("/", 1)[0] for key in listing.images})


def _numbered(photos: Path, truth: Path, endings: tuple[str, str], label_ids: bool | None, *parts: str) -> Listing:
    """labelTrainIds where they pair with as many images as labelIds do; ``label_ids`` decides when given."""

    def find(base: Path, ending: str) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for part in parts or ("",):
            if (base / part).is_dir():
                inside = files_by_key(base / part, ending=ending, recursive=True)
                found |= {part + key: path for key, path in inside.items()}
        return found

    images = find(photos, endings[0])
    by_train_id = {} if label_ids else find(truth, f"{endings[1]}labelTrainIds")
    if label_ids is False or (by_train_id and images.keys() <= by_train_id.keys()):
        return Listing(images, by_train_id, photos)
    by_id = find(truth, f"{endings[1]}labelIds")
    if label_ids or len(images.keys() & by_id.keys()) > len(images.keys() & by_train_id.keys()):
        return Listing(images, by_id, photos, tables.CITYSCAPES_ID_TO_TRAIN_ID)
    return Listing(images, by_train_id, photos)


def nyuv2(root: Path, split: str) -> Listing:
    """``images/*.jpg``, ``labels40/*.png`` (1-40, 0 = void), ``train.txt`` and ``test.txt``; val means
    test.
    """
    hint = "make the folders with `transkd data prepare nyuv2`"
    images = files_by_key(existing_folder(root / "images", "NYUv2 images", hint))
    labels = files_by_key(existing_folder(root / "labels40", "NYUv2 labels", hint))
    ids = {0: VOID} | {value: value - 1 for value in range(1, 41)}
    keys = read_list(root / ("train.txt" if split == "train" else "test.txt"))
    return Listing(images, labels, root / "images", ids).only(keys)


def voc2012(root: Path, split: str) -> Listing:
    """``JPEGImages``, ``SegmentationClass`` (trainaug: ``SegmentationClassAug``), ``ImageSets/Segmentation``.

    Without a list of its own, trainaug is every augmented label that val does not hold: 10,582 of 12,031.
    """
    homes = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
    home = next((home for home in homes if (home / "JPEGImages").is_dir()), root)
    hint = "root holds JPEGImages, VOC2012 or VOCdevkit, unpacked from VOCtrainval_11-May-2012.tar"
    images = files_by_key(existing_folder(home / "JPEGImages", "VOC images", hint))
    kind = "SegmentationClassAug" if split == "trainaug" else "SegmentationClass"
    labels = files_by_key(existing_folder(home / kind, f"VOC labels of {split}", hint))
    file = home / "ImageSets" / "Segmentation" / f"{split}.txt"
    if split == "trainaug" and not file.exists():
        keys = sorted(labels.keys() - set(read_list(file.with_name("val.txt"))))
    else:
        keys = read_list(file)
    return Listing(images, labels, home / "JPEGImages").only(keys)


def camvid(root: Path, split: str) -> Listing:
    """``{split}/*`` and ``{split}annot/*.png``; file value 11 is void."""
    hint = "root holds train, trainannot, val and valannot (CamVid/ of the SegNet tutorial)"
    images = files_by_key(existing_folder(root / split, f"CamVid's {split} images", hint))
    labels = files_by_key(existing_folder(root / f"{split}annot", f"CamVid's {split} labels", hint))
    return Listing(images, labels, root / split, {value: value for value in range(11)} | {11: VOID})


def folder(root: Path, split: str, *, label_map: dict[int, int] | None = None) -> Listing:
    """Any ``images/`` + ``labels/`` + ``classes.txt``, files matched by their path without suffix.

    A split is a subfolder (``images/train`` and ``labels/train``) or a list of names (``train.txt``). Without
    either, "train" is everything that no other list names, so that splits cannot overlap; "all" is
    everything.
    """
    hint = "root holds images, labels and classes.txt"
    photos, drawn = (existing_folder(root / name, f"the {name}", hint) for name in ("images", "labels"))
    split_folder = (photos / split).is_dir()
    if split_folder:
        photos, drawn = photos / split, existing_folder(drawn / split, f"the labels of {split}", hint)
    images, labels = (files_by_key(place, recursive=True) for place in (photos, drawn))
    listing = Listing(images, labels, photos, label_map)
    if split_folder or split == "all":
        return listing
    if (root / f"{split}.txt").exists():
        return listing.only(read_list(root / f"{split}.txt"))
    if split == "train":
        others = [root / f"{name}.txt" for name in ("val", "test")]
        return listing.without({key for path in others if path.exists() for key in read_list(path)})
    advice = f"make images/{split} and labels/{split}, or list its names in {split}.txt"
    raise FileNotFoundError(f"{root} has no split {split!r}: {advice}")


_CITYSCAPES_COUNTS = {"train": 2975, "val": 500, "test": 1525}
_ACDC_COUNTS = {"train": 1600, "val": 406, "test": 2000}
LAYOUTS: dict[str, Layout] = {
    "cityscapes": Layout(cityscapes, _CITYSCAPES_COUNTS, tables.CITYSCAPES, ("label_ids",)),
    "acdc": Layout(acdc, _ACDC_COUNTS, tables.CITYSCAPES, ("conditions", "label_ids"), hidden=("test",)),
    "nyuv2": Layout(nyuv2, {"train": 795, "test": 654, "val": 654}, tables.NYU40),
    "voc2012": Layout(voc2012, {"train": 1464, "val": 1449, "trainaug": 10582}, tables.VOC),
    "camvid": Layout(camvid, {"train": 367, "val": 101, "test": 233}, tables.CAMVID),
    "folder": Layout(folder, {}, None, ("label_map",)),
}


def folder_splits(root: Path) -> list[str]:
    """The splits of a ``folder`` root: those of train, val and test that it has, or all that is there."""
    names = ("train", "val", "test")
    found = [name for name in names if (root / f"{name}.txt").exists() or (root / "images" / name).is_dir()]
    return found or ["all"]


def read_classes(root: Path) -> LabelSpace:
    """``classes.txt``: one class a line in train-id order, followed by its colour (three numbers) or not.

    Lines that start with # do not count. Without colours the classes wear those of VOC.
    """
    names: list[str] = []
    own: dict[int, Colour] = {}
    for line in read_lines(root / "classes.txt", "class names"):
        if line.startswith("#"):
            continue
        coloured = re.fullmatch(r"(.*\S)[\s,]+(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})", line)
        if coloured:
            red, green, blue = (min(int(number), 255) for number in coloured.groups()[1:])
            own[len(names)] = (red, green, blue)
        names.append(coloured[1] if coloured else line)
    palette = tuple(own.get(k, colour) for k, colour in enumerate(voc_palette(len(names) + 1)[1:]))
    try:
        return LabelSpace(tuple(names), palette)
    except ValueError as error:
        raise DataError(f"{root / 'classes.txt'}: {error}") from None


# --- Any segmentation dataset of the Hugging Face hub, or of a local folder that `datasets.load_dataset`
# reads.


def open_hub(
    repo: str,
    split: str,
    *,
    classes: Sequence[str] = (),
    size: Size = None,
    image_column: str = "image",
    label_column: str = "label",
    palette: Sequence[tuple[int, int, int]] | None = None,
    label_map: dict[int, int] | None = None,
    **load_options: Any,
) -> datasets.Dataset:
    """Open ``split`` of a hub repository as a table with the columns image and label.

    Args:
        classes: names in train-id order, always needed: repositories do not say them in a common way.
        image_column, label_column: what the repository calls its two image columns.
        palette: one colour a class; without it the VOC colours.
        label_map: {value in the files: train id}; without it they hold train ids. 255 is void
            unless the map says otherwise.
        load_options: for ``datasets.load_dataset``, such as ``revision`` or ``name``.

    Raises ValueError without classes, and for a column that is not there or holds no images.
    Files are checked when they are read.
    """
    import datasets

    if not classes:
        raise ValueError("a hub dataset needs classes, names in train-id order: pass classes=('road', ...)")
    space = LabelSpace(tuple(classes), tuple(palette or voc_palette(len(classes) + 1)[1:]))
    decoder = Decoder(lookup_table(space.num_classes, label_map).tobytes(), size)
    table = datasets.load_dataset(repo, split=split, **load_options)
    for option, column in (("image_column", image_column), ("label_column", label_column)):
        if not isinstance(table.features.get(column), datasets.Image):
            columns = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in table.features.items())
            raise ValueError(f"{option} names a column of images, got {column!r}: name one of {columns}")
    table = table.select_columns([image_column, label_column])
    table = table.rename_columns({image_column: "image", label_column: "label"})
    for column in ("image", "label"):
        table = table.cast_column(column, datasets.Image(decode=False))
    table.info.description = space.to_json(dataset=f"hub:{repo}", split=split)
    return table.with_transform(decoder)


# --- ``open_dataset``: one table of images and labels, whatever the dataset and however its files lie.

DATASETS = ("streets", *LAYOUTS, "hub:<repo id>")


def open_dataset(
    name: str, split: str, *, root: str | Path | None = None, size: Size = None, **options: Any
) -> datasets.Dataset:
    """Open one split of a dataset as a table with the columns image and label.

    Args:
        name: streets, cityscapes, acdc, nyuv2, voc2012, camvid, folder or ``hub:<repo id>``.
        split: train, val or test; also trainaug (voc2012) and whatever a folder or a hub repository has.
        root: the folder with the files. cityscapes, acdc: the one that holds leftImg8bit / rgb_anon; voc2012:
            the one that holds JPEGImages, or either of the two above it; nyuv2: images, labels40, train.txt
            and test.txt; camvid: train and trainannot; folder: images, labels and classes.txt. streets and
            hub have none.
        size: (height, width), or an int for the length of the shorter side, or None for the size of the file.
            Images are resized bilinearly with antialiasing, labels by nearest neighbour.
        options: ``label_ids`` (cityscapes, acdc: True reads labelIds, False labelTrainIds, None what is
            complete), ``conditions`` (acdc, streets), ``num`` and ``seed`` (streets), ``label_map`` (folder,
            hub: file value -> train id), ``image_column``, ``label_column``, ``classes``, ``palette`` (hub).
            For datasets in folders: ``fold`` ((index, count): "val" is that part of train, "train" the rest, to
            choose settings without a look at val), ``check`` ("files" looks into every file once, "headers" at
            the headers, "none" at nothing) and ``cache`` (True or a folder: keep the resized samples in an Arrow file).

    Returns: a ``datasets.Dataset``; a row is {"image": PIL RGB, "label": PIL "L" of train ids, 255 = void}.

    Raises: ValueError for an unknown name, split or option; FileNotFoundError for a missing root, folder or
        list; DataError (a ValueError) for a file that breaks a rule. Each names the file or the parameter.
    """
    sides = (size,) if isinstance(size, int) else size or ()
    if not all(isinstance(side, int) and side > 0 for side in sides) or len(sides) > 2:
        raise ValueError(f"size is None, the shorter side or (height, width), got {size!r}: try (180, 240)")
    if name == "streets":
        from transkd_lite.data.streets.dataset import open_streets

        return open_streets(split, size=size, **options)
    if name.startswith("hub:"):
        return open_hub(name.removeprefix("hub:"), split, size=size, **options)
    check, cache, fold = options.pop("check", "files"), options.pop("cache", None), options.pop("fold", None)
    layout, folder = layout_of(name, options), root_of(name, root)
    if layout.counts and split not in layout.counts:
        known = ", ".join(layout.counts)
        raise ValueError(f"{name} has the splits {known}, got {split!r}: choose one of these")
    if not split.strip(". ") or "/" in split or "\\" in split:
        raise ValueError(f"a split is a plain name, got {split!r}: for example train or val")
    if split in layout.hidden:
        raise ValueError(f"the labels of {name}'s {split} are on its makers' server only: open train or val")
    space = layout.space or read_classes(folder)
    listing = layout.find(folder, split if fold is None else "train", **options)
    decoder = Decoder(lookup_table(space.num_classes, listing.ids).tobytes(), size)
    pairs = pair_up(listing)
    if fold is not None:
        pairs = fold_pairs(pairs, split, fold)
    verify(pairs, decoder.table, check)
    table = _table(pairs, space.to_json(dataset=name, split=split))
    return cached(table, pairs, decoder, cache) if cache else table.with_transform(decoder)


def _table(pairs: Sequence[Pair], description: str) -> datasets.Dataset:
    """Rows of file names, with what `label_space` reads in the description."""
    import datasets

    columns: dict[str, Any] = {kind: [pair.files[kind] for pair in pairs] for kind in ("image", "label")}
    features: dict[str, Any] = dict.fromkeys(columns, datasets.Image(decode=False))
    if pairs[0].condition is not None:
        features["condition"] = datasets.Value("string")
        columns["condition"] = [pair.condition for pair in pairs]
    info = datasets.DatasetInfo(description=description, features=datasets.Features(features))
    return datasets.Dataset.from_dict(columns, info=info)


def layout_of(name: str, options: Mapping[str, Any]) -> Layout:
    """The layout of a dataset that lies in folders; ValueError for an unknown name or option."""
    if name not in LAYOUTS:
        raise ValueError(f"a dataset is one of {', '.join(DATASETS)}, got {name!r}: choose one of these")
    layout = LAYOUTS[name]
    if unknown := [option for option in options if option not in layout.options]:
        known = ", ".join((*layout.options, "fold", "check", "cache"))
        raise ValueError(f"{name} takes the options {known}, got {unknown[0]!r}: remove it or mend its name")
    return layout


def root_of(name: str, root: str | Path | None) -> Path:
    """``root`` as a folder that exists; ValueError or FileNotFoundError otherwise."""
    advice = f"`transkd data fetch {name}` says where the files come from"
    if root is None:
        raise ValueError(f"{name} needs root=, the folder of its files: {advice}")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        state = "is a file" if folder.is_file() else "does not exist"
        raise FileNotFoundError(f"root of {name} is a folder, but {folder} {state}: {advice}")
    return folder
