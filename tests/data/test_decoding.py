"""Protects: labels and pictures as people store them are read right, or refused in a sentence that says why."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from transkd_lite.data.datasets import open_dataset
from transkd_lite.data.decoding import DataError, to_rgb
from transkd_lite.data.labels import CAMVID, colour_ids, voc_palette
from transkd_lite.data.tools import check_dataset

IDS = np.random.default_rng(0).integers(0, 3, (12, 20), dtype=np.uint8)
COLOURS = np.uint8([[10, 20, 30], [128, 64, 128], [0, 0, 142], [0, 0, 0]])  # of the three classes, and black
CLASSES = "wall 10 20 30\nroad 128 64 128\ncar 0 0 142\n"
MASK = np.where(IDS > 0, 255, 0).astype(np.uint8)


def grey_png(bits: int, ids: np.ndarray) -> bytes:
    """A grey PNG of 2 or 4 bits a pixel, which Pillow does not write."""
    pixels = ids.reshape(len(ids), -1, 8 // bits)
    rows = sum(pixels[..., k].astype(int) << (8 - bits * (k + 1)) for k in range(8 // bits)).astype(np.uint8)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", ids.shape[1], ids.shape[0], bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    parts = (struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def indexed(indices: np.ndarray, palette) -> Image.Image:
    picture = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    picture.putpalette([int(level) for colour in palette for level in colour])
    return picture


def opened(tmp_path, trees, label, *, image=None, classes=CLASSES, names=("a.png", "a.png"), **options):
    """The train ids that `open_dataset` reads from one label file, and its picture."""
    for folder, name, content in (("images", names[0], image or trees.image()), ("labels", names[1], label)):
        file = tmp_path / folder / "train" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            content.save(file)
    (tmp_path / "classes.txt").write_text(classes)
    return open_dataset("folder", "train", root=tmp_path, **options)[0]


READ = {
    "grey of 4 bits": (grey_png(4, IDS), IDS, {}),
    "grey of 2 bits": (grey_png(2, IDS), IDS, {}),
    "grey of 1 bit": (Image.fromarray(IDS > 0), np.minimum(IDS, 1), {}),
    "16 bits": (Image.fromarray(IDS.astype(np.uint16)), IDS, {}),
    "32 bits": (Image.fromarray(IDS.astype(np.int32)), IDS, {"names": ("a.png", "a.tif")}),
    "whole floats": (Image.fromarray(IDS.astype(np.float32)), IDS, {"names": ("a.png", "a.tif")}),
    "equal channels": (Image.fromarray(np.stack([IDS] * 3, -1)), IDS, {}),
    "grey with an opaque alpha": (Image.fromarray(IDS).convert("LA"), IDS, {}),
    "colours of classes.txt": (Image.fromarray(COLOURS[IDS]), IDS, {}),
    "colours and black": (Image.fromarray(COLOURS[IDS + 1]), np.array([1, 2, 255])[IDS], {}),
    "palette of the classes": (indexed(IDS, COLOURS), IDS, {}),
    "palette of VOC": (indexed(IDS, voc_palette(256)), IDS, {"classes": "a\nb\nc\n"}),
    "palette in another order by a map": (indexed(IDS, COLOURS[[2, 0, 1]]), IDS, {"label_map": {0: 0, "1": 1, 2: 2}}),
    "mask by a map of JSON": (Image.fromarray(MASK), MASK // 255, {"label_map": {"0": 0, "255": 1}}),
    "PGM of another highest number": (b"P5 20 12 18\n" + IDS.tobytes(), IDS, {"names": ("a.png", "a.pgm")}),
    "letter case of suffixes": (Image.fromarray(IDS), IDS, {"names": ("a.JPG", "a.PNG")}),
    "an ending of the label": (Image.fromarray(IDS), IDS, {"names": ("a.jpg", "a_mask.png")}),
    "two endings": (Image.fromarray(IDS), IDS, {"names": ("a_sat.jpg", "a_mask.png")}),
    "accents in two encodings": (Image.fromarray(IDS), IDS, {"names": ("\u00e9.jpg", "e\u0301.png")}),
}


@pytest.mark.parametrize("case", READ)
def test_labels_are_read_whatever_their_form(tmp_path, trees, case):
    label, expected, options = READ[case]
    assert np.array_equal(np.asarray(opened(tmp_path, trees, label, **options)["label"]), expected)


REFUSED = {
    "unknown colour": (Image.fromarray(COLOURS[IDS] + np.uint8(1)), r"label \(.*\) in .*classes.txt", {}),
    "colours that nobody named": (Image.fromarray(COLOURS[IDS]), "colours of all classes", {"classes": "a\nb\nc\n"}),
    "black all over": (Image.fromarray(COLOURS[IDS * 0 + 3]), r"\[0\] by its numbers and \[255\] by its colours", {}),
    "palette in another order": (indexed(IDS, COLOURS[[2, 0, 1]]), r"numbers .* pass label_map", {}),
    "mask of 0 and 255": (Image.fromarray(MASK), r"0 and 255 alone: pass label_map=\{0: 0, 255: 1\}", {}),
    "coloured mask of 0 and 255": (Image.fromarray(MASK).convert("RGB"), "0 and 255 alone", {}),
    "other frames": (Image.fromarray(IDS), "needs its label", {"names": ("a_1.png", "a_2.png")}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_could_be_read_in_two_ways_are_refused(tmp_path, trees, case):
    label, message, options = REFUSED[case]
    with pytest.raises(DataError, match=message):
        opened(tmp_path, trees, label, **options)


def test_camvid_in_its_original_colours(trees, tmp_path):
    table = dict(colour_ids(CAMVID, {0: 0}))
    assert len(table) == 33, "32 and the borders of VOC"
    assert [table[colour] for colour in CAMVID.palette] == list(range(11))
    assert (table[64, 192, 0], table[192, 64, 128], table[0, 0, 0]) == (1, 8, 255), "wall, train, void"
    root = trees.camvid(tmp_path)
    drawn = np.uint8([[[64, 192, 0], [0, 0, 0]], [[192, 64, 128], [128, 128, 128]]]).repeat(6, 0).repeat(10, 1)
    Image.fromarray(drawn).save(root / "trainannot/0001TP_0.png")
    row = open_dataset("camvid", "train", root=root)[0]
    assert np.asarray(row["label"])[::6, ::10].tolist() == [[1, 255], [8, 0]]


def test_a_photograph_is_turned_upright_where_its_label_is(tmp_path, trees):
    exif = Image.Exif()
    exif[0x0112] = 6
    trees.image().save(tmp_path / "turned.png", exif=exif)
    photo, upright = (tmp_path / "turned.png").read_bytes(), np.ascontiguousarray(np.rot90(IDS, 3))
    row = opened(tmp_path, trees, Image.fromarray(upright), image=photo)
    assert np.array_equal(np.asarray(row["image"]), np.rot90(np.asarray(trees.image()), 3))
    assert np.array_equal(np.asarray(row["label"]), upright)
    with pytest.raises(DataError, match="save the turned one upright"):
        opened(tmp_path, trees, Image.fromarray(IDS), image=photo)
    assert np.array_equal(to_rgb(tmp_path / "turned.png"), to_rgb(row["image"]))


@pytest.mark.parametrize("name", ["cityscapes", "voc2012", "nyuv2", "camvid", "folder"])
def test_archives_unpacked_into_folders_of_their_names(trees, tmp_path, name):
    deep = trees.BUILDERS[name](tmp_path / "data/data")
    (tmp_path / "__MACOSX").mkdir()
    assert len(open_dataset(name, "train", root=tmp_path)) > 1
    for place in ("leftImg8bit", "gtFine", "images", "labels"):
        if (deep / place).is_dir():
            (deep / place).rename(deep / "aside")
            (deep / "aside").rename((deep / place).mkdir() or deep / place / place)
    assert len(open_dataset(name, "train", root=deep)) > 1


def test_hidden_files_are_no_pictures_and_unknown_ones_are_not_passed_over(trees, tmp_path):
    root = trees.camvid(tmp_path)
    for name in (".DS_Store", "._0001TP_0.png", ".ipynb_checkpoints/0001TP_0.png", "__MACOSX/x.png", "notes.txt"):
        (root / "train" / name).parent.mkdir(exist_ok=True)
        (root / "train" / name).write_bytes(b"x")
    assert len(open_dataset("camvid", "train", root=root)) == 3
    for folder in ("train", "trainannot"):
        (root / folder / "b.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"b\.heic cannot be read"):
        open_dataset("camvid", "train", root=root)
    assert not check_dataset("camvid", root).ok


def test_an_arrow_cache_that_is_damaged_is_made_again(trees, tmp_path):
    root = trees.camvid(tmp_path)
    cache = tmp_path / "cache"
    whole = [row["label"].tobytes() for row in open_dataset("camvid", "train", root=root, cache=cache)]
    (file,) = cache.iterdir()
    content = file.read_bytes()
    at = content.index(b"P5\n")
    file.write_bytes(content[: at + 100] + bytes(64) + content[at + 164 :])
    assert [row["label"].tobytes() for row in open_dataset("camvid", "train", root=root, cache=cache)] == whole
    assert file.read_bytes() == content


U8 = np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8)
CHANNELS_FIRST = torch.from_numpy(U8).permute(2, 0, 1)
GREY = np.repeat(U8[..., :1], 3, -1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (U8 / 255, U8),
        (U8.astype(np.float32), U8),
        (CHANNELS_FIRST, U8),
        (CHANNELS_FIRST.float() / 255, U8),
        ((CHANNELS_FIRST / 255).bfloat16().requires_grad_(), U8),
        (U8.transpose(2, 0, 1), U8),
        (U8[..., 0], GREY),
        (U8[..., :1], GREY),
        (np.dstack([U8, U8[..., 0]]), U8),
        (U8 > 127, (U8 > 127) * np.uint8(255)),
        (Image.fromarray(U8).convert("RGBA"), U8),
        (Image.fromarray(U8[..., 0]), GREY),
        (Image.fromarray(U8[..., 0].astype(np.int32)), GREY),
        (U8.tolist(), U8),
    ],
)
def test_pictures_in_memory_become_rgb(given, expected):
    assert np.array_equal(to_rgb(given), expected)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (U8.astype(np.uint16) * 256, r"got uint16 \(6, 9, 3\) from 512 to 65280: convert it"),
        (Image.fromarray(U8[..., 0].astype(np.uint16) * 200), "got uint16"),
        (U8 / 255 - 0.5, r"from -0\.49.* to 0\.5"),
        (np.full((4, 4), np.nan), "from nan to nan"),
        (U8[None], r"got uint8 \(1, 6, 9, 3\)"),
        (np.zeros((0, 4, 3)), r"got float64 \(0, 4, 3\)"),
        (None, "got object"),
        ("/nowhere/a.png", "/nowhere/a.png cannot be read"),
    ],
)
def test_pictures_that_would_come_out_black_are_refused(given, found):
    with pytest.raises(ValueError, match=found):
        to_rgb(given)
