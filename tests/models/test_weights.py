"""Guards: checkpoints of every known origin end up in the right place, and what does not fit is refused by
name.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from transkd_lite.data import LabelSpace
from transkd_lite.models import SegModel, create_model, load_model, save_huggingface, save_model
from transkd_lite.models.files import read_metadata
from transkd_lite.models.pretrained import load_tensors

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def b0() -> SegModel:
    torch.manual_seed(0)
    return create_model("segformer_b0", 19).eval()


def logits(model: SegModel) -> Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        return model.eval()(torch.rand(1, 3, 64, 64)).logits


def nvidia_names(tensors: Tensors) -> Tensors:
    """As in NVIDIA's trained SegFormers: stages counted from 1, encoder in `backbone`, head in `decode_head`."""
    table = [
        (r"stages\.(\d)\.patch_embed\.", "backbone.patch_embed{}."),
        (r"stages\.(\d)\.blocks\.", "backbone.block{}."),
        (r"stages\.(\d)\.norm\.", "backbone.norm{}."),
        (r"head\.projections\.(\d)\.", "decode_head.linear_c{}.proj."),
        (r"head\.fuse\.()", "decode_head.linear_fuse.conv."),
        (r"head\.norm\.()", "decode_head.linear_fuse.bn."),
        (r"head\.classifier\.()", "decode_head.linear_pred."),
    ]
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, template in table:
            match = re.match(pattern, name)
            if match:
                stage = int(match[1]) + 1 if match[1] else ""
                new = template.format(stage) + name[match.end() :]
                renamed[new.replace("mlp.dwconv.", "mlp.dwconv.dwconv.")] = tensor
    assert len(renamed) == len(tensors)
    return renamed


def mmseg_names(tensors: Tensors) -> Tensors:
    """As mmsegmentation names and stacks them."""
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        new = re.sub(r"stages\.(\d)\.patch_embed\.proj", r"backbone.layers.\1.0.projection", name)
        new = re.sub(r"stages\.(\d)\.patch_embed\.norm", r"backbone.layers.\1.0.norm", new)
        new = re.sub(r"stages\.(\d)\.norm", r"backbone.layers.\1.2", new)
        new = re.sub(r"stages\.(\d)\.blocks\.(\d+)", r"backbone.layers.\1.1.\2", new)
        new = new.replace("mlp.fc1", "ffn.layers.0").replace("mlp.dwconv", "ffn.layers.1")
        new = new.replace("mlp.fc2", "ffn.layers.4").replace("attn.proj", "attn.attn.out_proj")
        new = re.sub(r"head\.projections\.(\d)", r"decode_head.convs.\1.conv", new)
        new = re.sub(r"head\.projection_norms\.(\d)", r"decode_head.convs.\1.bn", new)
        new = new.replace("head.fuse", "decode_head.fusion_conv.conv").replace(
            "head.norm", "decode_head.fusion_conv.bn"
        )
        new = new.replace("head.classifier", "decode_head.conv_seg")
        if ".attn.kv." in new:
            continue
        if ".attn.q." in new:
            kv = tensors[name.replace(".q.", ".kv.")]
            renamed[new.replace(".attn.q.", ".attn.attn.in_proj_")] = torch.cat([tensor, kv])
        elif re.search(r"ffn\.layers\.[04]\.weight|convs\.\d\.conv\.weight", new):
            renamed[new] = tensor[:, :, None, None]  # 1x1 convolutions there, linear layers here
        elif new == "decode_head.fusion_conv.conv.weight":
            renamed[new] = torch.cat(tensor.chunk(4, dim=1)[::-1], dim=1)
        else:
            renamed[new] = tensor
    return renamed


def test_our_file_needs_no_other_argument(b0: SegModel, tmp_path: Path) -> None:
    path = save_model(b0, tmp_path / "deep" / "b0.safetensors", provenance={"steps": 3})
    loaded = load_model(path)
    assert loaded.spec == b0.spec
    assert not loaded.training
    assert torch.equal(logits(loaded), logits(b0))
    assert read_metadata(path, "transkd_lite")["provenance"] == {"steps": 3}
    assert [p.name for p in path.parent.iterdir()] == ["b0.safetensors"]


def test_options_are_kept(tmp_path: Path) -> None:
    model = create_model("segformer_b0", 4, decoder_channels=32, drop_path=0.0)
    loaded = load_model(save_model(model, tmp_path / "m.safetensors"))
    assert loaded.spec.options == {"decoder_channels": 32, "drop_path": 0.0}
    assert loaded.spec.decoder_channels == 32


def test_names_and_colours_of_the_classes_are_kept(tmp_path: Path) -> None:
    model = create_model("segformer_b0", 3)  # one logit more than classes: void
    plain = load_model(save_model(model, tmp_path / "plain.safetensors"))
    assert plain.label_space is None
    model.label_space = LabelSpace(("road", "car"), ((128, 64, 128), (0, 0, 142)))
    loaded = load_model(save_model(model, tmp_path / "m.safetensors"))
    assert loaded.label_space == model.label_space


def test_half_precision_halves_the_file(b0: SegModel, tmp_path: Path) -> None:
    whole = save_model(b0, tmp_path / "fp32.safetensors")
    half = save_model(b0, tmp_path / "fp16.safetensors", dtype=torch.float16)
    assert half.stat().st_size < 0.52 * whole.stat().st_size
    loaded = load_model(half)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(loaded), logits(b0), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("naming", [nvidia_names, mmseg_names])
def test_segformers_of_other_libraries(b0: SegModel, naming: Any, tmp_path: Path) -> None:
    model = create_model("segformer_b0", 19, normed_projections=naming is mmseg_names).eval()
    path = tmp_path / "iter_160000.pth"
    torch.save({"meta": {"epoch": 1}, "state_dict": naming(model.state_dict())}, path)
    assert torch.equal(logits(create_model("segformer_b0", 19, pretrained=path)), logits(model))


def test_imagenet_encoder_leaves_the_head_new(b0: SegModel, tmp_path: Path) -> None:
    path = tmp_path / "mit_b0.pth"
    encoder = {
        n.removeprefix("backbone."): t for n, t in nvidia_names(b0.state_dict()).items() if "decode" not in n
    }
    torch.save({**encoder, "head.weight": torch.rand(1000, 256), "head.bias": torch.rand(1000)}, path)
    loaded = create_model("segformer_b0", 5, pretrained=path)
    for name, tensor in loaded.stages.state_dict().items():
        assert torch.equal(tensor, b0.stages.state_dict()[name]), name


def test_timm_naming_of_pvt_v2(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    published = timm.create_model("pvt_v2_b0")
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    model = create_model("pvt_v2_b0", 5, pretrained=tmp_path / "model.safetensors")
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, published.state_dict()[name]), name


def test_timm_weights_are_offered_for_timm_backbones_only() -> None:
    with pytest.raises(ValueError, match="timm has no weights for segformer_b0: give a path"):
        create_model("segformer_b0", 5, pretrained="timm")


def test_timm_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(
        FileNotFoundError, match=r"timm's weights of pvt_v2_b0 could not be fetched \(offline\)"
    ):
        create_model("pvt_v2_b0", 5, pretrained="timm")


def test_another_architecture_is_refused_with_both_shapes(b0: SegModel, tmp_path: Path) -> None:
    path = save_model(b0, tmp_path / "b0.safetensors")
    expected = r"is not a segformer_b1.*stages\.0\.patch_embed\.proj\.\w+ has \(32.*\) there, \(64.*\) here"
    with pytest.raises(ValueError, match=expected):
        create_model("segformer_b1", 19, pretrained=path)


def test_a_head_for_other_classes_is_reset_only_when_asked(b0: SegModel) -> None:
    model = create_model("segformer_b0", 5)
    with pytest.raises(
        ValueError, match=r"another number of classes.*\(19, 256, 1, 1\) there, \(5, .*reset_head=True"
    ):
        load_tensors(model, b0.state_dict())
    before = model.head.classifier.weight.clone()
    load_tensors(model, b0.state_dict(), reset_head=True)
    assert torch.equal(model.head.classifier.weight, before)
    assert torch.equal(model.head.fuse.weight, b0.head.fuse.weight)
    load_tensors(model, b0.state_dict(), reset_head="if-needed")
    assert torch.equal(model.head.classifier.weight, before)
    same = create_model("segformer_b0", 19)
    load_tensors(same, b0.state_dict(), reset_head="if-needed")
    assert torch.equal(same.head.classifier.weight, b0.head.classifier.weight)


def test_missing_and_unexpected_tensors_are_named(b0: SegModel) -> None:
    tensors = dict(b0.state_dict())
    tensors["stages.1.surprise"] = tensors.pop("stages.1.norm.bias")
    with pytest.raises(ValueError, match=r"missing stages\.1\.norm\.bias; unexpected stages\.1\.surprise"):
        load_tensors(create_model("segformer_b0", 19), tensors)


class Malicious:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    trap, path = tmp_path / "executed", tmp_path / "weights.pth"
    content = {"state_dict": {"a": torch.ones(1)}, "extra": Malicious(trap)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    trap.unlink(missing_ok=True)
    with pytest.raises(ValueError, match="is refused: a checkpoint may hold tensors only"):
        create_model("segformer_b0", 19, pretrained=path)
    assert not trap.exists()


def test_a_plain_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    trap, path = tmp_path / "executed", tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(Malicious(trap)))
    with pytest.raises(ValueError, match="is refused"):
        create_model("segformer_b0", 19, pretrained=path)
    assert not trap.exists()


def test_damaged_and_absent_files_are_named(b0: SegModel, tmp_path: Path) -> None:
    path = save_model(b0, tmp_path / "b0.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"b0\.safetensors is not a whole safetensors file"):
        load_model(path)
    torch.save(b0.state_dict(), tmp_path / "b0.pth")
    (tmp_path / "b0.pth").write_bytes((tmp_path / "b0.pth").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"b0\.pth is"):
        create_model("segformer_b0", 19, pretrained=tmp_path / "b0.pth")
    with pytest.raises(FileNotFoundError, match="no model file at"):
        load_model(tmp_path / "absent.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds neither"):
        create_model("segformer_b0", 19, pretrained=tmp_path / "empty")


def test_a_failed_write_leaves_the_old_file(
    b0: SegModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_model(b0, tmp_path / "b0.safetensors")
    before = path.read_bytes()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transkd_lite.models.files.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(create_model("segformer_b0", 3), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["b0.safetensors"]


def test_the_hub_is_asked_for_safetensors(
    b0: SegModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_huggingface(b0, tmp_path)
    asked = []

    def snapshot_download(repo_id: str, allow_patterns: list[str]) -> str:
        asked.append((repo_id, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    model = create_model("segformer_b0", 19, pretrained="hub:nvidia/segformer-b0")
    assert torch.equal(logits(model), logits(b0))
    assert asked == [("nvidia/segformer-b0", ["config.json", "*.safetensors"])]


def test_without_the_hub_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> str:
        raise ConnectionError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(
        FileNotFoundError, match=r"nvidia/mit-b0 could not be fetched.*give the path of a folder"
    ):
        create_model("segformer_b0", 19, pretrained="hub:nvidia/mit-b0")
