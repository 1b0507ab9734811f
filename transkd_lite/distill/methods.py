"""All methods by name: one table, `METHODS`, and the functions that build their parts.

A method is a function (student spec, teacher spec, *, options) -> parts. Its docstring has three paragraphs, which
`describe` prints: the formula, the source, and with which networks and map sizes the default weight was published and
how the term grows with the map. `register` adds a method from outside; "a+b" has the terms of both.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from textwrap import fill
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transkd_lite.distill import losses
from transkd_lite.distill.distiller import STAGES, Distiller, Part, SingleTerm, check_stages
from transkd_lite.distill.embedding import PAPER_WEIGHTS, AlignedEmbeddings, EmbeddingAssistant, GLMixer, StageAlignment
from transkd_lite.distill.fusion import ABF, CSF, FusedFeatures, Separate
from transkd_lite.models.output import ModelSpec, SegModel, listed

__all__ = ["METHODS", "Method", "create_method", "describe", "list_methods", "register"]

Parts = list[Part]
Builder = Callable[..., Parts]

# --- TransKD: fused features and aligned embeddings. Liu et al., arXiv 2202.13393, section III.

FEATURES: dict[str, Any] = {"fusion": "csf", "feature_weight": 1.0, "fusion_width": 64, "bare_squeeze": False}
EMBEDDINGS: dict[str, Any] = {"embedding_stages": STAGES, "embedding_weights": PAPER_WEIGHTS}


def csf(
    student: ModelSpec, teacher: ModelSpec, *, fusion: str, feature_weight: float, fusion_width: int, bare_squeeze: bool
) -> Parts:
    """Σ_i HCL(CSF(F^S)_i, F^T_i)

    Liu et al. 2022, arXiv 2202.13393, the feature half of TransKD-Base

    as published for SegFormer-B2 -> B0, images of 512 x 1024, maps of 128 x 256 to 16 x 32. Means over elements,
    which do not grow with the map
    """
    fusions: dict[str, Any] = {"csf": partial(CSF, bare_squeeze=bare_squeeze), "abf": ABF, "none": Separate}
    if fusion not in fusions:
        raise ValueError(f"fusion must be one of {', '.join(fusions)}, got {fusion!r}")
    module = fusions[fusion](student.channels, teacher.channels, fusion_width)
    return [FusedFeatures("csf", "csf", module, losses.hcl, feature_weight)]


def pea(student: ModelSpec, teacher: ModelSpec, *, align: Any = StageAlignment, **options: Any) -> Parts:
    """Σ_i w_i MSE(Linear_i(E^S_i), E^T_i)

    Liu et al. 2022, arXiv 2202.13393, the embedding half of TransKD-Base

    as published for SegFormer-B2 -> B0, images of 512 x 1024, maps of 128 x 256 to 16 x 32. Means over elements,
    which do not grow with the map
    """
    chosen, embedding_weights = (options[name] for name in EMBEDDINGS)
    if chosen in ((), []):
        return []
    stages = check_stages("embedding_stages", chosen)
    named = STAGES if len(embedding_weights) == len(STAGES) else stages
    if len(embedding_weights) != len(named):
        raise ValueError(f"embedding_weights must be 4, or one for each of stages {stages}; got {[*embedding_weights]}")
    weights = dict(zip(named, embedding_weights, strict=True))
    return [AlignedEmbeddings({i: align(i, student, teacher) for i in stages}, weights)]


def transkd_base(student: ModelSpec, teacher: ModelSpec, **options: Any) -> Parts:
    """Σ_i HCL(CSF(F^S)_i, F^T_i) + Σ_i w_i MSE(Linear_i(E^S_i), E^T_i)

    Liu et al. 2022, arXiv 2202.13393

    as published for SegFormer-B2 -> B0, images of 512 x 1024, maps of 128 x 256 to 16 x 32. Means over elements,
    which do not grow with the map
    """
    features = {name: options.pop(name) for name in FEATURES}
    return [*csf(student, teacher, **features), *pea(student, teacher, **options)]


def transkd_gl(
    student: ModelSpec, teacher: ModelSpec, *, mixer_start: Sequence[float], residual: bool, **options: Any
) -> Parts:
    """transkd-base with E_i <- a MHSA(E_i) + b conv1d_3(E_i) · sigmoid(conv1d_3(E_i)) in stage 4

    Liu et al. 2022, arXiv 2202.13393

    as published for SegFormer-B2 -> B0, images of 512 x 1024, maps of 128 x 256 to 16 x 32. Means over elements,
    which do not grow with the map
    """

    def align(stage: int, student: ModelSpec, teacher: ModelSpec) -> nn.Module:
        deepest = stage == check_stages("embedding_stages", options["embedding_stages"])[-1]
        mixer = GLMixer(student.channels[stage - 1], residual, mixer_start) if deepest else None
        return StageAlignment(stage, student, teacher, mixer)

    return transkd_base(student, teacher, align=align, **options)


def transkd_ea(student: ModelSpec, teacher: ModelSpec, *, linear_path: bool, **options: Any) -> Parts:
    """transkd-base with a_i Linear_i(E_i) + b_i PatchEmbed_i(input of stage i) for Linear_i(E_i)

    Liu et al. 2022, arXiv 2202.13393

    as published for SegFormer-B2 -> B0, images of 512 x 1024, maps of 128 x 256 to 16 x 32. Means over elements,
    which do not grow with the map
    """
    return transkd_base(student, teacher, align=partial(EmbeddingAssistant, linear_path=linear_path), **options)


# --- Other methods that compare fused features.


def review(student: ModelSpec, teacher: ModelSpec, *, feature_weight: float, fusion_width: int) -> Parts:
    """Σ_i HCL(ABF(F^S)_i, F^T_i)

    Chen et al. 2021, arXiv 2104.09044

    the width 64 and the weight 1 are TransKD's; Chen et al. take 256 and, for image classification, 0.6 to 8, rising
    over 20 epochs (warmup_steps). Means over elements, which do not grow with the map
    """
    fusion = ABF(student.channels, teacher.channels, fusion_width)
    return [FusedFeatures("review", "review", fusion, losses.hcl, feature_weight)]


def cwd_features(student: ModelSpec, teacher: ModelSpec, *, temperature: float, weight: float) -> Parts:
    """Σ_i tau² / (N C) · Σ KL(T ‖ S) over positions, S = CSF(F^S)_i / tau, T = F^T_i / tau

    Liu et al. 2022, arXiv 2202.13393 (an option of its code), with the loss of Shu et al. 2021

    1 is the code's, which publishes no run; CIRKD takes 50 in its runs with DeepLabV3 and 5 for SegFormer-B4 -> B0, at
    temperature 4. Means over channels, which hardly grow with the map
    """
    loss = partial(losses.cwd, temperature=temperature)
    return [FusedFeatures("cwd-features", "cwd", CSF(student.channels, teacher.channels), loss, weight)]


# --- Methods of one term.
#
# Those that compare logits need the same classes in both networks; those that compare features take feature 4 unless
# `stages` says otherwise. Relations (skd, ifvd, cirkd) do not depend on width, so that nothing has to be projected;
# their number is the square of the number of positions. CIRKD's runs are those of github.com/winycg/CIRKD.

PUBLISHED_MGD_MAP = 2048 * 64 * 64  # elements of the map that the weight 2e-5 of MGD's sum was published for


def kd(student: ModelSpec, teacher: ModelSpec, *, temperature: float, weight: float) -> Parts:
    """tau² · mean over valid pixels of KL(softmax(z_T / tau) ‖ softmax(z_S / tau))

    Hinton et al. 2015, arXiv 1503.02531

    1 in CIRKD's runs with DeepLabV3, ResNet-101 -> 18, crops of 512 x 1024, maps of 64 x 128, and for SegFormer-B4 ->
    B0, crops of 1024 x 1024, decoder maps of 256 x 256. A mean over pixels, which does not grow with the map
    """
    return [SingleTerm("kd", partial(losses.kd, temperature=temperature), weight, labels=True)]


def cwd(student: ModelSpec, teacher: ModelSpec, *, weight: float, **options: Any) -> Parts:
    """tau² / (N C) · Σ KL(T ‖ S), a softmax of z / tau over the positions of each channel

    Shu et al. 2021, arXiv 2011.13256

    3 with PSPNet, ResNet-101 -> 18, crops of 512 x 512; CIRKD takes 0.3 for SegFormer-B4 -> B0, crops of 1024 x 1024,
    decoder maps of 256 x 256, with kd, features and an adversarial loss. A mean over channels, which hardly grows with
    the map
    """
    return [SingleTerm("cwd", partial(losses.cwd, **options), weight)]


def dkd(student: ModelSpec, teacher: ModelSpec, *, weight: float, **options: Any) -> Parts:
    """tau² · mean over valid pixels of alpha · TCKD + beta · NCKD

    Zhao et al. 2022, arXiv 2203.08679

    beta 8 and temperature 4 are those of image classification (CIFAR-100), where the weight rises over 20 epochs
    (warmup_steps) and beta is 2 to 8 by pair: for pixels this is strong. A mean over pixels, which does not grow with
    the map
    """
    return [SingleTerm("dkd", partial(losses.dkd, **options), weight, labels=True)]


def dist(student: ModelSpec, teacher: ModelSpec, *, weight: float, **options: Any) -> Parts:
    """tau² · [beta · (1 - Pearson across classes) + gamma · (1 - Pearson across pixels)] of softmax(z / tau)

    Huang et al. 2022, arXiv 2205.10536

    1 with DeepLabV3, ResNet-101 -> 18 (and PSPNet as student), crops of 512 x 1024. A mean of correlations, which does
    not grow with the map
    """
    return [SingleTerm("dist", partial(losses.dist, **options), weight, labels=True)]


def fitnet(student: ModelSpec, teacher: ModelSpec, *, stages: Sequence[int], weight: float) -> Parts:
    """mean (conv1x1(F^S) - F^T)²

    Romero et al. 2015, arXiv 1412.6550; weight as run in CIRKD

    10 in CIRKD's runs with DeepLabV3, ResNet-101 -> 18, crops of 512 x 1024, maps of 64 x 128, with kd; CIRKDV2 takes
    1 for SegFormer-B4 -> B0, crops of 1024 x 1024. A mean over elements, which does not grow with the map
    """
    widths = list(zip(student.channels, teacher.channels, strict=True))
    return [SingleTerm("fitnet", losses.mse, weight, stages=stages, adapter=lambda i: nn.Conv2d(*widths[i - 1], 1))]


def at(student: ModelSpec, teacher: ModelSpec, *, stages: Sequence[int], weight: float) -> Parts:
    """mean (Q^S - Q^T)², Q = vec(mean over channels of F²) / its norm

    Zagoruyko and Komodakis 2017, arXiv 1612.03928; weight as run in CIRKD

    10000 in CIRKD's runs with DeepLabV3, ResNet-101 -> 18, crops of 512 x 1024, maps of 64 x 128, with kd. The term
    falls as 1 / positions: at feature 4 of 64 x 128 images (2 x 4) it counts 1024 times as much as there, of 512 x 512
    images 32 times. A LayerNorm before the map leaves F² almost even, which makes the term small
    """
    return [SingleTerm("at", losses.at, weight, stages=stages)]


def mgd(student: ModelSpec, teacher: ModelSpec, *, stages: Sequence[int], masked: float, weight: float) -> Parts:
    """2048 · 64² · mean (G(mask · conv1x1(F^S)) - F^T)², G = conv3x3-ReLU-conv3x3

    Yang et al. 2022, arXiv 2205.01529

    2e-5 for a sum over maps of 2048 x 64 x 64 (PSPNet and DeepLabV3, ResNet-101 -> 18, crops of 512 x 512), with cwd.
    The sum over any map is scaled to that size, so that it does not grow with the map
    """
    widths = list(zip(student.channels, teacher.channels, strict=True))

    def loss(generated: Tensor, wanted: Tensor) -> Tensor:
        return losses.mgd(generated, wanted) * (PUBLISHED_MGD_MAP / wanted[0].numel())

    return [SingleTerm("mgd", loss, weight, stages=stages, adapter=lambda i: MaskedGenerator(*widths[i - 1], masked))]


class MaskedGenerator(nn.Module):
    """MGD's block: align the width (where it differs), zero random positions, generate with
    conv3x3-ReLU-conv3x3.

    student, teacher: the widths C_S and C_T of their maps. A position is zeroed with probability `masked`, in all
    channels at once. (N, C_S, H, W) -> (N, C_T, H, W).
    """

    def __init__(self, student: int, teacher: int, masked: float = 0.75) -> None:
        super().__init__()
        if not 0 <= masked <= 1:
            raise ValueError(f"masked is a probability, got {masked}")
        self.masked = masked
        self.align = nn.Identity() if student == teacher else nn.Conv2d(student, teacher, 1)
        first, second = (nn.Conv2d(teacher, teacher, 3, padding=1) for _ in range(2))
        self.generate = nn.Sequential(first, nn.ReLU(), second)

    def forward(self, feature: Tensor) -> Tensor:
        kept = torch.rand_like(feature[:, :1], dtype=torch.float32) >= self.masked
        return self.generate(self.align(feature) * kept)


def skd(student: ModelSpec, teacher: ModelSpec, *, stages: Sequence[int], pool: int | None, weight: float) -> Parts:
    """mean (a^S - a^T)², a_ij = f_i · f_j of max-pooled positions of unit length

    Liu et al. 2019, arXiv 1903.04197; weight as run in CIRKD

    10 in CIRKD's runs with DeepLabV3, ResNet-101 -> 18, crops of 512 x 1024, maps of 64 x 128, and for SegFormer-B4 ->
    B0, crops of 1024 x 1024, decoder maps of 256 x 256, with kd and an adversarial loss. Both pool 2 x 2, to 32 x 64
    and 128 x 128 nodes; pool=None pools maps of more than 32 x 64 positions to at most so many. A mean over pairs,
    which does not grow with the map
    """
    return [SingleTerm("skd", partial(losses.skd, pool=pool), weight, stages=stages)]


def ifvd(student: ModelSpec, teacher: ModelSpec, *, stages: Sequence[int], weight: float) -> Parts:
    """mean over valid positions of (m^S - m^T)², m(p) = cosine(f(p), mean feature of p's class)

    Wang et al. 2020, ECCV; weight as run in CIRKD

    20 in CIRKD's runs with DeepLabV3, ResNet-101 -> 18, crops of 512 x 1024, maps of 64 x 128, and for SegFormer-B4 ->
    B0, crops of 1024 x 1024, decoder maps of 256 x 256, with kd and an adversarial loss; Wang et al. take 200. A mean
    over positions, which does not grow with the map; a class with one position in an image adds nothing
    """
    loss = partial(losses.ifvd, num_classes=max(student.num_classes, teacher.num_classes))
    return [SingleTerm("ifvd", loss, weight, stages=stages, labels=True)]


def cirkd(student: ModelSpec, teacher: ModelSpec, *, stages: Sequence[int], weight: float, **options: Any) -> Parts:
    """mean over image pairs and rows of KL(T ‖ S), row softmax of f_i(p) · f_j(q) / tau; plus kd

    Yang et al. 2022, arXiv 2204.06986 (mini-batch part)

    1 in CIRKD's runs with DeepLabV3, ResNet-101 -> 18, crops of 512 x 1024, maps of 64 x 128, and for SegFormer-B4 ->
    B0, crops of 1024 x 1024, decoder maps of 256 x 256 averaged to 64 x 64, with kd. pool=None averages maps of more
    than 64 x 128 positions to at most so many. A mean over rows, which hardly grows with the map
    """
    of_kd = {name.removeprefix("kd_"): options.pop(name) for name in KD_OF_CIRKD}
    relations = SingleTerm("cirkd", partial(losses.cirkd, **options), weight, stages=stages)
    return [relations, *kd(student, teacher, **of_kd)]


# --- The table.


class Method(NamedTuple):
    """What builds a method's parts, the names and defaults of its options, and what `describe` prints of it."""

    build: Builder
    options: Mapping[str, Any]
    formula: str = ""
    source: str = ""
    strength: str = ""


KD_OF_CIRKD = {"kd_temperature": 1.0, "kd_weight": 1.0}
METHODS: dict[str, Method] = {
    name: Method(build, options, *(" ".join(text.split()) for text in str(build.__doc__).split("\n\n")))
    for name, build, options in (
        ("transkd-base", transkd_base, FEATURES | EMBEDDINGS),
        ("transkd-gl", transkd_gl, FEATURES | EMBEDDINGS | {"mixer_start": (0.5, 0.5), "residual": False}),
        ("transkd-ea", transkd_ea, FEATURES | EMBEDDINGS | {"linear_path": True}),
        ("csf", csf, FEATURES),
        ("pea", pea, EMBEDDINGS),
        ("review", review, {"feature_weight": 1.0, "fusion_width": 64}),
        ("cwd-features", cwd_features, {"temperature": 1.0, "weight": 1.0}),
        ("kd", kd, {"temperature": 1.0, "weight": 1.0}),
        ("cwd", cwd, {"temperature": 4.0, "over": "positions", "weight": 3.0}),
        ("dkd", dkd, {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "weight": 1.0}),
        ("dist", dist, {"beta": 1.0, "gamma": 1.0, "temperature": 1.0, "weight": 1.0}),
        ("fitnet", fitnet, {"stages": (4,), "weight": 10.0}),
        ("at", at, {"stages": (4,), "weight": 1e4}),
        ("mgd", mgd, {"stages": (4,), "masked": 0.75, "weight": 2e-5}),
        ("skd", skd, {"stages": (4,), "pool": None, "weight": 10.0}),
        ("ifvd", ifvd, {"stages": (4,), "weight": 20.0}),
        ("cirkd", cirkd, {"stages": (4,), "temperature": 0.1, "pool": None, "weight": 1.0} | KD_OF_CIRKD),
    )
}
BUILT_IN = frozenset(METHODS)


def register(name: str, *, formula: str, source: str, strength: str = "") -> Callable[[Builder], Builder]:
    """Decorator for a method of one's own: a function (student spec, teacher spec, *, options) -> list of parts.

    The keyword-only arguments of the function are the method's options. Raises `ValueError` for the name of a method of
    this library; one of one's own is replaced.

    >>> @register("contrast", formula="…", source="this example")
    ... def contrast(student, teacher, *, weight=1.0):
    ...     return [SingleTerm("contrast", losses.mse, weight)]
    >>> METHODS.pop("contrast").options
    {'weight': 1.0}
    """
    if name in BUILT_IN or name == "none" or "+" in name:
        raise ValueError(f"a method of one's own needs a name of its own, without +; got {name!r}")

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
    warmup_steps: int | Mapping[str, int] = 0,
    **options: Any,
) -> Distiller:
    """Build the method `name`, or several joined with "+", for a pair of networks.

    weights: replaces the default weights of the terms named in it.
    warmup_steps: over so many training steps weights rise linearly from 0, all of them or those of the terms named.
    options: those of the methods (`describe` lists them). Where two joined methods take the same one, write
        "method.option".

    Raises `ValueError` for unknown names and options, and for networks that cannot be compared.
    """
    student_spec: Any = getattr(student, "spec", student)
    teacher_spec: Any = getattr(teacher, "spec", teacher)
    for role, spec in (("student", student_spec), ("teacher", teacher_spec)):
        if not isinstance(spec, ModelSpec):
            raise ValueError(f"{role} must be a SegModel or a ModelSpec, got {type(spec).__name__}")
    joined = name.split("+")
    if unknown := [part for part in joined if part not in METHODS]:
        known = ", ".join(list_methods())
        raise ValueError(f"unknown method {unknown[0]!r}: there are {known}, and any of them joined with +")
    own = {part: dict(METHODS[part].options) for part in joined}
    for key, value in options.items():
        addressee, _, option = key.rpartition(".")
        takers = [part for part in joined if option in own[part] and addressee in ("", part)]
        if len(takers) != 1:
            valid = "; ".join(f"{part} takes {', '.join(own[part])}" for part in joined)
            raise ValueError(f"option {key!r} must be that of one method, as option or method.option: {valid}")
        own[takers[0]][option] = value
    parts = [part for method in joined for part in METHODS[method].build(student_spec, teacher_spec, **own[method])]
    compared = any(isinstance(part, SingleTerm) and part.stages is None for part in parts)
    if compared and student_spec.num_classes != teacher_spec.num_classes:
        ours, theirs = (f"{spec.name} has {spec.num_classes} classes" for spec in (student_spec, teacher_spec))
        advice = "build both with the same num_classes, or choose a method that compares features"
        raise ValueError(f"{name} compares logits by class, but the student {ours} and the teacher {theirs}: {advice}")
    terms = [term for part in parts for term in part.weights]
    if not terms or len(set(terms)) < len(terms):
        raise ValueError(f"a method needs terms, of different names; {name} would have {', '.join(terms) or 'none'}")
    warmup = dict.fromkeys(terms, warmup_steps) if isinstance(warmup_steps, int) else dict(warmup_steps)
    if strange := sorted({*(weights or {}), *warmup} - {*terms}):
        raise ValueError(f"{name} has the terms {', '.join(terms)}; weights or warmup_steps name {listed(strange)}")
    distiller = Distiller(name, parts, student_spec, teacher_spec)
    distiller.options |= {f"{part}.{option}": value for part in joined for option, value in own[part].items()}
    distiller.weights.update({term: float(weight) for term, weight in (weights or {}).items()})
    distiller.warmup = {term: steps for term, steps in warmup.items() if steps > 0}
    return distiller


# --- What each method is, in words. Terms and weights are read off the method, built for the paper's pair of networks.

PAPER_STUDENT = ModelSpec("segformer_b0", (32, 64, 160, 256))
PAPER_TEACHER = ModelSpec("segformer_b2", (64, 128, 320, 512))


def describe(name: str) -> None:
    """Print a method's formula, source, options, terms and default weights; of "a+b" those of both.

    The line "weight" tells with which networks, crops and map sizes the default weight was published (where it says
    "with kd", NAME+kd is the published loss), and how the term grows with the map.

    Raises `ValueError` for an unknown method.
    """
    with torch.device("meta"):  # the shapes are enough
        weights = create_method(name, PAPER_STUDENT, PAPER_TEACHER).weights
    for part in name.split("+"):
        method = METHODS[part]
        print(f"{part}\n  formula  {method.formula}\n  source   {method.source}")
        if method.strength:
            print(fill(method.strength, 110, initial_indent="  weight   ", subsequent_indent=" " * 11))
        print("  options ", ", ".join(f"{option}={value!r}" for option, value in method.options.items()))
    print("  terms and default weights ", ", ".join(f"{term} {weight:g}" for term, weight in weights.items()))
