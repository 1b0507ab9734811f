"""Bringing two networks to one shape and one precision before they are compared.

Features differ in size when strides differ, embeddings in length, labels are larger than all of them; mixed
precision leaves bfloat16 behind. Everything here is a pure function; what needs parameters (a change of
width) is part of a method.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from transkd_lite.data.labels import VOID

__all__ = [
    "count_valid",
    "full_precision",
    "map_size",
    "pooling_window",
    "resize_labels",
    "resize_map",
    "resize_tokens",
    "valid_pixels",
]

P = ParamSpec("P")


def _widen(value: Any) -> Any:
    """float16 and bfloat16 tensors become float32, also inside lists and tuples; everything else stays."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    return tuple(_widen(v) for v in value) if isinstance(value, list | tuple) else value


def _device_type(value: Any) -> str:
    while isinstance(value, list | tuple):
        value = value[0]
    return "cpu" if value.device.type == "meta" else value.device.type  # autocast does not know meta tensors


def full_precision(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Compute `loss` in float32 at least, whatever the precision of its tensors and of the autocast around it.

    A sum over a map of 128x256 positions keeps two digits in bfloat16, and autocast would also run the
    products of the affinity losses in bfloat16.
    """

    @functools.wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        with torch.autocast(_device_type(args or tuple(kwargs.values())), enabled=False):
            return loss(*_widen(args), **{name: _widen(value) for name, value in kwargs.items()})

    return wrapped


def map_size(feature: Tensor) -> tuple[int, int]:
    """(H, W) of a map (N, C, H, W)."""
    return feature.shape[2], feature.shape[3]


def pooling_window(size: tuple[int, int], most: int) -> int:
    """The smallest of 1, 2, 4, 8, … such that windows of that side leave at most `most` positions of a map."""
    window = 1
    while -(-size[0] // window) * -(-size[1] // window) > most:
        window *= 2
    return window


def resize_map(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of (N, C, H, W) to (N, C, *size); the tensor itself where the size is right already."""
    if feature.shape[-2:] == torch.Size(size):
        return feature
    return F.interpolate(feature, size=size, mode="bilinear", align_corners=False)


def resize_tokens(tokens: Tensor, size: tuple[int, int], new_size: tuple[int, int]) -> Tensor:
    """Bilinear resize of a token sequence (N, H*W, C), laid out row by row on `size`, to (N, H'*W', C)."""
    if tuple(size) == tuple(new_size):
        return tokens
    grid = tokens.transpose(1, 2).unflatten(2, size)
    return resize_map(grid, new_size).flatten(2).transpose(1, 2)


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-neighbour resize of integer labels (N, h, w) to (N, *size), as int64.

    A position takes the label of the pixel in the middle of its cell: pixel 4i + 2 at a quarter of the size, 32i + 16
    at 1/32. So do Pillow and with it the authors' data loader. This is the one rule for losses, methods and scores.
    Raises ValueError for another shape.

    >>> resize_labels(torch.arange(8).view(1, 1, 8), (1, 2))
    tensor([[[2, 6]]])
    """
    if labels.ndim != 3:
        raise ValueError(f"labels must have shape (N, h, w), got {tuple(labels.shape)}")
    if tuple(labels.shape[1:]) == tuple(size):
        return labels.long()
    rows, columns = (
        (2 * torch.arange(new, device=labels.device) + 1) * old // (2 * new)
        for old, new in zip(labels.shape[1:], size, strict=True)
    )
    return labels[:, rows[:, None], columns].long()


def valid_pixels(labels: Tensor | None, like: Tensor) -> Tensor:
    """Which positions of a map (N, C, H, W) are not void, (N, H, W) bool; without labels all of them."""
    if labels is None:
        return torch.ones_like(like[:, 0], dtype=torch.bool)
    return resize_labels(labels, map_size(like)) != VOID


def count_valid(valid: Tensor, processes: int = 1) -> Tensor:
    """How many entries of a bool tensor are valid, at least 1: what a mean over them divides by.

    Where processes share a mini-batch it is the count of all over their number. The mean of the processes' terms,
    which is what gradients are averaged to, is then the term of the whole mini-batch, however unequal their void.
    """
    count = valid.sum()
    if processes > 1:
        torch.distributed.all_reduce(count)
    return count.clamp_min(1) / processes
