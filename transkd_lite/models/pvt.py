"""PVTv2 B0-B5: timm's backbones with the semantic-FPN head of the paper.

Wang et al., "PVT v2: Improved Baselines with Pyramid Vision Transformer", 2022. The paper distils B2 into B0.
The backbone is timm's; only its walk through the stages is written out here, because distillation needs the
patch embeddings too.
"""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor

from transkd_lite.models.head import SemanticFPNHead
from transkd_lite.models.layers import run_blocks, to_map
from transkd_lite.models.output import ModelSpec, SegModel, SegOutput, check_images

__all__ = ["PVTv2"]


class PVTv2(SegModel):
    """Images (N, 3, H, W), H and W at least 32, to a `SegOutput`.

    - drop_path, head_dropout, gradient_checkpointing: as in SegFormer.

    >>> import torch
    >>> PVTv2("pvt_v2_b0", 19)(torch.rand(1, 3, 64, 128)).logits.shape
    torch.Size([1, 19, 16, 32])
    """

    backbone: Any  # timm types its stages as plain modules

    def __init__(
        self,
        name: str,
        num_classes: int,
        *,
        drop_path: float = 0.1,
        head_dropout: float = 0.1,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = timm.create_model(name, num_classes=0, drop_path_rate=drop_path)
        self.gradient_checkpointing = gradient_checkpointing
        stages = list(self.backbone.stages)
        channels = tuple(stage.norm.normalized_shape[0] for stage in stages)
        self.head = SemanticFPNHead(channels, num_classes, dropout=head_dropout)
        self.spec = ModelSpec(
            name=name,
            channels=channels,
            num_classes=num_classes,
            num_heads=tuple(stage.blocks[0].attn.num_heads for stage in stages),
            depths=tuple(len(stage.blocks) for stage in stages),
        )

    def forward(self, images: Tensor) -> SegOutput:
        check_images(images)
        x, features, embeddings = images, [], []
        for stage in self.backbone.stages:
            # The first patch embedding stands before the stages, the others inside theirs.
            embed = stage.downsample or self.backbone.patch_embed
            tokens = embed(x)  # (N, H_i, W_i, C_i)
            size = (tokens.shape[1], tokens.shape[2])
            embeddings.append(tokens.flatten(1, 2))
            x = stage.norm(
                run_blocks(stage.blocks, embeddings[-1], size, recompute=self.gradient_checkpointing)
            )
            x = to_map(x, size)
            features.append(x)
        return SegOutput(self.head(tuple(features)), tuple(features), tuple(embeddings))
