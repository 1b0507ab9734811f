"""``open_dataset``: one table of images and labels, whatever the dataset and however its files lie.

A dataset is a Hugging Face ``datasets.Dataset`` with the columns ``image`` and ``label`` (and ``condition``
for ``streets`` and ``acdc``). The table holds file names; pixels are decoded when a row is looked at:
``image`` becomes a PIL image in RGB, ``label`` a PIL image of 8-bit train ids with 255 for void. Class names
and palette travel in ``dataset.info.description``; `label_space` reads them.

Every file is looked at once before a dataset is handed out, so that a damaged one is an error before training
starts; the verdict is remembered for as long as the files do not change (`verify`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transkd_lite.data.arrow import cached
from transkd_lite.data.decode import DataError, Decoder, Size
from transkd_lite.data.folders import Pair, fold_pairs, pair_up
from transkd_lite.data.labels import label_space, lookup_table
from transkd_lite.data.official import LAYOUTS, Layout, read_classes
from transkd_lite.data.verify import verify

if TYPE_CHECKING:
    import datasets

__all__ = ["DATASETS", "DataError", "label_space", "layout_of", "open_dataset", "root_of"]

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
        from transkd_lite.data.streets import open_streets

        return open_streets(split, size=size, **options)
    if name.startswith("hub:"):
        from transkd_lite.data.hub import open_hub

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
