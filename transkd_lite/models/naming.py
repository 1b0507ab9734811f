"""What a tensor is called elsewhere and here, by the tables of `names.txt`; finding a network in a checkpoint."""

import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import NamedTuple

import torch
from torch import Tensor

from transkd_lite.models.output import listed

__all__ = ["Network", "Rules", "family_of", "find_network", "plain_name", "rename", "to_huggingface", "to_own_names"]

Rules = list[tuple[str, str]]
Tensors = dict[str, Tensor]

_INSERTED = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_PART = r"(?:segformer\.|backbone\.|decode_head\.)??"  # how whole networks of others call encoder and head

_, _SEGFORMER, _PVT, _LVT = files("transkd_lite.models").joinpath("names.txt").read_text("utf-8").split("\n\n")


def _rules(table: str, old: int, new: int = 0) -> Rules:
    """Patterns and templates from one column of a table to another; the first pattern that matches decides."""
    rows = [line.split() for line in table.splitlines() if not line.startswith("# ")]
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
