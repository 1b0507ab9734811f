"""The TransKD family: fused features, aligned embeddings, and the methods that are made of these two parts.

    transkd-base = csf + pea        transkd-gl = csf + pea with a Global-Local Mixer
    review       = abf              transkd-ea = csf + pea with Embedding Assistants

TransKD: Liu et al., arXiv 2202.13393, section III. Knowledge Review: Chen et al. 2021, arXiv 2104.09044.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from transkd_lite.distill import losses
from transkd_lite.distill.adapt import map_size, resize_map, resize_tokens
from transkd_lite.distill.embedding import EmbeddingAssistant, GLMixer, StageAlignment
from transkd_lite.distill.fusion import ABF, CSF, Separate
from transkd_lite.distill.part import STAGES, Part, check_stages, register
from transkd_lite.models.output import ModelSpec, SegOutput

__all__ = ["AlignedEmbeddings", "FusedFeatures"]

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
