"""Guards: the options of the TransKD family, each ablation of which is one keyword away."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from transkd_lite.distill import losses
from transkd_lite.distill.fusion import ABF, CSF, Separate
from transkd_lite.distill.methods import create_method
from transkd_lite.models.output import ModelSpec

B0 = ModelSpec("segformer_b0", (32, 64, 160, 256))
B2 = ModelSpec("segformer_b2", (64, 128, 320, 512))
TRANSKD = ["transkd-base", "transkd-gl", "transkd-ea"]


def _terms(lab: Any, name: str, seed: int = 0, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    images = lab.images()
    student, teacher = lab.output(lab.student, images), lab.output(lab.teacher, images)
    torch.manual_seed(seed)
    return create_method(name, lab.student, lab.teacher, **options)(images, student, teacher, lab.labels())


@pytest.mark.parametrize(
    ("name", "published_m"), [("transkd-base", 4.563), ("transkd-gl", 5.219), ("transkd-ea", 5.534)]
)
def test_parameters_are_those_of_the_paper(name: str, published_m: float) -> None:
    student = 3_719_028  # SegFormer-B0 with 20 classes
    method = create_method(name, B0, B2, bare_squeeze=True)
    assert round((student + sum(p.numel() for p in method.parameters())) / 1e6, 3) == published_m


@pytest.mark.parametrize("name", [*TRANSKD, "pea"])
@pytest.mark.parametrize(
    ("stages", "weights", "expected"),
    [
        ((1, 2, 3, 4), (0.1, 0.1, 0.5, 1.0), [0.1, 0.1, 0.5, 1.0]),
        ((4,), (0.1, 0.1, 0.5, 1.0), [1.0]),
        ([2, 4], (0.1, 0.2, 0.5, 1.0), [0.2, 1.0]),
        ((2, 4), [7, 8], [7, 8]),
        (4, [3], [3]),
    ],
)
def test_embedding_stages_and_weights(
    lab: Any, name: str, stages: Sequence[int], weights: Sequence[float], expected: list[float]
) -> None:
    terms = _terms(lab, name, embedding_stages=stages, embedding_weights=weights)
    method = create_method(name, lab.student, lab.teacher, embedding_stages=stages, embedding_weights=weights)
    names = [f"pea_{stage}" for stage in ([stages] if isinstance(stages, int) else stages)]
    assert [term for term in terms if term.startswith("pea")] == names
    assert [method.weights[name] for name in names] == expected


def test_no_embedding_stage_leaves_the_feature_half(lab: Any) -> None:
    torch.testing.assert_close(_terms(lab, "transkd-base", embedding_stages=()), _terms(lab, "csf"))
    with pytest.raises(ValueError, match="pea would have none"):
        create_method("pea", lab.student, lab.teacher, embedding_stages=[])


def test_pea_is_the_mean_squared_error_of_the_projected_embedding(lab: Any) -> None:
    images = lab.images()
    method = create_method("pea", lab.student, lab.teacher)
    student, teacher = lab.output(lab.student, images), lab.output(lab.teacher, images)
    expected = losses.mse(method.parts["pea"].stages["2"].linear(student.embeddings[1]), teacher.embeddings[1])
    torch.testing.assert_close(method(images, student, teacher)["pea_2"], expected)


@pytest.mark.parametrize(("fusion", "module"), [("csf", CSF), ("abf", ABF), ("none", Separate)])
@pytest.mark.parametrize("name", [*TRANSKD, "csf"])
def test_fusion_keeps_the_names_of_the_terms(lab: Any, name: str, fusion: str, module: type) -> None:
    method = create_method(name, lab.student, lab.teacher, fusion=fusion)
    assert type(method.parts["csf"].fusion) is module
    assert [term for term in method.weights if term.startswith("csf")] == ["csf_1", "csf_2", "csf_3", "csf_4"]


@pytest.mark.parametrize(("name", "options"), [("csf", {}), ("csf", {"fusion": "abf"}), ("review", {})])
def test_width_of_the_fusion(lab: Any, name: str, options: dict[str, str]) -> None:
    for width, given in ((64, {}), (32, {"fusion_width": 32})):
        method = create_method(name, lab.student, lab.teacher, **options, **given)
        assert method.parts[name].fusion.stages[0].reduce[0].out_channels == width


def test_review_is_abf_with_hcl(lab: Any) -> None:
    abf, review = _terms(lab, "csf", fusion="abf"), _terms(lab, "review")
    torch.testing.assert_close(list(abf.values()), list(review.values()))


def test_cwd_on_fused_features(lab: Any) -> None:
    images = lab.images()
    student, teacher = lab.output(lab.student, images), lab.output(lab.teacher, images)
    method = create_method("cwd-features", lab.student, lab.teacher, temperature=2.0).eval()
    fused = method.parts["cwd-features"].fusion(student.features)
    expected = losses.cwd(fused[2], teacher.features[2], temperature=2)
    torch.testing.assert_close(method(images, student, teacher)["cwd_3"], expected)


def test_feature_weight_is_the_weight_of_all_four_stages(lab: Any) -> None:
    weights = create_method("transkd-base", lab.student, lab.teacher, feature_weight=0.25).weights
    assert [weights[f"csf_{stage}"] for stage in (1, 2, 3, 4)] == [0.25] * 4


def test_mixer_in_the_deepest_chosen_stage_with_or_without_residual(lab: Any) -> None:
    options = {"embedding_stages": [1, 3], "residual": True}
    stages = create_method("transkd-gl", lab.student, lab.teacher, **options).parts["pea"].stages
    assert [key for key, stage in stages.items() if stage.mixer is not None] == ["3"]
    assert stages["3"].mixer.residual
    default = create_method("transkd-gl", lab.student, lab.teacher).parts["pea"].stages
    assert [key for key, stage in default.items() if stage.mixer is not None] == ["4"]
    assert not default["4"].mixer.residual
    with_input, without = (_terms(lab, "transkd-gl", residual=residual) for residual in (True, False))
    assert [term for term in with_input if with_input[term] != without[term]] == ["pea_4"]


def test_mixers_start_where_the_option_says(lab: Any) -> None:
    method = create_method("transkd-gl", lab.student, lab.teacher, mixer_start=[0, 2.5])
    mixer = method.parts["pea"].stages["4"].mixer
    assert (mixer.attention_scale.item(), mixer.conv_scale.item()) == (0.0, 2.5)


def test_assistants_get_the_input_of_their_stage(lab: Any) -> None:
    """The image for stage 1, the student's feature i - 1 for the others, at the student's patch sizes and strides."""
    images = lab.images()
    method = create_method("transkd-ea", lab.student, lab.teacher)
    convolutions = [stage.patch_embed.proj for stage in method.parts["pea"].stages.values()]
    assert [c.in_channels for c in convolutions] == [3, 8, 12, 16]
    assert [c.kernel_size[0] for c in convolutions] == [7, 3, 3, 3]
    assert [c.stride[0] for c in convolutions] == [4, 2, 2, 2]
    student = lab.output(lab.student, images)
    terms = method(images, student, lab.output(lab.teacher, images))
    for stage in (2, 3, 4):
        gradients = torch.autograd.grad(terms[f"pea_{stage}"], student.features, retain_graph=True, allow_unused=True)
        assert [i for i, g in enumerate(gradients, start=1) if g is not None] == [stage - 1]


def test_assistants_without_linear_path(lab: Any) -> None:
    stages = create_method("transkd-ea", lab.student, lab.teacher, linear_path=False).parts["pea"].stages
    assert all(stage.linear is None for stage in stages.values())


@pytest.mark.parametrize("name", TRANSKD)
@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (8, 8, 16, 16)], ids=str)
def test_teachers_of_any_width_and_stride(lab: Any, name: str, strides: tuple[int, int, int, int]) -> None:
    images = lab.images(size=(49, 67))
    teacher = dataclasses.replace(lab.teacher, channels=(5, 40, 7, 9), strides=strides, num_classes=3)
    method = create_method(name, lab.student, teacher)
    terms = method(images, lab.output(lab.student, images), lab.output(teacher, images))
    assert all(term.isfinite() for term in terms.values())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("csf", {"fusion": "skf"}, "fusion must be one of csf, abf, none, got 'skf'"),
        ("pea", {"embedding_stages": (0, 1)}, r"embedding_stages must be at least one of .* got \(0, 1\)"),
        ("pea", {"embedding_stages": (4, 3)}, "ascending"),
        ("pea", {"embedding_weights": (1, 2, 3)}, r"4, or one for each .* got \[1, 2, 3\]"),
        ("transkd-gl", {"mixer_start": (1.0,)}, "two numbers"),
        ("transkd-gl", {"embedding_stages": [2]}, "12 channels cannot be split into 8 heads"),
    ],
)
def test_options_that_make_no_sense_are_refused(lab: Any, name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_method(name, lab.student, lab.teacher, **options)
