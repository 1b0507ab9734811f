"""Guards: one distillation step gives the authors' fused maps, projections, losses and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transkd_lite.distill.reference import load_reference_checkpoint
from transkd_lite.models.output import SegOutput

CASES = {"distill_transkd_base_b0_b2": "segformer_b0+transkd-base", "distill_review_b0_b2": "segformer_b0+review"}
VOID_CLASS = 19
TENSORS = {  # the authors' name -> (module of a step, our name)
    "student.patch_embed1.proj.weight": ("student", "stages.0.patch_embed.proj.weight"),
    "student.patch_embed4.proj.weight": ("student", "stages.3.patch_embed.proj.weight"),
    "student.linear_pred.weight": ("student", "head.classifier.weight"),
    "student.linear_pred.bias": ("student", "head.classifier.bias"),
    "skfs.0.conv1.0.weight": ("distiller", "parts.csf.fusion.stages.3.reduce.0.weight"),
    "skfs.3.conv2.0.weight": ("distiller", "parts.csf.fusion.stages.0.expand.0.weight"),
    "embed1_linearproject.weight": ("distiller", "parts.pea.stages.1.linear.weight"),
    "embed1_linearproject.bias": ("distiller", "parts.pea.stages.1.linear.bias"),
    "embed4_linearproject.weight": ("distiller", "parts.pea.stages.4.linear.weight"),
    "abfs.1.att_conv.0.weight": ("distiller", "parts.review.fusion.stages.2.gate.weight"),
    "abfs.3.conv2.0.weight": ("distiller", "parts.review.fusion.stages.0.expand.0.weight"),
}


class Step:
    """The step of a case, computed by the library from the same weights, images and labels."""

    def __init__(self, golden: Any, name: str) -> None:
        self.case = golden.case(name)
        seed, shape = self.case["seed"], self.case["shape"]
        student, distiller = load_reference_checkpoint(golden.checkpoint(CASES[name], seed))
        assert distiller is not None
        self.student, self.distiller = student.double(), distiller.double()
        teacher = load_reference_checkpoint(golden.checkpoint("segformer_b2", seed + 1))[0].double()
        self.images, labels = golden.images(seed, shape), golden.labels(seed, shape)
        self.labels = labels.where(labels != VOID_CLASS, 255)
        with torch.no_grad():
            self.teacher_output: SegOutput = teacher(self.images)
        self.output: SegOutput = self.student(self.images)
        self.terms = distiller(self.images, self.output, self.teacher_output, self.labels)
        self.cross_entropy = F.cross_entropy(self.output.logits, self.labels, ignore_index=255)
        self.total = self.cross_entropy + distiller.combine(self.terms)


@pytest.fixture(scope="module", params=list(CASES))
def step(golden: Any, request: pytest.FixtureRequest) -> Step:
    return Step(golden, request.param)


def _family(step: Step, prefix: str) -> list[Tensor]:
    return [term for name, term in step.terms.items() if name.startswith(prefix)]


def test_fused_maps_and_projections(golden: Any, step: Step) -> None:
    family = "csf" if step.case["projected"] else "review"
    golden.assert_close(step.distiller.parts[family].fusion(step.output.features), step.case["fused"])
    if step.case["projected"]:
        projected = step.distiller.parts["pea"].projected(step.images, step.output)
        golden.assert_close(list(projected.values()), step.case["projected"])


def test_terms_and_total(step: Step) -> None:
    terms = step.case["terms"]
    hcl = sum(_family(step, "csf" if step.case["projected"] else "review"))
    assert hcl.item() == pytest.approx(terms["hcl"], rel=1e-4)
    assert step.cross_entropy.item() == pytest.approx(terms["cross_entropy"], rel=1e-4)
    embedding = [value for name, value in terms.items() if name.startswith("embedding")]
    assert [t.item() for t in _family(step, "pea")] == pytest.approx(embedding, rel=1e-4)
    assert step.total.item() == pytest.approx(step.case["total"], rel=1e-4)


def test_gradient_norms(step: Step) -> None:
    def norm(module: nn.Module) -> float:
        wanted = [p for p in module.parameters() if p.requires_grad]
        found = torch.autograd.grad(step.total, wanted, retain_graph=True, allow_unused=True)
        return torch.stack([g.norm() for g in found if g is not None]).norm().item()

    assert norm(step.student) == pytest.approx(step.case["grad_norm_student"], rel=1e-4)
    assert norm(step.distiller) == pytest.approx(step.case["grad_norm_distiller"], rel=1e-4)


def test_gradient_norms_of_single_tensors(step: Step) -> None:
    for name, expected in step.case["grad_norms"].items():
        module, own_name = TENSORS[name]
        parameter = getattr(step, module).get_parameter(own_name)
        (gradient,) = torch.autograd.grad(step.total, parameter, retain_graph=True)
        assert gradient.norm().item() == pytest.approx(expected, rel=1e-4), name
