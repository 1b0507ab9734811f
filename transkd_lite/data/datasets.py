"""`open_dataset`: one table of images and labels, whatever the dataset and however its files lie.

A dataset is a Hugging Face `datasets.Dataset` with the columns `image` and `label` (and `condition` for
`streets` and `acdc`). The table holds file names; pixels are decoded when a row is looked at. Class names and
palette travel in `dataset.info.description`; `label_space` reads them. Every file is looked at once before a dataset
is handed out, so that a damaged one is an error before training starts (`verify`).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transkd_lite.data import labels as tables
from transkd_lite.data.decoding import DataError, Decoder, Size
from transkd_lite.data.files import Listing, cached, list_files, place, read_lines, read_list, survey, verify
from transkd_lite.data.labels import VOID, LabelSpace, colour_ids, lookup_table, voc_palette

if TYPE_CHECKING:
    import datasets

__all__ = ["DATASETS", "LAYOUTS", "Layout", "find_layout", "open_dataset", "read_classes"]

# --- The folders that the official archives unpack to, one function a dataset.
#
# Each takes `(root, split, **options)` and returns a `Listing`. `transkd data fetch` shows its docstring, with the
# folder of the files for ROOT.

CONDITIONS = ("fog", "night", "rain", "snow")


def cityscapes(root: Path, split: str, *, label_ids: bool | None = None) -> Listing:
    """ROOT holds leftImg8bit/{split}/{city}/*_leftImg8bit.png and gtFine/…/*_gtFine_labelTrainIds.png or _labelIds.png.

    Cityscapes is free for research after registration at https://www.cityscapes-dataset.com/register/.
    Download leftImg8bit_trainvaltest.zip (11 GB) and gtFine_trainvaltest.zip (241 MB), or with a login:
        pip install cityscapesscripts; csDownload leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip
    Unpack both in ROOT, so that ROOT/leftImg8bit and ROOT/gtFine exist.
    """
    return _by_ids(root, "leftImg8bit", "gtFine", label_ids, (f"{split}/",))


def acdc(root: Path, split: str, *, conditions: Iterable[str] = CONDITIONS, label_ids: bool | None = None) -> Listing:
    """ROOT holds rgb_anon/{condition}/{split}/{sequence}/*_rgb_anon.png and gt/…/*_gt_labelTrainIds.png or _labelIds.

    ACDC is free for research after registration at https://acdc.vision.ee.ethz.ch/.
    Download rgb_anon_trainvaltest.zip and gt_trainval.zip, and unpack both in ROOT,
    so that ROOT/rgb_anon and ROOT/gt exist.
    """
    chosen = (conditions,) if isinstance(conditions, str) else tuple(conditions)
    if not chosen or not set(chosen) <= set(CONDITIONS):
        raise ValueError(f"conditions are some of {', '.join(CONDITIONS)}, got {chosen!r}: choose among these")
    prefixes = tuple(f"{condition}/{split}/" for condition in chosen)
    return _by_ids(root, "rgb_anon", "gt", label_ids, prefixes)._replace(by_condition=True)


def _by_ids(root: Path, images: str, labels: str, label_ids: bool | None, prefixes: tuple[str, ...]) -> Listing:
    """`label_ids` decides between labelIds and labelTrainIds; None takes labelIds where more images have them."""
    found = []
    for kind, ids in (("labelTrainIds", None), ("labelIds", tables.CITYSCAPES_ID_TO_TRAIN_ID)):
        whole = list_files(root, images, labels, ids=ids, endings=(f"_{images}", f"_{labels}_{kind}"))
        found.append(whole.only({key for key in (*whole.images, *whole.labels) if key.startswith(prefixes)}))
    if label_ids is None:
        label_ids = len(found[1].rows()) > len(found[0].rows())
    return found[label_ids]


def nyuv2(root: Path, split: str) -> Listing:
    """ROOT holds images/*.jpg, labels40/*.png (1-40, 0 = void), train.txt and test.txt; val means test.

    NYU Depth v2 needs no registration. Download
        nyu_depth_v2_labeled.mat (2.8 GB) from https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html,
        classMapping40.mat and splits.mat from https://github.com/ankurhanda/nyuv2-meta-data,
    then make the folders in ROOT: see transkd data prepare --help.
    """
    ids = {0: VOID} | {value: value - 1 for value in range(1, 41)}
    names = place(root, "train.txt" if split == "train" else "test.txt")
    return list_files(root, "images", "labels40", ids=ids).only(read_list(names))


def voc2012(root: Path, split: str) -> Listing:
    """ROOT, ROOT/VOC2012 or ROOT/VOCdevkit/VOC2012 holds JPEGImages, SegmentationClass and ImageSets/Segmentation.

    Pascal VOC 2012 needs no registration. Download VOCtrainval_11-May-2012.tar (1.9 GB) from
    http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ and unpack it in ROOT,
    so that ROOT/VOCdevkit/VOC2012/JPEGImages exists. For the split trainaug put the label folder
    SegmentationClassAug, made from the Semantic Boundaries Dataset, beside JPEGImages. Without a list of its own,
    trainaug is every augmented label that val does not hold: 10,582 of 12,031.
    """
    home = next(home for home in (place(root, "VOC2012"), root) if home == root or home.is_dir())
    lists = place(home, "ImageSets/Segmentation")
    listing = list_files(home, "JPEGImages", "SegmentationClass" + ("Aug" if split == "trainaug" else ""))
    if split == "trainaug" and not (lists / "trainaug.txt").exists():
        return listing.only(listing.labels.keys() - read_list(lists / "val.txt"))
    return listing.only(read_list(lists / f"{split}.txt"))


def camvid(root: Path, split: str) -> Listing:
    """ROOT holds {split}/*.png and {split}annot/*.png (11 = void), as CamVid/ of the SegNet tutorial does."""
    return list_files(root, split, f"{split}annot", ids={value: value for value in range(11)} | {11: VOID})


def folder(root: Path, split: str, *, label_map: Mapping[Any, int] | None = None) -> Listing:
    """ROOT holds images, labels (train ids or colours, 255 = void) and classes.txt; files match by path without suffix.

    The images are your own: nothing is fetched. A split is a subfolder (images/train and labels/train) or a list of
    names (train.txt). Without either, "train" is everything that no other list or subfolder has, so that splits
    cannot overlap; "all" is everything. A line of classes.txt is a class, followed by its colour (three numbers) or
    not.
    """
    if (place(root, "images") / split).is_dir():
        return list_files(root, f"images/{split}", f"labels/{split}", ids=label_map)
    listing = list_files(root, "images", "labels", ids=label_map)
    if (root / f"{split}.txt").exists():
        return listing.only(read_list(root / f"{split}.txt"))
    if split not in ("train", "all"):
        raise FileNotFoundError(f"{root} has no split {split!r}: make images/{split}, labels/{split} or {split}.txt")
    others = ("val", "test") if split == "train" else ()
    taken = {key for name in others if (path := root / f"{name}.txt").exists() for key in read_list(path)}
    keys = (listing.images.keys() | listing.labels.keys()) - taken
    return listing.only({key for key in keys if key.partition("/")[0] not in others})


class Layout(NamedTuple):
    """How one dataset lies on disk, and what its makers say is in it."""

    find: Callable[..., Listing]
    counts: dict[str, int]  # split -> official number of images
    space: LabelSpace | None  # None: read from the root (`folder`)
    hidden: tuple[str, ...] = ()  # splits whose labels the makers keep to themselves


LAYOUTS: dict[str, Layout] = {
    "cityscapes": Layout(cityscapes, {"train": 2975, "val": 500, "test": 1525}, tables.CITYSCAPES),
    "acdc": Layout(acdc, {"train": 1600, "val": 406, "test": 2000}, tables.CITYSCAPES, hidden=("test",)),
    "nyuv2": Layout(nyuv2, {"train": 795, "test": 654, "val": 654}, tables.NYU40),
    "voc2012": Layout(voc2012, {"train": 1464, "val": 1449, "trainaug": 10582}, tables.VOC),
    "camvid": Layout(camvid, {"train": 367, "val": 101, "test": 233}, tables.CAMVID),
    "folder": Layout(folder, {}, None),
}
DATASETS = ("streets", *LAYOUTS, "hub:<repo id>")


def find_layout(name: str, root: str | Path | None) -> tuple[Layout, Path, LabelSpace]:
    """The layout of a dataset in folders, its root and its classes; ValueError for an unknown name or no root."""
    if name not in LAYOUTS:
        raise ValueError(f"a dataset is one of {', '.join(DATASETS)}, got {name!r}: choose one of these")
    if root is None:
        raise ValueError(f"{name} needs root=, its folder: pass --data-root DIR, see `transkd data fetch {name}`")
    home = Path(root).expanduser()
    if space := LAYOUTS[name].space:
        return LAYOUTS[name], home, space
    file = place(home, "classes.txt")
    return LAYOUTS[name], file.parent, read_classes(file)


def read_classes(path: Path) -> LabelSpace:
    """`classes.txt`: one class a line in train-id order, followed by its colour (three numbers) or not.

    Lines that start with # do not count. Without colours the classes wear those of VOC.
    """
    line = r"^([^#].*?)(?:[\t ,]+(\d{1,3})[\t ,]+(\d{1,3})[\t ,]+(\d{1,3}))?$"
    rows = re.findall(line, "\n".join(read_lines(path, "class names")), re.MULTILINE)
    own: Any = [tuple(min(int(level), 255) for level in colour) if colour[0] else None for _, *colour in rows]
    palette = tuple(colour or usual for colour, usual in zip(own, voc_palette(len(rows) + 1)[1:], strict=True))
    try:
        return LabelSpace(tuple(name for name, *_ in rows), palette)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


# --- One table, whatever the dataset.


def open_dataset(
    name: str, split: str, *, root: str | Path | None = None, size: Size = None, **options: Any
) -> "datasets.Dataset":
    """Open one split of a dataset as a table with the columns image and label.

    name: streets, cityscapes, acdc, nyuv2, voc2012, camvid, folder or `hub:<repo id>`.
    split: train, val or test; also trainaug (voc2012) and whatever a folder or a hub repository has.
    root: the folder with the files; `transkd data fetch NAME` says what it holds. streets and hub have none.
    size: (height, width), or an int for the length of the shorter side, or None for the size of the file.
        Images are resized bilinearly with antialiasing, labels by nearest neighbour.
    options: `label_ids` (cityscapes, acdc: True reads labelIds, False labelTrainIds, None what is
        complete), `conditions` (acdc, streets), `num` and `seed` (streets), `label_map` (folder,
        hub: file value -> train id, also as the text that JSON makes of it), `config`, `image_column`,
        `label_column`, `classes`, `palette` (hub).
        For datasets in folders: `fold` ((index, count): "val" is that part of train, "train" the rest, to
        choose settings without a look at val; in the order of the samples, so that neighbouring frames of a video
        stay on one side of a cut), `check` (False: open without a look into every file) and
        `cache` (True or a folder: keep the resized samples in an Arrow file).

    Returns a `datasets.Dataset`; a row is {"image": PIL RGB, "label": PIL "L" of train ids, 255 = void}.

    Raises: ValueError for an unknown name or split, TypeError for an unknown option, FileNotFoundError for a missing
        root, folder or list, DataError (a ValueError) for a file that breaks a rule. Each names file or parameter.
    """
    sides = (size, size) if isinstance(size, int) else size
    if sides is not None and not (len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides)):
        raise ValueError(f"size is None, the shorter side or (height, width), got {size!r}: try (180, 240)")
    if name == "streets":
        from transkd_lite.data.streets import open_streets

        return open_streets(split, size=size, **options)
    if name.startswith("hub:"):
        return open_hub(name.removeprefix("hub:"), split, size=size, **options)
    import datasets

    fold, check, cache = options.pop("fold", None), options.pop("check", True), options.pop("cache", None)
    layout, home, space = find_layout(name, root)
    if layout.counts and split not in layout.counts:
        raise ValueError(f"{name} has the splits {', '.join(layout.counts)}, got {split!r}: choose one of these")
    if split in layout.hidden:
        raise ValueError(f"the labels of {name}'s {split} are on its makers' server only: open train or val")
    listing = layout.find(home, split if fold is None else "train", **options)
    if unpaired := listing.unpaired():
        raise DataError(f"{unpaired[0]} ({len(unpaired)} such files)", "pair")
    rows = listing.rows()
    if not rows:
        raise DataError(f"a split has at least one image, but {listing.where} holds none: unpack its files")
    match fold:
        case [int(index), int(count)] if 0 <= index < count and 1 < count <= len(rows) and split in ("train", "val"):
            low, high = (len(rows) * k // count for k in (index, index + 1))
            rows = rows[low:high] if split == "val" else rows[:low] + rows[high:]
        case _ if fold is not None:
            rule = f"fold is (index from 0, count from 2 to the {len(rows)} samples of train), to open train or val"
            raise ValueError(f"{rule}; got {fold!r} and {split!r}: try fold=(0, 3)")
    decoder = Decoder(lookup_table(space.num_classes, listing.ids), size, colour_ids(space, listing.ids))
    if check:
        verify(rows, decoder)
    file, text = datasets.Image(decode=False), datasets.Value("string")
    features = datasets.Features({column: text if column == "condition" else file for column in rows[0]})
    info = datasets.DatasetInfo(space.to_json(dataset=name, split=split), features=features)
    table = datasets.Dataset.from_list(rows, features=features, info=info)
    return cached(table, rows, decoder, cache) if cache else table.with_transform(decoder)


def open_hub(
    repo: str,
    split: str,
    *,
    config: str | None = None,
    classes: Sequence[str] = (),
    size: Size = None,
    image_column: str = "image",
    label_column: str = "label",
    palette: Sequence[tuple[int, int, int]] | None = None,
    label_map: Mapping[Any, int] | None = None,
    **load_options: Any,
) -> "datasets.Dataset":
    """Open `split` of a repository of the Hugging Face hub, or of a folder that `datasets.load_dataset` reads.

    config: which of the repository's configurations, where it has several.
    classes: names in train-id order, always needed: repositories do not say them in a common way.
    image_column, label_column: what the repository calls its two image columns.
    palette: one colour a class, which labels may be drawn in; without it the VOC colours, and labels are numbers.
    label_map: {value in the files: train id}; without it they hold train ids.
    load_options: for `datasets.load_dataset`, such as `revision`.

    Raises `ValueError` without classes, and for a column that is not there or holds no images.
    The first 16 files are checked at once, all others when they are read.
    """
    import datasets

    space = LabelSpace(tuple(classes), tuple(palette or voc_palette(len(classes) + 1)[1:]))
    decoder = Decoder(lookup_table(space.num_classes, label_map), size, colour_ids(space, label_map))
    table = datasets.load_dataset(repo, config, split=split, **load_options)
    columns = {image_column: "image", label_column: "label"}
    for column in columns:
        if not isinstance(table.features.get(column), datasets.Image):
            raise ValueError(f"{column!r} holds no images: set image_column, label_column to two of {table.features}")
        table = table.cast_column(column, datasets.Image(decode=False))
    table = table.select_columns(list(columns)).rename_columns(columns)
    if faults := survey([table[k] for k in range(min(len(table), 16))], decoder)[2]:
        raise faults[0]
    table.info.description = space.to_json(dataset=f"hub:{repo}", split=split)
    return table.with_transform(decoder)
