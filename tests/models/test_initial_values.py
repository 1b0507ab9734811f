"""Guards: networks begin with the initial values of the published code, and so with a cross entropy near log K."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

import transkd_lite as tk
from transkd_lite.models.head import AllMLPHead

FAMILIES = ["segformer_b0", "segformer_b2", "pvt_v2_b0", "lvt", "timm:resnet18", "timm:convnext_atto"]


@pytest.mark.parametrize("num_classes", [2, 20, 150])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_first_cross_entropy_is_that_of_a_guess(name: str, num_classes: int) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        logits = tk.create_model(name, num_classes).train()(torch.randn(4, 3, 64, 96)).logits
    labels = torch.randint(num_classes, (4, *logits.shape[2:]))
    assert float(cross_entropy(logits, labels)) == pytest.approx(math.log(num_classes), rel=0.1)


def deviations(module: torch.nn.Module) -> dict[str, float]:
    return {name: float(p.detach().std(correction=0)) for name, p in module.named_parameters()}


def test_segformers_head_begins_as_nvidias() -> None:
    torch.manual_seed(0)
    found = deviations(tk.create_model("segformer_b0", 20).head)
    wanted = {"fuse.weight": math.sqrt(2 / 256), "classifier.weight": 1 / math.sqrt(3 * 256)}
    wanted |= {f"projections.{i}.weight": 1 / math.sqrt(3 * c) for i, c in enumerate((32, 64, 160, 256))}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=0.03)
    assert all(found[f"projections.{i}.bias"] > 0.01 for i in range(4)), "PyTorch's biases are not zero"


def test_the_normed_head_begins_as_mmsegmentations() -> None:
    torch.manual_seed(0)
    found = deviations(AllMLPHead((32, 64, 160, 256), 256, 20, normed=True))
    wanted = {f"projections.{i}.weight": math.sqrt(2 / 256) for i in range(4)} | {"classifier.weight": 0.01}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=0.03)
    assert found["classifier.bias"] == 0


def test_the_semantic_fpn_begins_as_mmsegmentations() -> None:
    torch.manual_seed(0)
    found = deviations(tk.create_model("pvt_v2_b0", 20).head)
    wanted = {
        "laterals.0.weight": math.sqrt(2 / (32 + 256)),
        "smooth.1.weight": math.sqrt(2 / (9 * 2 * 256)),
        "scales.3.0.weight": math.sqrt(2 / (9 * 128)),
        "classifier.weight": 0.003,
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=0.03)
    assert all(value == 0 for name, value in found.items() if name.endswith("bias"))


def test_lvt_begins_as_its_authors_code() -> None:
    torch.manual_seed(0)
    found = deviations(tk.create_model("lvt", 20))
    wanted = {
        "stages.0.proj.weight": math.sqrt(2 / (49 * 64)),
        "stages.0.blocks.0.attn.values.weight": math.sqrt(2 / (9 * 64)),
        "stages.0.blocks.0.mlp.fc1.weight": 0.02,
        "stages.1.blocks.0.mlp.fc1.weight": 1 / math.sqrt(3 * 64),
        "stages.1.blocks.0.attn.q.weight": 0.02,
        "stages.1.blocks.0.attn.atrous.weight": math.sqrt(2 / 9),
        "head.projections.0.weight": 0.02,
        "head.classifier.weight": 1 / math.sqrt(3 * 256),
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=0.06)
    atrous = dict(tk.create_model("lvt", 20).named_parameters())["stages.1.blocks.0.attn.atrous.weight"]
    assert float(atrous.detach().abs().max()) <= math.sqrt(6 / 9), "Kaiming's uniform, which is bounded"
