"""How large a network is: parameters, multiply-accumulates."""

from __future__ import annotations

from torch import nn

__all__ = ["count_parameters"]


def count_parameters(*modules: nn.Module) -> int:
    """Number of parameters in all modules together; a parameter that two of them share counts once.

    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    parameters = {id(p): p.numel() for module in modules for p in module.parameters()}
    return sum(parameters.values())
