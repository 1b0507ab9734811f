"""The synthetic streets: same bytes everywhere, splits that cannot overlap, labels that fit their image."""

from __future__ import annotations

import hashlib
import pickle
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from torch.utils.data import DataLoader

from transkd_lite.data import streets
from transkd_lite.data.labels import CITYSCAPES, label_space
from transkd_lite.data.streets import CONDITIONS, SPLITS, Scene, SceneDecoder, develop, draw_scene, open_streets
from transkd_lite.data.streets.canvas import Camera, Canvas, Dice, Id, draw_mood
from transkd_lite.data.streets.objects import person

SMALL = (64, 128)

# sha256 of the labels of scenes 0 … n-1 with seed k % 3, of all three splits; a teacher is trained on these pixels.
LABEL_DIGESTS = {
    ((32, 64), 20): "80c552fa3ff83dec68c0be1e1ecb02655656d0a684cd9d6ffbc15720b8549fff",
    ((64, 128), 20): "8f6d03108d57e238ad234a5eaf013525fe3cbcd36a974c1ab4ef3f1196e76c69",
    ((96, 96), 20): "db95c648dbefc04fd2c468e4c258a0a409af86a6f873f2054693178118cbbf64",
    ((128, 256), 20): "69d0cf8be82d1f073795b76e11b232c571ba76b4949292b72332206ad4381bff",
    ((256, 512), 5): "94a3d9818dd54c23fe2747744ab89aad6c15ca647c3035f2dec4d669759d47f3",
    ((512, 1024), 5): "92ca9833e9b3b507da09f3a3373a3d1ca2bebb7aaa409d2a1e371aec30d0e4d7",
}


@pytest.mark.parametrize(("size", "num"), LABEL_DIGESTS)
def test_labels_are_the_same_bytes_on_every_machine(size: tuple[int, int], num: int) -> None:
    digest = hashlib.sha256()
    for index in range(num):
        for split in SPLITS:
            digest.update(draw_scene(index % 3, index, size, split=split).label.tobytes())
    assert digest.hexdigest() == LABEL_DIGESTS[size, num]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_images_are_the_same_within_one_grey_level(condition: str) -> None:
    stored = np.load(Path(__file__).parent / "streets_images.npz")[condition].astype(int)
    drawn = draw_scene(3, 41, SMALL, condition).image.astype(int)
    assert np.abs(drawn - stored).max() <= 1


def test_a_scene_does_not_depend_on_what_was_drawn_before() -> None:
    first = draw_scene(5, 9, SMALL)
    for index in (4, 11, 3):
        draw_scene(6, index, (40, 72))
    again = draw_scene(5, 9, SMALL)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.label, again.label)


def test_size_changes_the_sharpness_not_the_scene() -> None:
    agreements = []
    for index in range(10):
        large = draw_scene(0, index, (256, 512)).label[1::4, 1::4]
        agreements.append((large == draw_scene(0, index, SMALL).label).mean())
    assert np.mean(agreements) > 0.88
    assert min(agreements) > 0.82


def test_the_weather_changes_the_light_but_hardly_the_labels() -> None:
    scenes = [draw_scene(0, 8, SMALL, condition) for condition in CONDITIONS]
    for scene in scenes[1:4]:  # in snow the trees are bare
        assert np.array_equal(scene.label, scenes[0].label)
        assert np.abs(scene.image.astype(int) - scenes[0].image).mean() > 8


def test_no_two_scenes_are_alike_within_and_across_splits_and_seeds() -> None:
    seen = {
        draw_scene(seed, index, (32, 64), "clear", split=split).image.tobytes()
        for seed in range(2)
        for split in SPLITS
        for index in range(15)
    }
    assert len(seen) == 2 * len(SPLITS) * 15


def test_the_split_is_part_of_what_seeds_a_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[tuple[int, ...]] = []

    def record(*key: int) -> Dice:
        keys.append(key)
        return Dice(*key)

    monkeypatch.setattr(streets, "Dice", record)
    for split in SPLITS:
        draw_scene(4, 7, (32, 64), split=split)
    assert keys == [(4, 0, 7), (4, 1, 7), (4, 2, 7)]


def test_the_conditions_take_turns_so_each_is_a_fifth() -> None:
    weather = open_streets("val", size=(32, 64))["condition"]
    assert {name: weather[:].count(name) for name in CONDITIONS} == dict.fromkeys(CONDITIONS, 40)


def test_every_class_appears_and_the_mix_is_long_tailed() -> None:
    labels = [draw_scene(0, index, SMALL, split="val").label for index in range(100)]
    count = np.bincount(np.concatenate([label.ravel() for label in labels]), minlength=256)
    assert set(np.flatnonzero(count)) == {*range(19), 255}
    share = count[:19] / count[:19].sum()
    assert 0.3 < share[0] < 0.5
    rare = [CITYSCAPES.names[k] for k in np.flatnonzero(share < 0.01)]
    assert {"wall", "fence", "traffic light", "rider", "motorcycle", "bicycle"} <= set(rare)
    assert all((np.stack(labels) == k).any(axis=(1, 2)).sum() >= 10 for k in range(19))


@pytest.mark.parametrize("size", [(32, 64), (32, 32), (90, 210), (200, 100)])
def test_any_size_gives_a_whole_scene(size: tuple[int, int]) -> None:
    for index, condition in enumerate(CONDITIONS):
        scene = draw_scene(1, index, size, condition)
        assert scene.image.shape == (*size, 3)
        assert scene.label.shape == size
        assert scene.image.dtype == scene.label.dtype == np.uint8
        assert {0, Id.SKY} < set(np.unique(scene.label)) <= {*range(19), 255}


def test_night_is_darker_and_fog_hides_what_is_far() -> None:
    brightness = {name: np.mean([draw_scene(0, k, SMALL, name).image for k in range(8)]) for name in CONDITIONS}
    assert brightness["night"] < 0.6 * min(brightness[name] for name in CONDITIONS if name != "night")
    clear, fog = (
        np.mean([_contrast_at_horizon(draw_scene(0, k, SMALL, name)) for k in range(8)]) for name in ("clear", "fog")
    )
    assert fog < 0.8 * clear


def _contrast_at_horizon(scene: Scene) -> float:
    return float(scene.image[18:32].astype(float).mean(axis=2).std())


def test_a_stroke_changes_colour_and_label_of_the_same_pixels() -> None:
    """Over the whole picture: where a lone person is painted is where the picture differs."""
    canvas = Canvas(Camera((128, 256), Dice(1)), draw_mood("clear", Dice(3)))
    person(canvas, Dice(2), 0, 600)
    painted = np.array(canvas.picture)
    assert np.array_equal((painted[..., :3] != canvas.mood.haze).any(axis=2), painted[..., 3] != Id.SKY)
    assert (painted[..., 3] == 11).sum() > 200


def test_a_row_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def count(*args: Any) -> Any:
        drawn.append(1)
        return develop(*args)

    monkeypatch.setattr(streets, "develop", count)
    data = open_streets("train", size=(40, 72), num=3, seed=77)
    assert (data[1]["image"].size, data[1]["label"].mode) == ((72, 40), "L")
    assert len(drawn) == 1


def test_rows_hold_the_scene_of_their_index_and_split() -> None:
    row, scene = open_streets("test", size=SMALL, num=9, seed=2)[8], draw_scene(2, 8, SMALL, split="test")
    assert np.array_equal(row["image"], scene.image)
    assert np.array_equal(row["label"], scene.label)
    assert row["condition"] == scene.condition == "rain"


def test_chosen_conditions_take_turns() -> None:
    data = open_streets("train", size=SMALL, num=4, conditions=("snow", "fog"))
    assert data["condition"][:] == ["snow", "fog", "snow", "fog"]
    assert np.array_equal(data[1]["image"], draw_scene(0, 1, SMALL, "fog").image)


def test_scenes_survive_select_filter_shuffle_pickle_and_disk(tmp_path: Path) -> None:
    data = open_streets("val", size=SMALL, num=20)
    foggy = data.filter(lambda name: name == "fog", input_columns="condition")
    assert np.array_equal(foggy[2]["image"], draw_scene(0, 11, SMALL, split="val").image)
    mixed = data.shuffle(seed=0).select([3, 5])
    assert label_space(mixed) == CITYSCAPES
    mixed.with_format(None).save_to_disk(tmp_path / "val")
    loaded = datasets.load_from_disk(tmp_path / "val").with_transform(SceneDecoder(0, "val", SMALL))
    for copy in (pickle.loads(pickle.dumps(mixed)), loaded):
        assert np.array_equal(copy[1]["label"], mixed[1]["label"])
        assert label_space(copy) == CITYSCAPES


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_loader_workers_draw_the_same_scenes(start: str) -> None:
    data = open_streets("val", size=SMALL, num=4).select_columns(["label"])
    loader = DataLoader(
        data,  # type: ignore[arg-type]
        batch_size=2,
        num_workers=1,
        collate_fn=_stack,
        multiprocessing_context=start,
    )
    assert np.array_equal(np.concatenate(list(loader)), [draw_scene(0, k, SMALL, split="val").label for k in range(4)])


def _stack(rows: list[dict[str, object]]) -> np.ndarray:
    return np.stack([np.asarray(row["label"]) for row in rows])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condition": "hail"}, "a condition of streets is one of clear, fog, night, rain, snow, got 'hail'"),
        ({"split": "dev"}, "a split of streets is one of train, val, test, got 'dev'"),
        ({"size": (16, 32)}, "size is (height, width), each 32..2048 pixels, got (16, 32)"),
        ({"index": -1}, "expected non-negative integer"),
    ],
)
def test_a_scene_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        draw_scene(**{"seed": 0, "index": 0, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "streets need num >= 1 and seed >= 0, got num=0"),
        ({"seed": -1}, "got num=2000 and seed=-1"),
        ({"conditions": "hail"}, "got 'hail'"),
        ({"conditions": ["sun"]}, "got 'sun'"),
        ({"size": 16}, "got (16, 32)"),
    ],
)
def test_a_table_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        open_streets("train", **options)  # type: ignore[arg-type]


def test_dice_are_the_raw_stream_of_pcg64() -> None:
    """NumPy promises this stream; `Generator` methods may change between versions."""
    dice = Dice(2, 0, 7)
    raw = np.random.PCG64(np.random.SeedSequence([2, 0, 7])).random_raw(4)
    assert [dice.integer(0, 999) for _ in range(3)] == [(int(word) >> 11) % 1000 for word in raw[1:]]
