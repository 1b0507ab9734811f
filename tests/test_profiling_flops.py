"""Guards: multiply-accumulates equal those worked by hand, and the published figures."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from transkd_lite.distill.methods import create_method
from transkd_lite.models.weights import create_model
from transkd_lite.profiling import MultiplyAccumulates, call_aside, count_flops

LAYERS = [
    # layer, input, full, paper
    (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 4, 5), 8 * 27 * 20, 8 * 27 * 20 + 8 * 20),
    (nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), (1, 4, 4, 4), 4 * 9 * 16, 4 * 9 * 16),
    (nn.Conv1d(2, 3, 3), (1, 2, 6), 3 * 6 * 4, 3 * 6 * 4 + 3 * 4),
    (nn.Linear(5, 7), (2, 3, 5), 6 * 5 * 7, 6 * 5 * 7),
    (nn.BatchNorm2d(3), (1, 3, 2, 2), 0, 24),
    (nn.LayerNorm(6), (2, 6), 0, 12),
    (nn.GELU(), (3, 3), 0, 9),
    (nn.ReLU(), (3, 3), 0, 9),
    (nn.SiLU(), (3, 3), 0, 0),
]


@pytest.mark.parametrize(("layer", "shape", "full", "paper"), LAYERS, ids=lambda v: type(v).__name__)
def test_layers_cost_what_is_worked_by_hand(layer: nn.Module, shape: tuple[int, ...], full: int, paper: int) -> None:
    for convention, expected in (("full", full), ("paper", paper)):
        with MultiplyAccumulates(convention) as counter:
            call_aside(layer, torch.empty(shape, device="meta"))
        assert counter.total == expected


@pytest.mark.parametrize("name", ["segformer_b0", "lvt", "pvt_v2_b0", "timm:convnext_atto"])
def test_the_full_count_is_that_of_pytorchs_own_counter(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, 5)
    with FlopCounterMode(display=False) as counter:
        call_aside(model, torch.empty(1, 3, 64, 96, device="meta"))
    assert count_flops(model, (64, 96)) == counter.get_total_flops() / 2


def test_both_attention_products_are_counted_in_full_alone() -> None:
    q, k, v = torch.rand(2, 3, 10, 4), torch.rand(2, 3, 5, 4), torch.rand(2, 3, 5, 4)
    counts = []
    for convention in ("full", "paper"):
        with MultiplyAccumulates(convention) as counter:
            F.scaled_dot_product_attention(q, k, v)
            q @ k.transpose(2, 3)
        counts.append(counter.total)
    assert counts == [2 * 3 * 10 * 5 * (4 + 4) + 2 * 3 * 10 * 5 * 4, 0]


@pytest.mark.parametrize(
    ("name", "num_classes", "convention", "published"),
    [
        ("segformer_b0", 19, "paper", 13.67),
        ("segformer_b2", 19, "paper", 113.84),
        ("segformer_b0", 20, "full", 17.77),
        ("segformer_b2", 20, "full", 129.19),
    ],
)
def test_networks_cost_what_is_published(name: str, num_classes: int, convention: str, published: float) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes)
    assert round(count_flops(model, convention=convention) / 1e9, 2) == published


@pytest.mark.parametrize(
    ("method", "published"), [("transkd-base", 16.47), ("transkd-gl", 16.80), ("transkd-ea", 17.84)]
)
def test_methods_cost_what_is_published(method: str, published: float) -> None:
    with torch.device("meta"):
        student, teacher = create_model("segformer_b0", 20), create_model("segformer_b2", 20)
        distiller = create_method(method, student, teacher, bare_squeeze=True)
    cost = count_flops(student, distiller=distiller, convention="paper")
    assert round(cost / 1e9, 2) == published


def test_counting_touches_nothing() -> None:
    model = create_model("segformer_b0", 5).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_flops(model, (64, 64))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_an_unknown_convention_is_refused() -> None:
    with pytest.raises(ValueError, match="convention must be one of full, paper, got 'half'"):
        MultiplyAccumulates("half")
