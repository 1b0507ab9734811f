"""Protects: one record names its run folder, rejects nonsense by name, and leaves folders that are whole."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from transkd_lite.data.datasets import open_dataset
from transkd_lite.data.labels import CITYSCAPES, LabelSpace
from transkd_lite.experiments.experiment import Experiment, evaluate_run, find_file, run_experiment, save_half
from transkd_lite.models.weights import create_model, load_model, save_model
from transkd_lite.results.tables import load_batch
from transkd_lite.training.config import ParameterError, TrainConfig
from transkd_lite.training.folder import read_run
from transkd_lite.training.loop import fit

TINY = Experiment(train_images=4, val_images=2, height=32, width=64, steps=2, batch_size=2, augment="none")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"stepss": 3}, "did you mean steps"),
        ({"lr": "6e-5"}, "write 6.0e-5"),
        ({"steps": -1}, "steps must be greater than or equal to 0; got steps=-1"),
        ({"lr": -1.0}, "lr must be greater than 0; got lr=-1.0"),
        ({"schedule": "pol"}, "schedule must be 'poly', 'cosine' or 'constant'; got"),
        ({"height": None}, "height = None, width = 128: give both, or neither"),
        ({"train_images": 0}, "train_images must be greater than 0"),
        ({"steps": 0}, "needs pretrained"),
        ({"method": "kd"}, "method 'kd' needs a teacher"),
        ({"class_weights": "papr"}, "class_weights must be 'paper' or be a list"),
    ],
)
def test_nonsense_is_refused_by_name(parameters, message):
    with pytest.raises(ParameterError, match=message):
        Experiment.from_dict(parameters)


def test_the_record_survives_json_like_lists():
    experiment = Experiment.from_dict({"crop": [32, 64]})
    assert experiment.crop == (32, 64)
    assert Experiment.from_dict(experiment.to_dict()) == experiment


def test_a_finished_run_with_a_map_of_labels_opens_again(tmp_path):
    for split in ("train", "val"):
        for folder, picture in (
            ("images", np.zeros((32, 64, 3), np.uint8)),
            ("labels", np.eye(32, 64, dtype=np.uint8)),
        ):
            (tmp_path / folder / split).mkdir(parents=True)
            Image.fromarray(picture * 7).save(tmp_path / folder / split / "a.png")
    (tmp_path / "classes.txt").write_text("wall\ncrack\n")
    same = {"dataset": "folder", "data_root": str(tmp_path), "train_images": 1, "val_images": 1}
    runs = [replace(TINY, **same, data_options={"label_map": ids}) for ids in ({0: 0, 7: 1}, {"0": 0, "7": 1})]
    assert runs[0].folder_name() == runs[1].folder_name()
    scores = [run_experiment(run, tmp_path / "run")["full"]["miou"] for run in runs]
    assert scores[0] == scores[1]
    assert evaluate_run(tmp_path / "run", {})["full"]["miou"] == scores[0]


def test_the_hash_covers_what_decides_the_result_and_nothing_else():
    same = replace(TINY, data_root="/elsewhere", out_dir="/there", workers=3, checkpoint_every=7)
    assert same.folder_name() == TINY.folder_name()
    assert {replace(TINY, **change).folder_name() for change in ({"seed": 1}, {"lr": 0.1}, {"steps": 3})}.isdisjoint(
        {TINY.folder_name()}
    )
    assert TINY.folder_name("teacher") == "teacher" + TINY.folder_name().removeprefix("student")


def test_run_folders_of_earlier_versions_are_recognised():
    """These names are on people's disks: a parameter that came later counts only where it is not as usual."""
    assert Experiment().folder_name() == "student-none-s0-69042958"
    assert Experiment(epochs=2, steps=None, crop=(32, 64), seed=3).folder_name() == "student-none-s3-93dfcb14"
    assert replace(TINY, workers=2, log_every=1, cache_mb=0).folder_name() == TINY.folder_name()
    assert replace(TINY, grad_clip=1.0).folder_name() != TINY.folder_name()


def test_a_finished_folder_of_an_earlier_version_is_read_and_not_trained_again(tmp_path):
    """Its records as they were written before a run noted its threads; the weights are made here to keep them small."""
    old = Path(__file__).parent / "old_runs" / "student-none-s0-9f7bd06e"
    folder = shutil.copytree(old, tmp_path / old.name)
    run = read_run(folder)
    experiment = Experiment.from_dict(run.info["parameters"])
    assert (experiment.folder_name(), run.state) == (old.name, "finished")
    save_model(create_model("segformer_b0", 19), folder / "student.safetensors")
    assert run_experiment(experiment, folder) == run.metrics
    table = load_batch(tmp_path).table
    assert table["miou"].iloc[0] == run.metrics["full"]["miou"]
    with pytest.raises(ValueError, match=r"these differ: config\.lr"):
        run_experiment(replace(experiment, lr=0.1), folder)


def test_a_notebook_gives_its_parameters_in_one_line():
    found = Experiment.from_notebook({"steps": 3, "words": "other", "lr": 0.5}, lr=0.1, method="none")
    assert found == Experiment(steps=3, lr=0.1)
    with pytest.raises(ParameterError, match="did you mean steps"):
        Experiment.from_notebook({}, stepss=3)


def test_weights_count_by_content_and_a_teacher_only_where_one_is_used(tmp_path):
    first, second, other = (tmp_path / name for name in ("a", "b", "c"))
    first.write_bytes(b"weights"), second.write_bytes(b"weights"), other.write_bytes(b"retrained")
    ids = [replace(TINY, pretrained=str(path)).folder_name() for path in (first, second, other)]
    assert ids[0] == ids[1] != ids[2]
    assert replace(TINY, teacher=str(first)).folder_name() == TINY.folder_name()
    assert (
        replace(TINY, method="kd", teacher=str(first)).folder_name()
        != replace(TINY, method="kd", teacher=str(other)).folder_name()
    )


def test_a_missing_file_of_weights_says_what_to_do():
    with pytest.raises(ParameterError, match=r"no file of weights nowhere\.safetensors"):
        find_file("nowhere.safetensors")
    assert find_file("hub:nvidia/mit-b0") == "hub:nvidia/mit-b0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "segformer_b9"}, "unknown network 'segformer_b9': did you mean segformer_b"),
        ({"method": "trankd-base", "teacher": "run:x"}, "did you mean transkd-base"),
    ],
)
def test_names_that_do_not_exist_are_refused_with_the_nearest(change, message):
    with pytest.raises(ParameterError, match=message):
        replace(TINY, **change).check_names()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "camvid"}, "pass --data-root"),
        ({"dataset": "camvid", "data_root": "/no/such/folder"}, "/no/such/folder"),
        ({"dataset": "camvit", "data_root": "."}, "camvit"),
    ],
)
def test_missing_data_is_refused_before_anything_runs(change, message):
    with pytest.raises(ParameterError, match=message):
        replace(TINY, **change).open_data()


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a batch") / TINY.folder_name("teacher")
    run_experiment(TINY, folder, progress="none")
    return folder


def test_a_run_leaves_a_finished_folder_with_both_scores(teacher_folder):
    run = read_run(teacher_folder)
    assert run.state == "finished"
    assert {"full", "paper", "wall_s"} <= run.metrics.keys()
    assert len(run.metrics["full"]["iou"]) == 19
    assert Experiment.from_dict(run.info["parameters"]).folder_name() == TINY.folder_name()
    scores = evaluate_run(teacher_folder, {})
    assert scores["full"]["miou"] == pytest.approx(run.metrics["full"]["miou"])


def test_a_student_finds_its_teacher_beside_it_and_a_second_call_trains_nothing(teacher_folder):
    student = replace(TINY, method="transkd-base", teacher=f"run:{teacher_folder.name}", steps=1)
    folder = teacher_folder.parent / student.folder_name()
    metrics = run_experiment(student, folder, progress="none")
    written = (folder / "student.safetensors").stat().st_mtime_ns
    assert run_experiment(student, folder, progress="none") == metrics
    assert (folder / "student.safetensors").stat().st_mtime_ns == written
    assert ",csf_4,pea_1," in (folder / "history.csv").read_text()


def test_zero_steps_score_pretrained_weights_as_they_are(teacher_folder, tmp_path):
    shipped = save_half(teacher_folder, tmp_path / "weights.safetensors", profile="tiny")
    assert shipped.stat().st_size < 0.6 * (teacher_folder / "student.safetensors").stat().st_size
    loaded = replace(TINY, steps=0, pretrained=str(shipped))
    metrics = run_experiment(loaded, tmp_path / "run")
    scores = read_run(teacher_folder).metrics["full"]
    assert metrics["full"]["pixel_accuracy"] == pytest.approx(scores["pixel_accuracy"], abs=0.005)
    assert read_run(tmp_path / "run").state == "finished"


def test_weights_of_other_classes_get_a_new_classifier_where_there_is_training_to_fill_it(teacher_folder):
    weights = teacher_folder / "student.safetensors"
    experiment = replace(TINY, pretrained=str(weights), network=read_run(teacher_folder).info["parameters"]["network"])
    given, begun = load_model(weights), experiment.build_student(11)
    assert begun.spec.num_classes == 11
    assert torch.equal(begun.head.fuse.weight, given.head.fuse.weight)
    same = experiment.build_student(given.spec.num_classes)
    assert torch.equal(same.head.classifier.weight, given.head.classifier.weight)
    with pytest.raises(ValueError, match="another number of classes"):
        replace(experiment, steps=0).build_student(11)


def test_shipped_weights_say_how_they_were_made(teacher_folder, tmp_path):
    import json

    from safetensors import safe_open

    path = save_half(teacher_folder, tmp_path / "weights.safetensors", profile="tiny")
    with safe_open(path, framework="pt") as file:
        made = json.loads(file.metadata()["transkd_lite"])["provenance"]
    assert made["command"] == "transkd train tiny"
    assert made["parameters"]["steps"] == 2
    assert made["miou"]["full"] == read_run(teacher_folder).metrics["full"]["miou"]
    assert str(tmp_path) not in json.dumps(made)


def test_a_teacher_of_another_dataset_is_refused(teacher_folder, monkeypatch):
    student = replace(TINY, method="kd", teacher=str(teacher_folder / "student.safetensors"))
    with pytest.raises(
        ParameterError, match="the student segformer_b0 has 11 classes and the teacher segformer_b0 has 19"
    ):
        student.build(11)


def test_the_names_of_the_classes_go_with_the_weights(teacher_folder, tmp_path):
    weights = teacher_folder / "student.safetensors"
    shipped = save_half(teacher_folder, tmp_path / "half.safetensors", profile="tiny")
    run_experiment(replace(TINY, steps=0, pretrained=str(shipped)), tmp_path / "scored")
    for path in (weights, shipped, tmp_path / "scored" / "student.safetensors"):
        assert load_model(path).label_space == CITYSCAPES


@pytest.fixture
def mixed_up(teacher_folder, tmp_path):
    """The teacher's weights, as if its first two classes had been trained in the other order."""
    model = load_model(teacher_folder / "student.safetensors")
    road, sidewalk, *others = CITYSCAPES.names
    model.label_space = LabelSpace((sidewalk, road, *others), CITYSCAPES.palette)
    return str(save_model(model, tmp_path / "mixed.safetensors"))


def test_a_teacher_with_the_classes_in_another_order_is_refused_before_training(mixed_up, tmp_path):
    student = replace(TINY, method="kd", teacher=mixed_up)
    with pytest.raises(ParameterError, match="class 0 is 'sidewalk' in the one and 'road' in the other"):
        run_experiment(student, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    replace(student, method="csf").build(19, CITYSCAPES)  # compares no logits


def test_pretrained_weights_with_the_classes_in_another_order_train_but_have_no_score(mixed_up, tmp_path):
    pretrained = replace(TINY, network="segformer_b0", pretrained=mixed_up, steps=1)
    run_experiment(pretrained, tmp_path / "run", progress="none")
    assert load_model(tmp_path / "run" / "student.safetensors").label_space == CITYSCAPES
    with pytest.raises(ValueError, match="class 0 is 'sidewalk' in the one and 'road' in the other"):
        run_experiment(replace(pretrained, steps=0), tmp_path / "scored")


def flat(label: int, num: int = 2) -> list[dict]:
    picture = np.zeros((32, 32, 3), np.uint8)
    return [{"image": picture, "label": np.full((32, 32), label, np.uint8)} for _ in range(num)]


@pytest.mark.parametrize(
    ("num_classes", "train", "val", "message"),
    [
        (1, flat(0), None, "num_classes must be 2 to 255, got 1"),
        (300, flat(0), None, "num_classes must be 2 to 255, got 300"),
        (3, flat(255), None, "all of the labels of train_data are void"),
        (3, flat(0), flat(255), "all of the labels of val_data are void"),
        (3, flat(0), [], "val_data must hold at least one sample"),
        (3, flat(0), "streets", "for 19 classes has 19 logits, or one more for void; got 3"),
        (11, "streets", None, "for 19 classes has 19 logits, or one more for void; got 11"),
    ],
)
def test_a_training_that_cannot_be_scored_is_refused_before_its_first_step(
    num_classes, train, val, message, tmp_path, monkeypatch
):
    monkeypatch.setattr("transkd_lite.training.loop.Trainer", lambda *args: pytest.fail("training began"))
    streets = open_dataset("streets", "train", size=(32, 32), num=1)
    train, val = (streets if data == "streets" else data for data in (train, val))
    model, config = create_model("segformer_b0", num_classes, decoder_channels=8), TrainConfig(steps=1)
    with pytest.raises(ValueError, match=message):
        fit(model, train, config=config, val_data=val, out_dir=tmp_path / "run")
    assert model.label_space is None
    assert not (tmp_path / "run").exists()


def test_a_void_logit_beside_the_classes_is_trained_and_scored(tmp_path):
    data, model = open_dataset("streets", "train", size=(32, 32), num=1), create_model("segformer_b0", 20)
    metrics = fit(model, data, config=TrainConfig(steps=1), val_data=data, out_dir=tmp_path / "run").metrics
    assert list(metrics["full"]["iou"]) == list(CITYSCAPES.names)
    assert load_model(tmp_path / "run" / "student.safetensors").label_space == CITYSCAPES
    table = Dataset.from_list([{"image": Image.new("RGB", (32, 32)), "label": Image.new("L", (32, 32), 19)}])
    table.info.description = CITYSCAPES.to_json()
    with pytest.raises(ValueError, match="train ids are 0-18 and 255; got label 19 in sample 0"):
        fit(model, table, config=TrainConfig(steps=1))
