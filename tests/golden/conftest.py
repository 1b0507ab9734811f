"""Numbers computed with the authors' published modules, and the recipe for the weights and images behind
them.

Every weight follows from its name in the authors' checkpoint and a seed, every image from the seed alone, so
a case stores only statistics and samples of what came out. Ours is computed in float64, in which all processors
agree; what remains is the rounding of the stored numbers, which came out in float32.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

HERE = Path(__file__).parent


class Golden:
    """Cases, checkpoint listings, and comparison with stored statistics."""

    tolerance = 1e-4

    def __init__(self) -> None:
        with gzip.open(HERE / "cases" / "state_dict_keys.json.gz", "rt") as file:
            self.listings: dict[str, dict[str, list[int]]] = json.load(file)

    def case(self, name: str) -> dict[str, Any]:
        return json.loads((HERE / "cases" / f"{name}.json").read_text())

    def images(self, seed: int, shape: list[int]) -> Tensor:
        drawn = np.random.default_rng([seed, 7]).random(shape).astype(np.float32)
        return torch.from_numpy(drawn).double()

    def labels(self, seed: int, shape: list[int]) -> Tensor:
        size = (shape[0], shape[2] // 4, shape[3] // 4)
        return torch.from_numpy(np.random.default_rng([seed, 11]).integers(0, 20, size))

    def checkpoint(self, listing: str, seed: int) -> dict[str, Tensor]:
        """A state dict in the authors' naming, for instance of "segformer_b0+transkd-base"."""
        return {name: self.tensor(name, shape, seed) for name, shape in self.listings[listing].items()}

    def tensor(self, name: str, shape: list[int], seed: int) -> Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.zeros((), dtype=torch.int64)
        n = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
        if name.endswith("running_var"):
            value = 1 + 0.5 * np.tanh(n)
        elif name.endswith(("running_mean", "bias")):
            value = 0.02 * n
        elif len(shape) <= 1:
            value = 1 + 0.1 * n
        else:
            value = n / np.sqrt(np.prod(shape[1:]))
        return torch.from_numpy(np.asarray(value, dtype=np.float32))

    def difference(self, tensor: Tensor, expected: dict[str, Any]) -> float:
        """The largest difference from stored mean, deviation and samples, in units of that deviation."""
        flat = tensor.detach().flatten().double()
        assert flat.numel() == expected["numel"]
        samples = flat[np.linspace(0, flat.numel() - 1, 32).round().astype(int)]
        differences = [
            (flat.mean() - expected["mean"]).abs(),
            (flat.std() - expected["std"]).abs(),
            (samples - torch.tensor(expected["samples"], dtype=torch.float64)).abs().max(),
        ]
        return max(d.item() for d in differences) / expected["std"]

    def assert_close(self, tensors: Any, expected: Any, tolerance: float | None = None) -> None:
        """Compare one tensor with its statistics, or a sequence with a list of them."""
        if isinstance(expected, dict):
            tensors, expected = [tensors], [expected]
        assert len(tensors) == len(expected)
        differences = [self.difference(t, e) for t, e in zip(tensors, expected, strict=True)]
        assert max(differences) < (tolerance or self.tolerance), differences


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden()
