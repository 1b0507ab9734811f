"""Our own files: one safetensors file a network, its spec in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transkd_lite.data.labels import LabelSpace
from transkd_lite.models.factory import create_model
from transkd_lite.models.files import METADATA_KEY, printable, read_metadata, read_tensors, write_tensors
from transkd_lite.models.naming import plain_name
from transkd_lite.models.output import SegModel, bare_network
from transkd_lite.models.pretrained import load_tensors, read_spec

__all__ = ["load_model", "save_model"]


def save_model(
    model: nn.Module,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a network as one safetensors file that needs no other argument to be read.

    The metadata hold its spec and, where its `label_space` is known, names and colours of its classes.

    - model: a network of `create_model`, also compiled or wrapped for parallel training.
    - dtype: store floating-point tensors in this type (torch.float16 halves the file); None keeps theirs.
    - provenance: anything that JSON can hold, kept in the metadata beside the spec.

    The file appears whole or not at all. Returns its path.
    """
    model = bare_network(model)
    tensors = {plain_name(name): tensor for name, tensor in model.state_dict().items()}
    if dtype is not None:
        tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    metadata = {"spec": json.loads(model.spec.to_json()), "provenance": dict(provenance or {})}
    if model.label_space is not None:
        metadata |= json.loads(model.label_space.to_json())
    write_tensors(path, tensors, {METADATA_KEY: json.dumps(metadata)})
    return Path(path)


def load_model(path: str | Path, *, device: str | torch.device = "cpu") -> SegModel:
    """Read what `save_model` wrote: a network in evaluation mode, its weights in float32, with its `label_space`.

    Raises FileNotFoundError, and ValueError where the file is not whole or carries no spec.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no model file at {printable(path, 400)}")
    spec = read_spec(Path(path))
    if spec is None:
        raise ValueError(
            f"{printable(path, 160)} carries no spec of this library: give it to create_model as pretrained"
        )
    model = create_model(spec.name, spec.num_classes, **spec.options)
    load_tensors(model, read_tensors(path), origin=str(path))
    metadata = read_metadata(path, METADATA_KEY)
    if "label_space" in metadata:
        model.label_space = LabelSpace.from_json(json.dumps(metadata))
    return model.to(device).eval()
