"""Guards: any checkpoint of the authors is recognised, loaded without remainder, and counts as published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from transkd_lite.distill.reference import load_reference_checkpoint
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
    parts = {
        n: s for n, s in golden.listings["segformer_b0+transkd-base"].items() if not n.startswith("student.")
    }
    for stage, width in enumerate(widths, start=1):
        parts[f"skfs.{4 - stage}.conv1.0.weight"] = [64, width, 1, 1]
        parts[f"embed{stage}_linearproject.weight"] = [width, width]
    listing = parts | {f"student.{name}": shape for name, shape in golden.listings["segformer_b1"].items()}
    checkpoint = {name: golden.tensor(name, shape, 1) for name, shape in listing.items()}
    model, distiller = load_reference_checkpoint(checkpoint)
    assert distiller is not None
    assert (model.spec.name, distiller.name) == ("segformer_b1", "transkd-base")
    assert torch.equal(
        distiller.parts["csf"].fusion.stages[0].reduce[0].weight, checkpoint["skfs.3.conv1.0.weight"]
    )


@pytest.mark.parametrize("residual", [False, True])
def test_only_the_caller_knows_whether_a_mixer_adds_its_input(golden: Any, residual: bool) -> None:
    _, distiller = load_reference_checkpoint(
        golden.checkpoint("segformer_b0+transkd-gl", 1), residual=residual
    )
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


def test_what_is_missing_or_left_over_is_named(golden: Any) -> None:
    checkpoint = golden.checkpoint("segformer_b0+transkd-base", seed=1)
    checkpoint["surprise"] = checkpoint.pop("skfs.2.fc.0.weight")
    with pytest.raises(ValueError, match=r"missing: csf.*squeeze.*left over: surprise"):
        load_reference_checkpoint(checkpoint)


def test_foreign_files_are_refused() -> None:
    with pytest.raises(ValueError, match="not a checkpoint of the TransKD authors"):
        load_reference_checkpoint({"weight": torch.ones(2)})
