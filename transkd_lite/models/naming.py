"""What a tensor is called elsewhere and here: tables of names, and the search for a network in a checkpoint.

A table has a row for each layer and a column for each naming scheme, the first of them this library's. Rows that begin
with a capital letter say what a block (B) and a patch embedding (P) are called, for which the letter stands in the
others. # is a number, @ the number of a stage where it is counted from 1, and - a layer that the scheme does not have,
or calls as this library does; what follows (weight, bias …) is called alike everywhere.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from transkd_lite.models.output import listed

__all__ = ["Network", "Rules", "family_of", "find_network", "plain_name", "rename", "to_huggingface", "to_own_names"]

Rules = list[tuple[str, str]]
Tensors = dict[str, Tensor]

_INSERTED = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_PART = r"(?:segformer\.|backbone\.|decode_head\.)??"  # how whole networks of others call encoder and head

# The TransKD authors and NVIDIA (mit_b*.pth, trained SegFormers); mmsegmentation; files of Hugging Face's transformers;
# and `state_dict()` since transformers 5.
_SEGFORMER = """
B  stages.#.blocks.#     block@.#      layers.#.1.#  segformer.encoder.block.#.#           stages.#.blocks.#
P  stages.#.patch_embed  patch_embed@  layers.#.0    segformer.encoder.patch_embeddings.#  stages.#.patch_embeddings
P.proj                   -                   P.projection         -                              -
P.norm                   -                   -                    P.layer_norm                   P.layer_norm
B.norm1                  -                   -                    B.layer_norm_1                 B.layernorm_before
B.norm2                  -                   -                    B.layer_norm_2                 B.layernorm_after
B.attn.qkv               -                   B.attn.attn.in_proj  -                              -
B.attn.q                 -                   -                    B.attention.self.query         B.attention.q_proj
B.attn.k                 -                   -                    B.attention.self.key           B.attention.k_proj
B.attn.v                 -                   -                    B.attention.self.value         B.attention.v_proj
B.attn.sr    -  -  B.attention.self.sr          B.attention.sequence_reduction.sequence_reduction
B.attn.norm  -  -  B.attention.self.layer_norm  B.attention.sequence_reduction.layer_norm
B.attn.proj              -                   B.attn.attn.out_proj  B.attention.output.dense      B.attention.o_proj
B.mlp.fc1                -                   B.ffn.layers.0       B.mlp.dense1                   -
B.mlp.dwconv             B.mlp.dwconv.dwconv  B.ffn.layers.1      B.mlp.dwconv.dwconv            B.mlp.dwconv.dwconv
B.mlp.fc2                -                   B.ffn.layers.4       B.mlp.dense2                   -
stages.#.norm            norm@               layers.#.2           segformer.encoder.layer_norm.#  stages.#.layer_norm
head.projections.#  linear_c@.proj  convs.#.conv  decode_head.linear_c.#.proj  decode_head.linear_projections.#.proj
head.projection_norms.#  -                   convs.#.bn           -                              -
head.fuse                linear_fuse.conv    -                    decode_head.linear_fuse        decode_head.linear_fuse
head.fuse_reversed       -                   fusion_conv.conv     -                              -
head.norm                linear_fuse.bn      fusion_conv.bn       decode_head.batch_norm         decode_head.batch_norm
head.classifier          linear_pred         conv_seg             decode_head.classifier         decode_head.classifier
"""

# The authors and PVTv2's own files, and timm's (last two rows), which keep the first patch embedding apart and call the
# others `downsample`. Between two convolutions of a scale head stands an upsampling without weights.
_PVT = """
B  backbone.stages.#.blocks.#  block@.#
B.mlp.dwconv                  B.mlp.dwconv.dwconv
backbone.patch_embed          patch_embed1
backbone.stages.#.downsample  patch_embed@
backbone.stages.#.norm        norm@
head.laterals.#               neck.lateral_convs.#.conv
head.smooth.#                 neck.fpn_convs.#.conv
head.scales.#.0               head.scale_heads.#.0.conv
head.scales.#.1               head.scale_heads.#.2.conv
head.scales.#.2               head.scale_heads.#.4.conv
head.classifier               head.conv_seg
backbone.stages               stages
backbone.patch_embed          patch_embed
"""

_LVT = """
B  stages.#.blocks.#  backbone.#.1.#
B.attn.values      B.attn.weight
B.attn.atrous      B.attn.ds
B.mlp.dwconv       B.mlp.depconv
stages.#           backbone.#.0
"""


def _rules(table: str, old: int, new: int = 0) -> Rules:
    """Patterns and templates from one column of a table to another; the first pattern that matches decides."""
    rows = [line.split() for line in table.strip().splitlines()]
    letters = {row[0]: row[1:] for row in rows if row[0].isupper()}
    layers = [row for row in rows if row[0] not in letters and "-" not in (row[old], row[new])]
    rules: Rules = []
    for row in [*layers, *letters.values()]:
        pattern, template = row[old], row[new]
        for letter, spelled in letters.items():
            pattern, template = pattern.replace(letter, spelled[old]), template.replace(letter, spelled[new])
        pattern = re.escape(pattern.removeprefix("segformer."))
        for stage in range(4) if "@" in pattern else (0,):
            counted = template.replace("#", str(stage), 1) if "@" in pattern else template
            numbered = pattern.replace("@", str(stage + 1)).replace(r"\#", r"(\d+)")
            rules.append((rf"{_PART}{numbered}[._](.+)", counted.replace("#", "{}") + ".{}"))
    # ImageNet's classifier, and a layer that mmsegmentation's base class builds and SegFormers never use.
    return [*rules, (r"(?:head|classifier|decode_head\.conv_seg)\.(?:weight|bias)", "")]


# For each family and scheme a tensor that the scheme alone calls so, and the rules to this library's names.
SCHEMES: dict[str, dict[str, Rules]] = {
    "segformer": {
        "stages.0.patch_embed.proj.weight": [],
        "layers.0.0.projection.weight": _rules(_SEGFORMER, 2),
        "encoder.patch_embeddings.0.proj.weight": _rules(_SEGFORMER, 3),
        "stages.0.patch_embeddings.proj.weight": _rules(_SEGFORMER, 4),
        "patch_embed1.proj.weight": _rules(_SEGFORMER, 1),
    },
    "pvt": {sign: _rules(_PVT, 1) for sign in ("stages.0.blocks.0.attn.q.weight", "patch_embed1.proj.weight")},
    "lvt": {"stages.0.proj.weight": [], "backbone.0.0.proj.weight": _rules(_LVT, 1) + _rules(_SEGFORMER, 1)},
    "timm": {"head.projections.0.weight": []},
}


class Network(NamedTuple):
    """Where a checkpoint holds a network.

    prefix: what stands before all of its names; `sign`: the name by which it was found, "" for none.
    tensors: the network's, without the prefix; `beside`: the others, under their whole names.
    """

    prefix: str
    sign: str
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

    tensors: as `models.weights.flatten` gives them.
    signs: names of tensors; any network has one of them, below its prefix.

    Of several networks a student comes before a teacher and a network before its moving average (EMA). Raises
    ValueError where that leaves more than one.
    """
    named = {plain_name(name): tensor for name, tensor in tensors.items()}
    pattern = re.compile(rf"((?:.+?\.)??){_PART}({'|'.join(map(re.escape, signs))})")
    found = {match[1]: match[2] for match in map(pattern.fullmatch, named) if match}
    ranks = {p: [("teacher" in w, "student" not in w, "ema" in w) for w in [_words(p)]] for p in found or [""]}
    prefix, *others = [p for p, rank in ranks.items() if rank == min(ranks.values())]
    if others:
        raise ValueError(f"a checkpoint holds several networks, below {listed([prefix, *others])}: save the one meant")
    foreign = {"teacher", "ema", "optimizer"} - _words(prefix)
    kept = {name: tensor for name, tensor in named.items() if not foreign & _words(name)}
    inside = {name.removeprefix(prefix): tensor for name, tensor in kept.items() if name.startswith(prefix)}
    beside = {name: tensor for name, tensor in kept.items() if not name.startswith(prefix)}
    return Network(prefix, found.get(prefix, ""), inside, beside)


def _words(name: str) -> set[str]:
    return set(re.split(r"[._]", name))


def to_own_names(tensors: Mapping[str, Tensor], family: str) -> Tensors:
    """A checkpoint of a network of that family, in whatever scheme and wrapping, under this library's names."""
    network = find_network(tensors, SCHEMES[family])
    own = rename(network.tensors, SCHEMES[family].get(network.sign, []))
    for name in list(own):
        value = name.replace(".attn.k.", ".attn.v.")
        if value != name and value in own:  # Hugging Face has two linear layers for one of twice the width
            own[name.replace(".attn.k.", ".attn.kv.")] = torch.cat([own.pop(name), own.pop(value)])
        elif ".attn.qkv." in name:  # mmsegmentation stacks all three
            q, k, v = own.pop(name).chunk(3)
            own |= {name.replace(".qkv.", ".q."): q, name.replace(".qkv.", ".kv."): torch.cat([k, v])}
        elif name == "head.fuse_reversed.weight":  # and concatenates features from the shallowest to the deepest
            own["head.fuse.weight"] = torch.cat(own.pop(name).chunk(4, dim=1)[::-1], dim=1)
    # Beside an encoder may stand its head under another prefix: loading then reports it instead of losing it.
    return own if any(name.startswith("head.") for name in own) else own | network.beside


def to_huggingface(tensors: Mapping[str, Tensor]) -> Tensors:
    """A SegFormer's tensors as files of transformers call them."""
    apart = {plain_name(name): tensor for name, tensor in tensors.items()}
    for name in [name for name in apart if ".attn.kv." in name]:  # two layers there
        keys, values = apart.pop(name).chunk(2)
        apart |= {name.replace(".kv.", ".k."): keys, name.replace(".kv.", ".v."): values}
    return rename(apart, _rules(_SEGFORMER, 0, 3))


def rename(tensors: Mapping[str, Tensor], rules: Rules) -> Tensors:
    """The tensors under new names, by the first of the rules (pattern, template) whose pattern matches the whole name.

    The template "" drops a tensor. A name that no rule knows is kept as it is, so that loading can report it.
    """
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        found = (new.format(*match.groups()) for pattern, new in rules if (match := re.fullmatch(pattern, name)))
        renamed[next(found, name)] = tensor
    renamed.pop("", None)
    return renamed
