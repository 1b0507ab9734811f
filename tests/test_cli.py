"""Protects: the command line says what is wrong and how to mend it, with the right exit code, before anything runs."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from quick import PROFILE
from typer.testing import CliRunner

import transkd_lite as tk
from transkd_lite.cli import app, main
from transkd_lite.data.labels import CITYSCAPES, LabelSpace
from transkd_lite.experiments import batch
from transkd_lite.experiments.notebook import NotebookFailed
from transkd_lite.results import comparison


def call(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "a profile.yaml"
    path.write_text(yaml.safe_dump(PROFILE))
    return str(path)


@pytest.fixture
def notebooks_without_kernels(monkeypatch):
    """Notebooks are "executed" by writing what a run would leave; those of method kd fail if told to."""

    def execute(notebook, target, parameters, environment=None):
        if parameters.get("method") == "kd" and parameters["seed"] == execute.fails_for_seed:
            raise NotebookFailed(f"{notebook.name}: cell [3] raised ValueError: not finite")
        if "out_dir" in parameters:
            miou = 0.3 + 0.01 * parameters["seed"] + 0.1 * (parameters["method"] == "kd")
            folder = Path(parameters["out_dir"])
            (folder / "run.json").write_text(json.dumps({"state": "finished", "parameters": parameters}))
            (folder / "metrics.json").write_text(json.dumps({"full": {"miou": miou}, "wall_s": 1.0}))
        target.write_text('{"cells": []}')

    execute.fails_for_seed = None
    monkeypatch.setattr(batch, "execute_notebook", execute)
    monkeypatch.setattr(batch, "to_html", lambda notebook, title: "<html>report</html>")
    monkeypatch.setattr(batch, "preflight", lambda *given: ("", 0.0))
    return execute


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "dmo"], "unknown profile 'dmo': did you mean demo"),
        (["reproduce", "nowhere.yaml"], "no profile nowhere.yaml; the course has"),
        (["reproduce", "camvid", "--data-root", "no such folder"], "'no such folder' does not exist"),
        (["reproduce", "smoke", "--set", "stesp=3"], "did you mean steps"),
        (["reproduce", "smoke", "--set", "steps=-3"], "steps must be greater than or equal to 0; got steps=-3"),
        (["reproduce", "smoke", "--set", "lr=6e-5"], "write 6.0e-5"),
        (["reproduce", "smoke", "--seeds", "0,x"], "write whole numbers (a seed is 0 or more) with commas"),
        (["reproduce", "smoke", "--seeds", "-1"], "a seed is 0 or more"),
        (["train", "streets-teacher", "--set", "network=segformer_b9"], "unknown network 'segformer_b9'"),
        (["evaluate", "no/such/run"], "no weights at no/such/run"),
        (["report", "demo", "--runs", "no runs"], "run `transkd reproduce demo` first"),
        (["runs", "no runs"], "no run folder below no runs"),
        (["describe", "transkd-bse"], "did you mean transkd-base"),
        (["data", "check", "camvit", "--root", "."], "did you mean camvid"),
        (["data", "fetch", "streets"], "unknown dataset to fetch"),
    ],
)
def test_a_wrong_command_is_explained_and_exits_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "runs").exists()


def test_a_batch_prints_its_runs_its_scores_and_where_the_report_is(profile, tmp_path, notebooks_without_kernels):
    result = call("reproduce", profile, "--runs", str(tmp_path / "my runs"))
    assert result.exit_code == 0
    assert "[6/6] student-kd-s1-" in result.output
    scores = {
        line.split()[0]: line.split()[1:] for line in result.output.splitlines() if line.startswith(("none", "kd"))
    }
    assert scores == {"none": ["2", "30.50", "0.71", "-"], "kd": ["2", "40.50", "0.71", "+10.00"]}
    assert f"Report: {tmp_path / 'my runs' / 'quick' / 'report.html'}" in result.output


def test_a_batch_without_a_report_still_saves_its_tables(tmp_path, monkeypatch):
    path = tmp_path / "quick.yaml"
    path.write_text(yaml.safe_dump({**PROFILE, "report": None}))
    (run := tmp_path / "runs" / PROFILE["name"] / "student-none-s0-00000000").mkdir(parents=True)
    command = ["report", str(path), "--runs", str(tmp_path / "runs")]
    assert "no student has finished in" in " ".join(call(*command, "--tables", str(tmp_path)).output.split())
    (run / "metrics.json").write_text("{}")
    monkeypatch.setattr(comparison, "save_results", lambda root, folder, data_root: [folder / f"{root.name}.csv"])
    assert "has no report; --tables DIR" in " ".join(call(*command).output.split())
    saved = call(*command, "--tables", str(tmp_path))
    assert (saved.exit_code, saved.output.split()) == (0, ["Saved:", str(tmp_path / "quick.csv")])


def test_a_failed_run_exits_1_and_is_in_the_table(profile, tmp_path, notebooks_without_kernels):
    notebooks_without_kernels.fails_for_seed = 1
    result = call("reproduce", profile, "--runs", str(tmp_path))
    assert result.exit_code == 1
    assert result.output.count("finished,") == 5
    assert "ValueError: not finite" in result.output
    notebooks_without_kernels.fails_for_seed = None
    again = call("reproduce", profile, "--runs", str(tmp_path))
    assert again.exit_code == 0
    assert "1 of 6 runs to do" in again.output


def test_a_finished_batch_says_so_at_once_without_torch_or_papermill(profile, tmp_path, notebooks_without_kernels):
    arguments = ["reproduce", profile, "--runs", str(tmp_path)]
    assert call(*arguments).exit_code == 0
    code = (
        "import sys; from transkd_lite.cli import app; app(sys.argv[1:], standalone_mode=False); "
        "print([name for name in ('torch', 'papermill', 'distributed', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert "All 6 runs in" in done.stdout
    assert "nothing to do" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_methods_and_seeds_of_the_command_line_replace_the_profile(profile, tmp_path, notebooks_without_kernels):
    result = call("reproduce", profile, "--runs", str(tmp_path), "--methods", "kd", "--seeds", "5")
    assert result.exit_code == 0
    assert sorted(path.name[:-9] for path in (tmp_path / "quick").glob("student-*")) == ["student-kd-s5"]


def test_runs_are_listed_with_their_state(tmp_path):
    for name, files in {"one": ("run.json", "metrics.json"), "two": ("run.json",)}.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text('{"full": {"miou": 0.5}, "state": "running"}')
    (tmp_path / "two" / "checkpoint").mkdir()
    (tmp_path / "two" / "checkpoint" / "progress.json").write_text('{"step": 50, "steps": 1200, "left_s": 9}')
    lines = call("runs", str(tmp_path)).output.splitlines()
    assert "50 of 1200" in lines[2]
    assert [line.split()[:2] for line in lines[1:3]] == [["one", "finished"], ["two", "interrupted"]]
    assert "of an earlier version, without digests" in lines[3]
    listed = json.loads(call("runs", str(tmp_path), "--json").output)
    assert [run["state"] for run in listed] == ["finished", "interrupted"]
    (tmp_path / "two" / "checkpoint" / "progress.json").write_text('{"st')  # a sign of life, no part of the run
    assert " interrupted " in call("runs", str(tmp_path)).output
    assert call("runs", "--runs", str(tmp_path)).output == call("runs", str(tmp_path)).output  # as of reproduce


@pytest.mark.parametrize(
    "name", ["reproduce", "train", "evaluate", "predict", "report", "runs", "notebooks", "describe"]
)
def test_every_command_has_an_example(name):
    assert f"transkd {name}" in " ".join(call(name, "--help").output.split())


def test_a_network_is_trained_saved_and_scored_from_the_command_line(tmp_path):
    small = [f"--set={text}" for text in ("train_images=4", "val_images=2", "steps=1", "warmup_steps=0")]
    weights = tmp_path / "shipped weights.safetensors"
    small += ["--set=network=segformer_b0", "--set=height=32", "--set=width=64"]
    result = call("train", "streets-teacher", *small, "--runs", str(tmp_path / "runs"), "--save", str(weights))
    assert result.exit_code == 0, result.output
    assert "mIoU" in result.output
    (folder,) = (tmp_path / "runs" / "streets-teacher").iterdir()
    assert folder.name.startswith("teacher-none-s0-")
    scores = json.loads(call("evaluate", str(folder), "--json").output)
    assert scores["full"]["miou"] == json.loads((folder / "metrics.json").read_text())["full"]["miou"]
    about = {"dataset": "streets", "split": "val", "images": 2, "size": [32, 64], "normalize": True}
    assert scores["data"] == about
    assert weights.stat().st_size < 10e6
    told = call("evaluate", str(weights), "--set", "normalize=false").output.splitlines()
    assert told[0] == "streets, split val: 2 images, 32 x 64 (height x width of the first), not normalized"
    assert [line.split()[0] for line in told[1:3]] == ["class", "road"]
    train = json.loads(call("evaluate", str(weights), "--set", "val_images=3", "--split", "train", "--json").output)
    assert train["data"] == about | {"split": "train", "images": 3}


def test_a_file_of_weights_is_scored_on_the_data_that_it_was_made_for_or_on_named_ones(tmp_path):
    torch.manual_seed(0)
    model = tk.create_model("segformer_b0", 19, decoder_channels=8)
    bare = str(tk.save_model(model, tmp_path / "bare.safetensors"))
    size = ["--set", "height=32", "--set", "width=64"]
    nothing = call("evaluate", bare)
    assert nothing.exit_code == 2
    assert "does not say on which images it was trained: pass --set dataset=… --set height=…" in nothing.output
    misspelt = call("evaluate", bare, "--set", "dataset=streets", *size, "--set", "val_image=1")
    assert (misspelt.exit_code, "did you mean val_images" in misspelt.output) == (2, True)
    partly = call("evaluate", bare, "--set", "dataset=streets", "--set", "height=32")
    assert "pass --set width=…" in partly.output
    whole = call("evaluate", bare, "--set", "dataset=streets", *size, "--set", "val_images=1", "--json")
    assert json.loads(whole.output)["data"]["images"] == 1
    files = call("evaluate", bare, "--set", "dataset=camvid", *size)
    assert (files.exit_code, "camvid needs root=" in files.output) == (2, True)
    made = {"dataset": "streets", "val_images": 1, "data_options": {"conditions": ["fog"]}, "height": 32, "width": 64}
    model.label_space = LabelSpace(CITYSCAPES.names[::-1], CITYSCAPES.palette)
    other = str(tk.save_model(model, tmp_path / "other.safetensors", provenance={"parameters": made}))
    mixed = call("evaluate", other)
    assert mixed.exit_code == 2
    assert "class 0 is 'bicycle' in the one and 'road' in the other" in mixed.output
    small = tk.save_model(
        tk.create_model("segformer_b0", 11), tmp_path / "11.safetensors", provenance={"parameters": made}
    )
    refused = call("evaluate", str(small))
    assert (refused.exit_code, "for 19 classes has 19 logits" in refused.output) == (2, True)


def test_what_belongs_to_another_data_set_is_not_carried_over(tmp_path):
    """A mask of two classes in a folder: the recorded map and number of scenes were those of the training's data."""
    for split, number in (("train", 1), ("val", 3)):
        for index in range(number):
            for kind, mode in (("images", "RGB"), ("labels", "L")):
                path = tmp_path / "data" / kind / split / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new(mode, (64, 32), 1 if mode == "L" else (9, 9, 9)).save(path)
    (tmp_path / "data" / "classes.txt").write_text("wall\ncrack\n")
    made = {
        "dataset": "hub:one/two",
        "val_images": 1,
        "data_options": {"classes": ["a", "b"]},
        "height": None,
        "width": None,
    }
    weights = str(
        tk.save_model(tk.create_model("segformer_b0", 2), tmp_path / "m.safetensors", provenance={"parameters": made})
    )
    result = call("evaluate", weights, "--set", "dataset=folder", "--data-root", str(tmp_path / "data"), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)["data"]
    assert found == {"dataset": "folder", "split": "val", "images": 3, "size": [32, 64], "normalize": True}


def test_the_version_is_told():
    assert call("--version").output == f"transkd {tk.__version__}\n"
    assert call().exit_code == 2


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_console_that_lacks_a_sign_shows_a_question_mark(encoding, monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", console)
    monkeypatch.setattr(sys, "argv", ["transkd", "describe", "transkd-base"])
    with pytest.raises(SystemExit, match="0"):
        main()
    console.seek(0)
    assert "formula  ?_i HCL(CSF(F^S)_i, F^T_i)" in console.read()
