"""Methods that compare logits: `kd`, `cwd`, `dkd`, `dist`. All need the same classes in both networks."""

from __future__ import annotations

from functools import partial

from transkd_lite.distill import losses
from transkd_lite.distill.part import CIRKD, CIRKD_SEGFORMER, Part, SingleTerm, check_same_classes, register
from transkd_lite.models.output import ModelSpec

__all__: list[str] = []


@register(
    "kd",
    formula="tau² · mean over valid pixels of KL(softmax(z_T / tau) ‖ softmax(z_S / tau))",
    source="Hinton et al. 2015, arXiv 1503.02531",
    strength=f"1 in {CIRKD}, and for {CIRKD_SEGFORMER}. A mean over pixels, which does not grow with the map",
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
    strength=f"3 with PSPNet, ResNet-101 -> 18, crops of 512 x 512; CIRKD takes 0.3 for {CIRKD_SEGFORMER}, with kd, "
    "features and an adversarial loss. A mean over channels, which hardly grows with the map",
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
    strength="beta 8 and temperature 4 are those of image classification (CIFAR-100), where the weight rises over 20 "
    "epochs (schedule, warmup_steps) and beta is 2 to 8 by pair: for pixels this is strong. A mean over pixels, which "
    "does not grow with the map",
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
    strength="1 with DeepLabV3, ResNet-101 -> 18 (and PSPNet as student), crops of 512 x 1024. A mean of "
    "correlations, which does not grow with the map",
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
