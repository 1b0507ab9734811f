"""Protects: one record names its run folder, rejects nonsense by name, and leaves folders that are whole."""

from dataclasses import replace

import pytest
import torch

from transkd_lite.experiment import Experiment, run_experiment
from transkd_lite.models import load_model
from transkd_lite.parameters import ParameterError, find_file
from transkd_lite.runs import read_run
from transkd_lite.scoring import evaluate_run, save_half

TINY = Experiment(train_images=4, val_images=2, height=32, width=64, steps=2, batch_size=2, augment="none")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"stepss": 3}, "did you mean steps"),
        ({"lr": "6e-5"}, "write 6.0e-5"),
        ({"steps": -1}, "steps = -1: it must be at least 0"),
        ({"lr": -1.0}, "lr must be above 0"),
        ({"schedule": "pol"}, "schedule must be one of"),
        ({"height": None}, "height = None, width = 128: give both, or neither"),
        ({"train_images": 0}, "train_images = 0"),
        ({"steps": 0}, "needs pretrained"),
        ({"method": "kd"}, "method 'kd' needs a teacher"),
        ({"class_weights": "papr"}, "did you mean paper"),
    ],
)
def test_nonsense_is_refused_by_name(parameters, message):
    with pytest.raises(ParameterError, match=message):
        Experiment.from_parameters(parameters)


def test_the_record_survives_json_like_lists():
    experiment = Experiment.from_parameters({"crop": [32, 64]})
    assert experiment.crop == (32, 64)
    assert Experiment.from_parameters(experiment.parameters()) == experiment


def test_the_hash_covers_what_decides_the_result_and_nothing_else():
    same = replace(TINY, data_root="/elsewhere", out_dir="/there", num_workers=3, checkpoint_every=7)
    assert same.run_id == TINY.run_id
    assert {replace(TINY, **change).run_id for change in ({"seed": 1}, {"lr": 0.1}, {"steps": 3})}.isdisjoint(
        {TINY.run_id}
    )
    assert TINY.folder_name("teacher") == f"teacher-none-s0-{TINY.run_id}"


def test_weights_count_by_content_and_a_teacher_only_where_one_is_used(tmp_path):
    first, second, other = (tmp_path / name for name in ("a", "b", "c"))
    first.write_bytes(b"weights"), second.write_bytes(b"weights"), other.write_bytes(b"retrained")
    ids = [replace(TINY, pretrained=str(path)).run_id for path in (first, second, other)]
    assert ids[0] == ids[1] != ids[2]
    assert replace(TINY, teacher=str(first)).run_id == TINY.run_id
    assert (
        replace(TINY, method="kd", teacher=str(first)).run_id
        != replace(TINY, method="kd", teacher=str(other)).run_id
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
        (
            {"method": "kd", "teacher": "run:x", "options": {"tmperature": 2}},
            "options of method kd: .*tmperature",
        ),
    ],
)
def test_names_that_do_not_exist_are_refused_with_the_nearest(change, message):
    with pytest.raises(ParameterError, match=message):
        replace(TINY, **change).check_names("segformer_b0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "camvid"}, "pass --data-root"),
        ({"dataset": "camvid", "data_root": "/no/such/folder"}, "/no/such/folder does not exist"),
        ({"dataset": "camvit", "data_root": "."}, "camvit"),
    ],
)
def test_missing_data_is_refused_before_anything_runs(change, message):
    with pytest.raises(ParameterError, match=message):
        replace(TINY, **change).check_data()


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
    assert Experiment.from_parameters(run.info["parameters"]).run_id == TINY.run_id
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
    experiment = replace(
        TINY, pretrained=str(weights), network=read_run(teacher_folder).info["parameters"]["network"]
    )
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
    with pytest.raises(ParameterError, match="has 19 classes, but streets has 11"):
        student.build(11)
