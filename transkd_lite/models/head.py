"""Decoder heads: SegFormer's all-MLP head and the semantic-FPN head that the paper gives to PVTv2.

Sources: SegFormer (Xie et al. 2021, section 3.2); Panoptic feature pyramid networks (Kirillov et al. 2019).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transkd_lite.models.layers import initialise, to_map, to_tokens

__all__ = ["AllMLPHead"]


class AllMLPHead(nn.Module):
    """Each feature to a common width, all to the largest size, fused by a 1x1 convolution, classified.

    features 4 x (N, C_i, H_i, W_i) -> logits (N, K, H_1, W_1). The concatenation runs from the deepest stage
    to the shallowest, as in the published weights.
    """

    def __init__(
        self, channels: tuple[int, ...], width: int, num_classes: int, *, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(c, width) for c in channels)
        self.fuse = nn.Conv2d(len(channels) * width, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.apply(initialise)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        size = features[0].shape[2:]
        maps = []
        for feature, projection in zip(features, self.projections, strict=True):
            projected = to_map(projection(to_tokens(feature)), (feature.shape[2], feature.shape[3]))
            maps.append(F.interpolate(projected, size=size, mode="bilinear", align_corners=False))
        fused = F.relu(self.norm(self.fuse(torch.cat(maps[::-1], dim=1))))
        return self.classifier(self.dropout(fused))
