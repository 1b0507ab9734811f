"""`create_model`: from a name to a network. Heavy libraries are imported only where a network needs them."""

from __future__ import annotations

import dataclasses
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from transkd_lite.models.files import listed, locate, printable, read_json, read_tensors
from transkd_lite.models.huggingface import read_options
from transkd_lite.models.lvt import LVT
from transkd_lite.models.naming import family_of, to_own_names
from transkd_lite.models.output import SegModel
from transkd_lite.models.pretrained import add_options, head_options, load_tensors, read_spec
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
      What its network is wrapped in (data-parallel training, torch.compile, Lightning, a distiller) is seen
      through: a student is taken before a teacher, a network before its moving average (EMA). Where it holds no
      segmentation head (ImageNet weights), the head is new.
    - reset_head: begin with a new classifier, for weights trained on other classes; "if-needed" does so only where
      their number differs.
    - options: the keyword options of the network's class, for instance drop_path=0.0; they are kept in
      `spec.options`. Those that the weights need (the head's width, the number of attention heads …) are read
      from `pretrained`.

    Raises ValueError for a name, class count or option that does not exist, for an option that contradicts the
    weights and for weights that do not fit, FileNotFoundError for weights that are not there.

    >>> create_model("segformer_b0", 19).spec.channels
    (32, 64, 160, 256)
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if pretrained == "timm" and name.startswith("timm:"):
        return _build(name, num_classes, options, timm_pretrained=True)
    if pretrained is None:
        return _build(name, num_classes, options)
    _network(name)  # refuses unknown names
    tensors, found = _read_pretrained(name, pretrained)
    model = _build(name, num_classes, add_options(name, options, found, str(pretrained)))
    load_tensors(model, tensors, origin=str(pretrained), reset_head=reset_head)
    return model


def _build(name: str, num_classes: int, options: dict[str, Any], **hidden: Any) -> SegModel:
    network = _network(name)
    known = [p for p in inspect.signature(network).parameters if p not in NO_OPTIONS]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{name} has no option {listed(unknown)}; its options are {', '.join(known)}")
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
    raise ValueError(
        f"unknown network {printable(name)!r}; choose one of {', '.join(list_models())} or timm:<backbone>"
    )


def _read_pretrained(name: str, pretrained: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, under this library's names, and the options that they need."""
    family = family_of(name)
    if pretrained == "timm":
        if family != "pvt":
            raise ValueError(f"timm has no weights for {name}: give a path or for instance hub:nvidia/mit-b0")
        return to_own_names(import_module("transkd_lite.models.pyramid").timm_weights(name), family), {}
    path = locate(pretrained)
    tensors = read_tensors(path)
    own = to_own_names(tensors, family)
    found = head_options(name, own)
    if family == "segformer" and any("patch_embeddings." in tensor for tensor in tensors):
        file = (path if path.is_dir() else path.parent) / "config.json"
        found |= read_options(name, read_json(file) if file.is_file() else {}, str(file))
    elif spec := read_spec(path):
        found |= {key: spec.options[key] for key in ("num_heads", "norm_eps") if key in spec.options}
    return own, found
