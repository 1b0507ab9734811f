"""Reading tensors from files, and nothing but tensors; writing them whole or not at all.

safetensors files hold no code by construction. Files of `torch.save` are pickles and are read by torch's
restricted unpickler, which refuses everything that is not a tensor or a plain container before it could run.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import re
import tempfile
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = [
    "METADATA_KEY",
    "flatten",
    "listed",
    "locate",
    "printable",
    "read_json",
    "read_metadata",
    "read_tensors",
    "write_tensors",
]

METADATA_KEY = "transkd_lite"
HUB_FILES = ["config.json", "*.safetensors"]
SHOWN = 3


def printable(text: object, limit: int = 50) -> str:
    """A text of unknown origin, fit for a message: no control characters, at most `limit` characters.

    >>> printable("norm\\x1b[31m.weight", 12)
    'norm?[…eight'
    """
    clean = "".join(c if c.isprintable() else "?" for c in str(text))
    half = limit // 2
    return clean if len(clean) <= limit else f"{clean[:half]}…{clean[1 + half - limit :]}"


def listed(names: Collection[object]) -> str:
    """The first names, and how many more there are.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(printable, itertools.islice(names, SHOWN))) + more


def locate(source: str | Path) -> Path:
    """The file or folder that a source names; "hub:<repo id>" is fetched. Raises FileNotFoundError."""
    if str(source).startswith("hub:"):
        source = _download(str(source).removeprefix("hub:"))
    if not Path(source).exists():
        raise FileNotFoundError(f"no checkpoint at {printable(source, 400)}")
    return Path(source)


def read_tensors(source: str | Path) -> dict[str, Tensor]:
    """The tensors of a file, of a folder in Hugging Face layout, or of "hub:<repo id>" (see `flatten`).

    Raises FileNotFoundError where there is nothing, ValueError where the file is damaged or holds more than
    tensors.
    """
    path = locate(source)
    tensors: dict[str, Tensor] = {}
    for file in _files_of(path) if path.is_dir() else [path]:
        tensors |= flatten(_read_file(file), printable(file, 160))
    return tensors


def flatten(content: Any, origin: str = "the checkpoint") -> dict[str, Tensor]:
    """The tensors of nested dicts, each by the keys that lead to it. Raises ValueError where there are none.

    >>> flatten({"epoch": 3, "state_dict": {"norm.weight": torch.ones(2)}}).keys()
    dict_keys(['state_dict/norm.weight'])
    """
    tensors, seen, waiting = {}, set(), [("", content)]
    for path, value in waiting:  # grows while it is read
        value = value.state_dict() if isinstance(value, nn.Module) else value
        if isinstance(value, Tensor) and path:
            tensors[path] = value
        elif isinstance(value, Mapping) and id(value) not in seen:
            seen.add(id(value))
            waiting += [(f"{path}/{key}" if path else str(key), inner) for key, inner in value.items()]
    if not tensors:
        raise ValueError(
            f"{origin} holds no state dict: expected tensors by name, got {type(content).__name__}"
        )
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds. Raises ValueError where it holds something else."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")).items())
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(_damaged(path, "JSON object", error)) from error


def read_metadata(path: str | Path, key: str) -> Any:
    """What JSON under `key` the header of a safetensors file holds; None where there is none."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(key)
        return None if text is None else json.loads(text)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(_damaged(path, "safetensors file", error)) from error


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file aside, flush it to the disk, then give it its name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        # Copies, because safetensors refuses tensors that share memory.
        copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        save_file(copies, aside, dict(metadata))
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
            raise ValueError(_damaged(path, "safetensors file", error)) from error
    try:
        with warnings.catch_warnings():  # about the protocol of pickles that are refused anyway
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = re.search(r"Unsupported \w+:? [^\n]*?(?= was not|\n|$)", str(error)) or ["no tensors"]
        where = next(p for p in (str(path), path.name, "weights.pth") if len(repr(p)) <= 150)
        raise ValueError(
            f"{printable(path.name)} is refused: a checkpoint may hold tensors only, this one is damaged or holds "
            f"something that would be executed ({printable(reason[0], 60)}); where you trust it, turn it into "
            "safetensors:\n"
            f"import torch, transkd_lite.models.files as files; path = {where!r}\n"
            "files.write_tensors(path + '.safetensors', "
            "files.flatten(torch.load(path, map_location='cpu', weights_only=False)), {})"
        ) from error
    except Exception as error:
        raise ValueError(_damaged(path, "checkpoint", error)) from error


def _damaged(path: str | Path, kind: str, error: Exception) -> str:
    return f"{printable(path, 160)} is not a whole {kind} ({printable(error, 200)}): fetch or save it again"


def _files_of(folder: Path) -> list[Path]:
    """The weight files of a Hugging Face folder: safetensors before pickles, a variant only where it is
    alone.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        if (folder / f"{name}.index.json").is_file():
            return _shards(folder / f"{name}.index.json")
    where = printable(folder, 160)
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise FileNotFoundError(f"{where} holds neither *.safetensors nor pytorch_model*.bin")
    if len(files) > 1:
        raise ValueError(f"{where} holds {listed([file.name for file in files])}: give the path of one")
    return files


def _shards(index: Path) -> list[Path]:
    """The files of a checkpoint in parts, which its index lists by tensor."""
    names = read_json(index).get("weight_map")
    files = set(map(str, names.values())) if isinstance(names, dict) else set()
    wrong = files - {file.name for file in index.parent.iterdir()}
    if wrong or not files:
        raise FileNotFoundError(
            f"{printable(index, 160)} must list files that stand beside it, but lists {listed(wrong) or 'nothing'}: "
            "fetch the folder again"
        )
    return [index.parent / name for name in sorted(files)]


def _download(repo_id: str) -> str:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(repo_id, allow_patterns=HUB_FILES)
        if not (Path(folder) / "model.safetensors").is_file():  # in parts, or pickles
            pickles = [] if list(Path(folder).glob("*.safetensors")) else ["pytorch_model*.bin"]
            folder = snapshot_download(repo_id, allow_patterns=["config.json", "*.index.json", *pickles])
    except Exception as error:
        raise FileNotFoundError(
            f"{printable(repo_id, 100)} could not be fetched from the Hugging Face hub ({printable(error, 200)}): "
            "check the name and the connection, or give the path of a folder that holds config.json and "
            "model.safetensors"
        ) from error
    return folder
