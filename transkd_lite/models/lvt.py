"""Lite Vision Transformer, the second kind of student in the paper, with SegFormer's head.

Yang et al., "Lite Vision Transformer with Enhanced Self-Attention", CVPR 2022, in the size that the TransKD
authors use: stage 1 attends by convolution (convolutional self-attention), stages 2-4 recursively and at
several dilations (recursive atrous self-attention). No norm after stages; a stage's embedding is taken before
its norm. Every layer's initial values are those of the authors' code.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transkd_lite.models.attention import keys_and_values
from transkd_lite.models.head import AllMLPHead, PreNormBlock, initialise, to_map, to_tokens
from transkd_lite.models.output import ModelSpec, SegModel

__all__ = ["LVT"]

CHANNELS = (64, 64, 160, 256)
DEPTHS = (2, 2, 2, 2)
NUM_HEADS = (2, 2, 5, 8)
MLP_RATIOS = (4, 8, 4, 4)
REDUCTIONS = (1, 4, 2, 1)
DILATIONS = (1, 3, 5)
WINDOW, STRIDE = 3, 2


class ConvolutionalAttention(nn.Module):
    """Every second position weighs the 3x3 window around it by weights read off the averaged input.

    Tokens (N, H * W, C) in and out. A window's 9 values, each with a linear map of its own, are mixed by a 9x9
    matrix a head, softmax over what is read; overlapping windows add up.
    """

    def __init__(self, stage: int) -> None:
        super().__init__()
        channels, num_heads, positions = CHANNELS[stage], NUM_HEADS[stage], WINDOW**2
        self.num_heads = num_heads
        self.scale = (channels // num_heads) ** -0.5
        self.attn = nn.Linear(channels, positions**2 * num_heads)
        self.values = nn.Conv2d(positions * channels, positions * channels, 1, groups=positions, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.apply(initialise)
        nn.init.normal_(self.values.weight, std=math.sqrt(2 / (positions * channels)))

    def forward(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        x = to_map(x, size)
        windows = F.unfold(x, WINDOW, padding=WINDOW // 2, stride=STRIDE)  # (N, C * 9, positions)
        windows = windows.unflatten(1, (x.shape[1], -1)).transpose(1, 2).flatten(1, 2)  # window position first
        values = self.values(windows.unsqueeze(-1)).squeeze(-1)
        values = values.unflatten(1, (WINDOW**2, self.num_heads, -1)).permute(0, 2, 4, 1, 3)
        pooled = to_tokens(F.avg_pool2d(x, STRIDE, STRIDE, ceil_mode=True))
        logits = self.attn(pooled).unflatten(2, (self.num_heads, WINDOW**2, WINDOW**2))
        weights = (logits * self.scale).softmax(-1).transpose(1, 2)  # (N, heads, positions, 9, 9)
        mixed = (weights @ values).permute(0, 1, 4, 3, 2).flatten(1, 3)
        return self.proj(to_tokens(F.fold(mixed, size, WINDOW, padding=WINDOW // 2, stride=STRIDE)))


class RecursiveAtrousAttention(nn.Module):
    """Self-attention with queries at several dilations, applied twice with the same weights. Tokens both ways.

    q <- sum over dilations of SiLU(one shared depthwise convolution); y = SiLU(A(x)); out = SiLU(A(x + y)).
    """

    def __init__(self, stage: int) -> None:
        super().__init__()
        channels, reduction = CHANNELS[stage], REDUCTIONS[stage]
        self.num_heads = NUM_HEADS[stage]
        self.q = nn.Linear(channels, channels, bias=False)
        self.kv = nn.Linear(channels, 2 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.atrous = nn.Conv2d(channels, channels, 3, groups=channels, bias=False)
        self.sr = nn.Conv2d(channels, channels, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(channels, eps=1e-5) if reduction > 1 else None
        self.apply(initialise)
        nn.init.kaiming_uniform_(self.atrous.weight)

    def attend(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        """One application, A(x)."""
        q = to_map(self.q(x), size)
        maps = [F.silu(F.conv2d(q, self.atrous.weight, padding=d, dilation=d, groups=q.shape[1])) for d in DILATIONS]
        q = to_tokens(torch.stack(maps).sum(0)).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, *keys_and_values(self, x, size))
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        return F.silu(self.attend(x + F.silu(self.attend(x, size)), size))


class MLP(nn.Module):
    """1x1 convolution, depthwise 3x3 convolution (not in stage 1), GELU, 1x1 convolution. Tokens both ways."""

    def __init__(self, channels: int, hidden: int, *, depthwise: bool) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden) if depthwise else nn.Identity()
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        for layer in () if depthwise else (self.fc1, self.fc2):  # linear layers, in the authors' code
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        return to_tokens(self.fc2(F.gelu(self.dwconv(self.fc1(to_map(x, size))))))


class Stage(nn.Module):
    """Overlapping patch embedding, norm, blocks. Map in, (feature map, embedding tokens) out."""

    def __init__(self, stage: int, rates: Iterator[float]) -> None:
        super().__init__()
        before, channels = CHANNELS[stage - 1] if stage else 3, CHANNELS[stage]
        size, stride = (3, 2) if stage else (7, 4)
        self.proj = nn.Conv2d(before, channels, size, stride, padding=size // 2)
        self.norm = nn.LayerNorm(channels, eps=1e-5)
        self.proj.apply(initialise)
        self.blocks = nn.ModuleList()
        for _ in range(DEPTHS[stage]):
            attention = (RecursiveAtrousAttention if stage else ConvolutionalAttention)(stage)
            mlp = MLP(channels, MLP_RATIOS[stage] * channels, depthwise=stage > 0)
            self.blocks.append(PreNormBlock(channels, attention, mlp, next(rates), norm_eps=1e-5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.proj(x)
        embedding, size = to_tokens(x), x.shape[2:]
        x = self.norm(embedding)
        for block in self.blocks:
            x = block(x, size)
        return to_map(x, size), embedding


class LVT(SegModel):
    """Images (N, 3, H, W), H and W at least 32, to a `SegOutput`; options as in SegFormer.

    >>> LVT("lvt", 19)(torch.rand(1, 3, 64, 96)).logits.shape
    torch.Size([1, 19, 16, 24])
    """

    def __init__(self, name: str, num_classes: int, *, drop_path: float = 0.1, head_dropout: float = 0.1) -> None:
        super().__init__()
        self.spec = ModelSpec(name, CHANNELS, num_classes=num_classes, num_heads=NUM_HEADS, depths=DEPTHS)
        rates = (drop_path * i / (sum(DEPTHS) - 1) for i in range(sum(DEPTHS)))
        self.stages = nn.ModuleList(Stage(i, rates) for i in range(4))
        self.head = AllMLPHead(CHANNELS, self.spec.decoder_channels, num_classes, dropout=head_dropout)
        self.head.projections.apply(initialise)
