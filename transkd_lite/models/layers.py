"""Small parts that several networks share: token and map layouts, stochastic depth, initial weights.

Initial values of the encoders follow SegFormer (Xie et al. 2021) and PVTv2 (Wang et al. 2021): linear layers from
a truncated normal of standard deviation 0.02, convolutions from a normal of variance 2 / fan-out, biases zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["DropPath", "drop_path_rates", "initialise", "run_blocks", "to_map", "to_tokens"]


def to_tokens(x: Tensor) -> Tensor:
    """A map (N, C, H, W) as tokens (N, H * W, C), row by row."""
    return x.flatten(2).transpose(1, 2)


def to_map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Tokens (N, H * W, C) as a map (N, C, H, W)."""
    return x.transpose(1, 2).unflatten(2, size)


def run_blocks(blocks: nn.ModuleList, x: Tensor, *args: object, recompute: bool) -> Tensor:
    """x through blocks that are called as block(x, *args).

    With `recompute`, blocks store nothing in training and run again in the backward pass (gradient
    checkpointing).
    """
    for block in blocks:
        again = recompute and block.training
        x = checkpoint(block, x, *args, use_reentrant=False) if again else block(x, *args)
    return x


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, drops a residual branch for whole images.

    What is kept is divided by the probability of keeping it, so the expectation is unchanged.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        kept = torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), device=x.device) < keep
        return x * (kept.to(x.dtype) / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def drop_path_rates(largest: float, depths: tuple[int, ...]) -> list[list[float]]:
    """The rates of all blocks, growing linearly from 0 at the first block to `largest` at the last.

    >>> drop_path_rates(0.1, (2, 1))
    [[0.0, 0.05], [0.1]]
    """
    steps = max(sum(depths) - 1, 1)
    starts = [sum(depths[:i]) for i in range(len(depths))]
    return [
        [largest * (start + j) / steps for j in range(depth)]
        for start, depth in zip(starts, depths, strict=True)
    ]


def initialise(module: nn.Module) -> None:
    """Set one layer's initial weights; give it to `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
