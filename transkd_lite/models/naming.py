"""What a tensor is called elsewhere and here: tables of rewriting rules, one a naming scheme.

A scheme is a list of (pattern, replacement) pairs; the first pattern that matches a whole name decides. A
replacement is a template ({0}, {1} … are the pattern's groups, {s} is group 1 minus one, for files that count
stages from 1) or None, which drops what a segmentation network has no use for (ImageNet's classifier). Where both
directions or a third scheme are needed, the rules are made from a table of names (`_rules`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from transkd_lite.models.output import listed

__all__ = [
    "TO_HUGGINGFACE",
    "Network",
    "Rules",
    "family_of",
    "find_network",
    "fit_shapes",
    "plain_name",
    "rename",
    "to_own_names",
]

Rules = list[tuple[str, str | None]]
Tensors = dict[str, Tensor]

_ENCODER = r"segformer\.|backbone\."  # how whole networks of others call it
_INSERTED = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

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
    (r"(?:backbone\.)?block(\d)\.(.+\.dwconv)\.dwconv\.(.+)", "stages.{s}.blocks.{1}.{2}"),
    (r"(?:backbone\.)?block(\d)\.(.+)", "stages.{s}.blocks.{1}"),
    (r"(?:backbone\.)?norm(\d)\.(.+)", "stages.{s}.norm.{1}"),
    (r"head\.(?:weight|bias)", None),
    *_MLP_HEAD,
]

# Here, in the files of Hugging Face's transformers, and in `state_dict()` since transformers 5. # is a number, B. a
# block; what follows (weight, bias …) is called alike everywhere.
_TRANSFORMERS = """
stages.#.patch_embed.proj  encoder.patch_embeddings.#.proj        stages.#.patch_embeddings.proj
stages.#.patch_embed.norm  encoder.patch_embeddings.#.layer_norm  stages.#.patch_embeddings.layer_norm
B.norm1                    B.layer_norm_1                         B.layernorm_before
B.norm2                    B.layer_norm_2                         B.layernorm_after
B.attn.q                   B.attention.self.query                 B.attention.q_proj
B.attn.k                   B.attention.self.key                   B.attention.k_proj
B.attn.v                   B.attention.self.value                 B.attention.v_proj
B.attn.sr                  B.attention.self.sr                    B.attention.sequence_reduction.sequence_reduction
B.attn.norm                B.attention.self.layer_norm            B.attention.sequence_reduction.layer_norm
B.attn.proj                B.attention.output.dense               B.attention.o_proj
B.mlp.fc1                  B.mlp.dense1                           B.mlp.fc1
B.mlp.dwconv               B.mlp.dwconv.dwconv                    B.mlp.dwconv.dwconv
B.mlp.fc2                  B.mlp.dense2                           B.mlp.fc2
stages.#.norm              encoder.layer_norm.#                   stages.#.layer_norm
head.projections.#         decode_head.linear_c.#.proj            decode_head.linear_projections.#.proj
head.fuse                  decode_head.linear_fuse                decode_head.linear_fuse
head.norm                  decode_head.batch_norm                 decode_head.batch_norm
head.classifier            decode_head.classifier                 decode_head.classifier
"""
_BLOCKS = ("stages.#.blocks.#.", "encoder.block.#.#.", "stages.#.blocks.#.")

# Here and in mmsegmentation.
_MMSEGMENTATION = """
stages.#.patch_embed.proj     layers.#.0.projection
stages.#.patch_embed.norm     layers.#.0.norm
B.attn.qkv                    layers.#.1.#.attn.attn.in_proj
B.attn.proj                   layers.#.1.#.attn.attn.out_proj
B.mlp.fc1                     layers.#.1.#.ffn.layers.0
B.mlp.dwconv                  layers.#.1.#.ffn.layers.1
B.mlp.fc2                     layers.#.1.#.ffn.layers.4
stages.#.blocks.#             layers.#.1.#
stages.#.norm                 layers.#.2
head.projections.#            decode_head.convs.#.conv
head.projection_norms.#       decode_head.convs.#.bn
head.fuse                     decode_head.fusion_conv.conv
head.norm                     decode_head.fusion_conv.bn
head.classifier               decode_head.conv_seg
"""


def _rules(table: str, before: int, after: int) -> Rules:
    """From one column of a table to another. A whole network's encoder may be `segformer` or `backbone`."""
    rules: Rules = []
    for line in table.strip().splitlines():
        names = [re.sub(r"^B\.", block, name) for name, block in zip(line.split(), _BLOCKS, strict=False)]
        pattern = re.escape(names[before]).replace(r"\#", r"(\d+)")
        rules.append((rf"(?:{_ENCODER})?{pattern}[._](.+)", names[after].replace("#", "{}") + ".{}"))
    return rules


_IMAGENET: Rules = [(r"(?:head|classifier)\.(?:weight|bias)", None)]
_HUGGINGFACE, _HUGGINGFACE_STATE = (_rules(_TRANSFORMERS, column, 0) + _IMAGENET for column in (1, 2))
_MMSEG = _rules(_MMSEGMENTATION, 1, 0)
TO_HUGGINGFACE = [
    (pattern, re.sub(r"^encoder\.", "segformer.encoder.", str(template)))
    for pattern, template in _rules(_TRANSFORMERS, 0, 1)
]

# The authors and PVTv2's own files. timm keeps the first patch embedding apart and calls the others
# `downsample`.
_PVT: Rules = [
    (r"(?:backbone\.)?patch_embed1\.(.+)", "backbone.patch_embed.{0}"),
    (r"(?:backbone\.)?patch_embed(\d)\.(.+)", "backbone.stages.{s}.downsample.{1}"),
    (r"(?:backbone\.)?block(\d)\.(.+\.dwconv)\.dwconv\.(.+)", "backbone.stages.{s}.blocks.{1}.{2}"),
    (r"(?:backbone\.)?block(\d)\.(.+)", "backbone.stages.{s}.blocks.{1}"),
    (r"(?:backbone\.)?norm(\d)\.(.+)", "backbone.stages.{s}.norm.{1}"),
    (r"neck\.lateral_convs\.(\d)\.conv\.(.+)", "head.laterals.{0}.{1}"),
    (r"neck\.fpn_convs\.(\d)\.conv\.(.+)", "head.smooth.{0}.{1}"),
    # Between two convolutions of a scale head stands an upsampling without weights.
    *((rf"head\.scale_heads\.(\d)\.{2 * j}\.conv\.(.+)", f"head.scales.{{0}}.{j}.{{1}}") for j in range(3)),
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


class Network(NamedTuple):
    """Where a checkpoint holds a network.

    - prefix: what stands before all of its names; `sign`: the name by which it was found, None for none.
    - tensors: the network's, without the prefix; `beside`: the others, under their whole names.
    """

    prefix: str
    sign: str | None
    tensors: Tensors
    beside: Tensors


def family_of(name: str) -> str:
    """ "segformer", "pvt", "lvt" or "timm", from a network's name."""
    return re.split("[_:]", name)[0]


def plain_name(name: str) -> str:
    """A tensor's name without what torch.compile, FSDP and activation checkpointing put into it."""
    return _INSERTED.sub("", name)


def find_network(tensors: Mapping[str, Tensor], signs: Iterable[str]) -> Network:
    """The network in a checkpoint, whatever it is wrapped in.

    - tensors: as `models.weights.flatten` gives them.
    - signs: names of tensors; any network has one of them, below its prefix.

    Of several networks a student comes before a teacher and a network before its moving average (EMA). Raises
    ValueError where that leaves more than one.
    """
    named = {plain_name(name): tensor for name, tensor in tensors.items()}
    found: dict[str, str] = {}
    for sign in signs:
        pattern = re.compile(rf"((?:.+?[./])??)(?:{_ENCODER})?{re.escape(sign)}")
        found = {match[1]: sign for match in map(pattern.fullmatch, named) if match} | found
    prefixes = list(found) or [""]
    for word, wanted in (("teacher", False), ("student", True), ("ema", False)):
        prefixes = [p for p in prefixes if _has_word(word, p) is wanted] or prefixes
    if len(prefixes) > 1:
        raise ValueError(
            f"the checkpoint holds several networks, below {listed(prefixes)}: save the one you mean in its own file"
        )
    prefix = prefixes[0]
    container = prefix[: prefix.rfind("/") + 1]
    others = [word for word in ("teacher", "ema") if not _has_word(word, prefix)]
    inside, beside = {}, {}
    for name, tensor in named.items():
        rest = name.removeprefix(container)
        if any(_has_word(word, name) for word in others) or re.search(r"/[^.]*$", rest):  # optimizer/state/…
            continue
        if name.startswith(prefix) and "/" not in rest:
            inside[name.removeprefix(prefix)] = tensor
        else:
            beside[name] = tensor
    return Network(prefix, found.get(prefix), inside, beside)


def to_own_names(tensors: Mapping[str, Tensor], family: str) -> Tensors:
    """A checkpoint of a network of that family, in whatever scheme and wrapping, under this library's names."""
    schemes = _SCHEMES[family]
    network = find_network(tensors, schemes)
    rules, finish = schemes[network.sign or next(iter(schemes))]
    own = rename(network.tensors, rules)
    own = finish(own) if finish else own
    # Beside an encoder may stand its head under another prefix: loading then reports it instead of losing it.
    return own if any(name.startswith("head.") for name in own) else own | network.beside


def rename(tensors: Mapping[str, Tensor], rules: Rules) -> Tensors:
    """The tensors under new names. A name that no rule knows is kept as it is, so that loading can report it."""
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        matches = ((re.fullmatch(pattern, name), template) for pattern, template in rules)
        match, template = next((found for found in matches if found[0]), (None, name))
        if match and template is not None:
            stage = int(match[1]) - 1 if "{s}" in template else 0
            renamed[template.format(*match.groups(), s=stage)] = tensor
        elif template is not None:
            renamed[name] = tensor
    return renamed


def fit_shapes(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Tensors:
    """Let a linear layer's weight (D, C) stand for a 1x1 convolution's (D, C, 1, 1), or the reverse."""
    fitted = {}
    for name, tensor in tensors.items():
        wanted = own[name].shape if name in own else tensor.shape
        same = tensor.shape[:2] == wanted[:2] and {tensor.ndim, len(wanted)} == {2, 4}
        fitted[name] = tensor.reshape(wanted) if same and tensor.numel() == wanted.numel() else tensor
    return fitted


def _has_word(word: str, name: str) -> bool:
    return re.search(rf"(?:^|[./_]){word}[./_]", name) is not None


def _join_keys_and_values(tensors: Tensors) -> Tensors:
    """Hugging Face has two linear layers where this library has one of twice the width."""
    joined = dict(tensors)
    for name in tensors:
        value = name.replace(".attn.k.", ".attn.v.")
        if value != name and value in tensors:
            joined[name.replace(".attn.k.", ".attn.kv.")] = torch.cat([joined.pop(name), joined.pop(value)])
    return joined


def _finish_mmseg(tensors: Tensors) -> Tensors:
    """mmsegmentation stacks q, k and v, and concatenates features from the shallowest to the deepest."""
    finished = dict(tensors)
    for name, tensor in tensors.items():
        if ".attn.qkv." in name:
            q, k, v = finished.pop(name).chunk(3)
            finished |= {name.replace(".qkv.", ".q."): q, name.replace(".qkv.", ".kv."): torch.cat([k, v])}
        elif name == "head.fuse.weight":
            finished[name] = torch.cat(tensor.chunk(4, dim=1)[::-1], dim=1)
    return finished


# By family, for each scheme: a tensor that it alone calls so, the rules, and what comes after.
_SCHEMES: dict[str, dict[str, tuple[Rules, Callable[[Tensors], Tensors] | None]]] = {
    "segformer": {
        "stages.0.patch_embed.proj.weight": ([], None),
        "layers.0.0.projection.weight": (_MMSEG, _finish_mmseg),
        "encoder.patch_embeddings.0.proj.weight": (_HUGGINGFACE, _join_keys_and_values),
        "stages.0.patch_embeddings.proj.weight": (_HUGGINGFACE_STATE, _join_keys_and_values),
        "patch_embed1.proj.weight": (_SEGFORMER, None),
    },
    "pvt": {"stages.0.blocks.0.attn.q.weight": (_TIMM, None), "patch_embed1.proj.weight": (_PVT, None)},
    "lvt": {"stages.0.proj.weight": ([], None), "backbone.0.0.proj.weight": (_LVT, None)},
    "timm": {"head.projections.0.weight": ([], None)},
}
