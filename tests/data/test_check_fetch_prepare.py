"""``data check``, ``data fetch`` and ``data prepare``: what they report, download and make."""

import hashlib
import http.server
import os
import threading
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from transkd_lite.cli import app
from transkd_lite.data.datasets import LAYOUTS, open_dataset
from transkd_lite.data.decoding import DataError
from transkd_lite.data.tools import check_dataset, fetch, fetch_camvid, find_name, prepare_nyuv2

OFFICIAL = {
    "cityscapes": ["4 images of 2975", "4 images of 500", "4 images of 1525"],
    "acdc": ["4 images of 1600", "4 images of 406", "4 images of 2000"],
    "nyuv2": ["3 images of 795", "2 images of 654"],
    "voc2012": ["2 images of 1464", "2 images of 1449", "4 images of 10582"],
    "camvid": ["3 images of 367", "3 images of 101", "test  not there"],
    "folder": ["train  3 images", "val  1 images", "test  not there"],
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_report_of_a_sound_root_fits_one_screen(trees, tmp_path, name):
    root = trees.BUILDERS[name](tmp_path)
    if name == "folder":
        (root / "val.txt").write_text("day one/écluse 1\n", encoding="utf-8")
    report = check_dataset(name, root)
    text = str(report)
    assert find_name(root) == name
    assert report.ok, text
    assert all(line in text for line in OFFICIAL[name])
    assert "verdict: sound" in text
    assert len(text.splitlines()) <= 24
    assert all(class_name in text for class_name in report.space.names)


def test_histogram_counts_the_pixels(trees, tmp_path):
    for n in range(2):
        ids = np.repeat(np.uint8([3, 3, 5, 11]), 10).reshape(4, 10)
        trees.save(trees.image(n, (4, 10)), tmp_path / f"train/{n}.png")
        trees.save(Image.fromarray(ids), tmp_path / f"trainannot/{n}.png")
    report = check_dataset("camvid", tmp_path)
    assert report.splits[0].pixels[[3, 5, 255]].tolist() == [40, 20, 20]
    assert report.splits[0].pixels.sum() == 80
    text = " ".join(str(report).split())
    assert "road 66.67%" in text
    assert "tree 33.33%" in text
    assert "void 25.00% of all pixels" in text


def test_many_faults_still_fit_one_screen(trees, tmp_path):
    root = trees.camvid(tmp_path, ["train"], num=40)
    for n in range(10):
        (root / f"trainannot/0001TP_{n}.png").unlink()
        (root / f"train/0001TP_{n + 10}.png").write_bytes(b"")
        trees.save(trees.label([200]), root / f"trainannot/0001TP_{n + 20}.png")
        trees.save(trees.label([1], size=(5, 5)), root / f"trainannot/0001TP_{n + 30}.png")
    report = check_dataset("camvid", root)
    assert {kind: len(found) for kind, found in report.splits[0].problems.items()} == dict.fromkeys(
        ("pair", "file", "size", "label"), 10
    )
    assert len(str(report).splitlines()) <= 24
    assert "label 200 in " in str(report)
    assert "NOT sound" in str(report)


def test_a_root_without_any_split_is_not_sound(tmp_path):
    report = check_dataset("camvid", tmp_path)
    assert not report.ok
    assert str(report).count("not there") == 3


def test_a_split_that_training_needs_and_labels_that_are_all_void_are_not_sound(trees, tmp_path):
    report = check_dataset("camvid", trees.camvid(tmp_path / "train only", ["train"]))
    assert not report.ok
    assert "training needs train and val" in str(report)
    root = trees.cityscapes(tmp_path / "cityscapes")
    for file in root.glob("gtFine/test/*/*labelIds.png"):  # as the official ones are
        trees.save(trees.label([0, 3]), file)
    assert check_dataset("cityscapes", root).ok
    for file in root.glob("gtFine/val/*/*labelIds.png"):
        trees.save(trees.label([0, 3]), file)
    report = check_dataset("cityscapes", root)
    assert [list(split.problems) for split in report.splits] == [[], ["label"], []]
    assert "all labels are void" in str(report)
    assert "NOT sound" in str(report)


def test_a_map_of_labels_is_checked_with(trees, tmp_path):
    root = trees.folder(tmp_path)
    for n in range(4):
        trees.save(trees.label([7, 9], n), root / f"labels/day one/écluse {n}.png")
    (root / "val.txt").write_text("day one/écluse 1\n", encoding="utf-8")
    assert not check_dataset("folder", root).ok
    assert check_dataset("folder", root, label_map={"7": 0, 9: 2}).splits[0].pixels[[0, 2]].sum() == 720
    command = ["data", "check", "folder", "--root", str(root), "--set"]
    for setting, code, text in (
        ("label_map={7: 0, 9: 2}", 0, "verdict: sound"),
        ("label_map={7: 3}", 1, "train ids 0-2 or 255"),
        ("labels={7: 3}", 2, "--set names an option of folder"),
    ):
        result = CliRunner().invoke(app, [*command, setting])
        assert (result.exit_code, text in result.output) == (code, True), result.output


def test_acdc_conditions_can_be_checked_alone(trees, tmp_path):
    report = check_dataset("acdc", trees.acdc(tmp_path), conditions=["fog"])
    assert [split.num_images for split in report.splits] == [1, 1, 1]


@pytest.fixture
def server(tmp_path):
    """A small web server that counts what it is asked for."""
    store, asked = tmp_path / "store", []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(store))

        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield store, f"http://127.0.0.1:{web.server_port}/", asked
        web.shutdown()
        thread.join()


def registry_of(root) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}"
        for path in sorted(root.glob("*/*.png"))
    }


def test_fetch_goes_on_where_it_stopped(trees, tmp_path, server):
    store, url, asked = server
    registry = registry_of(trees.camvid(store))
    root = tmp_path / "camvid root"
    fetch_camvid(root, url=url, registry=registry)
    assert len(asked) == len(registry) == 12
    assert registry_of(root) == registry
    assert len(open_dataset("camvid", "train", root=root)) == 3
    (root / "val/0001TP_1.png").unlink()
    (root / "train/0001TP_0.png").write_bytes(b"half a file")
    asked.clear()
    fetch_camvid(root, url=url, registry=registry)
    assert sorted(asked) == ["/train/0001TP_0.png", "/val/0001TP_1.png"]
    assert registry_of(root) == registry


def test_fetch_refuses_a_file_with_another_checksum(trees, tmp_path, server, monkeypatch):
    import pooch.core

    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
    store, url, _ = server
    registry = registry_of(trees.camvid(store))
    (store / "train/0001TP_2.png").write_bytes(b"another file")
    with pytest.raises(ValueError, match=r"0001TP_2.png.*does not match"):
        fetch_camvid(tmp_path / "root", url=url, registry=registry)
    assert not (tmp_path / "root/train/0001TP_2.png").exists()


def test_the_shipped_registry_is_the_official_split():
    names = [
        line.split()[0] for line in files("transkd_lite.data").joinpath("camvid.registry").read_text().splitlines()
    ]
    counts = {folder: sum(name.startswith(f"{folder}/") for name in names) for folder in ("train", "val", "test")}
    assert counts == {"train": 367, "val": 101, "test": 233}
    assert {name.replace("annot/", "/") for name in names if "annot/" in name} == {
        n for n in names if "annot/" not in n
    }


@pytest.mark.parametrize("name", sorted(LAYOUTS.keys() - {"camvid", "folder"}))
def test_the_others_say_where_to_register_and_what_to_unpack(name, tmp_path):
    text = fetch(name, tmp_path)
    assert "https://" in text or "http://" in text
    assert str(tmp_path) in text


def test_fetch_of_an_unknown_name():
    with pytest.raises(ValueError, match="cityscapes, acdc, nyuv2, voc2012, camvid, folder, got 'streets'"):
        fetch("streets", ".")


@pytest.fixture
def matlab(tmp_path):
    """The three official NYUv2 files, small: 4 images of 6x5 and 10 raw classes, stored as MATLAB stores them."""
    import h5py
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    images = np.repeat(np.repeat(rng.integers(0, 256, (4, 3, 3, 4), dtype=np.uint8), 8, 2), 8, 3)  # N, 3, W, H
    labels = rng.integers(0, 11, (4, 24, 32), dtype=np.uint16)  # N, W, H
    with h5py.File(tmp_path / "labeled.mat", "w") as archive:
        archive["images"], archive["labels"] = images, labels
    mapping = rng.permutation(40)[:10] + 1
    savemat(tmp_path / "classMapping40.mat", {"mapClass": mapping[None].astype(np.uint8)})
    savemat(tmp_path / "splits.mat", {"trainNdxs": [[4], [1]], "testNdxs": [[2], [3]]})
    return tmp_path, images, labels, mapping


def test_prepare_nyuv2(matlab):
    folder, images, labels, mapping = matlab
    sources = (folder / "labeled.mat", folder / "classMapping40.mat", folder / "splits.mat")
    root = prepare_nyuv2(*sources, folder / "nyu root")
    train, test = (open_dataset("nyuv2", split, root=root) for split in ("train", "test"))
    assert (len(train), len(test)) == (2, 2)
    for row, number in zip([*train, *test], [1, 4, 2, 3], strict=True):
        raw = labels[number - 1].T
        expected = np.where(raw == 0, 255, np.concatenate([[0], mapping])[raw] - 1)
        assert np.array_equal(np.asarray(row["label"]), expected)
        photo = images[number - 1].transpose(2, 1, 0).astype(float)
        assert np.abs(np.asarray(row["image"]) - photo).mean() < 4, "JPEG of quality 95"
    kept = root / "images/0002.jpg"
    os.utime(kept, (1, 1))
    (root / "images/0003.jpg").unlink()
    prepare_nyuv2(*sources, root)
    assert kept.stat().st_mtime == 1, "what is there is not made again"
    assert (root / "images/0003.jpg").exists()
    assert not list(root.rglob("*.partial"))


@pytest.mark.parametrize("spoilt", ["labeled.mat", "classMapping40.mat", "splits.mat"])
def test_prepare_names_the_file_that_is_wrong(matlab, spoilt):
    folder, *_ = matlab
    sources = [folder / name for name in ("labeled.mat", "classMapping40.mat", "splits.mat")]
    (folder / spoilt).write_bytes(b"not a MATLAB file" * 40)
    with pytest.raises(DataError, match=rf"{spoilt} should be a .*download it"):
        prepare_nyuv2(*sources, folder / "out")
    (folder / spoilt).unlink()
    with pytest.raises(DataError, match=rf"{spoilt} should be .*FileNotFoundError"):
        prepare_nyuv2(*sources, folder / "out")
    assert not (folder / "out/train.txt").exists(), "lists come last"


def test_prepare_refuses_raw_classes_outside_the_mapping(matlab):
    import h5py

    folder, *_ = matlab
    with h5py.File(folder / "labeled.mat", "a") as archive:
        archive["labels"][1, 0, 0] = 11
    with pytest.raises(DataError, match=r"labeled.mat should be"):
        prepare_nyuv2(folder / "labeled.mat", folder / "classMapping40.mat", folder / "splits.mat", folder / "out")
