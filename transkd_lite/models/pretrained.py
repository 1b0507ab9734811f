"""Putting the checkpoints of others into our networks, and telling from one which network it belongs to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from transkd_lite.models.files import METADATA_KEY, SHOWN, listed, printable, read_metadata
from transkd_lite.models.naming import Network, family_of, find_network, fit_shapes, to_own_names
from transkd_lite.models.output import ModelSpec, SegModel
from transkd_lite.models.segformer import NORM_EPS, NUM_HEADS, SEGFORMERS

__all__ = [
    "add_options",
    "find_authors_network",
    "head_options",
    "infer_network",
    "load_tensors",
    "read_spec",
]

CLASSIFIER = "head.classifier."
# The patch embedding of stage 1 is called differently in each of the authors' networks.
AUTHORS = {
    "backbone.0.0.proj.weight": "lvt",
    "backbone.patch_embed1.proj.weight": "pvt",
    "patch_embed1.proj.weight": "segformer",
}


def load_tensors(
    model: SegModel,
    tensors: Mapping[str, Tensor],
    *,
    origin: str = "the checkpoint",
    reset_head: bool | Literal["if-needed"] = False,
) -> None:
    """Put a checkpoint in any known naming into a network.

    A file without a head (ImageNet weights) leaves the head new. A classifier for another number of classes
    is left new only with `reset_head`, which True does to any classifier and "if-needed" to no other. Raises
    ValueError with both shapes where the architecture differs, and with the first names of the tensors that are
    missing or unexpected.
    """
    own, origin = model.state_dict(), printable(origin, 120)
    given = fit_shapes(to_own_names(tensors, family_of(model.spec.name)), own)
    if reset_head == "if-needed":
        name = f"{CLASSIFIER}weight"
        reset_head = name in given and given[name].shape != own[name].shape
    if reset_head:
        given = {name: t for name, t in given.items() if not name.startswith(CLASSIFIER)}
    _check_shapes(model, given, own, origin)
    left_new = tuple(name for name in own if name.startswith(CLASSIFIER)) if reset_head else ()
    if not any(name.startswith("head.") for name in given):
        left_new = tuple(name for name in own if name.startswith("head."))
    _check_names(model, given, own, left_new, origin)
    model.load_state_dict({name: t.to(own[name].dtype) for name, t in given.items()}, strict=False)


def read_spec(path: Path) -> ModelSpec | None:
    """The spec in the metadata of a safetensors file of this library; None for other files."""
    metadata = read_metadata(path, METADATA_KEY) if path.suffix == ".safetensors" and path.is_file() else None
    spec = metadata.get("spec") if isinstance(metadata, dict) else None
    return None if spec is None else ModelSpec.from_json(json.dumps(spec))


def infer_network(tensors: Mapping[str, Tensor]) -> tuple[str, int, dict[str, Any]]:
    """Name, number of classes and options of the network that a checkpoint in the authors' naming belongs to.

    Raises ValueError where no network of this library has these shapes.
    """
    network = find_authors_network(tensors)
    family = AUTHORS[str(network.sign)]
    given = to_own_names(network.tensors, family)
    if f"{CLASSIFIER}weight" not in given:
        raise ValueError("the checkpoint holds no segmentation head: pass it to create_model(...)")
    num_classes = given[f"{CLASSIFIER}weight"].shape[0]
    if family == "lvt":
        return "lvt", num_classes, {}
    size = _size(given)
    name = f"segformer_{size}" if family == "segformer" else f"pvt_v2_{size}"
    return name, num_classes, add_options(name, {}, head_options(name, given), "the checkpoint")


def head_options(name: str, own: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options of a network's all-MLP head that its tensors, under this library's names, show."""
    fuse, family = own.get("head.fuse.weight"), family_of(name)
    if fuse is None or not fuse.ndim or family not in ("segformer", "timm"):
        return {}
    normed = {"normed_projections": "head.projection_norms.0.weight" in own} if family == "segformer" else {}
    return {"decoder_channels": fuse.shape[0], **normed}


def add_options(name: str, given: Mapping[str, Any], found: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The given options and those found in a checkpoint that are not usual; ValueError where they contradict."""
    variant = SEGFORMERS.get(name)
    usual = {
        "decoder_channels": variant.decoder_channels if variant else 256,
        "normed_projections": False,
        "num_heads": NUM_HEADS,
        "norm_eps": NORM_EPS,
    }
    options = dict(given)
    for key, value in found.items():
        asked = options.get(key)
        if asked is None and value != usual[key]:
            options[key] = value
        elif asked is not None and (tuple(asked) if isinstance(asked, list) else asked) != value:
            raise ValueError(
                f"{key}={asked!r} contradicts {printable(origin, 160)}, which has {value!r}: leave the option out"
            )
    return options


def find_authors_network(tensors: Mapping[str, Tensor]) -> Network:
    """The network in a checkpoint of the authors. Raises ValueError where there is none."""
    network = find_network(tensors, AUTHORS)
    if network.sign is None:
        raise ValueError(
            f"not a checkpoint of the TransKD authors: it should hold one of {listed(AUTHORS)}, but has "
            f"{listed(tensors)}"
        )
    return network


def _size(given: Mapping[str, Tensor]) -> str:
    """ "b0" … "b5": PVTv2's sizes have the same widths and depths as SegFormer's."""
    matches = [re.search(r"stages\.(\d)\.blocks\.(\d+)\.norm1\.weight", name) for name in given]
    blocks = [(int(m[1]), given[m.string].shape[0]) for m in matches if m]
    depths = tuple(sum(stage == i for stage, _ in blocks) for i in range(4))
    channels = tuple(next((width for stage, width in blocks if stage == i), 0) for i in range(4))
    for name, variant in SEGFORMERS.items():
        if variant.depths == depths and variant.channels == channels:
            return name.removeprefix("segformer_")
    raise ValueError(f"no known network has widths {channels} and depths {depths}")


def _check_shapes(
    model: SegModel, given: Mapping[str, Tensor], own: Mapping[str, Tensor], origin: str
) -> None:
    wrong = [name for name in own if name in given and given[name].shape != own[name].shape]
    if not wrong:
        return
    listed = "; ".join(
        f"{printable(n)} has {printable(tuple(given[n].shape), 30)} there, {tuple(own[n].shape)} here"
        for n in wrong[:SHOWN]
    )
    counts = {(given[name].shape[:1], own[name].shape[:1]) for name in wrong if name.startswith(CLASSIFIER)}
    if all(name.startswith(CLASSIFIER) for name in wrong) and all(there != here for there, here in counts):
        raise ValueError(
            f"{origin} was trained on another number of classes: {listed}; pass reset_head=True to begin with a new "
            "classifier, or num_classes as in the file"
        )
    raise ValueError(f"{origin} is not a {model.spec.name}: {len(wrong)} tensors differ: {listed}")


def _check_names(
    model: SegModel,
    given: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    left_new: tuple[str, ...],
    origin: str,
) -> None:
    missing = [name for name in own if name not in given and name not in left_new]
    unexpected = [name for name in given if name not in own]
    if missing or unexpected:
        raise ValueError(
            f"{origin} does not fit {model.spec.name}: missing {listed(missing) or 'nothing'}; "
            f"unexpected {listed(unexpected) or 'nothing'}"
        )
