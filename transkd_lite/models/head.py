"""Decoder heads: SegFormer's all-MLP head and the semantic-FPN head that the paper gives to PVTv2.

Sources: SegFormer (Xie et al. 2021, section 3.2); Panoptic feature pyramid networks (Kirillov et al. 2019).
Initial values are those of the published code, so that the first cross entropy is near log(num_classes).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transkd_lite.models.layers import to_map, to_tokens

__all__ = ["AllMLPHead", "SemanticFPNHead"]


class AllMLPHead(nn.Module):
    """Each feature to a common width, all to the largest size, fused by a 1x1 convolution, classified.

    features 4 x (N, C_i, H_i, W_i) -> logits (N, K, H_1, W_1). The concatenation runs from the deepest stage
    to the shallowest, as in the published weights. Layers begin with PyTorch's own values, the fusing
    convolution with Kaiming's normal (fan-out), as in NVIDIA's code and the TransKD authors'. With
    `normed_projections` (mmsegmentation's variant) so do the projections, and the classifier with a normal of
    standard deviation 0.01, as there.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        width: int,
        num_classes: int,
        *,
        dropout: float = 0.1,
        normed_projections: bool = False,
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(c, width, bias=not normed_projections) for c in channels)
        norms = (nn.BatchNorm2d(width) for _ in channels)
        self.projection_norms = nn.ModuleList(norms) if normed_projections else None
        self.fuse = nn.Conv2d(len(channels) * width, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        kaiming = [self.fuse.weight, *(self.projections.parameters() if normed_projections else [])]
        for weight in kaiming:
            nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
        if normed_projections:
            nn.init.normal_(self.classifier.weight, std=0.01)
            nn.init.zeros_(self.classifier.get_parameter("bias"))

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        size = features[0].shape[2:]
        maps = [_resize(self.project(i, feature), size) for i, feature in enumerate(features)]
        fused = F.relu(self.norm(self.fuse(torch.cat(maps[::-1], dim=1))))
        return self.classifier(self.dropout(fused))

    def project(self, i: int, feature: Tensor) -> Tensor:
        """Feature of stage i + 1, (N, C_i, H_i, W_i), at the common width."""
        projected = to_map(self.projections[i](to_tokens(feature)), (feature.shape[2], feature.shape[3]))
        if self.projection_norms is None:
            return projected
        return F.relu(self.projection_norms[i](projected))


class SemanticFPNHead(nn.Module):
    """Top-down pyramid of one width, each level brought to a quarter of the image by 3x3 convolutions, then
    summed.

    features 4 x (N, C_i, H_i, W_i) -> logits (N, K, H_1, W_1). As the paper gives it to PVTv2: pyramid of
    width 256 without norms, head of width 128. Level i passes max(1, i) convolutions (i = 0 … 3), each
    followed by ReLU and, for i > 0, by doubling the size. Initial values are mmsegmentation's: Xavier's uniform in
    the pyramid, Kaiming's normal (fan-out) in the head, a small normal in the classifier. Its standard deviation
    is 0.003 where mmsegmentation has 0.01, since without norms the features are about three times as large.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        num_classes: int,
        *,
        pyramid: int = 256,
        width: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, pyramid, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(pyramid, pyramid, 3, padding=1) for _ in channels)
        self.scales = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(width if j else pyramid, width, 3, padding=1) for j in range(max(1, i)))
            for i in range(len(channels))
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        for name, values in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(values)
            elif name.startswith("scales"):
                nn.init.kaiming_normal_(values, mode="fan_out", nonlinearity="relu")
            elif not name.startswith("classifier"):
                nn.init.xavier_uniform_(values)
        nn.init.normal_(self.classifier.weight, std=0.003)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        levels = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + F.interpolate(
                levels[i], size=levels[i - 1].shape[2:], mode="nearest"
            )
        size = features[0].shape[2:]
        scaled = [_resize(self._scaled(i, smooth(levels[i])), size) for i, smooth in enumerate(self.smooth)]
        return self.classifier(self.dropout(torch.stack(scaled).sum(0)))

    def _scaled(self, i: int, x: Tensor) -> Tensor:
        for convolution in self.scales[i].children():
            x = F.relu(convolution(x))
            if i > 0:
                x = _resize(x, [2 * x.shape[2], 2 * x.shape[3]])
        return x


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=(size[0], size[1]), mode="bilinear", align_corners=False)
