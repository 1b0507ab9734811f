"""Protects: `transkd export` writes a file that was compared with its network, or says why not and leaves nothing."""

import json

import pytest
import torch
from typer.testing import CliRunner

import transkd_lite as tk
from transkd_lite.cli import app
from transkd_lite.models import onnx
from transkd_lite.models.onnx import OnnxModel, Parity


def call(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def save(network, folder):
    model = tk.create_model(network, 19, decoder_channels=16)
    made = {"parameters": {"dataset": "streets", "normalize": False}}
    return tk.save_model(model, folder / "weights.safetensors", provenance=made)


@pytest.fixture
def weights(tmp_path):
    return save("segformer_b0", tmp_path)


@pytest.fixture
def no_exporter(monkeypatch):
    """The exporter's ten seconds are spared: a file is written, and the comparison is what a test sets."""

    def write(model, path, size, **options):
        write.options, write.model = options, model
        path.write_text("graph")
        return path

    monkeypatch.setattr(onnx, "export_onnx", write)
    monkeypatch.setattr("transkd_lite.models.onnx.parity", lambda *args: Parity(1e-6, 10.0, 1.0, 512))
    return write


@pytest.mark.slow
def test_weights_become_a_file_that_agrees(tmp_path):
    weights = save("timm:convnextv2_atto", tmp_path)  # exported in a third of SegFormer's time
    done = call(weights, tmp_path / "new" / "student.onnx", "--size", 64, 96)
    assert done.exit_code == 0, done.output
    assert "timm:convnextv2_atto, 19 classes" in done.output
    assert "parity on 4 scenes of 64x96: logits differ by at most" in done.output
    about = OnnxModel(tmp_path / "new" / "student.onnx").metadata
    assert about["normalize"] is None
    assert about["label_space"]["names"][:2] == ["road", "sidewalk"]
    assert about["parameters"] == {"dataset": "streets", "normalize": False}
    assert tk.load_model(tmp_path / "new" / "student.onnx").label_space.names[0] == "road"


def test_a_run_folder_is_taken_with_its_parameters(weights, tmp_path, no_exporter):
    folder = tmp_path / "run"
    folder.mkdir()
    weights.rename(folder / "student.safetensors")
    (folder / "run.json").write_text(json.dumps({"parameters": {"dataset": "camvid", "normalize": True}}))
    done = call(folder, tmp_path / "student.onnx", "--size", 64, 64, "--plain-head")
    assert done.exit_code == 0, done.output
    made = {"dataset": "camvid", "normalize": True}
    assert no_exporter.options == {"normalize": True, "fold_head": False, "opset": 20, "parameters": made}
    assert no_exporter.model.label_space is None  # 19 logits: not CamVid's


def test_a_size_in_which_no_scene_is_drawn_is_compared_on_smaller_ones(weights, tmp_path, no_exporter):
    done = call(weights, tmp_path / "student.onnx", "--size", 64, 4096, "--opset", 18)
    assert done.exit_code == 0, done.output
    assert "parity on 4 scenes of 64x1024" in done.output
    assert no_exporter.options["opset"] == 18


def test_a_file_that_differs_is_not_kept(weights, tmp_path, no_exporter, monkeypatch):
    monkeypatch.setattr("transkd_lite.models.onnx.parity", lambda *args: Parity(1.0, 10.0, 0.8, 512))
    target = tmp_path / "student.onnx"
    target.write_text("an older file")
    done = call(weights, target, "--size", 64, 64)
    assert done.exit_code == 1
    assert "was not written: ONNX Runtime disagrees with the network" in done.stderr
    assert target.read_text() == "an older file"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["student.onnx", "weights.safetensors"]


@pytest.mark.parametrize(
    ("source", "target", "size", "message"),
    [
        ("nothing.safetensors", "a.onnx", (64, 64), "no weights at"),
        ("", "a.onnx", (64, 64), "student.safetensors: pass a finished run folder"),
        ("weights.safetensors", "a.pt", (64, 64), "an ONNX file is named *.onnx"),
        ("weights.safetensors", "a.onnx", (16, 64), "size must be two whole numbers"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(weights, tmp_path, source, target, size, message):
    done = call(tmp_path / source, tmp_path / target, "--size", *size)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / target).exists()


def test_parity_compares_images_as_the_network_was_trained(weights, tmp_path, no_exporter, monkeypatch):
    """Normalised or not: the comparison gives the network what the file's metadata ask for."""
    seen = []
    monkeypatch.setattr(
        "transkd_lite.models.onnx.parity",
        lambda model, file, images: seen.append(images) or Parity(1e-6, 10.0, 1.0, 512),
    )
    for normalize in (True, False):
        made = {"parameters": {"normalize": normalize}}
        tk.save_model(tk.load_model(weights), weights, provenance=made)
        assert call(weights, tmp_path / "student.onnx", "--size", 64, 64).exit_code == 0
    assert seen[0].shape == (4, 3, 64, 64)
    assert float(seen[0].min()) < 0 <= float(seen[1].min())
    assert float(seen[1].max()) <= 1
    assert not torch.equal(*seen)
