"""Bringing two networks to one shape and one precision before they are compared.

Features differ in size when strides differ, embeddings in length, labels are larger than all of them; mixed
precision leaves bfloat16 behind. Everything here is a pure function; what needs parameters (a change of
width) is part of a method.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "IGNORE_INDEX",
    "count_valid",
    "full_precision",
    "map_size",
    "resize_labels",
    "resize_map",
    "resize_tokens",
    "shared_batch",
    "valid_pixels",
]

IGNORE_INDEX = 255
_processes: ContextVar[int] = ContextVar("processes", default=1)

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
    """Nearest resize of integer labels (N, h, w) to (N, *size), as int64."""
    if labels.ndim != 3:
        raise ValueError(f"labels must have shape (N, h, w), got {tuple(labels.shape)}")
    if labels.shape[-2:] == torch.Size(size):
        return labels.long()
    return F.interpolate(labels[:, None].float(), size=size, mode="nearest")[:, 0].long()


def valid_pixels(labels: Tensor | None, like: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Which positions of a map (N, C, H, W) are not void, (N, H, W) bool; without labels all of them."""
    if labels is None:
        return torch.ones_like(like[:, 0], dtype=torch.bool)
    return resize_labels(labels, map_size(like)) != ignore_index


@contextlib.contextmanager
def shared_batch(processes: int) -> Iterator[None]:
    """Within the context the batch is that of all processes of the default group, of which this one has a share."""
    token = _processes.set(processes)
    try:
        yield
    finally:
        _processes.reset(token)


def count_valid(valid: Tensor) -> Tensor:
    """How many entries of a bool tensor are valid, at least 1: what a mean over them divides by.

    Where processes share a batch it is the count of all over their number. The mean of the processes' terms, which
    is what gradients are averaged to, is then the term of the whole batch, however unequal their shares of void.
    """
    count, processes = valid.sum(), _processes.get()
    if processes > 1:
        torch.distributed.all_reduce(count)
    return count.clamp_min(1) / processes if processes > 1 else count.clamp_min(1)
