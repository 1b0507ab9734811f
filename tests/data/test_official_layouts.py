"""Every official layout opens: right pairs, right train ids, right conditions, right names and palettes."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transkd_lite.data.datasets import DATASETS, open_dataset
from transkd_lite.data.labels import CITYSCAPES_ID_TO_TRAIN_ID, LabelSpace, label_space

OPENED = {
    "cityscapes": [("train", 4), ("val", 4), ("test", 4)],
    "acdc": [("train", 4), ("val", 4)],
    "nyuv2": [("train", 3), ("test", 2), ("val", 2)],
    "voc2012": [("train", 2), ("val", 2), ("trainaug", 4)],
    "camvid": [("train", 3), ("val", 3)],
    "folder": [("train", 4), ("all", 4)],
}
NUM_CLASSES = {"cityscapes": 19, "acdc": 19, "nyuv2": 40, "voc2012": 21, "camvid": 11, "folder": 3}


@pytest.mark.parametrize(("name", "split", "num"), [(n, s, k) for n, splits in OPENED.items() for s, k in splits])
def test_official_tree_opens(trees, tmp_path, name, split, num):
    root = trees.BUILDERS[name](tmp_path / "a root")
    data = open_dataset(name, split, root=root)
    assert len(data) == num
    space = label_space(data)
    assert space.num_classes == NUM_CLASSES[name]
    seen = set()
    for row in data:
        assert row["image"].mode == "RGB"
        assert row["label"].mode == "L"
        assert row["image"].size == row["label"].size == trees.SIZE[::-1]
        seen |= set(np.unique(np.asarray(row["label"])).tolist())
    assert seen == {*range(space.num_classes), 255}, "the trees draw every class and void"


def test_pairs_belong_together(trees, tmp_path):
    root = trees.camvid(tmp_path)
    for n, row in enumerate(open_dataset("camvid", "train", root=root)):
        assert np.array_equal(np.asarray(row["image"]), np.asarray(trees.image(n)))
        ids = np.asarray(trees.label(range(12), n))
        assert np.array_equal(np.asarray(row["label"]), np.where(ids == 11, 255, ids))


def test_folds_share_train_out_among_themselves_in_the_order_of_the_frames(trees, tmp_path):
    root = trees.camvid(tmp_path)
    whole = [np.asarray(row["image"]).tobytes() for row in open_dataset("camvid", "train", root=root)]
    held = []
    for k in (0, 1):
        train, val = (
            [np.asarray(row["image"]).tobytes() for row in open_dataset("camvid", s, root=root, fold=[k, 2])]
            for s in ("train", "val")
        )
        assert [frame for frame in whole if frame not in val] == train
        held += val
    assert held == whole


@pytest.mark.parametrize("fold", [(2, 2), (-1, 2), (0, 1), (0,), "ab", (0.0, 2), 3, (0, 4)])
def test_a_fold_that_does_not_exist_is_refused(trees, tmp_path, fold):
    with pytest.raises(ValueError, match="fold is"):
        open_dataset("camvid", "train", root=trees.camvid(tmp_path), fold=fold)


def test_only_train_and_val_are_made_of_folds(trees, tmp_path):
    with pytest.raises(ValueError, match="open train or val"):
        open_dataset("camvid", "test", root=trees.camvid(tmp_path), fold=(0, 2))


def test_label_ids_become_the_train_ids_of_the_official_table(trees, tmp_path):
    from cityscapesscripts.helpers.labels import id2label

    official = {number: label.trainId if label.trainId >= 0 else 255 for number, label in id2label.items()}
    assert {n: official[n] for n in range(34)} == CITYSCAPES_ID_TO_TRAIN_ID
    trees.cityscapes(tmp_path, ["train"])
    opened = np.asarray(open_dataset("cityscapes", "train", root=tmp_path)[0]["label"])
    file = next(tmp_path.glob("gtFine/train/aachen/*_000000_*labelIds.png"))
    assert np.array_equal(opened, np.vectorize(official.get)(np.asarray(Image.open(file))))


def test_names_and_colours_are_cityscapes_own(trees, tmp_path):
    from cityscapesscripts.helpers.labels import trainId2label

    space = label_space(open_dataset("acdc", "train", root=trees.acdc(tmp_path)))
    assert space.names == tuple(trainId2label[n].name for n in range(19))
    assert space.palette == tuple(trainId2label[n].color for n in range(19))


def test_train_id_files_are_preferred_only_when_complete(trees, tmp_path):
    trees.cityscapes(tmp_path, ["val"], "labelIds")
    trees.cityscapes(tmp_path, ["val"], "labelTrainIds")
    by_default = np.asarray(open_dataset("cityscapes", "val", root=tmp_path)[0]["label"])
    train_ids = np.asarray(open_dataset("cityscapes", "val", root=tmp_path, label_ids=False)[0]["label"])
    ids = np.asarray(open_dataset("cityscapes", "val", root=tmp_path, label_ids=True)[0]["label"])
    assert np.array_equal(by_default, train_ids)
    assert not np.array_equal(train_ids, ids)
    next(tmp_path.glob("gtFine/val/aachen/*labelTrainIds.png")).unlink()
    assert np.array_equal(np.asarray(open_dataset("cityscapes", "val", root=tmp_path)[0]["label"]), ids)


def test_acdc_conditions(trees, tmp_path):
    root = trees.acdc(tmp_path, "labelIds")
    assert list(open_dataset("acdc", "val", root=root)["condition"]) == ["fog", "night", "rain", "snow"]
    assert list(open_dataset("acdc", "val", root=root, conditions=["snow", "fog"])["condition"]) == ["fog", "snow"]
    assert list(open_dataset("acdc", "val", root=root, conditions="night")["condition"]) == ["night"]
    with pytest.raises(ValueError, match=r"fog, night, rain, snow, got .*hail"):
        open_dataset("acdc", "val", root=root, conditions=["hail"])
    with pytest.raises(ValueError, match="server only: open train or val"):
        open_dataset("acdc", "test", root=root)


@pytest.mark.parametrize("level", ["VOC2012", "VOCdevkit/VOC2012", ""])
def test_voc_root_at_any_of_three_levels(trees, tmp_path, level):
    trees.voc2012(tmp_path / level)
    assert len(open_dataset("voc2012", "val", root=tmp_path)) == 2


def test_voc_trainaug_list_of_pairs_is_understood(trees, tmp_path):
    root = trees.voc2012(tmp_path)
    line = "/JPEGImages/2007_000005.jpg /SegmentationClassAug/2007_000005.png\n"
    (root / "ImageSets/Segmentation/trainaug.txt").write_text(line)
    assert len(open_dataset("voc2012", "trainaug", root=root)) == 1


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_camvid_in_any_image_format(trees, tmp_path, suffix):
    assert len(open_dataset("camvid", "val", root=trees.camvid(tmp_path, suffix=suffix))) == 3


def test_camvid_without_test_is_no_fault_until_asked_for(trees, tmp_path):
    root = trees.camvid(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"images should be in .*test"):
        open_dataset("camvid", "test", root=root)
    trees.camvid(tmp_path, ["test"])
    assert len(open_dataset("camvid", "test", root=root)) == 3


def test_folder_splits_never_overlap(trees, tmp_path):
    root = trees.folder(tmp_path)
    (root / "val.txt").write_text("day one/écluse 1.png\nday one/écluse 3\n", encoding="utf-8")
    assert len(open_dataset("folder", "val", root=root)) == 2
    assert len(open_dataset("folder", "train", root=root)) == 2
    with pytest.raises(FileNotFoundError, match="no split 'test'"):
        open_dataset("folder", "test", root=root)
    with pytest.raises(FileNotFoundError, match="no split 'val': make images/val"):
        open_dataset("folder", "val", root=trees.folder(tmp_path / "other"))


def test_images_beside_folders_of_validation_and_test_images_are_the_training_images(trees, tmp_path):
    for name in ("a", "day/b", "val/c", "test/d"):
        trees.save(trees.image(), tmp_path / f"images/{name}.jpg")
        trees.save(trees.label([0, 1]), tmp_path / f"labels/{name}.png")
    (tmp_path / "classes.txt").write_text("wall\ncrack\n")
    sizes = {split: len(open_dataset("folder", split, root=tmp_path)) for split in ("train", "val", "test", "all")}
    assert sizes == {"train": 2, "val": 1, "test": 1, "all": 4}


def test_folder_with_split_folders_colours_and_label_map(trees, tmp_path):
    for split in ("train", "val"):
        trees.save(trees.image(), tmp_path / f"images/{split}/a.jpg")
        trees.save(trees.label([10, 20, 0]), tmp_path / f"labels/{split}/a.png")
    (tmp_path / "classes.txt").write_text("road 1 2 3\n\n#comment 1 2 3\nparked car\n")
    data = open_dataset("folder", "val", root=tmp_path, label_map={0: 255, 10: 0, 20: 1})
    assert set(np.unique(np.asarray(data[0]["label"]))) == {0, 1, 255}
    assert label_space(data) == LabelSpace(("road", "parked car"), ((1, 2, 3), (0, 128, 0)))


def test_a_mask_of_0_and_255_is_two_classes_where_the_map_says_so(trees, tmp_path):
    trees.save(trees.image(), tmp_path / "images/train/a.jpg")
    trees.save(trees.label([0, 255]), tmp_path / "labels/train/a.png")
    (tmp_path / "classes.txt").write_text("wall\ncrack\n")
    with pytest.raises(ValueError, match=r"all labels .* from .*a.png on, hold 0 and 255 alone: pass label_map"):
        open_dataset("folder", "train", root=tmp_path)
    for label_map, expected in (({0: 0, 255: 255}, {0, 255}), ({0: 0, 255: 1}, {0, 1}), ({"0": 0, "255": 1}, {0, 1})):
        data = open_dataset("folder", "train", root=tmp_path, label_map=label_map)
        assert set(np.unique(np.asarray(data[0]["label"]))) == expected
    wrong_maps = [{0: 2}, {0: 300}, {256: 0}, {-1: 0}, {"x": 0}, {0.5: 0}, {0: "1"}, {0: 1.5}, {0: 0, "0": 1}, {}]
    for wrong in [*wrong_maps, {255: 255}, [[0, 1]], "0: 1", 3]:
        with pytest.raises(ValueError, match=r"map values 0-255, each once, to train ids 0-1 or 255; got"):
            open_dataset("folder", "train", root=tmp_path, label_map=wrong)


def test_size_shrinks_images_smoothly_and_labels_exactly(trees, tmp_path):
    root = trees.camvid(tmp_path)
    full, half = (open_dataset("camvid", "train", root=root, size=size)[0] for size in (None, (6, 10)))
    assert half["image"].size == half["label"].size == (10, 6)
    assert np.array_equal(np.asarray(half["label"]), np.asarray(full["label"])[1::2, 1::2])
    quarter = open_dataset("camvid", "train", root=root, size=(3, 5))[0]["image"]
    noise, left = np.asarray(full["image"]).std(), np.asarray(quarter).std()
    assert left < noise / 3, "antialiased: every pixel averages all it covers, so noise goes (2x2 taps leave half)"
    assert open_dataset("camvid", "train", root=root, size=6)[0]["image"].size == (10, 6)


def test_label_space_and_decoding_survive_the_table_operations(trees, tmp_path):
    data = open_dataset("camvid", "train", root=trees.camvid(tmp_path), size=(6, 10))
    kept = data.shuffle(seed=0).select([0, 1]).filter(lambda row: row["label"].size == (10, 6))
    copied = pickle.loads(pickle.dumps(kept))
    for table in (kept, copied):
        assert len(table) == 2
        assert label_space(table).names[0] == "sky"
        assert table[0]["image"].size == (10, 6)
    assert data.select_columns("label")[0]["label"].mode == "L"
    assert list(data.map(lambda row: {"void": row["label"].getextrema()[1] == 255})["void"]) == [True] * 3


def test_label_space_of_a_foreign_table_is_explained():
    import datasets

    with pytest.raises(ValueError, match="carries no class names"):
        label_space(datasets.Dataset.from_dict({"image": [1]}))


def test_arrow_cache_holds_the_same_samples_and_follows_changes(trees, tmp_path):
    root = trees.acdc(tmp_path / "root")
    plain = open_dataset("acdc", "train", root=root, size=(6, 10))
    for _ in range(2):  # made, then read
        cached = open_dataset("acdc", "train", root=root, size=(6, 10), cache=tmp_path / "cache")
        assert len(list((tmp_path / "cache").iterdir())) == 1
        assert label_space(cached) == label_space(plain)
        for left, right in zip(plain, cached, strict=True):
            assert left["condition"] == right["condition"]
            assert left["image"].tobytes() == right["image"].tobytes()
            assert left["label"].tobytes() == right["label"].tobytes()
    changed = next(root.glob("rgb_anon/fog/train/*/*.png"))
    trees.save(trees.image(77), changed)
    os.utime(changed, (1, 1))
    fresh = open_dataset("acdc", "train", root=root, size=(6, 10), cache=tmp_path / "cache")
    assert fresh[0]["image"].tobytes() != plain.select([0])[0]["label"].tobytes()
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_hub_dataset_from_a_local_repository(trees, tmp_path):
    import datasets

    repo = tmp_path / "my repo"
    repo.mkdir()
    features = datasets.Features(
        {"pixel_values": datasets.Image(), "mask": datasets.Image(), "id": datasets.Value("int64")}
    )
    rows = {"pixel_values": [trees.image(1)] * 2, "mask": [trees.label([0, 1, 2])] * 2, "id": [1, 2]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(repo / "train.parquet")
    columns = {"image_column": "pixel_values", "label_column": "mask", "cache_dir": str(tmp_path / "hf")}
    data = open_dataset(
        f"hub:{repo}", "train", size=(6, 10), classes=("a", "b"), label_map={0: 255, 1: 0, 2: 1}, **columns
    )
    assert data.column_names == ["image", "label"]
    assert set(np.unique(np.asarray(data[1]["label"]))) <= {0, 1, 255}
    assert data[0]["image"].size == (10, 6)
    assert label_space(data).names == ("a", "b")
    with pytest.raises(ValueError, match="2 to 254 different classes, got 0"):
        open_dataset(f"hub:{repo}", "train")
    columns |= {"label_column": "id"}
    with pytest.raises(ValueError, match=r"'id' holds no images: set image_column.*'mask': Image"):
        open_dataset(f"hub:{repo}", "train", classes=("a", "b"), **columns)


def test_a_configuration_of_a_hub_dataset_can_be_chosen(trees, tmp_path):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    configs = []
    for name, train_id in (("one", 0), ("two", 1)):
        row = {"image": [trees.image(1)], "label": [trees.label([train_id])]}
        datasets.Dataset.from_dict(row, features=features).to_parquet(tmp_path / f"{name}.parquet")
        configs.append({"config_name": name, "data_files": f"{name}.parquet"})
    (tmp_path / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    options = {"classes": ("a", "b"), "cache_dir": str(tmp_path / "hf")}
    data = open_dataset(f"hub:{tmp_path}", "train", config="two", **options)
    assert set(np.unique(np.asarray(data[0]["label"]))) == {1}
    with pytest.raises(ValueError, match=r"(?s)available.*one.*two"):
        open_dataset(f"hub:{tmp_path}", "train", **options)


def test_links_spaces_and_letters_are_followed(trees, tmp_path):
    real = trees.cityscapes(tmp_path / "plätze ü 街", ["train"])
    linked = tmp_path / "linked root"
    linked.mkdir()
    (linked / "gtFine").symlink_to(real / "gtFine")
    shutil.copytree(real / "leftImg8bit", linked / "leftImg8bit")
    city = linked / "leftImg8bit/train/aachen"
    shutil.move(city, tmp_path / "moved")
    city.symlink_to(tmp_path / "moved")
    (linked / "leftImg8bit/train/zürich/again").symlink_to(linked / "leftImg8bit/train")  # a circle
    for root in (real, linked):
        assert len(open_dataset("cityscapes", "train", root=root)) == 4


def test_looking_at_folders_needs_neither_torch_nor_datasets():
    look = "import sys, transkd_lite.data.tools; sys.exit(bool({'torch', 'datasets', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", look]).returncode == 0


def test_wrong_names_are_explained(trees, tmp_path):
    root = trees.camvid(tmp_path)
    with pytest.raises(ValueError, match="got 'camvod'") as error:
        open_dataset("camvod", "train", root=root)
    assert all(name in str(error.value) for name in DATASETS)
    with pytest.raises(ValueError, match="splits train, val, test, got 'trian'"):
        open_dataset("camvid", "trian", root=root)
    with pytest.raises(TypeError, match="label_idz"):
        open_dataset("cityscapes", "train", root=root, label_idz=True)
    for size in ((0, 5), (5,), ()):
        with pytest.raises(ValueError, match=rf"size is None.*got {re.escape(str(size))}"):
            open_dataset("camvid", "train", root=root, size=size)
    with pytest.raises(ValueError, match="camvid needs root="):
        open_dataset("camvid", "train")


@pytest.mark.skipif("TRANSKD_CAMVID_ROOT" not in os.environ, reason="TRANSKD_CAMVID_ROOT is not set: no photographs")
def test_camvid_photographs():
    root = Path(os.environ["TRANSKD_CAMVID_ROOT"])
    data = open_dataset("camvid", "val", root=root, size=(180, 240))
    assert len(data) == 101
    assert len(open_dataset("camvid", "train", root=root, check=False)) == 367
    pixels = sum(np.bincount(np.asarray(row["label"]).ravel(), minlength=256) for row in data.select(range(0, 101, 10)))
    assert pixels[11:255].sum() == 0
    assert pixels[:11].argmax() in (1, 3), "building or road covers most of a street"


def test_a_hub_dataset_is_not_fetched_for_classes_or_a_map_that_make_no_sense(monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **options: pytest.fail("fetched"))
    with pytest.raises(ValueError, match="2 to 254 different classes, got 1"):
        open_dataset("hub:one/two", "train", classes=("crack",))
    with pytest.raises(ValueError, match=r"train ids 0-1 or 255; got \{1: 7\}"):
        open_dataset("hub:one/two", "train", classes=("wall", "crack"), label_map={1: 7})
