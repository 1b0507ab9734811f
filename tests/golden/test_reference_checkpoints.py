"""Guards: any checkpoint of the authors is recognised, loaded without remainder, and counts as published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from transkd_lite.distill.reference import load_reference_checkpoint
from transkd_lite.models.weights import create_model
from transkd_lite.profiling import count_parameters

# listing: (network, method, millions of parameters where published)
CHECKPOINTS = {
    "segformer_b0": ("segformer_b0", None, 3.719),
    "pvt_v2_b0": ("pvt_v2_b0", None, 7.528),
    "lvt": ("lvt", None, 3.837),
    "segformer_b0+transkd-base": ("segformer_b0", "transkd-base", 4.563),
    "segformer_b0+transkd-gl": ("segformer_b0", "transkd-gl", 5.219),
    "segformer_b0+transkd-ea": ("segformer_b0", "transkd-ea", 5.534),
    "segformer_b0+review": ("segformer_b0", "review", None),
    "segformer_b0+csf": ("segformer_b0", "csf", None),
    "segformer_b0+csf-pea3": ("segformer_b0", "transkd-base", None),
    "lvt+transkd-base": ("lvt", "transkd-base", 4.685),
    "pvt_v2_b0+transkd-base": ("pvt_v2_b0", "transkd-base", None),
}


@pytest.mark.parametrize("listing", CHECKPOINTS)
def test_network_method_and_size_follow_from_the_file(golden: Any, listing: str) -> None:
    network, method, published = CHECKPOINTS[listing]
    model, distiller = load_reference_checkpoint(golden.checkpoint(listing, seed=1))
    assert (model.spec.name, model.spec.num_classes) == (network, 20)
    assert (distiller.name if distiller else None) == method
    modules = [model] if distiller is None else [model, distiller]
    floats = sum(t.numel() for n, t in golden.checkpoint(listing, 1).items() if "running" not in n and t.ndim)
    assert count_parameters(*modules) == floats
    if published is not None:
        assert round(count_parameters(*modules) / 1e6, 3) == published


def test_a_single_aligned_stage_is_told_by_its_shapes(golden: Any) -> None:
    _, distiller = load_reference_checkpoint(golden.checkpoint("segformer_b0+csf-pea3", seed=1))
    assert distiller is not None
    assert distiller.weights["pea_3"] == 1.0
    assert {t for t in distiller.weights if t.startswith("pea")} == {"pea_3"}


def test_students_without_a_listing_are_recognised(golden: Any) -> None:
    """SegFormer-B1 with the parts of B0, at B1's widths."""
    widths = (64, 128, 320, 512)
    parts = {n: s for n, s in golden.listings["segformer_b0+transkd-base"].items() if not n.startswith("student.")}
    for stage, width in enumerate(widths, start=1):
        parts[f"skfs.{4 - stage}.conv1.0.weight"] = [64, width, 1, 1]
        parts[f"embed{stage}_linearproject.weight"] = [width, width]
    listing = parts | {f"student.{name}": shape for name, shape in golden.listings["segformer_b1"].items()}
    checkpoint = {name: golden.tensor(name, shape, 1) for name, shape in listing.items()}
    model, distiller = load_reference_checkpoint(checkpoint)
    assert distiller is not None
    assert (model.spec.name, distiller.name) == ("segformer_b1", "transkd-base")
    assert torch.equal(distiller.parts["csf"].fusion.stages[0].reduce[0].weight, checkpoint["skfs.3.conv1.0.weight"])


@pytest.mark.parametrize("residual", [False, True])
def test_only_the_caller_knows_whether_a_mixer_adds_its_input(golden: Any, residual: bool) -> None:
    _, distiller = load_reference_checkpoint(golden.checkpoint("segformer_b0+transkd-gl", 1), residual=residual)
    assert distiller is not None
    assert distiller.parts["pea"].stages["4"].mixer.residual is residual


def test_files_prefixes_and_wrappers_are_accepted(golden: Any, tmp_path: Path) -> None:
    checkpoint = golden.checkpoint("segformer_b0+csf", seed=2)
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in checkpoint.items()}}, path)
    for (name, a), b in zip(
        load_reference_checkpoint(checkpoint)[0].state_dict().items(),
        load_reference_checkpoint(path)[0].state_dict().values(),
        strict=True,
    ):
        assert torch.equal(a, b), name


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def beside(checkpoint: dict[str, Tensor], word: str) -> dict[str, Tensor]:
    """The student once more, with other values, under a name of its own."""
    student = {n: t for n, t in checkpoint.items() if n.startswith("student.")}
    return {n.replace("student.", word): torch.zeros_like(t) for n, t in student.items()}


WRAPPINGS: dict[str, Any] = {
    "torch.compile": lambda c: under("_orig_mod.", c),
    "a compiled student": lambda c: {n.replace("student.", "student._orig_mod."): t for n, t in c.items()},
    "a data-parallel student": lambda c: {n.replace("student.", "student.module."): t for n, t in c.items()},
    "Lightning": lambda c: {"state_dict": under("model.", c), "callbacks": {"ema": {"decay": 0.9}}},
    "an average beside": lambda c: {"state_dict": c, "state_dict_ema": {n: 0 * t for n, t in c.items()}},
    "an average alone": lambda c: {"ema_state_dict": under("module.", c) | {"steps": torch.ones(1)}},
    "a teacher beside": lambda c: c | beside(c, "teacher."),
    "a teacher of Hugging Face beside": lambda c: (
        c | {"teacher.segformer.encoder.patch_embeddings.0.proj.weight": torch.ones(2)}
    ),
    "all at once": lambda c: {
        "model": under("module._orig_mod.net.", c)
        | under("module._orig_mod.net.", beside(c, "teacher.module."))
        | under("module._orig_mod.ema_net.", c | beside(c, "student.")),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
    },
}


@pytest.mark.parametrize(
    ("listing", "wrapping"),
    [
        *(("segformer_b0+transkd-ea", wrapping) for wrapping in WRAPPINGS),
        ("lvt+transkd-base", "all at once"),
        ("pvt_v2_b0+transkd-base", "all at once"),
    ],
)
def test_wrappings_are_seen_through(golden: Any, listing: str, wrapping: str) -> None:
    checkpoint = golden.checkpoint(listing, seed=1)
    model, distiller = load_reference_checkpoint(checkpoint)
    seen, seen_distiller = load_reference_checkpoint(WRAPPINGS[wrapping](checkpoint))
    assert distiller is not None
    assert seen_distiller is not None
    for plain, wrapped in ((model, seen), (distiller, seen_distiller)):
        for name, tensor in wrapped.state_dict().items():
            assert torch.equal(tensor, plain.state_dict()[name]), name


def test_the_student_alone_is_taken_by_create_model(golden: Any, tmp_path: Path) -> None:
    checkpoint = golden.checkpoint("segformer_b0+transkd-ea", seed=1)
    torch.save({"state_dict": under("module.", checkpoint | beside(checkpoint, "teacher."))}, tmp_path / "w.pth")
    model = create_model("segformer_b0", 20, pretrained=tmp_path / "w.pth")
    for name, tensor in load_reference_checkpoint(checkpoint)[0].state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


HOSTILE = "evil\x1b[31m\n" * 100


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c | {HOSTILE + str(i): torch.ones(1) for i in range(500)},
        lambda c: {n: t for n, t in c.items() if ".fc" not in n},
        lambda c: {n: torch.cat([t, t]) if t.ndim == 4 and "skfs" in n else t for n, t in c.items()},
        lambda c: {HOSTILE + n: t for n, t in c.items() if "patch_embed" not in n},
    ],
)
def test_messages_are_short_and_printable(golden: Any, change: Any) -> None:
    with pytest.raises(ValueError, match="checkpoint") as error:
        load_reference_checkpoint(change(golden.checkpoint("segformer_b0+transkd-base", seed=1)))
    assert len(str(error.value)) <= 600
    assert str(error.value).isprintable()


def test_what_is_missing_or_left_over_is_named(golden: Any) -> None:
    checkpoint = golden.checkpoint("segformer_b0+transkd-base", seed=1)
    checkpoint["surprise"] = checkpoint.pop("skfs.2.fc.0.weight")
    with pytest.raises(ValueError, match=r"Missing.*csf.*squeeze.*Unexpected.*surprise"):
        load_reference_checkpoint(checkpoint)


def test_foreign_files_are_refused() -> None:
    with pytest.raises(ValueError, match="not a checkpoint of the TransKD authors"):
        load_reference_checkpoint({"weight": torch.ones(2)})
