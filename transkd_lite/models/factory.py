"""`create_model`: from a name to a network. Heavy libraries are imported only where a network needs them."""

from __future__ import annotations

import dataclasses
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from transkd_lite.models.files import read_tensors
from transkd_lite.models.lvt import LVT
from transkd_lite.models.naming import family_of, to_own_names
from transkd_lite.models.output import SegModel
from transkd_lite.models.pretrained import load_tensors
from transkd_lite.models.segformer import SEGFORMERS, SegFormer

__all__ = ["create_model", "list_models"]

NO_OPTIONS = ("name", "num_classes", "timm_pretrained")
PVT_NAMES = tuple(f"pvt_v2_b{i}" for i in range(6))


def list_models() -> list[str]:
    """The names that `create_model` builds; besides them it takes "timm:<backbone>".

    >>> list_models()[:2]
    ['segformer_b0', 'segformer_b1']
    """
    return [*SEGFORMERS, *PVT_NAMES, "lvt"]


def create_model(
    name: str,
    num_classes: int,
    *,
    pretrained: str | Path | None = None,
    reset_head: bool | Literal["if-needed"] = False,
    **options: Any,
) -> SegModel:
    """Build a network for `num_classes` classes, with new weights unless `pretrained` says where to take
    them.

    - name: one of `list_models()`, or "timm:<backbone>".
    - pretrained: a file or folder in any known naming (ours, the TransKD authors', NVIDIA's, Hugging Face's,
      mmsegmentation's, timm's), "hub:<repo id>", or "timm" for timm's own ImageNet weights of the backbone.
      Where it holds no segmentation head (ImageNet weights), the head is new.
    - reset_head: begin with a new classifier, for weights trained on other classes; "if-needed" does so only where
      their number differs.
    - options: the keyword options of the network's class, for instance drop_path=0.0; they are kept in
      `spec.options`.

    Raises ValueError for a name, class count or option that does not exist and for weights that do not fit,
    FileNotFoundError for weights that are not there.

    >>> create_model("segformer_b0", 19).spec.channels
    (32, 64, 160, 256)
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if pretrained == "timm" and name.startswith("timm:"):
        return _build(name, num_classes, options, timm_pretrained=True)
    tensors = None if pretrained is None else _pretrained_tensors(name, pretrained)
    if tensors is not None and _has_normed_projections(name, tensors):
        options = {"normed_projections": True} | options
    model = _build(name, num_classes, options)
    if tensors is not None:
        load_tensors(model, tensors, origin=str(pretrained), reset_head=reset_head)
    return model


def _build(name: str, num_classes: int, options: dict[str, Any], **hidden: Any) -> SegModel:
    network = _network(name)
    known = [p for p in inspect.signature(network).parameters if p not in NO_OPTIONS]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; its options are {', '.join(known)}")
    model = network(name, num_classes, **options, **hidden)
    model.spec = dataclasses.replace(model.spec, options=options)
    return model


def _network(name: str) -> type[Any]:
    if name in SEGFORMERS:
        return SegFormer
    if name == "lvt":
        return LVT
    if name in PVT_NAMES:
        return import_module("transkd_lite.models.pvt").PVTv2
    if name.startswith("timm:"):
        return import_module("transkd_lite.models.pyramid").Pyramid
    raise ValueError(f"unknown network {name!r}; choose one of {', '.join(list_models())} or timm:<backbone>")


def _pretrained_tensors(name: str, pretrained: str | Path) -> dict[str, Tensor]:
    if pretrained != "timm":
        return read_tensors(pretrained)
    if family_of(name) != "pvt":
        raise ValueError(f"timm has no weights for {name}: give a path or for instance hub:nvidia/mit-b0")
    return import_module("transkd_lite.models.pyramid").timm_weights(name)


def _has_normed_projections(name: str, tensors: dict[str, Tensor]) -> bool:
    """Whether these are weights of mmsegmentation's variant of the all-MLP head."""
    if family_of(name) != "segformer":
        return False
    return "head.projection_norms.0.weight" in to_own_names(tensors, "segformer")
