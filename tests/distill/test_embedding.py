"""Guards: PEA's modules compute their formulas, and start where the documentation says."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from transkd_lite.distill import losses
from transkd_lite.distill.embedding import EmbeddingAssistant, GLMixer, PatchEmbed
from transkd_lite.distill.losses import resize_map
from transkd_lite.distill.methods import create_method


def test_attention_is_multi_head_self_attention() -> None:
    ours = GLMixer(16).attention
    theirs = nn.MultiheadAttention(16, 8, bias=False, batch_first=True)
    theirs.in_proj_weight.data, theirs.out_proj.weight.data = ours.qkv.weight.data, ours.proj.weight.data
    tokens = torch.randn(2, 9, 16)
    expected, _ = theirs(tokens, tokens, tokens, need_weights=False)
    torch.testing.assert_close(ours(tokens), expected + ours.proj.bias, rtol=1e-4, atol=1e-5)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="12 channels cannot be split into 8 heads"):
        GLMixer(12)


@pytest.mark.parametrize("residual", [True, False])
def test_mixer_is_the_sum_of_a_global_and_a_gated_local_path(residual: bool) -> None:
    mixer, tokens = GLMixer(16, residual=residual), torch.randn(2, 9, 16)
    assert (mixer.attention_scale.item(), mixer.conv_scale.item()) == (0.5, 0.5)
    mixer.attention_scale.data, mixer.conv_scale.data = torch.tensor([0.3]), torch.tensor([2.0])
    channels_first = tokens.mT
    gated = mixer.value(channels_first) * torch.sigmoid(mixer.gate(channels_first))
    expected = 0.3 * mixer.attention(tokens) + 2 * gated.mT + (tokens if residual else 0)
    torch.testing.assert_close(mixer(tokens), expected)


def test_mixing_weights_start_where_told_and_learn_from_there() -> None:
    mixer, tokens = GLMixer(16, start=(0.0, -3)), torch.randn(2, 9, 16)
    assert (mixer.attention_scale.item(), mixer.conv_scale.item()) == (0.0, -3.0)
    torch.testing.assert_close(mixer(tokens), -3 * mixer.local(tokens))
    mixer(tokens).square().sum().backward()
    assert mixer.attention_scale.grad is not None
    assert mixer.attention_scale.grad.abs() > 0


@pytest.mark.parametrize("start", [(0.5,), (0.5, 0.5, 0.5)], ids=str)
def test_mixing_weights_must_be_two_numbers(start: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="two numbers"):
        GLMixer(16, start=start)


def test_where_the_mixing_weights_start_changes_no_other_initial_weight() -> None:
    torch.manual_seed(0)
    default = GLMixer(16).state_dict()
    torch.manual_seed(0)
    other = GLMixer(16, start=(7.0, 7.0)).state_dict()
    differing = [name for name in default if not torch.equal(default[name], other[name])]
    assert differing == ["attention_scale", "conv_scale"]


def test_local_path_sees_three_tokens_and_global_path_all() -> None:
    mixer, tokens = GLMixer(16), torch.randn(1, 9, 16)
    moved = tokens.clone()
    moved[0, 4] += 1

    def changed(path: nn.Module) -> list[int]:
        return (path(moved) - path(tokens)).abs().sum(2)[0].gt(1e-5).nonzero().flatten().tolist()

    assert changed(mixer.local) == [3, 4, 5]
    assert changed(mixer.attention) == list(range(9))


def test_tokens_are_resized_as_the_map_that_they_are(lab: Any) -> None:
    coarse = dataclasses.replace(lab.teacher, strides=(8, 16, 32, 32))
    images = lab.images()
    student, teacher = lab.output(lab.student, images), lab.output(coarse, images)
    method = create_method("pea", lab.student, coarse)
    projected = method.parts["pea"].stages["2"].linear(student.embeddings[1])
    grid = resize_map(projected.mT.unflatten(2, (8, 12)), (4, 6))
    expected = losses.mse(grid.flatten(2).mT, teacher.embeddings[1])
    torch.testing.assert_close(method(images, student, teacher)["pea_2"], expected)


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_assistant_adds_a_patch_embedding_of_the_teachers_width(lab: Any, stage: int) -> None:
    assistant = EmbeddingAssistant(stage, lab.student, lab.teacher)
    assert assistant.linear is not None
    assert assistant.linear_scale is not None
    assert assistant.linear_scale.item() == pytest.approx(0.1 * stage)
    assert assistant.patch_scale.item() == pytest.approx(0.1 * (stage + 4))
    stride = 4 if stage == 1 else 2
    stage_input = torch.randn(2, (3, *lab.student.channels)[stage - 1], 8 * stride, 12 * stride)
    tokens = torch.randn(2, 8 * 12, lab.student.channels[stage - 1])
    embedded = assistant.patch_embed.norm(assistant.patch_embed.proj(stage_input).flatten(2).mT)
    assert embedded.shape == (2, 8 * 12, lab.teacher.channels[stage - 1])
    expected = 0.1 * stage * assistant.linear(tokens) + 0.1 * (stage + 4) * embedded
    torch.testing.assert_close(assistant(tokens, stage_input, (8, 12)), expected)


def test_assistant_without_linear_path_does_not_look_at_the_tokens(lab: Any) -> None:
    assistant = EmbeddingAssistant(1, lab.student, lab.teacher, linear_path=False)
    assert {name.split(".")[0] for name, _ in assistant.named_parameters()} == {"patch_embed", "patch_scale"}
    images = torch.randn(2, 3, 32, 48)
    outputs = [assistant(torch.randn(2, 96, 8), images, (8, 12)) for _ in range(2)]
    torch.testing.assert_close(*outputs)


def test_patch_embedding_follows_the_grid_that_it_is_given() -> None:
    embed = PatchEmbed(3, 12, patch_size=7, stride=4)
    assert embed.norm.eps == 1e-5
    assert embed(torch.randn(1, 3, 33, 47), (9, 12)).shape == (1, 108, 12)  # rounded up
    assert embed(torch.randn(1, 3, 33, 47), (8, 11)).shape == (1, 88, 12)  # a backbone that rounds down


def test_patch_embedding_starts_as_segformers() -> None:
    projection = PatchEmbed(160, 512, patch_size=3, stride=2).proj
    assert projection.weight.var().item() * 512 * 9 == pytest.approx(2, rel=0.02)
    assert (projection.bias == 0).all()
