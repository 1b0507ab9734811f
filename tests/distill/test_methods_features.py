"""Guards: MGD's masking, and which features the single-term methods look at."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from transkd_lite.distill import losses
from transkd_lite.distill.methods import MaskedGenerator, create_method
from transkd_lite.models.output import ModelSpec, SegOutput

BY_STAGE = ["at", "cirkd", "fitnet", "ifvd", "mgd", "skd"]


@pytest.mark.parametrize("masked", [0.0, 0.75, 1.0])
def test_positions_are_masked_in_all_channels_at_once(masked: float) -> None:
    generator = MaskedGenerator(4, 4, masked)
    assert isinstance(generator.align, nn.Identity)
    generator.generate = nn.Identity()
    kept = generator(torch.ones(2, 4, 50, 60)) != 0
    assert (kept == kept[:, :1]).all()
    assert kept[:, 0].float().mean().item() == pytest.approx(1 - masked, abs=0.03)


def test_widths_are_aligned_before_masking() -> None:
    generator = MaskedGenerator(4, 6)
    assert generator.align.weight.shape == (6, 4, 1, 1)
    assert generator(torch.randn(2, 4, 5, 5)).shape == (2, 6, 5, 5)
    with pytest.raises(ValueError, match=r"masked is a probability, got 1\.5"):
        MaskedGenerator(4, 6, 1.5)


@pytest.mark.parametrize("name", BY_STAGE)
@pytest.mark.parametrize("stages", [(4,), (2,), (1, 3)], ids=str)
def test_stages_choose_the_features(lab: Any, name: str, stages: tuple[int, ...]) -> None:
    images, labels = lab.images(), lab.labels()
    method = create_method(name, lab.student, lab.teacher, stages=stages)
    student = lab.output(lab.student, images)
    term = method(images, student, lab.output(lab.teacher, images), labels)[name]
    gradients = torch.autograd.grad(term, student.features, allow_unused=True)
    assert [i for i, g in enumerate(gradients, start=1) if g is not None] == list(stages)


def test_feature_4_is_the_default_and_stages_are_added(lab: Any) -> None:
    images = lab.images()
    student, teacher = lab.output(lab.student, images), lab.output(lab.teacher, images)

    def term(**options: Any) -> torch.Tensor:
        return create_method("skd", lab.student, lab.teacher, **options)(images, student, teacher)["skd"]

    torch.testing.assert_close(term(), losses.skd(student.features[3], teacher.features[3], pool=1))
    torch.testing.assert_close(term(pool=2), losses.skd(student.features[3], teacher.features[3]))
    torch.testing.assert_close(term(stages=[2, 4]), term(stages=[2]) + term(stages=[4]))


def test_fitnet_projects_to_the_teachers_width(lab: Any) -> None:
    images = lab.images()
    method = create_method("fitnet", lab.student, lab.teacher)
    student, teacher = lab.output(lab.student, images), lab.output(lab.teacher, images)
    projected = method.parts["fitnet"].adapters["4"](student.features[3])
    expected = losses.mse(projected, teacher.features[3])
    torch.testing.assert_close(method(images, student, teacher)["fitnet"], expected)


def test_ifvd_knows_the_classes_of_both_networks(lab: Any) -> None:
    images = lab.images()
    wider = dataclasses.replace(lab.teacher, num_classes=9)
    method = create_method("ifvd", lab.student, wider)
    labels = torch.full((2, 64, 96), 8)
    terms = method(images, lab.output(lab.student, images), lab.output(wider, images), labels)
    assert terms["ifvd"] > 0


@pytest.mark.parametrize(("size", "window"), [((64, 128), 1), ((128, 256), 1), ((256, 512), 2)])
def test_skd_compares_at_most_as_many_nodes_as_published(lab: Any, size: tuple[int, int], window: int) -> None:
    images = lab.images(1, size)
    student, teacher = lab.output(lab.student, images), lab.output(lab.teacher, images)
    term = create_method("skd", lab.student, lab.teacher, stages=[1])(images, student, teacher)["skd"]
    nodes = losses.skd(student.features[0], teacher.features[0], pool=window)
    torch.testing.assert_close(term, nodes)


def test_mgd_counts_what_the_published_map_would() -> None:
    """A map of 2048 x 64 x 64 with an error of 1 everywhere has the sum 2048 * 64 * 64; so has every other map."""
    spec = ModelSpec("four", (4, 4, 4, 4))
    for size in ((64, 128), (256, 256)):
        method = create_method("mgd", spec, spec)
        method.parts["mgd"].adapters["4"] = nn.Identity()
        features = [torch.zeros(3, 4, *(-(-n // s) for n in size)) for s in spec.strides]
        tokens = tuple(f.flatten(2).mT for f in features)
        logits = torch.zeros(3, spec.num_classes, *features[0].shape[2:])
        student = SegOutput(logits, tuple(features), tokens)
        teacher = SegOutput(logits, tuple(f + 1 for f in features), tokens)
        assert method(torch.zeros(3, 3, *size), student, teacher)["mgd"].item() == 2048 * 64 * 64
