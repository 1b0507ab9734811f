"""Checkpoints in and out."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from transkd_lite.models.factory import create_model
from transkd_lite.models.output import ModelSpec, SegModel

__all__ = ["load_model", "save_model"]

METADATA_KEY = "transkd_lite"


def save_model(
    model: SegModel,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a network as one safetensors file that needs no other argument to be read.

    - dtype: store floating-point tensors in this type (torch.float16 halves the file); None keeps theirs.
    - provenance: anything that JSON can hold, kept in the metadata beside the spec.

    The file appears whole or not at all. Returns its path.
    """
    path = Path(path)
    tensors = {name: _stored(tensor, dtype) for name, tensor in model.state_dict().items()}
    metadata = {"spec": json.loads(model.spec.to_json()), "provenance": dict(provenance or {})}
    _write_whole(path, tensors, {METADATA_KEY: json.dumps(metadata)})
    return path


def load_model(path: str | Path, *, device: str | torch.device = "cpu") -> SegModel:
    """Read what `save_model` wrote: a network in evaluation mode, its weights in float32.

    Raises FileNotFoundError, and ValueError where the file is not whole or carries no spec.
    """
    path = Path(path)
    spec, tensors = _read(path)
    model = create_model(spec.name, spec.num_classes, **spec.options)
    own = model.state_dict()
    model.load_state_dict({k: v.to(own[k].dtype) if k in own else v for k, v in tensors.items()})
    return model.to(device).eval()


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu()
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    return tensor.contiguous().clone()


def _write_whole(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write aside, flush to disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    os.close(handle)
    try:
        save_file(tensors, aside, metadata=metadata)
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _read(path: Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"no model file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get(METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); save it again") from error
    if metadata is None:
        raise ValueError(
            f"{path} carries no spec of this library; use create_model(..., pretrained={str(path)!r})"
        )
    return ModelSpec.from_json(json.dumps(json.loads(metadata)["spec"])), tensors
