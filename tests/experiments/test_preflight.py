"""Protects: what would end a run later is found before it starts, and a folder of images becomes a profile."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from transkd_lite.cli import app
from transkd_lite.data.tools import check_dataset
from transkd_lite.experiments import preflight
from transkd_lite.experiments.experiment import Experiment, evaluate_run, run_experiment, save_half
from transkd_lite.experiments.preflight import look
from transkd_lite.experiments.profile import load_profile, plan, shrink
from transkd_lite.models.weights import create_model, save_huggingface
from transkd_lite.results.comparison import load_gallery
from transkd_lite.results.tables import Batch, load_batch
from transkd_lite.training.config import ParameterError
from transkd_lite.training.folder import read_run

TINY = Experiment(train_images=2, val_images=1, height=32, width=64, steps=2, batch_size=2, augment="none")
SIZES = [(40, 52), (33, 71), (64, 45), (51, 51), (47, 90), (38, 66)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Six images of odd sizes in a folder, four classes, no split."""
    root = tmp_path_factory.mktemp("some pictures")
    for kind in ("images", "labels"):
        (root / kind).mkdir()
    for number, size in enumerate(SIZES):
        label = np.arange(size[0] * size[1], dtype=np.uint32).reshape(size) // 9 % 4
        Image.fromarray((40 * label).astype(np.uint8)).convert("RGB").save(root / "images" / f"{number}.png")
        Image.fromarray(label.astype(np.uint8)).save(root / "labels" / f"{number}.png")
    (root / "classes.txt").write_text("wall\ncrack\nplant\nwindow\n")
    return root


@pytest.fixture(scope="module")
def odd(pictures):
    """An experiment on them: all images at their own sizes, in crops."""
    options = {"dataset": "folder", "data_root": str(pictures), "data_options": {"fold": [4, 5]}}
    return Experiment(**options, crop=(40, 64), pad=True, augment="standard", steps=1, batch_size=2)


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """A SegFormer for seven classes in the folder of another library."""
    return str(save_huggingface(create_model("segformer_b0", 7), tmp_path_factory.mktemp("a teacher")))


def test_only_streets_are_taken_in_part_and_small_where_nothing_is_given():
    given = [(e.train_images, e.val_images, e.height, e.width) for e in (Experiment(), Experiment(dataset="folder"))]
    assert given == [(128, 64, 64, 128), (None, None, None, None)]
    assert Experiment(dataset="folder", train_images=3).train_images == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": None, "pad": False}, "one size; these are 33 x 45 to 64 x 90 pixels: set crop"),
        ({"pad": False}, r"crop must fit into the image \(33x45\)"),
        ({"data_seed": 1}, "data_seed would be ignored with dataset folder"),
        ({"pretrained": "nowhere.pth"}, "no weights at nowhere.pth"),
        ({"network": "timm:no_such"}, "network timm:no_such"),
        ({"network": "segfromer_b0", "data_root": "nowhere"}, "did you mean segformer_b0"),  # before the data
        ({"method": "kd", "teacher": "run:gone"}, "teacher 'run:gone' is a run beside out_dir"),
    ],
)
def test_what_cannot_run_is_found_before(odd, change, message):
    with pytest.raises(ParameterError, match=message):
        look(replace(odd, **change))


def test_a_setting_of_another_data_set_and_an_option_that_does_not_exist_are_refused():
    with pytest.raises(ParameterError, match=r"data_root would be ignored with dataset streets"):
        look(replace(TINY, data_root="."))
    with pytest.raises(ParameterError, match=r"method kd: .*tmperature"):
        look(replace(TINY, method="kd", teacher="run:x", options={"tmperature": 2}), TINY)


def test_images_of_odd_sizes_train_are_scored_at_their_own_and_found_again(odd, tmp_path):
    _, data, what = look(odd)
    assert "33 x 45 to 64 x 90 pixels (height x width)\n4 images for training, in crops of 40 x 64, 2 for" in data
    assert "4 classes: wall, crack, plant, window\ncpu" in data
    assert what.startswith("segformer_b0, method none, 1 steps of 2 images: about ")
    run = tmp_path / "runs" / odd.folder_name()
    metrics = run_experiment(odd, run, progress="none")
    found = evaluate_run(run, {})
    assert (found["data"]["size"], found["full"]["miou"]) == ([47, 90], metrics["full"]["miou"])
    assert odd.folder_name() == replace(odd, data_root="/elsewhere").folder_name()
    table = load_batch(tmp_path / "runs").table
    assert load_gallery(Batch("runs", table, table, tmp_path / "runs"), 1).images[0].size == (90, 47)
    shipped = save_half(run, tmp_path / "half.safetensors", profile="odd")
    assert str(odd.data_root).encode() not in shipped.read_bytes()
    assert read_run(run).info["parameters"]["data_root"] == odd.data_root


def test_a_folder_of_another_library_teaches_methods_that_compare_no_logits(odd, hugging_face):
    features = replace(odd, method="csf", teacher=hugging_face)
    _, teacher, _ = features.build(4)
    assert (teacher.spec.name, teacher.spec.num_classes) == ("segformer_b0", 7)
    assert features.identity() != replace(features, teacher=None, method="none").identity()
    with pytest.raises(ParameterError, match=r"kd compares logits by class, .* 4 classes and the teacher"):
        replace(features, method="kd").build(4)
    assert look(replace(odd, method="csf", teacher="run:x"), replace(odd, network="timm:test_convnext"))[0] > 0


def profile_of(folder, **sections):
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump({"about": "own", **sections}))
    return str(path)


def test_paths_begin_where_the_profile_is_or_where_the_command_runs(tmp_path, monkeypatch):
    there, here = tmp_path / "there", tmp_path / "here"
    for file in (there / "net.bin", here / "other.bin"):
        file.parent.mkdir()
        file.write_bytes(b"weights")
    monkeypatch.chdir(here)
    path = profile_of(there, parameters={"pretrained": "net.bin"}, students={"teacher": "other.bin", "methods": ["kd"]})
    (run,) = plan(load_profile(path))
    assert (run.experiment.pretrained, run.experiment.teacher) == (str(there / "net.bin"), str(here / "other.bin"))
    assert load_profile(path, {"pretrained": "other.bin"}).parameters["pretrained"] == str(here / "other.bin")
    weights = load_profile("demo").teacher["pretrained"]
    assert weights == "data/weights/streets128-segformer_b1.safetensors"


@pytest.mark.parametrize(
    ("sections", "methods", "message"),
    [
        ({"teacher": {}, "students": {"teacher": "a", "methods": ["kd"]}}, [], "gives the students' teacher and a sec"),
        (
            {"students": {"methods": ["none"], "by_method": {"nnoe": {}}}},
            [],
            "unknown by_method 'nnoe': did you mean n",
        ),
        ({"teacher": {}}, ["kd"], "methods and seeds are those of students"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(tmp_path, sections, methods, message):
    with pytest.raises(ParameterError, match=message):
        plan(load_profile(profile_of(tmp_path, **sections)), methods)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "teacher.lr=0.1"], "training student, method none, would ignore teacher.lr"),
        (["--teacher", "--set", "students.lr=0.1"], "training teacher, method none, would ignore students.lr"),
        (["--set", "students.teacher=demo.pth"], "would ignore teacher: leave it out"),
    ],
)
def test_train_refuses_what_it_would_ignore(options, message, tmp_path):
    path = profile_of(tmp_path, teacher={"network": "segformer_b1"}, students={"methods": ["none"]})
    result = CliRunner().invoke(app, ["train", path, *options])
    assert (result.exit_code, message in " ".join(result.output.split())) == (2, True), result.output


def test_the_teacher_of_a_profile_is_trained_alone(tmp_path):
    size = {"height": 32, "width": 64, "train_images": 2, "val_images": 1, "steps": 1}
    path = profile_of(tmp_path, parameters=size, teacher={"lr": 0.01}, students={"methods": ["kd"]})
    result = CliRunner().invoke(app, ["train", path, "--teacher", "--runs", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.output
    assert "2 images for training, 1 for validation\n19 classes: road" in result.output
    (folder,) = (tmp_path / "runs" / "own").iterdir()
    assert (folder.name, read_run(folder).info["parameters"]["lr"]) == (plan(load_profile(path))[0].folder, 0.01)


def test_a_folder_of_images_becomes_a_profile_that_says_all(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(app, ["new", "cracks", "--data", str(pictures)])
    assert made.exit_code == 0, made.output
    assert "in crops of 43 x 59, 2 for validation\n4 classes: wall" in made.output
    profile = load_profile("cracks/cracks.yaml")
    assert profile.parameters["data_options"] == {"fold": [4, 5]}
    assert (profile.parameters["data_root"], profile.parameters["crop"]) == (str(pictures), [43, 59])
    assert [run.kind for run in plan(profile)] == ["teacher", *["student"] * 4]
    assert plan(shrink(profile))[0].experiment.crop == (43, 59)
    monkeypatch.setattr(preflight, "preflight", lambda runs, root: ("", 20.0 * len(runs) + 50))  # 100 steps: 50 s
    report = check_dataset("folder", pictures)
    report.splits[0].num_images = 10_000
    written, _ = preflight.new_profile(tmp_path / "twenty minutes", report, {})
    assert load_profile(str(written)).parameters["steps"] == 100 * (20 * 60 - 5 * 20) / 50
    again = CliRunner().invoke(app, ["new", "cracks", "--data", str(pictures)])
    assert (again.exit_code, "exists already" in again.output) == (2, True)
    wrong = CliRunner().invoke(app, ["new", "other", "--data", str(pictures), "--set", "label_map={0: 0}"])
    assert (wrong.exit_code, "wrong labels" in wrong.output, (tmp_path / "other").exists()) == (2, True, False)
