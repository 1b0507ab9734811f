"""What a tensor is called elsewhere and here: tables of rewriting rules, one a naming scheme.

A scheme is a list of (pattern, replacement) pairs that are tried in order, the first match wins; a
replacement of None drops a tensor that this network has no use for. Stages are counted from 1 in the authors'
and NVIDIA's files and from 0 here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

__all__ = ["AUTHORS_SEGFORMER", "Rule", "rename"]

Rule = tuple[str, str | Callable[[re.Match[str]], str] | None]


def _from_one(template: str) -> Callable[[re.Match[str]], str]:
    """A replacement in which {stage} is the first group minus one, and {rest} the last group."""
    return lambda match: template.format(stage=int(match[1]) - 1, rest=match[match.lastindex or 0])


AUTHORS_SEGFORMER: list[Rule] = [
    (r"patch_embed(\d)\.(.+)", _from_one("stages.{stage}.patch_embed.{rest}")),
    (
        r"block(\d)\.(\d+)\.mlp\.dwconv\.dwconv\.(.+)",
        lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}.mlp.dwconv.{m[3]}",
    ),
    (r"block(\d)\.(.+)", _from_one("stages.{stage}.blocks.{rest}")),
    (r"norm(\d)\.(.+)", _from_one("stages.{stage}.norm.{rest}")),
    (r"linear_c(\d)\.proj\.(.+)", _from_one("head.projections.{stage}.{rest}")),
    (r"linear_fuse\.conv\.(.+)", r"head.fuse.\1"),
    (r"linear_fuse\.bn\.(.+)", r"head.norm.\1"),
    (r"linear_pred\.(.+)", r"head.classifier.\1"),
]


def rename(tensors: Mapping[str, Tensor], rules: list[Rule]) -> dict[str, Tensor]:
    """The same tensors under our names; a name that no rule knows is kept, to be reported later."""
    renamed = {}
    for name, tensor in tensors.items():
        new = _rename_one(name, rules)
        if new is not None:
            renamed[new] = tensor
    return renamed


def _rename_one(name: str, rules: list[Rule]) -> str | None:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            if replacement is None:
                return None
            return replacement(match) if callable(replacement) else match.expand(replacement)
    return name
