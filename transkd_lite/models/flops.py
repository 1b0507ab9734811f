"""Counting multiply-accumulates of a forward pass: a function mode looks at every call of PyTorch's
functions.

A network need not compute anything for that: it is called with "meta" tensors, which have shapes and no
values. Two conventions, since the published "GFLOPs" leave things out:

    full    convolutions, linear layers, matrix products and both products of every attention; nothing else
    paper   as the authors' counter: convolutions (with one addition an output for the bias), linear layers
    (without it),
            2 an element of BatchNorm, 1 an element of LayerNorm, GELU and ReLU; matrix and attention products
            left out
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["CONVENTIONS", "MultiplyAccumulates", "call_aside"]

CONVENTIONS = ("full", "paper")

CONVOLUTIONS = (torch.conv1d, torch.conv2d, F.conv1d, F.conv2d)
PRODUCTS = (torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__)
ELEMENTWISE = {F.batch_norm: 2, F.layer_norm: 1, F.gelu: 1, F.relu: 1, torch.relu: 1}


class MultiplyAccumulates(TorchFunctionMode):
    """Within this context, adds up in `total` what PyTorch's functions cost."""

    def __init__(self, convention: str = "full") -> None:
        super().__init__()
        if convention not in CONVENTIONS:
            raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
        self.count = _full if convention == "full" else _paper
        self.total = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.total += self.count(func, args, kwargs or {}, result)
        return result


def call_aside(module: nn.Module, *args: Any, device: str = "meta") -> Any:
    """Call a module as if its parameters and buffers were zeros on `device`; the module itself is not
    touched.
    """
    own = [*module.named_parameters(), *module.named_buffers()]
    zeros = {name: torch.zeros_like(tensor, device=device) for name, tensor in own}
    with torch.no_grad():
        return functional_call(module, zeros, args)


def _full(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    if func in CONVOLUTIONS:
        return result.numel() * math.prod(args[1].shape[1:])
    if func is F.linear:
        return result.numel() * args[0].shape[-1]
    if func in PRODUCTS:
        return result.numel() * args[0].shape[-1]
    if func is F.scaled_dot_product_attention:
        q, k, v = args[:3]
        return math.prod(q.shape[:-1]) * k.shape[-2] * (k.shape[-1] + v.shape[-1])
    return 0


def _paper(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    if func in CONVOLUTIONS:
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        return result.numel() * (math.prod(args[1].shape[1:]) + (bias is not None))
    if func is F.linear:
        return result.numel() * args[0].shape[-1]
    return ELEMENTWISE.get(func, 0) * (result.numel() if isinstance(result, Tensor) else 0)
