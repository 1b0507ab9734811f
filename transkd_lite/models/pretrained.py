"""Putting the checkpoints of others into our networks, and telling from one which network it belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from transkd_lite.models.naming import family_of, fit_shapes, to_own_names
from transkd_lite.models.output import SegModel
from transkd_lite.models.segformer import SEGFORMERS

__all__ = ["infer_network", "load_tensors"]

CLASSIFIER = "head.classifier."
SHOWN = 5


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
    ValueError with both shapes where the architecture differs, and with the names of all tensors that are
    missing or unexpected.
    """
    own = model.state_dict()
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


def infer_network(tensors: Mapping[str, Tensor]) -> tuple[str, int, dict[str, Any]]:
    """Name, number of classes and options of the network that a checkpoint in the authors' naming belongs to.

    Raises ValueError where no network of this library has these shapes.
    """
    family = _family(tensors)
    given = to_own_names(tensors, family)
    if f"{CLASSIFIER}weight" not in given:
        raise ValueError("the checkpoint holds no segmentation head: pass it to create_model(...)")
    num_classes = given[f"{CLASSIFIER}weight"].shape[0]
    if family == "lvt":
        return "lvt", num_classes, {}
    size = _size(given)
    name = f"segformer_{size}" if family == "segformer" else f"pvt_v2_{size}"
    width = given["head.fuse.weight"].shape[0] if family == "segformer" else None
    published = width is None or width == SEGFORMERS[name].decoder_channels
    return name, num_classes, {} if published else {"decoder_channels": width}


def _family(tensors: Mapping[str, Tensor]) -> str:
    """The patch embedding of stage 1 is called differently in each of the authors' networks."""
    signs = {
        "patch_embed1.proj.weight": "segformer",
        "backbone.patch_embed1.proj.weight": "pvt",
        "backbone.0.0.proj.weight": "lvt",
    }
    for sign, family in signs.items():
        if sign in tensors:
            return family
    raise ValueError(
        f"not a checkpoint of the TransKD authors: it should hold one of {', '.join(signs)}, but begins with "
        f"{', '.join(list(tensors)[:3])}"
    )


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
        f"{n} has {tuple(given[n].shape)} there, {tuple(own[n].shape)} here" for n in wrong[:SHOWN]
    )
    if all(name.startswith(CLASSIFIER) for name in wrong):
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
            f"{origin} does not fit {model.spec.name}: missing {', '.join(missing) or 'nothing'}; "
            f"unexpected {', '.join(unexpected) or 'nothing'}"
        )
