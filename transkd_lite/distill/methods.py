"""All methods by name: one table, `METHODS`, and the few functions that build their parts.

A row says what builds the method's parts from the specs of two networks, which options it takes, its formula, its
source, and for what its default weight was published. `register` adds a row from outside; "a+b" has the terms of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import fill
from typing import Any

import torch
from torch import Tensor, nn

from transkd_lite.distill import losses
from transkd_lite.distill.distiller import STAGES, Distiller, Labels, Part, SingleTerm, check_stages
from transkd_lite.distill.embedding import PAPER_WEIGHTS, AlignedEmbeddings, EmbeddingAssistant, GLMixer, StageAlignment
from transkd_lite.distill.fusion import ABF, CSF, FusedFeatures, Separate
from transkd_lite.models.output import ModelSpec, SegModel, listed

__all__ = ["METHODS", "Method", "create_method", "describe", "list_methods", "method_table", "register"]

Parts = list[Part]
Builder = Callable[..., Parts]

# --- TransKD: fused features and aligned embeddings. Liu et al., arXiv 2202.13393, section III.


def transkd(student: ModelSpec, teacher: ModelSpec, **options: Any) -> Parts:
    """The halves that there are options for: features (`FEATURES`), then embeddings (`EMBEDDINGS`).

    `mixer_stages` … put a Global-Local Mixer into some stages, `linear_path` an Embedding Assistant into all. Four
    `embedding_weights` stand for the stages 1 … 4, fewer for the chosen stages in order.
    """
    embedding = {name: options.pop(name) for name in [*options] if name not in FEATURES}
    parts: Parts = [fused(student, teacher, **options)] if options else []
    if not embedding:
        return parts
    stages = check_stages("embedding_stages", embedding["embedding_stages"])
    mixed = check_stages("mixer_stages", embedding.get("mixer_stages", ()))
    if set(mixed) - set(stages):
        unused = sorted(set(mixed) - set(stages))
        raise ValueError(f"mixer_stages {unused} are not among embedding_stages: add them there")
    weights = embedding["embedding_weights"]
    if len(weights) not in (len(STAGES), len(stages)):
        raise ValueError(
            f"embedding_weights must have 4 entries, or one for each of embedding_stages {stages}; got {tuple(weights)}"
        )
    inputs, before = (3, *student.channels), (1, *student.strides)

    def align(i: int) -> nn.Module:
        own, wanted = student.channels[i - 1], teacher.channels[i - 1]
        if "linear_path" in embedding:
            shape = (student.patch_sizes[i - 1], student.strides[i - 1] // before[i - 1])
            return EmbeddingAssistant(i, inputs[i - 1], own, wanted, *shape, embedding["linear_path"])
        if i not in mixed:
            return StageAlignment(own, wanted)
        mixer = GLMixer(own, embedding["mixer_heads"], embedding["residual"], embedding["mixer_start"])
        return StageAlignment(own, wanted, mixer)

    weighed = dict(zip(STAGES if len(weights) == len(STAGES) else stages, weights, strict=True))
    return [*parts, AlignedEmbeddings({i: align(i) for i in stages}, weighed)] if stages else parts


def fused(student: ModelSpec, teacher: ModelSpec, family: str = "csf", prefix: str = "csf", **options: Any) -> Part:
    """The feature half. `bare_squeeze` adds what only the authors' checkpoints have (see `CSFStage`)."""
    chosen = {**FEATURES, **options}
    width, temperature = chosen["fusion_width"], chosen["feature_temperature"]
    choices: dict[str, dict[str, Callable]] = {
        "fusion": {
            "csf": partial(CSF, width=width, bare_squeeze=chosen["bare_squeeze"]),
            "abf": partial(ABF, width=width),
            "none": Separate,
        },
        "feature_loss": {
            "hcl": losses.hcl,
            "cwd": partial(losses.cwd, temperature=temperature, over="positions"),
            "kl": partial(losses.cwd, temperature=temperature, over="classes"),
        },
    }
    for option, known in choices.items():
        if chosen[option] not in known:
            raise ValueError(f"{option} must be one of {', '.join(known)}, got {chosen[option]!r}")
    fusion, loss = (known[chosen[option]] for option, known in choices.items())
    module = fusion(student.channels, teacher.channels)
    return FusedFeatures(family, prefix, module, loss, chosen["feature_weight"])


def review(student: ModelSpec, teacher: ModelSpec, **options: Any) -> Parts:
    return [fused(student, teacher, "review", "review", fusion="abf", **options)]


def cwd_features(student: ModelSpec, teacher: ModelSpec, *, temperature: float, weight: float) -> Parts:
    options = {"feature_loss": "cwd", "feature_temperature": temperature, "feature_weight": weight}
    return [fused(student, teacher, "cwd-features", "cwd", **options)]


# --- Methods of one term.
#
# Those that compare logits need the same classes in both networks; those that compare features take feature 4 unless
# `stages` says otherwise. Relations (skd, ifvd, cirkd) do not depend on width, so that nothing has to be projected;
# their number is the square of the number of positions.

PUBLISHED_MGD_MAP = 2048 * 64 * 64  # elements of the map that the weight 2e-5 of MGD's sum was published for


def one_term(
    name: str,
    loss: Callable[..., Tensor],
    student: ModelSpec,
    teacher: ModelSpec,
    *,
    weight: float,
    stages: Sequence[int] | None = None,
    adapter: Callable[[int, int], nn.Module] | None = None,
    labels: Labels = "unused",
    **options: Any,
) -> Parts:
    """The term `name`: `loss` with the options, of the logits, or of the features of `stages`.

    `adapter` makes, of the student's and the teacher's width, what the student's feature goes through first.
    """
    if stages is None and student.num_classes != teacher.num_classes:
        raise ValueError(
            f"{name} compares logits class by class, but the student {student.name} has "
            f"{student.num_classes} classes and the teacher {teacher.name} has {teacher.num_classes}: "
            "build both with the same num_classes, or choose a method that compares features"
        )
    adapters: dict[int, nn.Module] = {}
    if adapter is not None:
        chosen = check_stages("stages", stages or ())
        adapters = {i: adapter(student.channels[i - 1], teacher.channels[i - 1]) for i in chosen}
    term = SingleTerm(name, partial(loss, **options), weight, stages=stages, adapters=adapters, labels=labels)
    return [term]


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


def fitnet(student: ModelSpec, teacher: ModelSpec, **options: Any) -> Parts:
    adapter = partial(nn.Conv2d, kernel_size=1)
    return one_term("fitnet", losses.mse, student, teacher, adapter=adapter, **options)


def mgd(student: ModelSpec, teacher: ModelSpec, *, masked: float, **options: Any) -> Parts:
    def loss(generated: Tensor, wanted: Tensor) -> Tensor:
        return losses.mgd(generated, wanted) * (PUBLISHED_MGD_MAP / wanted[0].numel())

    return one_term("mgd", loss, student, teacher, adapter=partial(MaskedGenerator, masked=masked), **options)


def ifvd(student: ModelSpec, teacher: ModelSpec, **options: Any) -> Parts:
    classes = max(student.num_classes, teacher.num_classes)
    return one_term("ifvd", losses.ifvd, student, teacher, labels="required", num_classes=classes, **options)


def cirkd(student: ModelSpec, teacher: ModelSpec, *, kd_temperature: float, kd_weight: float, **options: Any) -> Parts:
    kd = METHODS["kd"].build(student, teacher, {"temperature": kd_temperature, "weight": kd_weight})
    return [*one_term("cirkd", losses.cirkd, student, teacher, **options), *kd]


# --- The table.


@dataclass(frozen=True)
class Method:
    """What builds a method's parts, and what `describe` prints of it.

    - builder: (student spec, teacher spec, **options) -> parts, called with all of the options.
    - options: their names and defaults.
    - strength: with which networks and map sizes the default weight was published, and how the term grows with the map.
    """

    builder: Builder
    options: Mapping[str, Any]
    formula: str
    source: str
    strength: str = ""

    def build(self, student: ModelSpec, teacher: ModelSpec, options: Mapping[str, Any]) -> Parts:
        """The parts for two networks, with the defaults for the options that are not given."""
        return self.builder(student, teacher, **{**self.options, **options})


FEATURES: dict[str, Any] = {
    "fusion": "csf",
    "feature_weight": 1.0,
    "feature_loss": "hcl",
    "feature_temperature": 1.0,
    "fusion_width": 64,
    "bare_squeeze": False,
}
EMBEDDINGS: dict[str, Any] = {"embedding_stages": STAGES, "embedding_weights": PAPER_WEIGHTS}
MIXER: dict[str, Any] = {"mixer_stages": (4,), "mixer_heads": 8, "mixer_start": (0.5, 0.5), "residual": False}

# Runs for which several default weights were published (github.com/winycg/CIRKD).
CIRKD = "CIRKD's runs with DeepLabV3, ResNet-101 -> 18, crops of 512 x 1024, maps of 64 x 128"
CIRKD_SEGFORMER = "SegFormer-B4 -> B0, crops of 1024 x 1024, decoder maps of 256 x 256"
PAPER = "Liu et al. 2022, arXiv 2202.13393"
PAPER_STRENGTH = (
    "as published for SegFormer-B2 -> B0, images of 512 x 1024, maps of 128 x 256 to 16 x 32. Means over elements, "
    "which do not grow with the map"
)

METHODS: dict[str, Method] = {
    "transkd-base": Method(
        transkd,
        FEATURES | EMBEDDINGS,
        "Σ_i HCL(CSF(F^S)_i, F^T_i) + Σ_i w_i MSE(Linear_i(E^S_i), E^T_i)",
        PAPER,
        PAPER_STRENGTH,
    ),
    "transkd-gl": Method(
        transkd,
        FEATURES | EMBEDDINGS | MIXER,
        "transkd-base with E_i <- a MHSA(E_i) + b conv1d_3(E_i) · sigmoid(conv1d_3(E_i)) in stage 4",
        PAPER,
        PAPER_STRENGTH,
    ),
    "transkd-ea": Method(
        transkd,
        FEATURES | EMBEDDINGS | {"linear_path": True},
        "transkd-base with a_i Linear_i(E_i) + b_i PatchEmbed_i(input of stage i) for Linear_i(E_i)",
        PAPER,
        PAPER_STRENGTH,
    ),
    "csf": Method(
        transkd, FEATURES, "Σ_i HCL(CSF(F^S)_i, F^T_i)", f"{PAPER}, the feature half of TransKD-Base", PAPER_STRENGTH
    ),
    "pea": Method(
        transkd,
        EMBEDDINGS,
        "Σ_i w_i MSE(Linear_i(E^S_i), E^T_i)",
        f"{PAPER}, the embedding half of TransKD-Base",
        PAPER_STRENGTH,
    ),
    "review": Method(
        review,
        {"feature_weight": 1.0, "fusion_width": 64},
        "Σ_i HCL(ABF(F^S)_i, F^T_i)",
        "Chen et al. 2021, arXiv 2104.09044",
        "the width 64 and the weight 1 are TransKD's; Chen et al. take 256 and, for image classification, 0.6 to "
        "8, rising over 20 epochs (schedule, warmup_steps). Means over elements, which do not grow with the map",
    ),
    "cwd-features": Method(
        cwd_features,
        {"temperature": 1.0, "weight": 1.0},
        "Σ_i tau² / (N C) · Σ KL(T ‖ S) over positions, S = CSF(F^S)_i / tau, T = F^T_i / tau",
        f"{PAPER} (an option of its code), with the loss of Shu et al. 2021",
        "1 is the code's, which publishes no run; CIRKD takes 50 in its runs with DeepLabV3 and 5 for "
        "SegFormer-B4 -> B0, at temperature 4. Means over channels, which hardly grow with the map",
    ),
    "kd": Method(
        partial(one_term, "kd", losses.kd, labels="optional"),
        {"temperature": 1.0, "weight": 1.0},
        "tau² · mean over valid pixels of KL(softmax(z_T / tau) ‖ softmax(z_S / tau))",
        "Hinton et al. 2015, arXiv 1503.02531",
        f"1 in {CIRKD}, and for {CIRKD_SEGFORMER}. A mean over pixels, which does not grow with the map",
    ),
    "cwd": Method(
        partial(one_term, "cwd", losses.cwd),
        {"temperature": 4.0, "over": "positions", "weight": 3.0},
        "tau² / (N C) · Σ KL(T ‖ S), a softmax of z / tau over the positions of each channel",
        "Shu et al. 2021, arXiv 2011.13256",
        f"3 with PSPNet, ResNet-101 -> 18, crops of 512 x 512; CIRKD takes 0.3 for {CIRKD_SEGFORMER}, with kd, "
        "features and an adversarial loss. A mean over channels, which hardly grows with the map",
    ),
    "dkd": Method(
        partial(one_term, "dkd", losses.dkd, labels="required"),
        {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "weight": 1.0},
        "tau² · mean over valid pixels of alpha · TCKD + beta · NCKD",
        "Zhao et al. 2022, arXiv 2203.08679",
        "beta 8 and temperature 4 are those of image classification (CIFAR-100), where the weight rises over 20 "
        "epochs (schedule, warmup_steps) and beta is 2 to 8 by pair: for pixels this is strong. A mean over pixels, "
        "which does not grow with the map",
    ),
    "dist": Method(
        partial(one_term, "dist", losses.dist, labels="optional"),
        {"beta": 1.0, "gamma": 1.0, "temperature": 1.0, "weight": 1.0},
        "tau² · [beta · (1 - Pearson across classes) + gamma · (1 - Pearson across pixels)] of softmax(z / tau)",
        "Huang et al. 2022, arXiv 2205.10536",
        "1 with DeepLabV3, ResNet-101 -> 18 (and PSPNet as student), crops of 512 x 1024. A mean of "
        "correlations, which does not grow with the map",
    ),
    "fitnet": Method(
        fitnet,
        {"stages": (4,), "weight": 10.0},
        "mean (conv1x1(F^S) - F^T)²",
        "Romero et al. 2015, arXiv 1412.6550; weight as run in CIRKD",
        f"10 in {CIRKD}, with kd; CIRKDV2 takes 1 for SegFormer-B4 -> B0, crops of 1024 x 1024. A mean over "
        "elements, which does not grow with the map",
    ),
    "at": Method(
        partial(one_term, "at", losses.at),
        {"stages": (4,), "weight": 1e4},
        "mean (Q^S - Q^T)², Q = vec(mean over channels of F²) / its norm",
        "Zagoruyko and Komodakis 2017, arXiv 1612.03928; weight as run in CIRKD",
        f"10000 in {CIRKD}, with kd. The term falls as 1 / positions: at feature 4 of 64 x 128 images (2 x 4) it "
        "counts 1024 times as much as there, of 512 x 512 images 32 times. A LayerNorm before the map leaves F² "
        "almost even, which makes the term small",
    ),
    "mgd": Method(
        mgd,
        {"stages": (4,), "masked": 0.75, "weight": 2e-5},
        "2048 · 64² · mean (G(mask · conv1x1(F^S)) - F^T)², G = conv3x3-ReLU-conv3x3",
        "Yang et al. 2022, arXiv 2205.01529",
        "2e-5 for a sum over maps of 2048 x 64 x 64 (PSPNet and DeepLabV3, ResNet-101 -> 18, crops of 512 x "
        "512), with cwd. The sum over any map is scaled to that size, so that it does not grow with the map",
    ),
    "skd": Method(
        partial(one_term, "skd", losses.skd),
        {"stages": (4,), "pool": None, "weight": 10.0},
        "mean (a^S - a^T)², a_ij = f_i · f_j of max-pooled positions of unit length",
        "Liu et al. 2019, arXiv 1903.04197; weight as run in CIRKD",
        f"10 in {CIRKD}, and for {CIRKD_SEGFORMER}, with kd and an adversarial loss. Both pool 2 x 2, to 32 x 64 "
        "and 128 x 128 nodes; pool=None pools maps of more than 32 x 64 positions to at most so many. A mean over "
        "pairs, which does not grow with the map",
    ),
    "ifvd": Method(
        ifvd,
        {"stages": (4,), "weight": 20.0},
        "mean over valid positions of (m^S - m^T)², m(p) = cosine(f(p), mean feature of p's class)",
        "Wang et al. 2020, ECCV; weight as run in CIRKD",
        f"20 in {CIRKD}, and for {CIRKD_SEGFORMER}, with kd and an adversarial loss; Wang et al. take 200. A "
        "mean over positions, which does not grow with the map; a class with one position in an image adds nothing",
    ),
    "cirkd": Method(
        cirkd,
        {"stages": (4,), "temperature": 0.1, "pool": None, "weight": 1.0, "kd_temperature": 1.0, "kd_weight": 1.0},
        "mean over image pairs and rows of KL(T ‖ S), row softmax of f_i(p) · f_j(q) / tau; plus kd",
        "Yang et al. 2022, arXiv 2204.06986 (mini-batch part)",
        f"1 in {CIRKD}, and for {CIRKD_SEGFORMER} averaged to 64 x 64, with kd. pool=None averages maps of more "
        "than 64 x 128 positions to at most so many. A mean over rows, which hardly grows with the map",
    ),
}


def register(name: str, *, formula: str, source: str, strength: str = "") -> Callable[[Builder], Builder]:
    """Decorator for a method of one's own: a function (student spec, teacher spec, *, options) -> list of parts.

    The keyword-only arguments of the function are the method's options.

    >>> @register("contrast", formula="…", source="this example")
    ... def contrast(student, teacher, *, weight=1.0):
    ...     return [SingleTerm("contrast", losses.mse, weight)]
    >>> METHODS.pop("contrast").options
    {'weight': 1.0}
    """

    def decorate(build: Builder) -> Builder:
        METHODS[name] = Method(build, build.__kwdefaults__ or {}, formula, source, strength)
        return build

    return decorate


def list_methods() -> list[str]:
    """The names that `create_method` takes. Any of them may be joined: "transkd-base+kd"."""
    return sorted(METHODS)


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
    student_spec: Any = getattr(student, "spec", student)
    teacher_spec: Any = getattr(teacher, "spec", teacher)
    for role, spec in (("student", student_spec), ("teacher", teacher_spec)):
        if not isinstance(spec, ModelSpec):
            raise ValueError(f"{role} must be a SegModel or a ModelSpec, got {type(spec).__name__}")
    joined = name.split("+")
    unknown = [part for part in joined if part not in METHODS]
    if unknown:
        known = ", ".join(list_methods())
        raise ValueError(f"unknown method {unknown[0]!r}: there are {known}, and any of them joined with +")
    own = _options_by_method(joined, options)
    parts: Parts = []
    for method in joined:
        parts += METHODS[method].build(student_spec, teacher_spec, own[method])
    terms = [term for part in parts for term in part.weights]
    twice = sorted({term for term in terms if terms.count(term) > 1})
    if twice or not terms:
        problem = f"two terms named {', '.join(twice)}: leave one method out" if twice else "no terms at all"
        raise ValueError(f"{name} would have {problem}")
    if not set(weights or {}) <= set(terms):
        raise ValueError(f"weights name the terms {', '.join(terms)} of {name}; got {listed(dict(weights or {}))}")
    distiller = Distiller(name, parts, student_spec, teacher_spec)
    distiller.weights.update(weights or {})
    distiller.warmup = _warmups(terms, schedule, warmup_steps)
    distiller.options = {**options, "weights": weights, "schedule": schedule, "warmup_steps": warmup_steps}
    return distiller


def _options_by_method(joined: list[str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every method's own of the options: those that it alone takes, and `name.option`."""
    own: dict[str, dict[str, Any]] = {name: {} for name in joined}
    for key, value in options.items():
        addressee, _, option = key.rpartition(".")
        takers = [name for name in joined if option in METHODS[name].options and addressee in ("", name)]
        if not takers:
            valid = "; ".join(f"{name} takes {', '.join(METHODS[name].options)}" for name in joined)
            raise ValueError(f"unknown option {key!r}: {valid}")
        if len(takers) > 1:
            raise ValueError(f"option {key!r} is taken by {' and '.join(takers)}: write {takers[0]}.{key}")
        own[takers[0]][option] = value
    return own


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


# --- What each method is, in words. Terms and weights are read off the method, built for the paper's pair of networks.

PAPER_STUDENT = ModelSpec("segformer_b0", (32, 64, 160, 256))
PAPER_TEACHER = ModelSpec("segformer_b2", (64, 128, 320, 512))


def default_weights(name: str) -> dict[str, float]:
    """The terms of a method, or of several joined with "+", with their default weights."""
    with torch.device("meta"):  # the shapes are enough
        return create_method(name, PAPER_STUDENT, PAPER_TEACHER).weights


def describe(name: str) -> None:
    """Print a method's formula, source, options, terms and default weights; of "a+b" those of both.

    The line "weight" tells with which networks, crops and map sizes the default weight was published (where it says
    "with kd", NAME+kd is the published loss), and how the term grows with the map.

    Raises ValueError for an unknown method.
    """
    terms = ", ".join(f"{term} {weight:g}" for term, weight in default_weights(name).items())
    for part in name.split("+"):
        method = METHODS[part]
        print(f"{part}\n  formula  {method.formula}\n  source   {method.source}")
        if method.strength:
            print(fill(method.strength, 110, initial_indent="  weight   ", subsequent_indent=" " * 11))
        print("  options ", ", ".join(f"{option}={value!r}" for option, value in method.options.items()))
    print(f"  terms and default weights  {terms}")


def method_table() -> str:
    """All methods as a Markdown table: name, formula, terms with default weights, source."""
    rows = ["| method | formula | terms (default weight) | source |", "|---|---|---|---|"]
    for name in list_methods():
        terms = ", ".join(f"`{term}` ({weight:g})" for term, weight in default_weights(name).items())
        rows.append(f"| `{name}` | {METHODS[name].formula} | {terms} | {METHODS[name].source} |")
    return "\n".join(rows)
