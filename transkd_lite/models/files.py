"""Reading tensors from files, and nothing but tensors; writing them whole or not at all.

safetensors files hold no code by construction. Files of `torch.save` are pickles and are read by torch's
restricted unpickler, which refuses everything that is not a tensor or a plain container before it could run.
"""

from __future__ import annotations

import json
import os
import pickle
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["read_metadata", "read_tensors", "unwrap", "write_tensors"]

WRAPPERS = ("state_dict", "model_state_dict", "model")
HUB_FILES = ["config.json", "*.safetensors"]


def read_tensors(source: str | Path) -> dict[str, Tensor]:
    """The tensors of a file, of a folder in Hugging Face layout, or of "hub:<repo id>", unwrapped (see
    `unwrap`).

    Raises FileNotFoundError where there is nothing, ValueError where the file is damaged or holds more than
    tensors.
    """
    if str(source).startswith("hub:"):
        source = _download(str(source).removeprefix("hub:"))
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    files = _files_of(path) if path.is_dir() else [path]
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= unwrap(_read_file(file), str(file))
    return tensors


def unwrap(content: Any, origin: str = "the checkpoint") -> dict[str, Tensor]:
    """The state dict inside {"state_dict": …} and the like, without the "module." of data-parallel training.

    >>> unwrap({"state_dict": {"module.norm.weight": torch.ones(2)}}).keys()
    dict_keys(['norm.weight'])
    """
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not any(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(
            f"{origin} holds no state dict: expected tensors by name, got {type(content).__name__}"
        )
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def read_metadata(path: str | Path, key: str) -> Any:
    """What JSON under `key` the header of a safetensors file holds; None where there is none."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(key)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): save it again") from error
    return None if text is None else json.loads(text)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file aside, flush it to the disk, then give it its name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, aside, dict(metadata))
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _read_file(path: Path) -> Any:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file ({error}): fetch it again") from error
    try:
        with warnings.catch_warnings():  # about the protocol of pickles that are refused anyway
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path} is refused: a checkpoint may hold tensors only, this one is damaged or holds something that "
            f"would be executed ({reason}); convert it to safetensors where you trust it"
        ) from error
    except (RuntimeError, EOFError, KeyError, OSError) as error:
        raise ValueError(f"{path} is not a whole checkpoint ({error}): fetch or save it again") from error


def _files_of(folder: Path) -> list[Path]:
    """The weight files of a Hugging Face folder: safetensors where offered."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise FileNotFoundError(f"{folder} holds neither *.safetensors nor pytorch_model*.bin")
    return files


def _download(repo_id: str) -> str:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(repo_id, allow_patterns=HUB_FILES)
        if not list(Path(folder).glob("*.safetensors")):
            folder = snapshot_download(repo_id, allow_patterns=["config.json", "pytorch_model*.bin"])
    except Exception as error:
        raise FileNotFoundError(
            f"{repo_id} could not be fetched from the Hugging Face hub ({error}): check the name and the connection, "
            "or give the path of a folder that holds config.json and model.safetensors"
        ) from error
    return folder
