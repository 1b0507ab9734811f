"""What a tensor is called elsewhere and here: tables of rewriting rules, one a naming scheme.

A scheme is a list of (pattern, replacement) pairs; the first pattern that matches a whole name decides. A
replacement is a template ({0}, {1} … are the pattern's groups, {s} is group 1 minus one, for files that count
stages from 1) or None, which drops what a segmentation network has no use for (ImageNet's classifier).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["Rules", "family_of", "fit_shapes", "rename", "to_own_names"]

Rules = list[tuple[str, str | None]]
Tensors = dict[str, Tensor]

_MLP_HEAD: Rules = [
    (r"(?:decode_head\.)?linear_c(\d)\.proj\.(.+)", "head.projections.{s}.{1}"),
    (r"(?:decode_head\.)?linear_fuse\.conv\.(.+)", "head.fuse.{0}"),
    (r"(?:decode_head\.)?linear_fuse\.bn\.(.+)", "head.norm.{0}"),
    (r"(?:decode_head\.)?linear_pred\.(.+)", "head.classifier.{0}"),
    (r"decode_head\.conv_seg\.(.+)", None),  # built by mmsegmentation's base class, never used
]

# The TransKD authors, NVIDIA's mit_b*.pth (encoder and ImageNet classifier) and NVIDIA's trained SegFormers.
_SEGFORMER: Rules = [
    (r"(?:backbone\.)?patch_embed(\d)\.(.+)", "stages.{s}.patch_embed.{1}"),
    (r"(?:backbone\.)?block(\d)\.(\d+)\.mlp\.dwconv\.dwconv\.(.+)", "stages.{s}.blocks.{1}.mlp.dwconv.{2}"),
    (r"(?:backbone\.)?block(\d)\.(.+)", "stages.{s}.blocks.{1}"),
    (r"(?:backbone\.)?norm(\d)\.(.+)", "stages.{s}.norm.{1}"),
    (r"head\.(?:weight|bias)", None),
    *_MLP_HEAD,
]

_HUGGINGFACE_BLOCK = r"(?:segformer\.)?encoder\.block\.(\d)\.(\d+)\."
_HUGGINGFACE: Rules = [
    (r"(?:segformer\.)?encoder\.patch_embeddings\.(\d)\.layer_norm\.(.+)", "stages.{0}.patch_embed.norm.{1}"),
    (r"(?:segformer\.)?encoder\.patch_embeddings\.(\d)\.(.+)", "stages.{0}.patch_embed.{1}"),
    (_HUGGINGFACE_BLOCK + r"layer_norm_(\d)\.(.+)", "stages.{0}.blocks.{1}.norm{2}.{3}"),
    (_HUGGINGFACE_BLOCK + r"attention\.self\.query\.(.+)", "stages.{0}.blocks.{1}.attn.q.{2}"),
    (_HUGGINGFACE_BLOCK + r"attention\.self\.key\.(.+)", "stages.{0}.blocks.{1}.attn.k.{2}"),
    (_HUGGINGFACE_BLOCK + r"attention\.self\.value\.(.+)", "stages.{0}.blocks.{1}.attn.v.{2}"),
    (_HUGGINGFACE_BLOCK + r"attention\.self\.sr\.(.+)", "stages.{0}.blocks.{1}.attn.sr.{2}"),
    (_HUGGINGFACE_BLOCK + r"attention\.self\.layer_norm\.(.+)", "stages.{0}.blocks.{1}.attn.norm.{2}"),
    (_HUGGINGFACE_BLOCK + r"attention\.output\.dense\.(.+)", "stages.{0}.blocks.{1}.attn.proj.{2}"),
    (_HUGGINGFACE_BLOCK + r"mlp\.dwconv\.dwconv\.(.+)", "stages.{0}.blocks.{1}.mlp.dwconv.{2}"),
    (_HUGGINGFACE_BLOCK + r"mlp\.dense(\d)\.(.+)", "stages.{0}.blocks.{1}.mlp.fc{2}.{3}"),
    (r"(?:segformer\.)?encoder\.layer_norm\.(\d)\.(.+)", "stages.{0}.norm.{1}"),
    (r"decode_head\.linear_c\.(\d)\.proj\.(.+)", "head.projections.{0}.{1}"),
    (r"decode_head\.linear_fuse\.(.+)", "head.fuse.{0}"),
    (r"decode_head\.batch_norm\.(.+)", "head.norm.{0}"),
    (r"decode_head\.classifier\.(.+)", "head.classifier.{0}"),
    (r"classifier\.(?:weight|bias)", None),
]

_MMSEG: Rules = [
    (r"(?:backbone\.)?layers\.(\d)\.0\.projection\.(.+)", "stages.{0}.patch_embed.proj.{1}"),
    (r"(?:backbone\.)?layers\.(\d)\.0\.norm\.(.+)", "stages.{0}.patch_embed.norm.{1}"),
    (
        r"(?:backbone\.)?layers\.(\d)\.1\.(\d+)\.attn\.attn\.in_proj_(.+)",
        "stages.{0}.blocks.{1}.attn.qkv.{2}",
    ),
    (
        r"(?:backbone\.)?layers\.(\d)\.1\.(\d+)\.attn\.attn\.out_proj\.(.+)",
        "stages.{0}.blocks.{1}.attn.proj.{2}",
    ),
    (r"(?:backbone\.)?layers\.(\d)\.1\.(\d+)\.ffn\.layers\.0\.(.+)", "stages.{0}.blocks.{1}.mlp.fc1.{2}"),
    (r"(?:backbone\.)?layers\.(\d)\.1\.(\d+)\.ffn\.layers\.1\.(.+)", "stages.{0}.blocks.{1}.mlp.dwconv.{2}"),
    (r"(?:backbone\.)?layers\.(\d)\.1\.(\d+)\.ffn\.layers\.4\.(.+)", "stages.{0}.blocks.{1}.mlp.fc2.{2}"),
    (r"(?:backbone\.)?layers\.(\d)\.1\.(.+)", "stages.{0}.blocks.{1}"),
    (r"(?:backbone\.)?layers\.(\d)\.2\.(.+)", "stages.{0}.norm.{1}"),
    (r"decode_head\.convs\.(\d)\.conv\.(.+)", "head.projections.{0}.{1}"),
    (r"decode_head\.convs\.(\d)\.bn\.(.+)", "head.projection_norms.{0}.{1}"),
    (r"decode_head\.fusion_conv\.conv\.(.+)", "head.fuse.{0}"),
    (r"decode_head\.fusion_conv\.bn\.(.+)", "head.norm.{0}"),
    (r"decode_head\.conv_seg\.(.+)", "head.classifier.{0}"),
]

# The authors and PVTv2's own files. timm keeps the first patch embedding apart and calls the others
# `downsample`.
_PVT: Rules = [
    (r"(?:backbone\.)?patch_embed1\.(.+)", "backbone.patch_embed.{0}"),
    (r"(?:backbone\.)?patch_embed(\d)\.(.+)", "backbone.stages.{s}.downsample.{1}"),
    (
        r"(?:backbone\.)?block(\d)\.(\d+)\.mlp\.dwconv\.dwconv\.(.+)",
        "backbone.stages.{s}.blocks.{1}.mlp.dwconv.{2}",
    ),
    (r"(?:backbone\.)?block(\d)\.(.+)", "backbone.stages.{s}.blocks.{1}"),
    (r"(?:backbone\.)?norm(\d)\.(.+)", "backbone.stages.{s}.norm.{1}"),
    (r"neck\.lateral_convs\.(\d)\.conv\.(.+)", "head.laterals.{0}.{1}"),
    (r"neck\.fpn_convs\.(\d)\.conv\.(.+)", "head.smooth.{0}.{1}"),
    # Between two convolutions of a scale head stands an upsampling without weights.
    (r"head\.scale_heads\.(\d)\.0\.conv\.(.+)", "head.scales.{0}.0.{1}"),
    (r"head\.scale_heads\.(\d)\.2\.conv\.(.+)", "head.scales.{0}.1.{1}"),
    (r"head\.scale_heads\.(\d)\.4\.conv\.(.+)", "head.scales.{0}.2.{1}"),
    (r"head\.conv_seg\.(.+)", "head.classifier.{0}"),
    (r"head\.(?:weight|bias)", None),
]

_TIMM: Rules = [(r"((?:patch_embed|stages)\..+)", "backbone.{0}"), (r"head\.(?:weight|bias)", None)]

_LVT: Rules = [
    (r"backbone\.(\d)\.0\.(.+)", "stages.{0}.{1}"),
    (r"backbone\.0\.1\.(\d)\.attn\.weight\.weight", "stages.0.blocks.{0}.attn.values.weight"),
    (r"backbone\.(\d)\.1\.(\d)\.attn\.ds\.(.+)", "stages.{0}.blocks.{1}.attn.atrous.{2}"),
    (r"backbone\.(\d)\.1\.(\d)\.mlp\.depconv\.(.+)", "stages.{0}.blocks.{1}.mlp.dwconv.{2}"),
    (r"backbone\.(\d)\.1\.(.+)", "stages.{0}.blocks.{1}"),
    *_MLP_HEAD,
]


def family_of(name: str) -> str:
    """ "segformer", "pvt", "lvt" or "timm", from a network's name."""
    return re.split("[_:]", name)[0]


def to_own_names(tensors: Mapping[str, Tensor], family: str) -> Tensors:
    """A checkpoint of a network of that family, in whatever scheme, under this library's names."""
    rules, finish = _scheme(tensors, family)
    return finish(rename(tensors, rules))


def rename(tensors: Mapping[str, Tensor], rules: Rules) -> Tensors:
    """The tensors under new names. A name that no rule knows is kept as it is, so that loading can report it."""
    renamed = {_rename(name, rules): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in renamed.items() if name is not None}


def fit_shapes(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Tensors:
    """Let a linear layer's weight (D, C) stand for a 1x1 convolution's (D, C, 1, 1), or the reverse."""
    fitted = {}
    for name, tensor in tensors.items():
        wanted = own[name].shape if name in own else tensor.shape
        same = tensor.shape[:2] == wanted[:2] and {tensor.ndim, len(wanted)} == {2, 4}
        fitted[name] = tensor.reshape(wanted) if same and tensor.numel() == wanted.numel() else tensor
    return fitted


def _scheme(tensors: Mapping[str, Tensor], family: str) -> tuple[Rules, Callable[[Tensors], Tensors]]:
    """The rules for a checkpoint, told by the one tensor that each scheme calls differently, and what comes
    after.
    """
    if family == "timm":
        return [], _unchanged
    if family == "lvt":
        return _LVT, _unchanged
    if family == "pvt":
        return (_TIMM if "patch_embed.proj.weight" in tensors else _PVT), _unchanged
    if any("layers.0.0.projection." in name for name in tensors):
        return _MMSEG, _finish_mmseg
    if any("encoder.patch_embeddings.0." in name for name in tensors):
        return _HUGGINGFACE, _join_keys_and_values
    return _SEGFORMER, _unchanged


def _rename(name: str, rules: Rules) -> str | None:
    for pattern, template in rules:
        match = re.fullmatch(pattern, name)
        if match and template is None:
            return None
        if match and template is not None:
            stage = int(match[1]) - 1 if "{s}" in template else 0
            return template.format(*match.groups(), s=stage)
    return name


def _unchanged(tensors: Tensors) -> Tensors:
    return tensors


def _join_keys_and_values(tensors: Tensors) -> Tensors:
    """Hugging Face has two linear layers where this library has one of twice the width."""
    joined = {}
    for name, tensor in tensors.items():
        partner = name.replace(".attn.k.", ".attn.v.")
        if ".attn.k." in name and partner in tensors:
            joined[name.replace(".attn.k.", ".attn.kv.")] = torch.cat([tensor, tensors[partner]])
        elif not (".attn.v." in name and name.replace(".attn.v.", ".attn.k.") in tensors):
            joined[name] = tensor
    return joined


def _finish_mmseg(tensors: Tensors) -> Tensors:
    """mmsegmentation stacks q, k and v, and concatenates features from the shallowest to the deepest."""
    finished: Tensors = {}
    for name, tensor in tensors.items():
        if ".attn.qkv." in name:
            q, k, v = tensor.chunk(3)
            finished[name.replace(".qkv.", ".q.")] = q
            finished[name.replace(".qkv.", ".kv.")] = torch.cat([k, v])
        elif name == "head.fuse.weight":
            finished[name] = torch.cat(tensor.chunk(4, dim=1)[::-1], dim=1)
        else:
            finished[name] = tensor
    return finished
