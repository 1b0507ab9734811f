"""Small made-up datasets in each official layout, shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (12, 20)  # height, width


def image(seed: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def label(values, seed: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    """A grey label of values drawn from ``values``, each at least once."""
    values = np.asarray(values, dtype=np.uint8)
    drawn = np.random.default_rng(seed + 1000).choice(values, size)
    drawn.flat[: len(values)] = values
    return Image.fromarray(drawn)


def save(picture: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def cityscapes(root: Path, splits=("train", "val", "test"), kind: str = "labelIds", num: int = 2) -> Path:
    values = [*range(34)] if kind == "labelIds" else [*range(19), 255]
    for split in splits:
        for city in ("aachen", "zürich"):
            for n in range(num):
                stem = f"{split}/{city}/{city}_00000{n}_000019"
                save(image(n), root / f"leftImg8bit/{stem}_leftImg8bit.png")
                save(label(values, n), root / f"gtFine/{stem}_gtFine_{kind}.png")
                save(image(n), root / f"gtFine/{stem}_gtFine_color.png")
                save(label(values, n), root / f"gtFine/{stem}_gtFine_instanceIds.png")
    return root


def acdc(root: Path, kind: str = "labelTrainIds") -> Path:
    values = [*range(34)] if kind == "labelIds" else [*range(19), 255]
    for condition in ("fog", "night", "rain", "snow"):
        for split in ("train", "val", "test"):
            stem = f"{condition}/{split}/GOPR0475/GOPR0475_frame_000041"
            save(image(1), root / f"rgb_anon/{stem}_rgb_anon.png")
            if split != "test":
                save(image(2), root / f"rgb_anon/{stem.replace(split, split + '_ref')}_rgb_ref_anon.png")
                save(label(values), root / f"gt/{stem}_gt_{kind}.png")
                save(image(3), root / f"gt/{stem}_gt_labelColor.png")
    return root


def nyuv2(root: Path) -> Path:
    for n in range(1, 6):
        save(image(n), root / f"images/{n:04d}.jpg")
        save(label(range(41), n), root / f"labels40/{n:04d}.png")
    (root / "train.txt").write_text("0001\n0003\n0005\n")
    (root / "test.txt").write_text("0002\n0004\n")
    return root


def voc2012(root: Path) -> Path:
    from transkd_lite.data.labels import voc_palette

    palette = [channel for colour in voc_palette(256) for channel in colour]
    stems = [f"2007_00000{n}" for n in range(6)]
    for n, stem in enumerate(stems):
        save(image(n), root / f"JPEGImages/{stem}.jpg")
        save(label([*range(21), 255], n), root / f"SegmentationClassAug/{stem}.png")
        if n < 4:
            drawn = label([*range(21), 255], n)
            drawn.putpalette(palette)
            save(drawn, root / f"SegmentationClass/{stem}.png")
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000000\n2007_000001\n")
    (lists / "val.txt").write_text("2007_000002\n2007_000003\n")
    return root


def camvid(root: Path, splits=("train", "val"), num: int = 3, suffix: str = "png") -> Path:
    for split in splits:
        for n in range(num):
            save(image(n), root / f"{split}/0001TP_{n}.{suffix}")
            save(label(range(12), n), root / f"{split}annot/0001TP_{n}.png")
    return root


def folder(root: Path, num: int = 4) -> Path:
    for n in range(num):
        save(image(n), root / f"images/day one/écluse {n}.png")
        save(label([0, 1, 2, 255], n), root / f"labels/day one/écluse {n}.png")
    (root / "classes.txt").write_text(
        "# my classes\nroad 128 64 128\ntraffic light\ncar, 0, 0, 142\n", encoding="utf-8"
    )
    return root


BUILDERS = {
    "cityscapes": cityscapes,
    "acdc": acdc,
    "nyuv2": nyuv2,
    "voc2012": voc2012,
    "camvid": camvid,
    "folder": folder,
}
