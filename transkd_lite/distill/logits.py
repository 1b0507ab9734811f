"""Methods that compare logits: `kd`, `cwd`, `dkd`, `dist`. All need the same classes in both networks."""

from __future__ import annotations

from functools import partial

from transkd_lite.distill import losses
from transkd_lite.distill.part import Part, SingleTerm, check_same_classes, register
from transkd_lite.models.output import ModelSpec

__all__: list[str] = []


@register(
    "kd",
    formula="tau² · mean over valid pixels of KL(softmax(z_T / tau) ‖ softmax(z_S / tau))",
    source="Hinton et al. 2015, arXiv 1503.02531",
)
def _kd(
    student: ModelSpec, teacher: ModelSpec, *, temperature: float = 1.0, weight: float = 1.0
) -> list[Part]:
    check_same_classes("kd", student, teacher)
    return [SingleTerm("kd", partial(losses.kd, temperature=temperature), weight, labels="optional")]


@register(
    "cwd",
    formula="tau² / (N C) · Σ KL(T ‖ S), a softmax of z / tau over the positions of each channel",
    source="Shu et al. 2021, arXiv 2011.13256",
)
def _cwd(
    student: ModelSpec,
    teacher: ModelSpec,
    *,
    temperature: float = 4.0,
    over: str = "positions",
    weight: float = 3.0,
) -> list[Part]:
    check_same_classes("cwd", student, teacher)
    return [SingleTerm("cwd", partial(losses.cwd, temperature=temperature, over=over), weight)]


@register(
    "dkd",
    formula="tau² · mean over valid pixels of alpha · TCKD + beta · NCKD",
    source="Zhao et al. 2022, arXiv 2203.08679",
)
def _dkd(
    student: ModelSpec,
    teacher: ModelSpec,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    weight: float = 1.0,
) -> list[Part]:
    check_same_classes("dkd", student, teacher)
    loss = partial(losses.dkd, alpha=alpha, beta=beta, temperature=temperature)
    return [SingleTerm("dkd", loss, weight, labels="required")]


@register(
    "dist",
    formula="tau² · [beta · (1 - Pearson across classes) + gamma · (1 - Pearson across pixels)] of softmax(z / tau)",
    source="Huang et al. 2022, arXiv 2205.10536",
)
def _dist(
    student: ModelSpec,
    teacher: ModelSpec,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
    weight: float = 1.0,
) -> list[Part]:
    check_same_classes("dist", student, teacher)
    loss = partial(losses.dist, beta=beta, gamma=gamma, temperature=temperature)
    return [SingleTerm("dist", loss, weight, labels="optional")]
