"""Every way a dataset on disk can be wrong gives an error, at opening, that names the file and says what to do."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transkd_lite.data.datasets import open_dataset
from transkd_lite.data.decoding import DataError
from transkd_lite.data.tools import check_dataset


def truncated(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def a_photograph(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)).save(path)


def zeroed(path: Path) -> None:
    """Half of what the pixels are coded in, in the middle of the file."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) // 4) + data[len(data) * 3 // 4 :])


def two_pages(path: Path) -> None:
    page = Image.open(path).copy()
    page.save(path, format="TIFF", save_all=True, append_images=[page])


def transparent(path: Path) -> None:
    picture = Image.open(path).convert("RGBA")
    picture.putalpha(7)
    picture.save(path)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(path).save(path, exif=exif)


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def halves(path: Path) -> None:
    Image.fromarray(np.full((12, 20), 0.5, dtype=np.float32)).save(path, format="TIFF")


def sixteen_bit(path: Path) -> None:
    grey = np.asarray(Image.open(path).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 256).save(path)


def value_44(path: Path) -> None:
    pixels = np.array(Image.open(path))
    pixels[3, 4] = 44
    Image.fromarray(pixels).save(path)


def larger(path: Path) -> None:
    Image.open(path).resize((30, 20), Image.Resampling.NEAREST).save(path)


def broken_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere.png")


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def lossy(path: Path) -> None:
    Image.open(path).convert("L").save(path, format="JPEG")


CASES = {  # fault: (which file, what is done to it, what the message says, what kind it is)
    "truncated image": ("train", truncated, "cannot be read", "file"),
    "truncated label": ("trainannot", truncated, "cannot be read", "file"),
    "empty image": ("train", lambda path: path.write_bytes(b""), "cannot be read", "file"),
    "text as image": ("train", lambda path: path.write_text("not an image"), "cannot identify image", "file"),
    "label without image": ("train", Path.unlink, "every label needs its image", "pair"),
    "image without label": ("trainannot", Path.unlink, "every image needs its label", "pair"),
    "photograph as label": (
        "trainannot",
        a_photograph,
        r"label \(.*\) in .* colours of all classes in classes.txt",
        "label",
    ),
    "16-bit label": ("trainannot", sixteen_bit, "label 2816 in ", "label"),
    "label of fractions": ("trainannot", halves, "label 0.5 in ", "label"),
    "transparent label": ("trainannot", transparent, "opaque colours or numbers, .* but .* mode RGBA", "label"),
    "16-bit image": ("train", sixteen_bit, "images have 8 bits a channel", "file"),
    "zeroed image": ("train", zeroed, "cannot be read", "file"),
    "zeroed label": ("trainannot", zeroed, "cannot be read", "file"),
    "two pages": ("trainannot", two_pages, "several pictures", "file"),
    "image turned by 180 degrees": (
        "train",
        turned,
        "both are turned by an EXIF orientation or neither, but .* is 20x12",
        "size",
    ),
    "pipe as image": ("train", a_pipe, "cannot be read .*pipe", "file"),
    "pipe as label": ("trainannot", a_pipe, "cannot be read .*pipe", "file"),
    "label value 44": ("trainannot", value_44, "label 44 in ", "label"),
    "lossy label": ("trainannot", lossy, "stored exactly, but .* is JPEG", "label"),
    "sizes differ": ("trainannot", larger, r"is 20x12 and .* is 30x20", "size"),
    "broken link": ("train", broken_link, "cannot be read .*No such file", "file"),
    "link to itself": ("train", link_to_itself, "cannot be read", "file"),
    "folder instead of file": ("train", a_folder, "every label needs its image", "pair"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["plain", "with space ü 街"])
def test_fault_is_found_at_opening_and_by_the_check(trees, tmp_path, case, name):
    place, spoil, message, kind = CASES[case]
    root = trees.camvid(tmp_path, ["train"])
    for folder in ("train", "trainannot"):
        (root / folder / "0001TP_1.png").rename(root / folder / f"{name}.png")
    spoil(root / place / f"{name}.png")
    with pytest.raises(DataError, match=message) as error:
        open_dataset("camvid", "train", root=root)
    assert f"{name}.png" in str(error.value), "the message names the file"
    assert ": " in str(error.value), "and says what to do"
    report = check_dataset("camvid", root)
    assert not report.ok
    assert list(report.splits[0].problems) == [kind]
    assert f"{name}.png" in str(report)


def test_value_44_among_train_ids_hints_at_label_ids(trees, tmp_path):
    root = trees.cityscapes(tmp_path, ["train"], "labelTrainIds")
    file = next(root.glob("gtFine/train/aachen/*labelTrainIds.png"))
    value_44(file)
    with pytest.raises(DataError, match=r"label 44 in .*labelTrainIds.png: ids are 0-18 and 255; .*label_ids=True"):
        open_dataset("cityscapes", "train", root=root)


@pytest.mark.parametrize("name", ["cityscapes", "acdc", "nyuv2", "voc2012", "camvid", "folder"])
def test_wrong_root_is_explained(trees, tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "absent", tmp_path / "file"):
        with pytest.raises((FileNotFoundError, DataError), match=f"{root}.*: "):
            open_dataset(name, "train", root=root)
    with pytest.raises(FileNotFoundError, match=r"should be in .*empty"):
        open_dataset(name, "train", root=tmp_path / "empty")


def test_empty_split_is_explained(trees, tmp_path):
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match=r"at least one image, but .*train holds none"):
        open_dataset("camvid", "train", root=tmp_path)
    report = check_dataset("camvid", tmp_path)
    assert not report.ok
    assert "no image in" in str(report)


def test_unreadable_file_and_folder(trees, tmp_path, monkeypatch):
    """Permissions do not bind root, so the refusal itself is made."""
    root = trees.camvid(tmp_path, ["train"])
    refused = root / "train/0001TP_1.png"
    real_read = Path.read_bytes

    def refuse(file):
        if file == refused:
            raise PermissionError(13, "Permission denied", str(file))
        return real_read(file)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"0001TP_1.png cannot be read \(PermissionError.*Permission denied"):
        open_dataset("camvid", "train", root=root)
    monkeypatch.undo()

    def refuse_folder(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse_folder)
    with pytest.raises(DataError, match=r"train cannot be listed \(Permission denied\)"):
        open_dataset("camvid", "train", root=root)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind root")
def test_file_without_permission(trees, tmp_path):
    root = trees.camvid(tmp_path, ["train"])
    (root / "train/0001TP_1.png").chmod(0)
    with pytest.raises(DataError, match=r"0001TP_1.png cannot be read \(PermissionError.*Permission denied"):
        open_dataset("camvid", "train", root=root)


def test_two_images_of_one_name(trees, tmp_path):
    root = trees.camvid(tmp_path, ["train"])
    trees.save(trees.image(), root / "train/0001TP_1.jpg")
    with pytest.raises(DataError, match=r"0001TP_1.jpg and .*0001TP_1.png share one"):
        open_dataset("camvid", "train", root=root)


def test_split_lists_are_checked(trees, tmp_path):
    root = trees.nyuv2(tmp_path)
    for text, message in (
        ("0001\n0009\n", "names '0009', but .*images lacks it"),
        ("\n", "at least one image"),
        (b"\xff\xfe\x00", "train.txt cannot be read"),
    ):
        (root / "train.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(DataError, match=message):
            open_dataset("nyuv2", "train", root=root)
    (root / "train.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"names of images should be in .*train.txt"):
        open_dataset("nyuv2", "train", root=root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("road\nroad\n", "different classes"),
        ("#\n", "different classes, got 0"),
        ("crack\n", r"classes.txt: a label space names 2 to 254 different classes, got 1 \(first \('crack',\)\)"),
        ("".join(f"{n}\n" for n in range(255)), "different classes, got 255"),
        ("", "different classes, got 0"),
    ],
)
def test_class_lists_are_checked(trees, tmp_path, text, message):
    root = trees.folder(tmp_path)
    (root / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset("folder", "train", root=root)
    (root / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"class names should be in .*classes.txt"):
        check_dataset("folder", root)


def test_what_breaks_after_opening_is_named_when_read(trees, tmp_path):
    root = trees.camvid(tmp_path, ["train"])
    data = open_dataset("camvid", "train", root=root)
    truncated(root / "train/0001TP_2.png")
    assert data[0]["image"].size == (20, 12)
    with pytest.raises(DataError, match=r"0001TP_2.png cannot be read"):
        data[2]
    with pytest.raises(DataError, match=r"0001TP_2.png cannot be read"):
        open_dataset("camvid", "train", root=root)


def test_verdict_is_remembered_until_a_file_changes(trees, tmp_path, monkeypatch):
    from transkd_lite.data import files

    root = trees.camvid(tmp_path, ["train"])
    open_dataset("camvid", "train", root=root)
    monkeypatch.setattr(files.Decoder, "read", lambda *_: pytest.fail("files were read again"))
    open_dataset("camvid", "train", root=root)
    value_44(root / "trainannot/0001TP_0.png")
    os.utime(root / "trainannot/0001TP_0.png", (1, 1))  # a fast machine writes twice within a tick of the clock
    with pytest.raises(pytest.fail.Exception):
        open_dataset("camvid", "train", root=root)


def test_opening_without_a_look_finds_nothing(trees, tmp_path):
    root = trees.camvid(tmp_path, ["train"])
    value_44(root / "trainannot/0001TP_0.png")
    assert len(open_dataset("camvid", "train", root=root, check=False)) == 3


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12
)
CONTENTS = st.one_of(
    st.binary(max_size=64),
    st.sampled_from(["L", "RGB", "P", "1", "I;16", "RGBA", "LA", "F"]).map(lambda mode: ("picture", mode)),
    st.sampled_from(["truncated", "link", "folder"]),
)


def put(path: Path, content, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if content == "folder":
        path.mkdir(exist_ok=True)
    elif content == "link":
        path.symlink_to("nowhere")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        mode = content[1] if isinstance(content, tuple) else "L"
        Image.new(mode, size, 1).save(path, format="TIFF" if mode == "F" else "PNG")
        if content == "truncated":
            truncated(path)


@settings(max_examples=60)
@given(
    files=st.dictionaries(
        st.tuples(
            st.sampled_from(["train", "trainannot", "images", "labels", "images/train", "labels/train", "."]),
            NAMES,
            st.sampled_from([".png", ".PNG", ".jpg", ".txt", "", ".webp"]),
        ),
        st.tuples(CONTENTS, st.sampled_from([(4, 3), (5, 3)])),
        max_size=6,
    ),
    classes=st.none() | st.binary(max_size=30),
    data=st.data(),
)
def test_any_tree_gives_a_dataset_or_a_message(tmp_path, files, classes, data):
    root = tmp_path / "tree"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for (folder, name, suffix), (content, size) in files.items():
        if (
            name + suffix in (".", "..")
            or len((name + suffix).encode()) > 200
            or (root / folder / (name + suffix)).exists()
        ):
            continue
        put(root / folder / (name + suffix), content, size)
    if classes is not None and not (root / "classes.txt").exists():
        (root / "classes.txt").write_bytes(classes)
    dataset = data.draw(st.sampled_from(["camvid", "folder"]))
    try:
        opened = open_dataset(dataset, "train", root=root)
    except (DataError, FileNotFoundError) as error:
        message = str(error)
        assert str(root) in message, "the message says where"
        assert ": " in message, "and what to do"
    else:
        assert all(row["image"].size == row["label"].size for row in opened)
    try:
        str(check_dataset(dataset, root))
    except (DataError, FileNotFoundError) as error:
        message = str(error)
        assert "classes.txt" in message, "only class names can stop the check of a root"


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def rename(path: Path) -> None:
    path.rename(path.with_name(f"{path.stem} ü.{path.suffix.lstrip('.').upper()}"))


def double(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".bmp" if path.suffix == ".webp" else ".webp"))


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00garbage\n")


SPOILERS = [Path.unlink, truncated, garbage, broken_link, a_folder, remove_folder, rename, double]
SPLITS = ["train", "val", "test", "trainaug", "all"]


@settings(max_examples=30)
@given(
    name=st.sampled_from(["cityscapes", "acdc", "nyuv2", "voc2012", "camvid", "folder"]),
    harm=st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(SPOILERS)), min_size=1, max_size=3),
)
def test_any_spoilt_official_tree_gives_datasets_or_messages(trees, tmp_path, name, harm):
    root = tmp_path / "tree"
    shutil.rmtree(root, ignore_errors=True)
    trees.BUILDERS[name](root)
    for number, spoil in harm:
        files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
        if files:
            spoil(files[number % len(files)])
    root.mkdir(exist_ok=True)
    for split in SPLITS:
        try:
            opened = open_dataset(name, split, root=root)
        except ValueError as error:  # DataError is one
            message = str(error)
        except FileNotFoundError as error:
            message = str(error)
        else:
            assert all(row["image"].size == row["label"].size for row in opened)
            continue
        assert str(root) in message or split in message, "the message says where"
        assert ": " in message, "and what to do"
    try:
        assert str(check_dataset(name, root))
    except (DataError, FileNotFoundError) as error:
        message = str(error)
        assert "classes.txt" in message, "only class names can stop the check of a root"
