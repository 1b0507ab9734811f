"""Guards: how CSF and ABF merge four stages, and what CSF does with a batch of one image."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transkd_lite.distill.fusion import ABF, CSF, ABFStage, BatchNorm2d, CSFStage, Separate, conv_bn

STUDENT, TEACHER = (8, 12, 16, 24), (12, 16, 24, 32)
SIZES = [(13, 21), (7, 11), (4, 6), (2, 3)]


def _features(n: int = 2) -> list[Tensor]:
    return [torch.randn(n, c, *size, requires_grad=True) for c, size in zip(STUDENT, SIZES, strict=True)]


@pytest.mark.parametrize("fusion", [CSF, ABF, Separate])
def test_outputs_have_the_teachers_widths_and_the_students_sizes(fusion: type[nn.Module]) -> None:
    outputs = fusion(STUDENT, TEACHER)(_features())
    assert [tuple(x.shape) for x in outputs] == [(2, c, *size) for c, size in zip(TEACHER, SIZES, strict=True)]


@pytest.mark.parametrize(
    ("fusion", "seen_by_stage"),
    [
        (CSF, [{1, 2, 3, 4}, {2, 3, 4}, {3, 4}, {4}]),
        (ABF, [{1, 2, 3, 4}, {2, 3, 4}, {3, 4}, {4}]),
        (Separate, [{1}, {2}, {3}, {4}]),
    ],
)
def test_a_stage_sees_itself_and_what_is_deeper(fusion: type[nn.Module], seen_by_stage: list[set[int]]) -> None:
    features = _features()
    outputs = fusion(STUDENT, TEACHER).eval()(features)
    for output, seen in zip(outputs, seen_by_stage, strict=True):
        gradients = torch.autograd.grad(output.square().sum(), features, retain_graph=True, allow_unused=True)
        assert {i for i, g in enumerate(gradients, start=1) if g is not None and g.abs().sum() > 0} == seen


def test_selection_of_csf_is_a_softmax_across_the_two_branches() -> None:
    stage = CSFStage(8, 12, width=16).eval()
    x, y = torch.randn(2, 16, 5, 7), torch.randn(2, 16, 5, 7)
    first, second = stage.selection(x, y)
    assert first.shape == (2, 16, 1, 1)
    torch.testing.assert_close(first + second, torch.ones_like(first))
    squeezed = F.relu(stage.squeeze[1](stage.squeeze[0]((x + y).mean((2, 3), keepdim=True))))
    # A softmax over two is a sigmoid of the difference.
    torch.testing.assert_close(first, torch.sigmoid(stage.heads[0](squeezed) - stage.heads[1](squeezed)))
    torch.testing.assert_close(stage.merge(x, y), first * x + second * y)


def test_squeezed_width_is_a_sixteenth_but_at_least_32() -> None:
    assert CSFStage(8, 12, width=64).squeeze[0].out_channels == 32
    assert CSFStage(8, 12, width=1024).squeeze[0].out_channels == 64


def test_gate_of_abf_is_one_sigmoid_map_for_each_branch() -> None:
    stage = ABFStage(8, 12, width=16)
    nn.init.zeros_(stage.gate.weight)
    stage.gate.bias.data = torch.tensor([0.0, 1.0])
    x, y = torch.randn(2, 16, 5, 7), torch.randn(2, 16, 5, 7)
    torch.testing.assert_close(stage.merge(x, y), 0.5 * x + torch.sigmoid(torch.tensor(1.0)) * y)


def test_a_new_csf_normalises_one_image_with_the_running_statistics() -> None:
    stage = CSFStage(8, 12, width=16)
    assert stage.bare_squeeze is None
    x, y = torch.randn(1, 16, 5, 7), torch.randn(1, 16, 5, 7)
    before = copy.deepcopy(stage.squeeze.state_dict())
    in_training = stage.train().selection(x, y)
    torch.testing.assert_close(in_training, stage.eval().selection(x, y))
    assert all(torch.equal(before[name], value) for name, value in stage.squeeze.state_dict().items())
    two = stage.train().selection(torch.cat([x, y]), torch.cat([y, y]))
    assert not torch.allclose(two[:, :1], in_training)
    assert stage.squeeze[1].num_batches_tracked == 1


@pytest.mark.parametrize("training", [True, False])
def test_a_loaded_csf_takes_the_bare_squeeze_for_one_image_and_only_then(training: bool) -> None:
    stage = CSFStage(8, 12, width=16, bare_squeeze=True).train(training)
    assert stage.bare_squeeze is not None
    for n, used in ((1, True), (2, False)):
        stage.zero_grad()
        stage.selection(torch.randn(n, 16, 5, 7), torch.randn(n, 16, 5, 7)).square().sum().backward()
        assert (stage.bare_squeeze[0].weight.grad is not None) is used
        assert (stage.squeeze[0].weight.grad is not None) is not used


def test_bare_squeeze_adds_6144_parameters_over_three_stages() -> None:
    counts = [sum(p.numel() for p in CSF(STUDENT, TEACHER, bare_squeeze=bare).parameters()) for bare in (True, False)]
    assert counts[0] - counts[1] == 6144


@pytest.mark.parametrize("fusion", [CSF, ABF, Separate])
def test_one_image_of_one_position_can_be_trained_on(fusion: type[nn.Module]) -> None:
    outputs = fusion(STUDENT, TEACHER).train()([torch.randn(1, c, 1, 1) for c in STUDENT])
    assert all(x.isfinite().all() for x in outputs)


def test_batch_norm_is_the_ordinary_one_for_more_than_one_value() -> None:
    ours, theirs, x = BatchNorm2d(3), nn.BatchNorm2d(3), torch.randn(1, 3, 1, 2)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_convolutions_start_with_variance_one_over_fan_in() -> None:
    weight = conv_bn(64, 512, 3)[0].weight
    assert weight.var().item() * 64 * 9 == pytest.approx(1, rel=0.02)
    assert weight.abs().max() <= (3 / (64 * 9)) ** 0.5
