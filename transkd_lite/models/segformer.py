"""SegFormer B0-B5: the Mix Transformer encoder (MiT) with the all-MLP head.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", NeurIPS
2021. Teacher (B2) and student (B0) of the TransKD paper. Written from the paper; the shapes and the two
LayerNorm constants (1e-6 in blocks and stages, 1e-5 in patch embeddings and spatial reductions) are those of
the published weights.
"""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from transkd_lite.models.attention import keys_and_values
from transkd_lite.models.head import AllMLPHead, PreNormBlock, initialise, to_map, to_tokens
from transkd_lite.models.output import ModelSpec, SegModel, printable

__all__ = ["SEGFORMERS", "SegFormer", "Variant"]

NUM_HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
PATCH_STRIDES = (4, 2, 2, 2)
MLP_RATIO = 4
EPS = 1e-6  # in blocks and after stages


class Variant(NamedTuple):
    """What differs between B0 and B5."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    decoder_channels: int


WIDE = (64, 128, 320, 512)
SEGFORMERS = {
    "segformer_b0": Variant((32, 64, 160, 256), (2, 2, 2, 2), 256), "segformer_b1": Variant(WIDE, (2, 2, 2, 2), 256),
    "segformer_b2": Variant(WIDE, (3, 4, 6, 3), 768), "segformer_b3": Variant(WIDE, (3, 4, 18, 3), 768),
    "segformer_b4": Variant(WIDE, (3, 8, 27, 3), 768), "segformer_b5": Variant(WIDE, (3, 6, 40, 3), 768),
}  # fmt: skip


class PatchEmbedding(nn.Module):
    """Overlapping patches: a strided convolution, then LayerNorm. (N, C, H, W) -> (N, H'W', D)."""

    def __init__(self, in_channels: int, channels: int, patch_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, patch_size, stride, padding=patch_size // 2)
        self.norm = nn.LayerNorm(channels, eps=1e-5)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.proj(x)
        return self.norm(to_tokens(x)), (x.shape[2], x.shape[3])


class EfficientAttention(nn.Module):
    """Multi-head self-attention whose keys and values come from a map reduced by a strided convolution."""

    def __init__(self, channels: int, num_heads: int, reduction: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.sr = nn.Conv2d(channels, channels, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(channels, eps=1e-5) if reduction > 1 else None

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens (N, HW, C) in and out; queries from all positions, keys and values from HW / R^2 of them."""
        q = self.q(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, *keys_and_values(self, x, size))
        return self.proj(mixed.transpose(1, 2).flatten(2))


class MixFFN(nn.Module):
    """Linear, depthwise 3x3 convolution (it tells position by its zero padding), GELU, linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = MLP_RATIO * channels
        self.fc1 = nn.Linear(channels, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = to_tokens(self.dwconv(to_map(self.fc1(x), size)))
        return self.fc2(F.gelu(x))


class Block(PreNormBlock):
    """Efficient attention, then MixFFN."""

    def __init__(self, channels: int, num_heads: int, reduction: int, drop_path: float, norm_eps: float = EPS) -> None:
        attention = EfficientAttention(channels, num_heads, reduction)
        super().__init__(channels, attention, MixFFN(channels), drop_path, norm_eps)


class Stage(nn.Module):
    """Patch embedding, blocks, norm. Map in, (feature map, embedding tokens) out."""

    def __init__(self, index: int, spec: ModelSpec, rates: Iterator[float], norm_eps: float) -> None:
        super().__init__()
        width, before = spec.channels[index], spec.channels[index - 1] if index else 3
        self.patch_embed = PatchEmbedding(before, width, spec.patch_sizes[index], PATCH_STRIDES[index])
        heads, reduction, depth = spec.num_heads[index], REDUCTIONS[index], spec.depths[index]
        self.blocks = nn.ModuleList(Block(width, heads, reduction, next(rates), norm_eps) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=norm_eps)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        embedding, size = self.patch_embed(x)
        x = embedding
        for block in self.blocks:
            x = block(x, size)
        return to_map(self.norm(x), size), embedding


class SegFormer(SegModel):
    """Images (N, 3, H, W), H and W at least 32, to a `SegOutput`.

    drop_path: the last block's rate of stochastic depth (earlier blocks linearly less).
    head_dropout: the rate at which the head drops whole channels.
    decoder_channels: the head's width; None for the published one (256 for B0 and B1, 768 from B2 on).
    num_heads: attention heads of each stage, each a divisor of its width.
    norm_eps: the constant of the LayerNorms in blocks and after stages.
    normed_projections: BatchNorm and ReLU after the head's projections, as mmsegmentation has them.

    >>> import torch
    >>> SegFormer("segformer_b0", 19)(torch.rand(1, 3, 64, 128)).logits.shape
    torch.Size([1, 19, 16, 32])
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        *,
        drop_path: float = 0.1,
        head_dropout: float = 0.1,
        decoder_channels: int | None = None,
        num_heads: tuple[int, ...] = NUM_HEADS,
        norm_eps: float = EPS,
        normed_projections: bool = False,
    ) -> None:
        super().__init__()
        channels, depths, usual_width = SEGFORMERS[name]
        width = decoder_channels or usual_width
        if len(num_heads) != 4 or any(h < 1 or c % h for c, h in zip(channels, num_heads, strict=True)):
            raise ValueError(f"num_heads must be four divisors of the widths {channels}, got {printable(num_heads)}")
        self.spec = ModelSpec(
            name, channels, num_classes=num_classes, num_heads=num_heads, depths=depths, decoder_channels=width
        )
        rates = (drop_path * i / (sum(depths) - 1) for i in range(sum(depths)))
        self.stages = nn.ModuleList(Stage(i, self.spec, rates, norm_eps) for i in range(4))
        self.stages.apply(initialise)
        self.head = AllMLPHead(channels, width, num_classes, dropout=head_dropout, normed=normed_projections)
