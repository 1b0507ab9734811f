"""Methods that compare single feature maps: `fitnet`, `at`, `mgd`; feature 4 unless `stages` says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from transkd_lite.distill import losses
from transkd_lite.distill.part import CIRKD, Part, SingleTerm, check_stages, register
from transkd_lite.models.output import ModelSpec

__all__ = ["MaskedGenerator"]

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
