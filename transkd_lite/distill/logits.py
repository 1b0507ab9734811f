"""Methods that compare logits: `kd`, `cwd`, `dkd`, `dist`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from transkd_lite.distill import losses
from transkd_lite.distill.adapt import map_size, resize_map
from transkd_lite.distill.part import Part, check_same_classes, register
from transkd_lite.models.output import ModelSpec, SegOutput

__all__ = ["LogitTerm"]


class LogitTerm(Part):
    """One term, a loss (student logits, teacher logits, labels); the student's are resized to the teacher's."""

    def __init__(self, name: str, loss: Callable[..., Tensor], weight: float) -> None:
        super().__init__(name, {name: weight})
        self.loss = loss

    def forward(
        self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None
    ) -> dict[str, Tensor]:
        student_logits = resize_map(student.logits, map_size(teacher.logits))
        return {self.family: self.loss(student_logits, teacher.logits, labels)}


@register(
    "kd",
    formula="tau^2 · mean over valid pixels of KL(softmax(z_T / tau) ‖ softmax(z_S / tau))",
    source="Hinton et al. 2015, arXiv 1503.02531",
)
def _kd(
    student: ModelSpec, teacher: ModelSpec, *, temperature: float = 1.0, weight: float = 1.0
) -> list[Part]:
    check_same_classes("kd", student, teacher)
    return [LogitTerm("kd", partial(losses.kd, temperature=temperature), weight)]
