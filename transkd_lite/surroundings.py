"""What a training run borrows from its process and gives back: random state, kernel choice; and its peak memory."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import torch

__all__ = ["determinism", "device_name", "own_random_state", "peak_mb"]


@contextlib.contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """The caller's random state is the same after training as before."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


@contextlib.contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Only kernels with a reproducible result, if wanted; afterwards the setting is as before."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def device_name(device: torch.device) -> str:
    """The graphics card's name, or the kind of device: what a record of a run says."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_mb(device: torch.device) -> float | None:
    """Peak memory in MB: of the device's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if os.name != "posix":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
