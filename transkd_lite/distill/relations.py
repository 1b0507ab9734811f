"""Methods that compare how positions relate to each other: `skd`, `ifvd`, `cirkd`.

Relations do not depend on width, so that nothing has to be projected. They act on feature 4 unless `stages`
says otherwise; mind that the number of relations is the square of the number of positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from transkd_lite.distill import losses
from transkd_lite.distill.adapt import map_size, pooling_window
from transkd_lite.distill.part import CIRKD, CIRKD_SEGFORMER, METHODS, Part, SingleTerm, register
from transkd_lite.models.output import ModelSpec

__all__: list[str] = []


@register(
    "skd",
    formula="mean (a^S - a^T)², a_ij = f_i · f_j of max-pooled positions of unit length",
    source="Liu et al. 2019, arXiv 1903.04197; weight as run in CIRKD",
    strength=f"10 in {CIRKD}, and for {CIRKD_SEGFORMER}, with kd and an adversarial loss. Both pool 2 x 2, to 32 x 64 "
    "and 128 x 128 nodes; pool=None pools maps of more than 32 x 64 positions to at most so many. A mean over pairs, "
    "which does not grow with the map",
)
def _skd(
    student: ModelSpec,
    teacher: ModelSpec,
    *,
    stages: Sequence[int] = (4,),
    pool: int | None = None,
    weight: float = 10.0,
) -> list[Part]:
    def loss(own: Tensor, wanted: Tensor) -> Tensor:
        return losses.skd(own, wanted, pool=pooling_window(map_size(own), 32 * 64) if pool is None else pool)

    return [SingleTerm("skd", loss, weight, stages=stages)]


@register(
    "ifvd",
    formula="mean over valid positions of (m^S - m^T)², m(p) = cosine(f(p), mean feature of p's class)",
    source="Wang et al. 2020, ECCV; weight as run in CIRKD",
    strength=f"20 in {CIRKD}, and for {CIRKD_SEGFORMER}, with kd and an adversarial loss; Wang et al. take 200. A "
    "mean over positions, which does not grow with the map; a class with one position in an image adds nothing",
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
    strength=f"1 in {CIRKD}, and for {CIRKD_SEGFORMER} averaged to 64 x 64, with kd. pool=None averages maps of more "
    "than 64 x 128 positions to at most so many. A mean over rows, which hardly grows with the map",
)
def _cirkd(
    student: ModelSpec,
    teacher: ModelSpec,
    *,
    stages: Sequence[int] = (4,),
    temperature: float = 0.1,
    pool: int | None = None,
    weight: float = 1.0,
    kd_temperature: float = 1.0,
    kd_weight: float = 1.0,
) -> list[Part]:
    loss = partial(losses.cirkd, temperature=temperature, pool=pool)
    pairs = SingleTerm("cirkd", loss, weight, stages=stages)
    return [pairs, *METHODS["kd"].build(student, teacher, temperature=kd_temperature, weight=kd_weight)]
