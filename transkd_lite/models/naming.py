"""What a tensor is called elsewhere and here: tables of rewriting rules, one a naming scheme.

A scheme is a list of (pattern, replacement) pairs that are tried in order, the first match wins; a
replacement of None drops a tensor that this network has no use for. Stages are counted from 1 in the authors'
and NVIDIA's files and from 0 here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

__all__ = ["AUTHORS_LVT", "AUTHORS_PVT", "AUTHORS_SEGFORMER", "Rule", "fit_shapes", "rename"]

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

# timm renamed PVTv2's parts: stages hold their patch embedding as `downsample`, the first one stands alone.
AUTHORS_PVT: list[Rule] = [
    (r"backbone\.patch_embed1\.(.+)", r"backbone.patch_embed.\1"),
    (r"backbone\.patch_embed(\d)\.(.+)", _from_one("backbone.stages.{stage}.downsample.{rest}")),
    (
        r"backbone\.block(\d)\.(\d+)\.mlp\.dwconv\.dwconv\.(.+)",
        lambda m: f"backbone.stages.{int(m[1]) - 1}.blocks.{m[2]}.mlp.dwconv.{m[3]}",
    ),
    (r"backbone\.block(\d)\.(.+)", _from_one("backbone.stages.{stage}.blocks.{rest}")),
    (r"backbone\.norm(\d)\.(.+)", _from_one("backbone.stages.{stage}.norm.{rest}")),
    (r"neck\.lateral_convs\.(\d)\.conv\.(.+)", r"head.laterals.\1.\2"),
    (r"neck\.fpn_convs\.(\d)\.conv\.(.+)", r"head.smooth.\1.\2"),
    # Every second place of a scale head is an upsampling without weights.
    (
        r"head\.scale_heads\.(\d)\.(\d)\.conv\.(.+)",
        lambda m: f"head.scales.{m[1]}.{int(m[2]) // 2}.{m[3]}",
    ),
    (r"head\.conv_seg\.(.+)", r"head.classifier.\1"),
]

AUTHORS_LVT: list[Rule] = [
    (r"backbone\.(\d)\.0\.(.+)", r"stages.\1.\2"),
    (r"backbone\.0\.1\.(\d)\.attn\.weight\.weight", r"stages.0.blocks.\1.attn.values.weight"),
    (r"backbone\.(\d)\.1\.(\d)\.attn\.ds\.(.+)", r"stages.\1.blocks.\2.attn.atrous.\3"),
    (r"backbone\.(\d)\.1\.(\d)\.mlp\.depconv\.(.+)", r"stages.\1.blocks.\2.mlp.dwconv.\3"),
    (r"backbone\.(\d)\.1\.(.+)", r"stages.\1.blocks.\2"),
    *AUTHORS_SEGFORMER[4:],
]


def rename(tensors: Mapping[str, Tensor], rules: list[Rule]) -> dict[str, Tensor]:
    """The same tensors under our names; a name that no rule knows is kept, to be reported later."""
    renamed = {}
    for name, tensor in tensors.items():
        new = _rename_one(name, rules)
        if new is not None:
            renamed[new] = tensor
    return renamed


def fit_shapes(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Let a linear layer's weight (D, C) stand for a 1x1 convolution's (D, C, 1, 1), or the reverse."""
    fitted = {}
    for name, tensor in tensors.items():
        wanted = own[name].shape if name in own else tensor.shape
        same = tensor.shape[:2] == wanted[:2] and {tensor.ndim, len(wanted)} == {2, 4}
        fitted[name] = tensor.reshape(wanted) if same and tensor.numel() == wanted.numel() else tensor
    return fitted


def _rename_one(name: str, rules: list[Rule]) -> str | None:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            if replacement is None:
                return None
            return replacement(match) if callable(replacement) else match.expand(replacement)
    return name
