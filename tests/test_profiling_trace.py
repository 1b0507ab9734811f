"""The trace charges every part with its forward and backward work, and changes nothing that it looks at."""

import copy

import pytest
import torch
from torch.autograd.profiler_util import FunctionEvent

from transkd_lite.distill import create_method
from transkd_lite.models import create_model
from transkd_lite.profiling import PARTS, trace_steps


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    student, teacher = create_model("segformer_b0", 3), create_model("segformer_b0", 3)
    return student, teacher, create_method("transkd-base", student, teacher)


@pytest.fixture(scope="module")
def batch():
    return torch.randn(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))


def test_every_part_is_charged_and_the_shares_add_up(networks, batch, capfd):
    student, teacher, method = networks
    before = [copy.deepcopy(part.state_dict()) for part in networks]
    table = trace_steps(student, *batch, teacher=teacher, method=method, steps=2)
    assert set(table["part"]) == set(PARTS)
    assert table["share"].sum() == pytest.approx(1)
    assert (table["seconds"] > 0).all()
    found = {(row.part, row.group) for row in table.itertuples()}
    assert {("optimiser", "optimiser"), ("student", "loss"), ("method", "loss"), ("teacher", "attention")} <= found
    assert ("teacher", "loss") not in found  # the backward pass of a loss is charged to whoever recorded it
    assert capfd.readouterr() == ("", "")
    for part, state in zip(networks, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in part.state_dict().items())
    assert not any(part._forward_hooks for part in networks)


def test_the_student_alone_has_neither_teacher_nor_method(networks, batch):
    table = trace_steps(networks[0], *batch, steps=1)
    assert set(table["part"]) == {"student", "optimiser"}


def test_a_part_is_charged_with_its_backward_pass(batch, monkeypatch):
    """A teacher and a student of one convolution, a method of four: as many calls as there are, not their seconds."""
    calls = ("aten::convolution", "aten::convolution_backward")
    called = property(lambda event: 1e6 * (event.name in calls))
    monkeypatch.setattr(FunctionEvent, "self_cpu_time_total", called)
    table = trace_steps(_Convolution(), *batch, teacher=_Convolution(), method=_Compare(), steps=2)
    counted = table[table["group"] == "convolution"].set_index("part")["seconds"].to_dict()
    assert counted == {"teacher": 1, "student": 1 + 1, "method": 4 + 4}


class _Convolution(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, images):
        from transkd_lite.models.output import SegOutput

        return SegOutput(self.conv(images), (), ())


class _Compare(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = torch.nn.ModuleList(torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))

    def forward(self, images, student, teacher, labels):
        return {"x": sum(conv(student.logits) for conv in self.convs).sub(teacher.logits).square().mean()}

    def combine(self, terms):
        return terms["x"]
