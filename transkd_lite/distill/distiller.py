"""The Distiller: what every method is during training, whatever it compares.

    terms = distiller(images, student(images), teacher(images), labels)     {"csf_1": …, "pea_4": …}
    loss = cross_entropy + distiller.combine(terms)

It checks what comes in, cuts the teacher out of the graph, asks its parts for their terms, and weighs them.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from transkd_lite.data.labels import require_train_ids
from transkd_lite.distill import losses
from transkd_lite.distill.embedding import EmbeddingAssistant, GLMixer, StageAlignment
from transkd_lite.distill.fusion import ABF, CSF, Separate
from transkd_lite.distill.losses import count_valid, map_size, resize_map, resize_tokens, valid_pixels
from transkd_lite.models.output import ModelSpec, SegOutput, listed

__all__ = [
    "CIRKD",
    "CIRKD_SEGFORMER",
    "METHODS",
    "AlignedEmbeddings",
    "Distiller",
    "FusedFeatures",
    "Method",
    "Part",
    "SingleTerm",
    "check_same_classes",
    "check_stages",
    "register",
]

# --- What a method is made of: `Part`, a module that yields named terms, and the registry of methods.
#
# A method is a function that builds its parts for two networks; `register` files it under its name together
# with the formula and the source that `describe` prints. The keyword-only arguments of the function are the
# method's options; where it hands `**options` on, those of the function it hands them to count too.

STAGES = (1, 2, 3, 4)
# Runs for which several default weights were published (github.com/winycg/CIRKD).
CIRKD = "CIRKD's runs with DeepLabV3, ResNet-101 -> 18, crops of 512 x 1024, maps of 64 x 128"
CIRKD_SEGFORMER = "SegFormer-B4 -> B0, crops of 1024 x 1024, decoder maps of 256 x 256"


class Part(nn.Module):
    """Some terms of a method, with the modules that exist only to compute them.

    `family` names the part inside a Distiller, `weights` holds one default weight for each term that
    `forward` yields. `processes` is the number of processes that share a mini-batch; the training loop sets it.
    """

    processes = 1

    def __init__(self, family: str, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.family = family
        self.weights = dict(weights)

    def forward(
        self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None
    ) -> dict[str, Tensor]:
        """Unweighted scalar terms by the names that `weights` has. The teacher is detached already."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")


class SingleTerm(Part):
    """One term that bears its method's name: a loss of pairs of maps, added over the stages.

    - loss(student map, teacher map), with the labels as a third argument unless `labels` is "unused";
      "required" refuses a batch without labels. Where processes share a mini-batch it also gets `count`, the
      number of valid pixels to divide by (see `adapt.count_valid`).
    - stages: whose features are compared; None means the logits.
    - adapters: by stage, modules that bring the student's map to the teacher's width where the loss needs it.

    The student's map is resized to the teacher's (bilinear) before it is adapted.
    """

    def __init__(
        self,
        name: str,
        loss: Callable[..., Tensor],
        weight: float,
        *,
        stages: Sequence[int] | None = None,
        adapters: Mapping[int, nn.Module] | None = None,
        labels: Literal["unused", "optional", "required"] = "unused",
    ) -> None:
        super().__init__(name, {name: weight})
        self.loss, self.labels = loss, labels
        self.stages = None if stages is None else check_stages("stages", stages)
        if self.stages == ():
            raise ValueError(f"{name} compares features: stages must name at least one of 1, 2, 3, 4")
        self.adapters = nn.ModuleDict({str(stage): module for stage, module in (adapters or {}).items()})

    def _compare(self, student: Tensor, teacher: Tensor, labels: Tensor | None, adapter: str = "") -> Tensor:
        resized = resize_map(student, map_size(teacher))
        adapted = self.adapters[adapter](resized) if adapter in self.adapters else resized
        if self.labels == "unused":
            return self.loss(adapted, teacher)
        shared = (
            {"count": count_valid(valid_pixels(labels, teacher), self.processes)}
            if self.processes > 1
            else {}
        )
        return self.loss(adapted, teacher, labels, **shared)

    def forward(
        self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None
    ) -> dict[str, Tensor]:
        if self.labels == "required" and labels is None:
            raise ValueError(f"{self.family} needs labels, got None: pass labels=… to the distiller")
        if self.stages is None:
            return {self.family: self._compare(student.logits, teacher.logits, labels)}
        maps = ((i, student.features[i - 1], teacher.features[i - 1]) for i in self.stages)
        return {self.family: torch.stack([self._compare(s, t, labels, str(i)) for i, s, t in maps]).sum()}


Builder = Callable[..., list[Part]]


def _keyword_options(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


@dataclass(frozen=True)
class Method:
    """A registered method: the function that builds its parts, what `describe` prints, the options' defaults."""

    name: str
    build: Builder
    formula: str
    source: str
    strength: str
    options: Mapping[str, Any]


METHODS: dict[str, Method] = {}


def register(
    name: str, *, formula: str, source: str, strength: str = "", options_of: Sequence[Callable[..., Any]] = ()
) -> Callable[[Builder], Builder]:
    """Decorator: file a function (student spec, teacher spec, *, options) -> list of parts as method `name`.

    `strength` says with which networks and map sizes the default weight was published, and how the term grows with the
    map. `options_of` are the functions that get the builder's `**options`.
    """

    def decorate(build: Builder) -> Builder:
        options = {k: v for f in (*options_of, build) for k, v in _keyword_options(f).items()}
        METHODS[name] = Method(name, build, formula, source, strength, options)
        return build

    return decorate


def check_stages(option: str, stages: Sequence[int]) -> tuple[int, ...]:
    """The stages as a tuple. Raises ValueError unless they are some of 1 … 4 in ascending order."""
    chosen = tuple(stages) if isinstance(stages, list | tuple) else (stages,)
    if any(s not in STAGES for s in chosen) or list(chosen) != sorted(set(chosen)):
        raise ValueError(f"{option} must be some of the stages 1, 2, 3, 4 in ascending order, got {stages!r}")
    return tuple(int(stage) for stage in chosen)


def check_same_classes(method: str, student: ModelSpec, teacher: ModelSpec) -> None:
    """Raise ValueError where the logits of the two networks do not mean the same classes."""
    if student.num_classes != teacher.num_classes:
        raise ValueError(
            f"{method} compares logits class by class, but the student {student.name} has "
            f"{student.num_classes} classes and the teacher {teacher.name} has {teacher.num_classes}: "
            "build both with the same num_classes, or choose a method that compares features"
        )


# --- The Distiller: what every method is during training, whatever it compares.


def _check_output(role: str, output: SegOutput, spec: ModelSpec) -> None:
    """Raise ValueError, naming the stage and the shapes, where an output is not what the spec promises."""
    if output.logits.ndim != 4 or output.logits.shape[1] != spec.num_classes:
        raise ValueError(
            f"{role} logits have shape {tuple(output.logits.shape)}, but {spec.name} promises "
            f"{spec.num_classes} classes: create the method for the networks that it is used with"
        )
    if len(output.features) != 4 or len(output.embeddings) != 4:
        raise ValueError(
            f"{role} must give 4 features and 4 embeddings, got {len(output.features)} "
            f"and {len(output.embeddings)}"
        )
    stages = zip(output.features, output.embeddings, spec.channels, strict=True)
    for stage, (feature, embedding, channels) in enumerate(stages, start=1):
        expected = (feature.shape[0], feature.shape[2:].numel(), channels)
        if feature.ndim != 4 or feature.shape[1] != channels or tuple(embedding.shape) != expected:
            raise ValueError(
                f"{role} stage {stage}: {spec.name} promises a feature (N, {channels}, H, W) and an "
                f"embedding (N, H*W, {channels}), got {tuple(feature.shape)} and {tuple(embedding.shape)}: "
                "create the method for the networks that it is used with"
            )


def _check_batch(images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None) -> None:
    """Raise ValueError unless all have the same number of images."""
    sizes = {"images": len(images), "student": len(student.logits), "teacher": len(teacher.logits)}
    if labels is not None:
        sizes["labels"] = len(labels)
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"a batch has one number of images, got {counts}: pass outputs of the same images")


def _constant(output: SegOutput) -> SegOutput:
    """The same values outside the graph. Tensors of inference mode, which backward cannot use, are copied."""

    def cut(x: Tensor) -> Tensor:
        return x.clone() if x.is_inference() else x.detach()

    return SegOutput(cut(output.logits), tuple(map(cut, output.features)), tuple(map(cut, output.embeddings)))


def _influence(term: Tensor, outputs: Sequence[Tensor]) -> float:
    """How much a term changes with the student's outputs, Σ |gradient| |output|; rounding leaves up to 1e-7."""
    if not term.requires_grad:
        return 0.0
    scale = torch.full_like(term, 2.0**16)  # float16 would flush the gradient of a mean over a map to 0
    gradients = torch.autograd.grad(term, outputs, scale, retain_graph=True, allow_unused=True)
    pairs = [
        (g.float(), x.detach().float()) for g, x in zip(gradients, outputs, strict=True) if g is not None
    ]
    return sum(float(g.norm() * x.norm().clamp_min(1) / scale) for g, x in pairs)


class Distiller(nn.Module):
    """A method for one pair of networks; its parameters exist only during training.

    - name, options: what `create_method` was called with.
    - parts: the families of terms, e.g. `parts["csf"].fusion` and `parts["pea"].stages["4"]`.
    - terms: the names of the terms, in order.
    - weights: one entry for each term; may be changed at any time, `combine` reads it.
    - warmup: for some terms the number of steps over which the weight rises linearly from 0.
    - steps_seen: forward passes in training mode; in the state dict, so that a warm-up goes on after a resume.
    """

    steps_seen: Tensor

    def __init__(self, name: str, parts: Sequence[Part], student: ModelSpec, teacher: ModelSpec) -> None:
        super().__init__()
        self.name = name
        self.options: dict[str, Any] = {}
        self.student_spec, self.teacher_spec = student, teacher
        self.parts = nn.ModuleDict({part.family: part for part in parts})
        self.weights: dict[str, float] = {k: v for part in parts for k, v in part.weights.items()}
        self.terms = tuple(self.weights)
        self.warmup: dict[str, int] = {}
        self._processes: int | None = None  # known within a training loop alone
        self._smallest = (
            torch.inf
        )  # pixels of the smallest images for which terms without gradient were looked for
        self._idle: set[str] = set()  # those found
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.long))

    def join_training(self, processes: int) -> None:
        """Called by the training loop: so many processes share a mini-batch, and its labels are known to be train ids.

        Labels are not checked any more, since that would wait for the device at every step.
        """
        self._processes = processes
        for part in self.parts.values():
            part.processes = processes  # type: ignore[assignment]

    def forward(
        self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Unweighted scalar terms of one batch; no gradient flows into the teacher's output.

        images (N, 3, H, W); labels (N, h, w) of any size, 255 = void, or None where no term needs them.
        Raises ValueError for outputs that are not those of the networks that the method was created for, and for
        labels that are no class of either. Warns once of a term that cannot change the student at this size.
        """
        _check_batch(images, student, teacher, labels)
        if labels is not None and self._processes is None:
            classes = max(self.student_spec.num_classes, self.teacher_spec.num_classes)
            require_train_ids(labels, classes, f"the labels for {self.name}")
        _check_output("student", student, self.student_spec)
        _check_output("teacher", teacher, self.teacher_spec)
        teacher = _constant(teacher)
        if self.training:
            self.steps_seen += 1
        terms: dict[str, Tensor] = {}
        for part in self.parts.values():
            terms.update(part(images, student, teacher, labels))
        self._warn_of_idle_terms(images, student, labels, terms)
        return terms

    def _warn_of_idle_terms(
        self, images: Tensor, student: SegOutput, labels: Tensor | None, terms: Mapping[str, Tensor]
    ) -> None:
        """Warn once of every term without gradient with respect to the student. It takes a backward pass through the
        terms, at the first mini-batch and at the first of smaller images.

        A mini-batch without labelled positions says nothing and is passed over, as is training on several processes,
        whose gradients wait for each other.
        """
        outputs = [x for x in (student.logits, *student.features, *student.embeddings) if x.requires_grad]
        alone, pixels = self._processes in (None, 1), images.shape[2:].numel()
        if not (outputs and alone and torch.is_grad_enabled()) or pixels >= self._smallest:
            return
        if labels is not None and not valid_pixels(labels, student.features[3]).any():
            return
        self._smallest = pixels
        idle = [name for name in terms.keys() - self._idle if _influence(terms[name], outputs) < 1e-7]
        self._idle.update(idle)
        if idle:
            sizes = ", ".join(f"{f.shape[2]} x {f.shape[3]}" for f in student.features)
            warnings.warn(
                f"{self.name}: the gradient of {', '.join(sorted(idle))} with respect to the student is 0 on images of "
                f"{images.shape[2]} x {images.shape[3]} (features of {sizes}; {student.logits.shape[1]} classes). One "
                "position, one class or constant maps leave nothing to compare: take larger images or earlier stages, "
                "or leave the term out",
                stacklevel=3,
            )

    def _weight(self, term: str) -> float | Tensor:
        """The weight of a term at this step; a warm-up's stays on the device, so that nothing waits for it."""
        steps = self.warmup.get(term, 0)
        return self.weights[term] * (self.steps_seen / steps).clamp(max=1) if steps else self.weights[term]

    def combine(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The sum of the terms, each times its weight. The supervised loss is not in it.

        Raises ValueError for a term that is not this method's, and where `weights` has lost or gained a name.
        """
        strange = (set(terms) - set(self.terms)) | (set(self.weights) ^ set(self.terms))
        if strange:
            raise ValueError(
                f"{self.name} has the terms {', '.join(self.terms)}, each with one weight; "
                f"check {listed(sorted(strange))}"
            )
        return torch.stack([self._weight(name) * term for name, term in terms.items()]).sum()


# --- The TransKD family: fused features, aligned embeddings, and the methods that are made of these two parts.
#
#     transkd-base = csf + pea        transkd-gl = csf + pea with a Global-Local Mixer
#     review       = abf              transkd-ea = csf + pea with Embedding Assistants
#
# TransKD: Liu et al., arXiv 2202.13393, section III. Knowledge Review: Chen et al. 2021, arXiv 2104.09044.

PAPER = "Liu et al. 2022, arXiv 2202.13393"
PAPER_STRENGTH = (
    "as published for SegFormer-B2 -> B0, images of 512 x 1024, maps of 128 x 256 to 16 x 32. Means over elements, "
    "which do not grow with the map"
)
PAPER_WEIGHTS = (0.1, 0.1, 0.5, 1.0)


class FusedFeatures(Part):
    """The student's four features, fused, against the teacher's: one term `<prefix>_<stage>` a stage.

    `fusion` maps four student maps to four maps of the teacher's widths.
    """

    def __init__(
        self,
        family: str,
        prefix: str,
        fusion: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        weight: float = 1.0,
    ) -> None:
        super().__init__(family, {f"{prefix}_{stage}": weight for stage in STAGES})
        self.fusion = fusion
        self.loss = loss

    def forward(
        self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None
    ) -> dict[str, Tensor]:
        fused = self.fusion(student.features)
        pairs = zip(self.weights, fused, teacher.features, strict=True)
        return {name: self.loss(resize_map(s, map_size(t)), t) for name, s, t in pairs}


class AlignedEmbeddings(Part):
    """The student's patch embeddings in the teacher's width: one term `pea_<stage>` a chosen stage.

    `stages` maps "1" … "4" to modules (tokens, input of the stage, size of its grid) -> projected tokens.
    """

    def __init__(self, stages: Mapping[int, nn.Module], weights: Mapping[int, float]) -> None:
        super().__init__("pea", {f"pea_{stage}": weights[stage] for stage in stages})
        self.stages = nn.ModuleDict({str(stage): module for stage, module in stages.items()})

    def projected(self, images: Tensor, student: SegOutput) -> dict[int, Tensor]:
        """The projected embeddings (N, H_i*W_i, C_T_i) of the chosen stages."""
        inputs = (images, *student.features)
        sizes = [map_size(feature) for feature in student.features]
        return {
            i: module(student.embeddings[i - 1], inputs[i - 1], sizes[i - 1])
            for i, module in ((int(key), module) for key, module in self.stages.items())
        }

    def forward(
        self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None
    ) -> dict[str, Tensor]:
        terms = {}
        for i, tokens in self.projected(images, student).items():
            own, wanted = map_size(student.features[i - 1]), map_size(teacher.features[i - 1])
            terms[f"pea_{i}"] = losses.mse(resize_tokens(tokens, own, wanted), teacher.embeddings[i - 1])
        return terms


def _choose(option: str, value: str, choices: Mapping[str, Callable]) -> Callable:
    if value not in choices:
        raise ValueError(f"{option} must be one of {', '.join(choices)}, got {value!r}")
    return choices[value]


def _fused(
    student: ModelSpec,
    teacher: ModelSpec,
    family: str = "csf",
    prefix: str = "csf",
    *,
    fusion: str = "csf",
    feature_weight: float = 1.0,
    feature_loss: str = "hcl",
    feature_temperature: float = 1.0,
    fusion_width: int = 64,
    bare_squeeze: bool = False,
) -> FusedFeatures:
    """The feature half. `bare_squeeze` adds what only the authors' checkpoints have (see `CSFStage`)."""
    fusions: dict[str, Callable] = {
        "csf": partial(CSF, width=fusion_width, bare_squeeze=bare_squeeze),
        "abf": partial(ABF, width=fusion_width),
        "none": Separate,
    }
    distances: dict[str, Callable] = {
        "hcl": losses.hcl,
        "cwd": partial(losses.cwd, temperature=feature_temperature, over="positions"),
        "kl": partial(losses.cwd, temperature=feature_temperature, over="classes"),
    }
    module = _choose("fusion", fusion, fusions)(student.channels, teacher.channels)
    distance = _choose("feature_loss", feature_loss, distances)
    return FusedFeatures(family, prefix, module, distance, feature_weight)


def _weights_of(stages: tuple[int, ...], weights: Sequence[float]) -> dict[int, float]:
    """Weights by stage: four stand for stages 1 … 4, fewer for the chosen stages in order."""
    if len(weights) == len(STAGES):
        return dict(zip(STAGES, weights, strict=True))
    if len(weights) == len(stages):
        return dict(zip(stages, weights, strict=True))
    raise ValueError(
        f"embedding_weights must have 4 entries, or one for each of embedding_stages {stages}; "
        f"got {tuple(weights)}"
    )


def _aligned(
    build: Callable[[int], nn.Module],
    *,
    embedding_stages: Sequence[int] = STAGES,
    embedding_weights: Sequence[float] = PAPER_WEIGHTS,
) -> list[Part]:
    """The embedding half: `build` makes the module of a stage. No part at all for no stages."""
    stages = check_stages("embedding_stages", embedding_stages)
    weights = _weights_of(stages, embedding_weights)
    return [AlignedEmbeddings({i: build(i) for i in stages}, weights)] if stages else []


@register(
    "csf",
    formula="Σ_i HCL(CSF(F^S)_i, F^T_i)",
    source=f"{PAPER}, the feature half of TransKD-Base",
    strength=PAPER_STRENGTH,
    options_of=[_fused],
)
def _csf(student: ModelSpec, teacher: ModelSpec, **options: Any) -> list[Part]:
    return [_fused(student, teacher, **options)]


@register(
    "pea",
    formula="Σ_i w_i MSE(Linear_i(E^S_i), E^T_i)",
    source=f"{PAPER}, the embedding half of TransKD-Base",
    strength=PAPER_STRENGTH,
    options_of=[_aligned],
)
def _pea(student: ModelSpec, teacher: ModelSpec, **options: Any) -> list[Part]:
    return _aligned(_linear(student, teacher), **options)


def _linear(student: ModelSpec, teacher: ModelSpec) -> Callable[[int], nn.Module]:
    return lambda i: StageAlignment(student.channels[i - 1], teacher.channels[i - 1])


def _halves(
    student: ModelSpec, teacher: ModelSpec, build: Callable[[int], nn.Module], options: Mapping[str, Any]
) -> list[Part]:
    """Both halves, each with its own of the options."""
    embedding = {name: value for name, value in options.items() if name.startswith("embedding_")}
    feature = {name: value for name, value in options.items() if name not in embedding}
    return [_fused(student, teacher, **feature), *_aligned(build, **embedding)]


@register(
    "transkd-base",
    formula="Σ_i HCL(CSF(F^S)_i, F^T_i) + Σ_i w_i MSE(Linear_i(E^S_i), E^T_i)",
    source=PAPER,
    strength=PAPER_STRENGTH,
    options_of=[_fused, _aligned],
)
def _transkd_base(student: ModelSpec, teacher: ModelSpec, **options: Any) -> list[Part]:
    return _halves(student, teacher, _linear(student, teacher), options)


@register(
    "transkd-gl",
    formula="transkd-base with E_i <- a MHSA(E_i) + b conv1d_3(E_i) · sigmoid(conv1d_3(E_i)) in stage 4",
    source=PAPER,
    strength=PAPER_STRENGTH,
    options_of=[_fused, _aligned],
)
def _transkd_gl(
    student: ModelSpec,
    teacher: ModelSpec,
    *,
    mixer_stages: Sequence[int] = (4,),
    mixer_heads: int = 8,
    mixer_start: Sequence[float] = (0.5, 0.5),
    residual: bool = False,
    **options: Any,
) -> list[Part]:
    mixed = check_stages("mixer_stages", mixer_stages)
    unused = set(mixed) - set(check_stages("embedding_stages", options.get("embedding_stages", STAGES)))
    if unused:
        raise ValueError(f"mixer_stages {sorted(unused)} are not among embedding_stages: add them there")

    def build(i: int) -> nn.Module:
        own, wanted = student.channels[i - 1], teacher.channels[i - 1]
        mixer = GLMixer(own, mixer_heads, residual, mixer_start) if i in mixed else None
        return StageAlignment(own, wanted, mixer)

    return _halves(student, teacher, build, options)


@register(
    "transkd-ea",
    formula="transkd-base with a_i Linear_i(E_i) + b_i PatchEmbed_i(input of stage i) for Linear_i(E_i)",
    source=PAPER,
    strength=PAPER_STRENGTH,
    options_of=[_fused, _aligned],
)
def _transkd_ea(
    student: ModelSpec, teacher: ModelSpec, *, linear_path: bool = True, **options: Any
) -> list[Part]:
    inputs, before = (3, *student.channels), (1, *student.strides)

    def build(i: int) -> nn.Module:
        widths = (inputs[i - 1], student.channels[i - 1], teacher.channels[i - 1])
        stride = student.strides[i - 1] // before[i - 1]
        return EmbeddingAssistant(i, *widths, student.patch_sizes[i - 1], stride, linear_path)

    return _halves(student, teacher, build, options)


@register(
    "review",
    formula="Σ_i HCL(ABF(F^S)_i, F^T_i)",
    source="Chen et al. 2021, arXiv 2104.09044",
    strength="the width 64 and the weight 1 are TransKD's; Chen et al. take 256 and, for image classification, 0.6 to "
    "8, rising over 20 epochs (schedule, warmup_steps). Means over elements, which do not grow with the map",
)
def _review(
    student: ModelSpec, teacher: ModelSpec, *, feature_weight: float = 1.0, fusion_width: int = 64
) -> list[Part]:
    options: dict[str, Any] = {"feature_weight": feature_weight, "fusion_width": fusion_width}
    return [_fused(student, teacher, "review", "review", fusion="abf", **options)]


@register(
    "cwd-features",
    formula="Σ_i tau² / (N C) · Σ KL(T ‖ S) over positions, S = CSF(F^S)_i / tau, T = F^T_i / tau",
    source=f"{PAPER} (an option of its code), with the loss of Shu et al. 2021",
    strength="1 is the code's, which publishes no run; CIRKD takes 50 in its runs with DeepLabV3 and 5 for "
    "SegFormer-B4 -> B0, at temperature 4. Means over channels, which hardly grow with the map",
)
def _cwd_features(
    student: ModelSpec, teacher: ModelSpec, *, temperature: float = 1.0, weight: float = 1.0
) -> list[Part]:
    options: dict[str, Any] = {"feature_loss": "cwd", "feature_temperature": temperature}
    return [_fused(student, teacher, "cwd-features", "cwd", feature_weight=weight, **options)]
