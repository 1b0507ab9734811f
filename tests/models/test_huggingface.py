"""Guards: SegFormers go to Hugging Face's transformers and come back, with the same logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from transkd_lite.models import create_model, save_huggingface

NAMES = [f"name {i}" for i in range(7)]


@pytest.mark.slow
def test_transformers_opens_what_we_write_and_we_open_what_it_writes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ours = create_model("segformer_b0", 7).eval()
    for parameter in ours.parameters():  # zero biases and unit norms would hide a wrong place
        parameter.data += 0.05 * torch.randn_like(parameter)
    folder = save_huggingface(ours, tmp_path / "ours", class_names=NAMES)
    theirs, report = transformers.SegformerForSemanticSegmentation.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.config.id2label[6] == "name 6"
    images = torch.rand(2, 3, 72, 136)
    with torch.no_grad():
        expected, actual = theirs.eval()(images).logits, ours(images).logits
    assert (actual - expected).abs().max() < 1e-3 * expected.std()

    theirs.save_pretrained(tmp_path / "theirs")
    back = create_model("segformer_b0", 7, pretrained=tmp_path / "theirs").eval()
    for name, tensor in back.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name]), name


def test_a_folder_of_hugging_face_is_read_without_transformers(tmp_path: Path) -> None:
    ours = create_model("segformer_b0", 7).eval()
    back = create_model("segformer_b0", 7, pretrained=save_huggingface(ours, tmp_path))
    for name, tensor in back.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name]), name
    assert json.loads((tmp_path / "config.json").read_text())["depths"] == [2, 2, 2, 2]


def test_what_transformers_has_no_place_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lvt is no SegFormer"):
        save_huggingface(create_model("lvt", 7), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="class_names must have 7 entries, got 1"):
        save_huggingface(create_model("segformer_b0", 7), tmp_path, class_names=["road"])
