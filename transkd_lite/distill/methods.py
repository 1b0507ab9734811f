"""All methods by name: `create_method(name, student, teacher)`; "a+b" has the terms of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from textwrap import fill
from typing import Any

import torch
from torch import Tensor, nn

from transkd_lite.distill import losses
from transkd_lite.distill.distiller import (
    CIRKD,
    CIRKD_SEGFORMER,
    METHODS,
    Distiller,
    Method,
    Part,
    SingleTerm,
    check_same_classes,
    check_stages,
    register,
)
from transkd_lite.distill.losses import map_size, pooling_window
from transkd_lite.models.output import ModelSpec, SegModel, listed

__all__ = ["MaskedGenerator", "create_method", "default_weights", "describe", "list_methods", "method_table"]

# --- Methods that compare logits: `kd`, `cwd`, `dkd`, `dist`. All need the same classes in both networks.


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


# --- Methods that compare single feature maps: `fitnet`, `at`, `mgd`; feature 4 unless `stages` says otherwise.

PUBLISHED_MGD_MAP = 2048 * 64 * 64  # elements of the map that the weight 2e-5 of MGD's sum was published for


class MaskedGenerator(nn.Module):
    """MGD's block: align the width (where it differs), zero random positions, generate with
    conv3x3-ReLU-conv3x3.

    A position is zeroed with probability `masked`, in all channels at once. (N, C_S, H, W) -> (N, C_T, H, W).
    """

    def __init__(self, student_channels: int, teacher_channels: int, masked: float = 0.75) -> None:
        super().__init__()
        if not 0 <= masked <= 1:
            raise ValueError(f"masked is a probability, got {masked}")
        self.masked = masked
        same = student_channels == teacher_channels
        self.align = nn.Identity() if same else nn.Conv2d(student_channels, teacher_channels, 1)
        self.generate = nn.Sequential(
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
        )

    def forward(self, feature: Tensor) -> Tensor:
        kept = torch.rand_like(feature[:, :1], dtype=torch.float32) >= self.masked
        return self.generate(self.align(feature) * kept)


def _by_stage(
    student: ModelSpec, teacher: ModelSpec, stages: Sequence[int], build: Callable[[int, int], nn.Module]
) -> dict[int, nn.Module]:
    """build(student's width, teacher's width) for every stage."""
    chosen = check_stages("stages", stages)
    return {i: build(student.channels[i - 1], teacher.channels[i - 1]) for i in chosen}


@register(
    "fitnet",
    formula="mean (conv1x1(F^S) - F^T)²",
    source="Romero et al. 2015, arXiv 1412.6550; weight as run in CIRKD",
    strength=f"10 in {CIRKD}, with kd; CIRKDV2 takes 1 for SegFormer-B4 -> B0, crops of 1024 x 1024. A mean over "
    "elements, which does not grow with the map",
)
def _fitnet(
    student: ModelSpec, teacher: ModelSpec, *, stages: Sequence[int] = (4,), weight: float = 10.0
) -> list[Part]:
    adapters = _by_stage(student, teacher, stages, lambda own, wanted: nn.Conv2d(own, wanted, 1))
    return [SingleTerm("fitnet", losses.mse, weight, stages=stages, adapters=adapters)]


@register(
    "at",
    formula="mean (Q^S - Q^T)², Q = vec(mean over channels of F²) / its norm",
    source="Zagoruyko and Komodakis 2017, arXiv 1612.03928; weight as run in CIRKD",
    strength=f"10000 in {CIRKD}, with kd. The term falls as 1 / positions: at feature 4 of 64 x 128 images (2 x 4) it "
    "counts 1024 times as much as there, of 512 x 512 images 32 times. A LayerNorm before the map leaves F² almost "
    "even, which makes the term small",
)
def _at(
    student: ModelSpec, teacher: ModelSpec, *, stages: Sequence[int] = (4,), weight: float = 1e4
) -> list[Part]:
    return [SingleTerm("at", losses.at, weight, stages=stages)]


@register(
    "mgd",
    formula="2048 · 64² · mean (G(mask · conv1x1(F^S)) - F^T)², G = conv3x3-ReLU-conv3x3",
    source="Yang et al. 2022, arXiv 2205.01529",
    strength="2e-5 for a sum over maps of 2048 x 64 x 64 (PSPNet and DeepLabV3, ResNet-101 -> 18, crops of 512 x "
    "512), with cwd. The sum over any map is scaled to that size, so that it does not grow with the map",
)
def _mgd(
    student: ModelSpec,
    teacher: ModelSpec,
    *,
    stages: Sequence[int] = (4,),
    masked: float = 0.75,
    weight: float = 2e-5,
) -> list[Part]:
    adapters = _by_stage(student, teacher, stages, lambda own, wanted: MaskedGenerator(own, wanted, masked))

    def loss(generated: Tensor, wanted: Tensor) -> Tensor:
        return losses.mgd(generated, wanted) * (PUBLISHED_MGD_MAP / wanted[0].numel())

    return [SingleTerm("mgd", loss, weight, stages=stages, adapters=adapters)]


# --- Methods that compare how positions relate to each other: `skd`, `ifvd`, `cirkd`.
#
# Relations do not depend on width, so that nothing has to be projected. They act on feature 4 unless `stages`
# says otherwise; mind that the number of relations is the square of the number of positions.


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


# --- All methods by name: `create_method(name, student, teacher)`; "a+b" has the terms of both.


def list_methods() -> list[str]:
    """The names that `create_method` takes. Any of them may be joined: "transkd-base+kd"."""
    return sorted(METHODS)


def _method(name: str) -> Method:
    if name not in METHODS:
        known = ", ".join(list_methods())
        raise ValueError(f"unknown method {name!r}: there are {known}, and any of them joined with +")
    return METHODS[name]


def _own_options(method: Method, joined: list[Method], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are meant for `method`: those it takes, and `name.option` for it alone."""
    own = {}
    for key, value in options.items():
        addressee, _, option = key.rpartition(".")
        takers = [m.name for m in joined if option in m.options and addressee in ("", m.name)]
        if not takers:
            valid = "; ".join(f"{m.name} takes {', '.join(m.options)}" for m in joined)
            raise ValueError(f"unknown option {key!r}: {valid}")
        if len(takers) > 1:
            raise ValueError(f"option {key!r} is taken by {' and '.join(takers)}: write {takers[0]}.{key}")
        if takers == [method.name]:
            own[option] = value
    return own


def _spec(role: str, network: SegModel | ModelSpec) -> ModelSpec:
    spec = getattr(network, "spec", network)
    if not isinstance(spec, ModelSpec):
        raise ValueError(f"{role} must be a SegModel or a ModelSpec, got {type(network).__name__}")
    return spec


def _check_terms(name: str, parts: list[Part]) -> list[str]:
    """The terms of all parts. Raises ValueError where two are called the same."""
    terms = [term for part in parts for term in part.weights]
    twice = sorted({term for term in terms if terms.count(term) > 1})
    if twice or not terms:
        problem = f"two terms named {', '.join(twice)}: leave one method out" if twice else "no terms at all"
        raise ValueError(f"{name} would have {problem}")
    return terms


def _warmups(terms: list[str], schedule: str | Mapping[str, str], warmup_steps: int) -> dict[str, int]:
    """The terms whose weight rises, with the number of steps."""
    chosen = dict.fromkeys(terms, schedule) if isinstance(schedule, str) else dict(schedule)
    strange = sorted(set(chosen) - set(terms)) + sorted(set(chosen.values()) - {"constant", "linear"})
    if strange:
        raise ValueError(
            f'schedule is "constant" or "linear", or one of them for some of {", ".join(terms)}; got {listed(strange)}'
        )
    rising = [term for term, kind in chosen.items() if kind == "linear"]
    if rising and warmup_steps < 1:
        raise ValueError(f"a linear schedule needs warmup_steps >= 1, got {warmup_steps}")
    return dict.fromkeys(rising, warmup_steps)


def create_method(
    name: str,
    student: SegModel | ModelSpec,
    teacher: SegModel | ModelSpec,
    *,
    weights: Mapping[str, float] | None = None,
    schedule: str | Mapping[str, str] = "constant",
    warmup_steps: int = 0,
    **options: Any,
) -> Distiller:
    """Build the method `name`, or several joined with "+", for a pair of networks.

    - weights: replaces the default weights of the terms named in it.
    - schedule: "constant" or "linear" (from 0 over `warmup_steps` training steps), for all terms or by term.
    - options: those of the methods (`describe` lists them). Where two joined methods take the same one, write
      "method.option".

    Raises ValueError for unknown names and options, and for networks that cannot be compared.
    """
    own, other = _spec("student", student), _spec("teacher", teacher)
    joined = [_method(part) for part in name.split("+")]
    parts = [p for m in joined for p in m.build(own, other, **_own_options(m, joined, options))]
    terms = _check_terms(name, parts)
    if not set(weights or {}) <= set(terms):
        raise ValueError(
            f"weights name the terms {', '.join(terms)} of {name}; got {listed(dict(weights or {}))}"
        )
    distiller = Distiller(name, parts, own, other)
    distiller.weights.update(weights or {})
    distiller.warmup = _warmups(terms, schedule, warmup_steps)
    distiller.options = {**options, "weights": weights, "schedule": schedule, "warmup_steps": warmup_steps}
    return distiller


# --- What each method is, in words: formula, source, terms, default weights and options.
#
# Nothing is written down twice: terms and weights are read off the method, built for the paper's pair of
# networks.

PAPER_STUDENT = ModelSpec("segformer_b0", (32, 64, 160, 256))
PAPER_TEACHER = ModelSpec("segformer_b2", (64, 128, 320, 512))


def default_weights(name: str) -> dict[str, float]:
    """The terms of a method, or of several joined with "+", with their default weights."""
    with torch.device("meta"):  # the shapes are enough
        return create_method(name, PAPER_STUDENT, PAPER_TEACHER).weights


def _lines(name: str) -> list[str]:
    method = METHODS[name]
    options = ", ".join(f"{option}={value!r}" for option, value in method.options.items())
    weight = fill(method.strength, 110, initial_indent="  weight   ", subsequent_indent=" " * 11)
    lines = [
        name,
        f"  formula  {method.formula}",
        f"  source   {method.source}",
        weight,
        f"  options  {options}",
    ]
    return [line for line in lines if line]


def describe(name: str) -> None:
    """Print a method's formula, source, options, terms and default weights; of "a+b" those of both.

    The line "weight" tells with which networks, crops and map sizes the default weight was published (where it says
    "with kd", NAME+kd is the published loss), and how the term grows with the map.

    Raises ValueError for an unknown method.
    """
    weights = default_weights(name)
    lines = [line for part in name.split("+") for line in _lines(part)]
    terms = ", ".join(f"{term} {weight:g}" for term, weight in weights.items())
    print("\n".join([*lines, f"  terms and default weights  {terms}"]))


def method_table() -> str:
    """All methods as a Markdown table: name, formula, terms with default weights, source."""
    rows = ["| method | formula | terms (default weight) | source |", "|---|---|---|---|"]
    for name in list_methods():
        terms = ", ".join(f"`{term}` ({weight:g})" for term, weight in default_weights(name).items())
        rows.append(f"| `{name}` | {METHODS[name].formula} | {terms} | {METHODS[name].source} |")
    return "\n".join(rows)
