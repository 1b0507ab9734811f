"""`create_model`: from a name to a network. Heavy libraries are imported only where a network needs them."""

from __future__ import annotations

import dataclasses
import inspect
from importlib import import_module
from typing import Any

from transkd_lite.models.lvt import LVT
from transkd_lite.models.output import SegModel
from transkd_lite.models.segformer import SEGFORMERS, SegFormer

__all__ = ["create_model", "list_models"]

PVT_NAMES = tuple(f"pvt_v2_b{i}" for i in range(6))


def list_models() -> list[str]:
    """The names that `create_model` builds; besides them it takes "timm:<backbone>".

    >>> list_models()[:2]
    ['segformer_b0', 'segformer_b1']
    """
    return [*SEGFORMERS, *PVT_NAMES, "lvt"]


def create_model(name: str, num_classes: int, *, pretrained: str | None = None, **options: Any) -> SegModel:
    """Build a network for `num_classes` classes, with new weights unless `pretrained` says where to take
    them.

    - name: one of `list_models()`.
    - options: the keyword options of the network's class, for instance drop_path=0.0; they are kept in
      `spec.options`.

    Raises ValueError for a name, class count or option that does not exist.

    >>> create_model("segformer_b0", 19).spec.channels
    (32, 64, 160, 256)
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    network = _network(name)
    known = [p for p in inspect.signature(network).parameters if p not in ("name", "num_classes")]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; its options are {', '.join(known)}")
    model = network(name, num_classes, **options)
    model.spec = dataclasses.replace(model.spec, options=options)
    return model


def _network(name: str) -> type[Any]:
    if name in SEGFORMERS:
        return SegFormer
    if name in PVT_NAMES:
        return import_module("transkd_lite.models.pvt").PVTv2
    if name == "lvt":
        return LVT
    raise ValueError(f"unknown network {name!r}; choose one of {', '.join(list_models())} or timm:<backbone>")
