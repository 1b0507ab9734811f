"""Guards: SegFormers go to Hugging Face's transformers and come back, with the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from transkd_lite.data.labels import LabelSpace
from transkd_lite.data.whole import write_json
from transkd_lite.models.weights import create_model, load_model, save_huggingface, save_model

NAMES = [f"name {i}" for i in range(7)]


@pytest.mark.slow
def test_transformers_opens_what_we_write_and_we_open_what_it_writes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ours = create_model("segformer_b0", 7).eval()
    for parameter in ours.parameters():  # zero biases and unit norms would hide a wrong place
        parameter.data += 0.05 * torch.randn_like(parameter)
    folder = save_huggingface(ours, tmp_path / "ours", class_names=NAMES)
    theirs, report = transformers.SegformerForSemanticSegmentation.from_pretrained(folder, output_loading_info=True)
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


def finished(folder: Path, seed: int, scores: tuple[float, float], **more: Any) -> Path:
    """A finished run of a student, as far as it is read here."""
    parameters = {
        "dataset": "streets", "network": "segformer_b0", "method": "kd", "teacher": "run:teacher", "seed": seed,
        "height": 64, "width": 96, "normalize": False, **more,
    }  # fmt: skip
    model = create_model("segformer_b0", 7)
    model.label_space = LabelSpace(tuple(NAMES), tuple((k, 0, 0) for k in range(7)))
    save_model(model, folder / "student.safetensors")
    write_json(folder / "run.json", {"parameters": parameters})
    write_json(folder / "metrics.json", {p: {"miou": s} for p, s in zip(("full", "paper"), scores, strict=True)})
    return folder


def test_a_run_is_saved_with_its_card_and_opens_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished(tmp_path / "one", 1, (0.25, 0.3))
    finished(tmp_path / "two", 0, (0.2, 0.21))
    finished(tmp_path / "longer", 2, (0.9, 0.9), steps=7)
    save_model(create_model("segformer_b2", 7), tmp_path / "teacher" / "student.safetensors")
    card = (save_huggingface(run, tmp_path / "hub") / "README.md").read_text()
    assert "distilled from teacher (segformer_b2) by kd, on the data set streets" in card
    assert "| 0 | 20.00 | 21.00 |\n| 1 | 25.00 | 30.00 |\n\n" in card
    assert "These weights are those of seed 1." in card
    assert "90.00" not in card, "that of another experiment"
    assert card.startswith("---\nlicense: unknown # fill in")
    (tmp_path / "hub" / "README.md").write_text("filled in")
    save_huggingface(run, tmp_path / "hub")
    assert (tmp_path / "hub" / "README.md").read_text() == "filled in"

    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr("socket.socket.connect", lambda *arguments: pytest.fail("asked the network"))
    theirs = transformers.AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "hub")
    assert [theirs.config.id2label[k] for k in range(7)] == NAMES
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hub")
    prepared = processor(Image.new("RGB", (50, 40), (255, 0, 51)), return_tensors="pt")["pixel_values"]
    assert prepared.shape == (1, 3, 64, 96)
    assert prepared[0, :, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.2])


def test_what_a_run_does_not_tell_is_not_claimed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    model = create_model("segformer_b0", 7)
    save_model(model, folder / "student.safetensors")
    card = (save_huggingface(folder, tmp_path / "bare") / "README.md").read_text()
    assert "A segformer_b0 for semantic segmentation, trained, on the data set not recorded." in card
    made = {"parameters": {"method": "none", "dataset": "camvid", "seed": 3}, "miou": {"full": 0.5, "paper": 0.25}}
    weights = save_model(model, tmp_path / "w.safetensors", provenance=made)
    card = (save_huggingface(weights, tmp_path / "weights") / "README.md").read_text()
    assert "trained alone, on the data set camvid" in card
    assert "| 3 | 50.00 | 25.00 |" in card
    assert not (save_huggingface(model, tmp_path / "model") / "README.md").exists()


def test_a_folder_of_hugging_face_is_read_without_transformers(tmp_path: Path) -> None:
    ours = create_model("segformer_b0", 7).eval()
    back = create_model("segformer_b0", 7, pretrained=save_huggingface(ours, tmp_path))
    for name, tensor in back.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name]), name
    assert json.loads((tmp_path / "config.json").read_text())["depths"] == [2, 2, 2, 2]


B2 = {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 256}
HEADS = {"num_attention_heads": [2, 4, 10, 16]}


def of_transformers(**settings: Any) -> Any:
    """A SegFormer of transformers, 7 classes, every parameter and running statistic away from its initial value."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SegformerConfig(num_labels=7, **settings)
    theirs = transformers.SegformerForSemanticSegmentation(config).eval()
    for name, tensor in theirs.state_dict().items():
        if tensor.is_floating_point():
            noise = 0.05 * torch.randn_like(tensor)
            tensor += noise.abs() if name.endswith("running_var") else noise
    return theirs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "settings", "options"),
    [
        ("folder", {}, {}),
        ("folder", HEADS, {"num_heads": (2, 4, 10, 16)}),
        ("folder", B2 | HEADS, {"num_heads": (2, 4, 10, 16), "decoder_channels": 256}),
        ("parts", {"layer_norm_eps": 1e-5, "hidden_dropout_prob": 0.1}, {}),
        ("state_dict", {}, {}),
        ("state_dict", B2 | HEADS, {"num_heads": (2, 4, 10, 16), "decoder_channels": 256}),
        ("Lightning", HEADS, {"num_heads": (2, 4, 10, 16)}),
    ],
)
def test_networks_of_transformers_compute_here_what_they_compute_there(
    form: str, settings: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    network = "segformer_b2" if "depths" in settings else "segformer_b0"
    theirs = of_transformers(**settings)
    theirs.save_pretrained(tmp_path, max_shard_size="2MB" if form == "parts" else "1GB")
    source = tmp_path
    if form in ("state_dict", "Lightning"):
        state = theirs.state_dict()
        assert "segformer.stages.0.blocks.0.attention.q_proj.weight" in state
        wrapped = {"state_dict": {f"model.{n}": t for n, t in state.items()}}
        source = tmp_path / "weights.ckpt"
        torch.save(state if form == "state_dict" else wrapped, source)
    elif form == "parts":
        assert not (tmp_path / "model.safetensors").exists()
    ours = create_model(network, 7, pretrained=source).eval()
    assert ours.spec.options == options | {"norm_eps": 1e-5}
    images = torch.rand(2, 3, 72, 136)
    again = create_model(network, 7, pretrained=save_huggingface(ours, tmp_path / "again"))
    assert again.spec == ours.spec
    loaded = load_model(save_model(ours, tmp_path / "ours" / "m.safetensors"))
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, ours(images).logits)
        # In float64: in float32 the order of a sum, which differs between processors, shows in the fifth digit.
        actual, expected = (network.double()(images.double()).logits for network in (ours, theirs))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("base", ["model", "classifier"])
def test_encoders_of_transformers(base: str, tmp_path: Path) -> None:
    """`SegformerModel` and `SegformerForImageClassification`, in files and in `state_dict()`."""
    transformers = pytest.importorskip("transformers")
    name = {"model": "SegformerModel", "classifier": "SegformerForImageClassification"}[base]
    theirs = getattr(transformers, name)(transformers.SegformerConfig()).eval()
    theirs.save_pretrained(tmp_path)
    torch.save(theirs.state_dict(), tmp_path / "state.pth")
    encoder = getattr(theirs, "segformer", theirs).double()
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    for source in (tmp_path, tmp_path / "state.pth"):
        ours = create_model("segformer_b0", 3, pretrained=source).eval().double()
        with torch.no_grad():
            expected = encoder(images, output_hidden_states=True).hidden_states
            for actual, wanted in zip(ours(images).features, expected, strict=True):
                torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [
        ("hidden_act", "relu", "gelu"),
        ("strides", [2, 2, 2, 2], "(4, 2, 2, 2)"),
        ("reshape_last_stage", False, "True"),
        ("hidden_act", "\x1b[31m" * 200, "gelu"),
    ],
)
def test_a_config_that_asks_for_another_network_is_refused(key: str, value: Any, needed: str, tmp_path: Path) -> None:
    folder = save_huggingface(create_model("segformer_b0", 7), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    for source in (folder, folder / "model.safetensors"):
        with pytest.raises(ValueError, match=f"config.json has {key} = ") as error:
            create_model("segformer_b0", 7, pretrained=source)
        assert f", but segformer_b0 needs {needed}: use transformers" in str(error.value)
        assert len(str(error.value)) <= 600
        assert str(error.value).isprintable()


@pytest.mark.parametrize("heads", [[1, 2, 3, 8], [1, 2, 5], 3, "\x1b[31m" * 200])
def test_heads_that_do_not_divide_the_widths_are_refused(heads: Any, tmp_path: Path) -> None:
    folder = save_huggingface(create_model("segformer_b0", 7), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": heads}))
    with pytest.raises(ValueError, match=r"num_heads(:| must be four divisors of the widths) .*got") as error:
        create_model("segformer_b0", 7, pretrained=folder)
    assert len(str(error.value)) <= 600
    assert str(error.value).isprintable()


@pytest.mark.parametrize("text", ["{", "[]", "\xff", "[" * 100_000])
def test_a_damaged_config_is_refused(text: str, tmp_path: Path) -> None:
    folder = save_huggingface(create_model("segformer_b0", 7), tmp_path)
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"config\.json is not whole"):
        create_model("segformer_b0", 7, pretrained=folder)


def test_the_constant_of_our_own_folders_is_kept(tmp_path: Path) -> None:
    ours = create_model("segformer_b0", 7, norm_eps=1e-5, num_heads=(1, 1, 1, 1))
    back = create_model("segformer_b0", 7, pretrained=save_huggingface(ours, tmp_path))
    assert back.spec.options == {"norm_eps": 1e-5, "num_heads": (1, 1, 1, 1)}
    with pytest.raises(ValueError, match=r"num_heads=\(1, 2, 5, 8\) contradicts"):
        create_model("segformer_b0", 7, pretrained=tmp_path, num_heads=[1, 2, 5, 8])


def test_what_transformers_has_no_place_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lvt is no SegFormer"):
        save_huggingface(create_model("lvt", 7), tmp_path)
    with pytest.raises(ValueError, match="class_names must have 7 entries, got 1"):
        save_huggingface(create_model("segformer_b0", 7), tmp_path, class_names=["road"])
