"""Fusing the student's stages: CSF (TransKD, section III-A) and ABF (Knowledge Review).

Both go from the deepest stage to the shallowest. Stage i is reduced to a common width, x = BN(conv1x1(F_i)),
and merged with the map y that comes up from the deeper stage, m = a1 x + a2 y; m goes on upwards, and
BN(conv3x3(m)), with the teacher's channels, is what the teacher's feature i is compared with. They differ in
the two weights alone:

    ABF   a sigmoid for every position, of conv1x1([x; y])     Chen et al. 2021, arXiv 2104.09044
    CSF   a softmax across the branches for every channel      after selective kernels, arXiv 1903.06586

`Separate` is the ablation without fusion: every stage alone.

In the authors' files index 0 of `skfs` / `abfs` is the deepest stage, `stages[3]` here. There `conv1` is our
`reduce`, `conv2` `expand`, `fc` `squeeze`, `fc1` `bare_squeeze`, `fcs` `heads` and `att_conv.0` `gate`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transkd_lite.distill.distiller import STAGES, Part, Terms
from transkd_lite.distill.losses import resize_map
from transkd_lite.models.output import SegOutput

__all__ = ["ABF", "CSF", "ABFStage", "CSFStage", "FusedFeatures", "Separate", "conv_bn"]

# --- Two small layers that the fusion modules are built of.


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that also trains where it sees one value a channel (a batch of one on a map of 1x1).

    The variance of one value is undefined, and PyTorch refuses. Such a batch is normalised with the running
    statistics, which it does not change.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def conv_bn(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Convolution without bias, size kept, then BatchNorm.

    The weights start uniform in ±sqrt(3 / fan_in), as in Knowledge Review and TransKD (PyTorch's default is
    sqrt(3) times smaller).
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, BatchNorm2d(out_channels))


# --- One stage.


class FusionStage(nn.Module):
    """One stage: reduce to the common width, merge with the deeper map, expand to the teacher's width.

    student, teacher, width: how many channels the maps have. This class is the deepest stage, which has nothing to
    merge; its children say how the others do.
    """

    def __init__(self, student: int, teacher: int, width: int = 64) -> None:
        super().__init__()
        self.reduce = conv_bn(student, width, 1)
        self.expand = conv_bn(width, teacher, 3)

    selection: Callable[[Tensor, Tensor], Sequence[Tensor] | Tensor]  # weights of x (this stage) and y (the deeper one)

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        """The merged map of x and y."""
        first, second = self.selection(x, y)
        return first * x + second * y

    def forward(self, feature: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """(N, C_S, H, W), deeper (N, width, h, w) -> output (N, C_T, H, W), merged (N, width, H, W)."""
        merged = self.reduce(feature.contiguous())  # a transformer's maps are transposed; convolutions are faster so
        if deeper is not None:
            merged = self.merge(merged, F.interpolate(deeper, size=merged.shape[2:], mode="nearest"))
        return self.expand(merged), merged


class ABFStage(FusionStage):
    """Attention-based fusion: a sigmoid gate for every position of each branch."""

    def __init__(self, student: int, teacher: int, width: int = 64) -> None:
        super().__init__(student, teacher, width)
        self.gate = nn.Conv2d(2 * width, 2, 1)

    def selection(self, x: Tensor, y: Tensor) -> Sequence[Tensor]:
        """The weights of both branches, each (N, 1, H, W) between 0 and 1."""
        return torch.sigmoid(self.gate(torch.cat([x, y], 1))).chunk(2, dim=1)


class CSFStage(FusionStage):
    """Cross selective fusion: for every channel a softmax chooses between the two branches.

    s = global average of x + y; u = ReLU(BN(W s)), max(width / 16, 32) wide; two linear heads on u.

    `bare_squeeze` is a second W without BatchNorm. The authors' modules hold one and take it for batches of
    one image, in evaluation too; it is there only when asked for, to hold their checkpoints. Without it a
    batch of one is, in training, normalised with the running statistics.
    """

    def __init__(self, student: int, teacher: int, width: int = 64, bare_squeeze: bool = False) -> None:
        super().__init__(student, teacher, width)
        squeezed = max(width // 16, 32)
        self.squeeze = nn.Sequential(nn.Conv2d(width, squeezed, 1, bias=False), BatchNorm2d(squeezed), nn.ReLU())
        bare = nn.Sequential(nn.Conv2d(width, squeezed, 1, bias=False), nn.ReLU()) if bare_squeeze else None
        self.bare_squeeze = bare
        self.heads = nn.ModuleList(nn.Conv2d(squeezed, width, 1) for _ in range(2))

    def selection(self, x: Tensor, y: Tensor) -> Tensor:
        """The weights of both branches, (2, N, width, 1, 1), adding to 1 over the first dimension."""
        pooled = F.adaptive_avg_pool2d(x + y, 1)
        squeeze = self.squeeze if self.bare_squeeze is None or len(pooled) > 1 else self.bare_squeeze
        squeezed = squeeze(pooled)
        return torch.softmax(torch.stack([head(squeezed) for head in self.heads]), dim=0)


# --- Four stages.


class Fusion(nn.Module):
    """Four stages, run from the deepest to the shallowest; `stages[0]` is stage 1.

    student and teacher are the four widths of both networks; the children name the class of the first three stages.
    """

    merging: type[FusionStage]

    def __init__(self, student: Sequence[int], teacher: Sequence[int], width: int = 64, **options: Any) -> None:
        super().__init__()
        *pairs, deepest = zip(student, teacher, strict=True)
        stages = [self.merging(*pair, width, **options) for pair in pairs]
        self.stages = nn.ModuleList([*stages, FusionStage(*deepest, width)])

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Four maps (N, C_S_i, H_i, W_i), stage 1 first -> four maps (N, C_T_i, H_i, W_i)."""
        outputs, merged = [], None
        for stage, feature in zip(reversed(self.stages), reversed(features), strict=True):
            output, merged = stage(feature, merged)
            outputs.append(output)
        return outputs[::-1]


class CSF(Fusion):
    """Cross selective fusion of four stages; `bare_squeeze=True` is for the authors' checkpoints alone."""

    merging = CSFStage


class ABF(Fusion):
    """Attention-based fusion of four stages."""

    merging = ABFStage


class Separate(nn.Module):
    """No fusion, hence no common width: every stage alone is brought to the teacher's, BN(conv1x1(F_i))."""

    def __init__(self, student: Sequence[int], teacher: Sequence[int], width: int = 0) -> None:
        super().__init__()
        self.stages = nn.ModuleList(conv_bn(s, t, 1) for s, t in zip(student, teacher, strict=True))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Four maps (N, C_S_i, H_i, W_i), stage 1 first -> four maps (N, C_T_i, H_i, W_i)."""
        return [stage(feature) for stage, feature in zip(self.stages, features, strict=True)]


class FusedFeatures(Part):
    """The student's four features, fused, against the teacher's: one term `<prefix>_<stage>` a stage.

    `fusion` maps four student maps to four maps of the teacher's widths.
    """

    def __init__(self, family: str, prefix: str, fusion: nn.Module, loss: Callable[..., Tensor], weight: float) -> None:
        super().__init__(family, {f"{prefix}_{stage}": weight for stage in STAGES})
        self.fusion, self.loss = fusion, loss
        self.reads = [f"features_{stage}" for stage in STAGES]

    def forward(self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None) -> Terms:
        pairs = zip(self.weights, self.fusion(student.features), teacher.features, strict=True)
        return {name: self.loss(resize_map(s, t.shape[2:]), t) for name, s, t in pairs}
