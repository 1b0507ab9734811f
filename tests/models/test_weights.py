"""Guards: checkpoints of every known origin end up in the right place, and what does not fit is refused by
name.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from transkd_lite.data.labels import LabelSpace
from transkd_lite.models.output import SegModel
from transkd_lite.models.weights import (
    create_model,
    load_model,
    load_tensors,
    read_metadata,
    save_huggingface,
    save_model,
)

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
    assert read_metadata(path)["provenance"] == {"steps": 3}
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


@pytest.mark.parametrize("naming", [nvidia_names, mmseg_names])
def test_the_width_of_a_head_is_read_from_the_file(naming: Any, tmp_path: Path) -> None:
    """mmsegmentation's heads are 256 wide for B2 too, where the published ones have 768."""
    options = {"decoder_channels": 24, "normed_projections": naming is mmseg_names}
    model = create_model("segformer_b1", 3, **options).eval()
    torch.save(naming(model.state_dict()), tmp_path / "w.pth")
    loaded = create_model("segformer_b1", 3, pretrained=tmp_path / "w.pth")
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.spec.decoder_channels == 24
    assert torch.equal(logits(load_model(save_model(loaded, tmp_path / "m.safetensors"))), logits(model))
    with pytest.raises(ValueError, match=r"decoder_channels=32 contradicts .*w\.pth, which has 24"):
        create_model("segformer_b1", 3, pretrained=tmp_path / "w.pth", decoder_channels=32)
    contrary = not options["normed_projections"]
    with pytest.raises(ValueError, match=f"normed_projections={contrary} contradicts"):
        create_model("segformer_b1", 3, pretrained=tmp_path / "w.pth", normed_projections=contrary)


def test_what_shapes_do_not_tell_is_read_from_our_own_files(tmp_path: Path) -> None:
    model = create_model("segformer_b0", 3, num_heads=(2, 4, 10, 16), norm_eps=1e-3).eval()
    path = save_model(model, tmp_path / "m.safetensors")
    assert torch.equal(logits(create_model("segformer_b0", 3, pretrained=path)), logits(model))
    with pytest.raises(ValueError, match=r"num_heads=\(1, 2, 5, 8\) contradicts .*\(2, 4, 10, 16\)"):
        create_model("segformer_b0", 3, pretrained=path, num_heads=(1, 2, 5, 8))
    with pytest.raises(ValueError, match=r"four divisors of the widths \(32, .*got \(1, 2, 3, 8\)"):
        create_model("segformer_b0", 3, num_heads=(1, 2, 3, 8))


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def others(tensors: Tensors) -> Tensors:
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


def compiled(tensors: Tensors) -> Tensors:
    """As after torch.compile of the backbone alone."""
    return {n.replace("backbone.", "backbone._orig_mod."): t for n, t in tensors.items()}


WRAPPINGS: dict[str, Any] = {
    "torch.compile": lambda t: under("_orig_mod.", t),
    "a compiled backbone": compiled,
    "DataParallel of a compiled network": lambda t: {"model": under("module._orig_mod.", t)},
    "FSDP": lambda t: under("_fsdp_wrapped_module.", t),
    "Lightning": lambda t: {
        "state_dict": under("model.net.", t) | {"criterion.weight": torch.ones(19)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        "hyper_parameters": {"lr": 1e-3},
    },
    "timm, its average alone": lambda t: {"state_dict_ema": under("module.", t)},
    "torch's AveragedModel": lambda t: under("module.", t) | {"n_averaged": torch.tensor(3)},
    "DeiT": lambda t: {"model": t, "model_ema": others(t), "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
    "mmengine": lambda t: {"state_dict": t, "ema_state_dict": {"steps": torch.tensor(3)} | under("module.", others(t))},
    "mmengine, its average alone": lambda t: {"ema_state_dict": {"steps": torch.tensor(3)} | under("module.", t)},
    "mmcv's average": lambda t: t | {"ema_" + n.replace(".", "_"): x for n, x in others(t).items()},
    "an average beside": lambda t: under("module.", t) | under("module_ema.module.", others(t)),
    "mmrazor": lambda t: {"state_dict": under("architecture.", t) | under("teacher.", others(t))},
    "student and teacher": lambda t: under("student.", t) | under("teacher.", others(t)),
    "student and teacher, each in a dict": lambda t: {"student": t, "teacher": others(t)},
    "the average of a student": lambda t: under("student_ema.module.", t) | under("teacher.", others(t)),
    "a teacher alone": lambda t: under("teacher.", t),
    "all at once": lambda t: {
        "state_dict": under("_orig_mod.module.model.student._orig_mod.", t)
        | under("_orig_mod.module.model.teacher.", others(t))
        | under("_orig_mod.module.ema_model.student.", others(t))
        | {"_orig_mod.module.model.skfs.0.conv1.0.weight": torch.ones(2)}
    },
}


@pytest.mark.parametrize(
    ("naming", "wrapping"),
    [*((nvidia_names, w) for w in WRAPPINGS), (mmseg_names, "all at once"), (dict, "all at once")],
)
def test_what_a_network_is_wrapped_in_is_seen_through(b0: SegModel, naming: Any, wrapping: str, tmp_path: Path) -> None:
    model = b0
    if naming is mmseg_names:
        torch.manual_seed(0)
        model = create_model("segformer_b0", 19, normed_projections=True).eval()
    torch.save(WRAPPINGS[wrapping](naming(model.state_dict())), tmp_path / "w.pth")
    loaded = create_model("segformer_b0", 19, pretrained=tmp_path / "w.pth")
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@pytest.mark.parametrize("name", ["pvt_v2_b0", "lvt", "timm:convnextv2_atto"])
def test_wrappings_of_other_networks(name: str, tmp_path: Path) -> None:
    model = create_model(name, 3)
    own = model.state_dict()
    torch.save({"state_dict": under("model._orig_mod.", own) | under("ema.", others(own))}, tmp_path / "w.pth")
    for key, tensor in create_model(name, 3, pretrained=tmp_path / "w.pth").state_dict().items():
        assert torch.equal(tensor, own[key]), key


def test_our_own_file_with_a_prefix(b0: SegModel, tmp_path: Path) -> None:
    """As this library wrote compiled networks before it saw through them."""
    metadata = {"transkd_lite": json.dumps({"spec": dataclasses.asdict(b0.spec)})}
    save_file(under("_orig_mod.", b0.state_dict()), tmp_path / "m.safetensors", metadata)
    assert torch.equal(logits(load_model(tmp_path / "m.safetensors")), logits(b0))


def test_an_unknown_network_is_named_before_its_weights_are_read(b0: SegModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown network 'resnet50'"):
        create_model("resnet50", 19, pretrained=save_model(b0, tmp_path / "b0.safetensors"))


def test_another_width_is_not_another_number_of_classes(b0: SegModel, tmp_path: Path) -> None:
    path = save_model(b0, tmp_path / "b0.safetensors")
    own = {name: tensor for name, tensor in b0.state_dict().items() if name.startswith("head.")}
    with pytest.raises(ValueError, match="does not fit pvt_v2_b0: Missing key") as error:
        load_tensors(create_model("pvt_v2_b0", 19), own, origin=str(path))
    assert "reset_head" not in str(error.value)


def test_one_of_two_equal_networks_is_not_guessed(b0: SegModel, tmp_path: Path) -> None:
    own = b0.state_dict()
    torch.save(under("first.", own) | under("second.", own), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"holds several networks, below first\., second\.: save the one"):
        create_model("segformer_b0", 19, pretrained=tmp_path / "w.pth")


@pytest.mark.parametrize("sign", [".", "/"])
def test_a_head_under_another_prefix_is_not_lost_in_silence(b0: SegModel, sign: str, tmp_path: Path) -> None:
    own = {n if "head" in n else f"stages.{n}": t for n, t in nvidia_names(b0.state_dict()).items()}
    parts: Any = {
        "encoder": {n.removeprefix("stages."): t for n, t in own.items() if "head" not in n},
        "decoder": {n.removeprefix("decode_head."): t for n, t in own.items() if "head" in n},
    }
    if sign == ".":
        parts = under("encoder.", parts["encoder"]) | under("decoder.", parts["decoder"])
    torch.save(parts, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"Unexpected key.*decoder\.linear_"):
        create_model("segformer_b0", 19, pretrained=tmp_path / "w.pth")


def prepared(model: SegModel) -> torch.nn.Module:
    accelerate = pytest.importorskip("accelerate")
    state = accelerate.state.AcceleratorState
    # Its precision is that of the process: tests before and after it in that process train in another one.
    state._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    wrapped = accelerator.prepare(torch.nn.DataParallel(model))
    state._reset_state(reset_partial_state=True)
    return wrapped


def part_compiled(model: SegModel) -> torch.nn.Module:
    model.stages[1] = torch.compile(model.stages[1])  # type: ignore[operator]
    return torch.compile(model)  # type: ignore[return-value]


@pytest.mark.parametrize("wrap", [torch.compile, torch.nn.DataParallel, prepared, part_compiled])
def test_a_wrapped_network_is_saved_as_itself(b0: SegModel, wrap: Any, tmp_path: Path) -> None:
    wrapped = wrap(copy.deepcopy(b0))
    loaded = load_model(save_model(wrapped, tmp_path / "m.safetensors"))
    assert loaded.spec == b0.spec
    assert torch.equal(logits(loaded), logits(b0))
    again = create_model("segformer_b0", 19, pretrained=save_huggingface(wrapped, tmp_path / "hf"))
    assert torch.equal(logits(again), logits(b0))
    with pytest.raises(ValueError, match="expected a network of create_model, got Linear"):
        save_model(torch.nn.DataParallel(torch.nn.Linear(2, 2)), tmp_path / "l.safetensors")


def test_imagenet_encoder_leaves_the_head_new(b0: SegModel, tmp_path: Path) -> None:
    path = tmp_path / "mit_b0.pth"
    encoder = {n.removeprefix("backbone."): t for n, t in nvidia_names(b0.state_dict()).items() if "decode" not in n}
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


def test_another_architecture_is_refused_with_both_shapes(b0: SegModel, tmp_path: Path) -> None:
    path = save_model(b0, tmp_path / "b0.safetensors")
    expected = r"does not fit segformer_b1: Missing key.*size mismatch|shape"
    with pytest.raises(ValueError, match=expected):
        create_model("segformer_b1", 19, pretrained=path)


def test_a_head_for_other_classes_is_reset_only_when_asked(b0: SegModel) -> None:
    model = create_model("segformer_b0", 5)
    with pytest.raises(ValueError, match=r"reset_head=True.*\[19, 256, 1, 1\].*\[5\]"):
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
    with pytest.raises(ValueError, match=r"Missing key.*stages\.1\.norm\.bias.*Unexpected key.*stages\.1\.surprise"):
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
    with pytest.raises(ValueError, match=r"b0\.safetensors is not whole"):
        load_model(path)
    torch.save(b0.state_dict(), tmp_path / "b0.pth")
    (tmp_path / "b0.pth").write_bytes((tmp_path / "b0.pth").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"b0\.pth is"):
        create_model("segformer_b0", 19, pretrained=tmp_path / "b0.pth")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_model(tmp_path / "absent.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no weights at"):
        create_model("segformer_b0", 19, pretrained=tmp_path / "empty")


HOSTILE = "evil\x1b[31m\n\u202e" * 100


def text_of(error: pytest.ExceptionInfo[Exception]) -> str:
    """A message without the two lines of Python that a refused pickle brings along."""
    message = str(error.value).split("safetensors:\nimport torch")[0]
    assert len(message) <= 600, len(message)
    return message


@pytest.mark.parametrize(
    "change",
    [
        lambda own: {},
        lambda own: {"a": 1},
        lambda own: {f"x.{n}" + HOSTILE: t for n, t in own.items()},
        lambda own: own | {HOSTILE + str(i): torch.ones(1) for i in range(500)},
        lambda own: {n: torch.stack([t, t]).reshape(2, *[1] * 40, *t.shape) for n, t in own.items()},
        lambda own: under(HOSTILE + "a.", own) | under(HOSTILE + "b.", own),
        lambda own: {n + HOSTILE: t for n, t in own.items() if "head" not in n} | {"stages.0" + HOSTILE: 3},
    ],
)
def test_messages_are_short_and_printable(b0: SegModel, change: Any, tmp_path: Path) -> None:
    path = tmp_path / f"{'long' * 40}.pth"
    torch.save(change(dict(b0.state_dict())), path)
    with pytest.raises(ValueError, match="long") as error:
        create_model("segformer_b0", 19, pretrained=path)
    assert text_of(error).isprintable()


@pytest.mark.parametrize(
    "content", [b"cos\x1b[31m" + b"m" * 900 + b"\nsystem\n(S'x'\ntR.", b"\x1b[31m\nno pickle", b"", b"\x80\x02}q\x00."]
)
def test_messages_about_pickles_are_short_and_printable(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"{'long' * 40}.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="long") as error:
        create_model("segformer_b0", 19, pretrained=path)
    assert text_of(error).isprintable()


@pytest.mark.parametrize("field", ["name", "surprise", "options"])
def test_messages_about_metadata_are_short_and_printable(b0: SegModel, field: str, tmp_path: Path) -> None:
    spec = dataclasses.asdict(b0.spec)
    spec |= {HOSTILE: 1} if field == "surprise" else {field: {HOSTILE: 1} if field == "options" else HOSTILE}
    metadata = {"transkd_lite": json.dumps({"spec": spec})}
    save_file(b0.state_dict(), tmp_path / "m.safetensors", metadata)
    with pytest.raises(ValueError, match=r"evil\?\[31m") as error:
        load_model(tmp_path / "m.safetensors")
    assert text_of(error).isprintable()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"pretrained": "hub:a/b"}}, "segformer_b0 has no option pretrained; its options are drop_path"),
        ({"options": {"reset_head": True}}, "has no option reset_head"),
        ({"options": {"num_classes": 3}}, "has no option num_classes"),
        ({"name": "timm:hf-hub:timm/resnet18.a1_in1k"}, "timm itself has no such backbone"),
        ({"name": "timm:local-dir:/etc"}, "timm itself has no such backbone"),
        ({"options": {"drop_path": "x"}}, "segformer_b0, drop_path: Input should be a valid number, got 'x'"),
        ({"name": 5}, r"m\.safetensors carries no spec of this library.*name Input should be a valid string"),
        ({"num_classes": "19"}, "num_classes Input should be a valid integer"),
        ({"options": [1]}, "options Input should be an object"),
    ],
)
def test_what_a_file_says_is_neither_a_path_nor_a_hub_nor_code(
    b0: SegModel, change: Any, message: str, tmp_path: Path
) -> None:
    spec = dataclasses.asdict(b0.spec) | change
    save_file(b0.state_dict(), tmp_path / "m.safetensors", {"transkd_lite": json.dumps({"spec": spec})})
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "m.safetensors")


def test_a_label_space_of_other_things_than_names_and_colours_is_refused(b0: SegModel, tmp_path: Path) -> None:
    record = {"spec": dataclasses.asdict(b0.spec), "label_space": {"names": ["a", "b"], "palette": [["x"] * 3] * 2}}
    save_file(b0.state_dict(), tmp_path / "m.safetensors", {"transkd_lite": json.dumps(record)})
    with pytest.raises(ValueError, match=r"m\.safetensors carries no spec"):
        load_model(tmp_path / "m.safetensors")


def test_a_refused_pickle_comes_with_its_conversion(b0: SegModel, tmp_path: Path) -> None:
    path = tmp_path / "it's.pth"
    torch.save({"model": under("module.", b0.state_dict()), "args": argparse.Namespace(lr=1)}, path)
    with pytest.raises(ValueError, match=r"argparse\.Namespace.*where you trust it") as error:
        create_model("segformer_b0", 19, pretrained=path)
    exec("\n".join(str(error.value).splitlines()[-2:]), {})
    loaded = create_model("segformer_b0", 19, pretrained=f"{path}.safetensors")
    assert torch.equal(logits(loaded), logits(b0))


def test_a_whole_pickled_network_is_converted_too(b0: SegModel, tmp_path: Path) -> None:
    torch.save(b0, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"SegFormer\); where you trust it") as error:
        create_model("segformer_b0", 19, pretrained=tmp_path / "w.pth")
    exec("\n".join(str(error.value).splitlines()[-2:]), {})
    loaded = create_model("segformer_b0", 19, pretrained=tmp_path / "w.pth.safetensors")
    assert torch.equal(logits(loaded), logits(b0))


def zeros(path: Path, model: SegModel) -> None:
    write = save_file if path.suffix == ".safetensors" else torch.save
    write(others(model.state_dict()), path)


@pytest.mark.parametrize(
    ("name", "variants"),
    [
        ("pytorch_model.bin", ["pytorch_model.fp16.bin"]),
        ("model.safetensors", ["model.fp16.safetensors", "zero.safetensors", "pytorch_model.bin"]),
        ("model.fp16.safetensors", ["pytorch_model.fp16.bin"]),
    ],
)
def test_the_whole_file_of_a_folder_is_preferred(b0: SegModel, name: str, variants: list[str], tmp_path: Path) -> None:
    for variant in variants:
        zeros(tmp_path / variant, b0)
    (torch.save if name.endswith("bin") else save_file)(b0.state_dict(), tmp_path / name)
    assert torch.equal(logits(create_model("segformer_b0", 19, pretrained=tmp_path)), logits(b0))


@pytest.mark.parametrize("whole", ["model.safetensors", "pytorch_model.bin"])
def test_a_checkpoint_in_parts_is_read_as_one(b0: SegModel, whole: str, tmp_path: Path) -> None:
    own, (stem, suffix) = b0.state_dict(), whole.split(".")
    write: Any = save_file if suffix == "safetensors" else torch.save
    for i in (1, 2):
        part = {name: tensor for name, tensor in own.items() if ("head" in name) == (i == 1)}
        write(part, tmp_path / f"{stem}-0000{i}-of-00002.{suffix}")
    zeros(tmp_path / f"stray.{suffix}", b0)
    zeros(tmp_path / f"{stem}.fp16-00001-of-00001.{suffix}", b0)
    assert torch.equal(logits(create_model("segformer_b0", 19, pretrained=tmp_path)), logits(b0))
    (tmp_path / f"{stem}-00002-of-00002.{suffix}").unlink()
    with pytest.raises(ValueError, match="Missing key"):
        create_model("segformer_b0", 19, pretrained=tmp_path)


def test_one_of_several_files_is_not_guessed(b0: SegModel, tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        zeros(tmp_path / name, b0)
    with pytest.raises(ValueError, match=r"holds a\.safetensors, b\.safetensors: give the path of one"):
        create_model("segformer_b0", 19, pretrained=tmp_path)


def test_a_failed_write_leaves_the_old_file(b0: SegModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_model(b0, tmp_path / "b0.safetensors")
    before = path.read_bytes()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(create_model("segformer_b0", 3), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["b0.safetensors"]


def test_the_hub_is_asked_for_safetensors(b0: SegModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_huggingface(b0, tmp_path)
    asked = []

    def snapshot_download(repo_id: str, allow_patterns: list[str]) -> str:
        asked.append((repo_id, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    model = create_model("segformer_b0", 19, pretrained="hub:nvidia/segformer-b0")
    assert torch.equal(logits(model), logits(b0))
    assert asked == [("nvidia/segformer-b0", ["*.json", "*.safetensors"])]


def test_a_file_of_the_course_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_model("data/weights/streets128-segformer_b1.safetensors").spec.name == "segformer_b1"
    (tmp_path / "data/weights").mkdir(parents=True)
    own = tmp_path / "data/weights/streets128-segformer_b1.safetensors"
    save_model(create_model("segformer_b0", 2), own)
    assert load_model("data/weights/streets128-segformer_b1.safetensors").spec.name == "segformer_b0"
