"""Methods that compare how positions relate to each other: `skd`, `ifvd`, `cirkd`.

Relations do not depend on width, so that nothing has to be projected. They act on feature 4 unless `stages`
says otherwise; mind that the number of relations is the square of the number of positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from transkd_lite.distill import losses
from transkd_lite.distill.part import METHODS, Part, SingleTerm, register
from transkd_lite.models.output import ModelSpec

__all__: list[str] = []


@register(
    "skd",
    formula="mean (a^S - a^T)², a_ij = f_i · f_j of max-pooled positions of unit length",
    source="Liu et al. 2019, arXiv 1903.04197; weight as run in CIRKD",
)
def _skd(
    student: ModelSpec,
    teacher: ModelSpec,
    *,
    stages: Sequence[int] = (4,),
    pool: int = 2,
    weight: float = 10.0,
) -> list[Part]:
    return [SingleTerm("skd", partial(losses.skd, pool=pool), weight, stages=stages)]


@register(
    "ifvd",
    formula="mean over valid positions of (m^S - m^T)², m(p) = cosine(f(p), mean feature of p's class)",
    source="Wang et al. 2020, ECCV; weight as run in CIRKD",
)
def _ifvd(
    student: ModelSpec, teacher: ModelSpec, *, stages: Sequence[int] = (4,), weight: float = 20.0
) -> list[Part]:
    loss = partial(losses.ifvd, num_classes=max(student.num_classes, teacher.num_classes))
    return [SingleTerm("ifvd", loss, weight, stages=stages, labels="required")]


@register(
    "cirkd",
    formula="mean over image pairs and rows of KL(T ‖ S), row softmax of f_i(p) · f_j(q) / tau; plus kd",
    source="Yang et al. 2022, arXiv 2204.06986 (mini-batch part)",
)
def _cirkd(
    student: ModelSpec,
    teacher: ModelSpec,
    *,
    stages: Sequence[int] = (4,),
    temperature: float = 0.1,
    weight: float = 1.0,
    kd_temperature: float = 1.0,
    kd_weight: float = 1.0,
) -> list[Part]:
    pairs = SingleTerm("cirkd", partial(losses.cirkd, temperature=temperature), weight, stages=stages)
    return [pairs, *METHODS["kd"].build(student, teacher, temperature=kd_temperature, weight=kd_weight)]
