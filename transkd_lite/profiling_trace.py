"""Where the time of a training step goes: torch.profiler's events, told by part and by kind of work.

An event of the backward pass belongs to the part whose forward operation recorded it; autograd gives both the same
sequence number. So teacher, student and method are each charged with all that they cost.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from .folded_head import folded_heads
from .train_step import TrainStep

__all__ = ["GROUPS", "PARTS", "trace_steps"]

PARTS = ("teacher", "student", "method", "optimiser")
_PREFIX = "transkd::"
_BACKWARD = "autograd::engine::evaluate_function"
# The first group with a fragment that is in an operation's name is its group.
_FRAGMENTS = {
    "optimiser": ("adam",),
    "loss": ("nll_loss", "log_softmax", "logsoftmax", "mse_loss", "cross_entropy", "kl_div"),
    "attention": ("attention", "softmax", "bmm"),
    "convolution": ("conv",),
    "normalisation": ("norm",),
    "matrix product": ("addmm", "::mm", "linear", "matmul"),
    "resizing": ("upsample", "interpolate", "pool"),
    "copies and layout": ("copy", "contiguous", "clone", "::to", "::cat", "reorder", "empty", "zero", "fill", "slice"),
}  # fmt: skip
GROUPS = (*_FRAGMENTS, "other")


def trace_steps(
    student: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    teacher: nn.Module | None = None,
    method: nn.Module | None = None,
    precision: str = "fp32",
    steps: int = 3,
) -> pd.DataFrame:
    """Profile whole training steps on copies of the networks; one row a part and group, the longest first.

    images (N, 3, H, W) and labels (N, H, W) on the device of the networks. Columns part (of `PARTS`; the supervised
    loss is the student's), group (of `GROUPS`), seconds a step (of the device's kernels on a GPU, else of the
    processor), and share of all.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it writes to standard error that there is no GPU
    student = copy.deepcopy(student).train()
    teacher, method = (None if m is None else copy.deepcopy(m).to(images.device) for m in (teacher, method))
    step = TrainStep(
        student.train(), teacher and teacher.eval(), method and method.train(), precision=precision
    )
    optimizer = torch.optim.AdamW(step.parameters(), lr=1e-6, fused=True)
    activities = [ProfilerActivity.CPU]
    if images.is_cuda:
        activities.append(ProfilerActivity.CUDA)
    with folded_heads(student, teacher), _regions(student=student, teacher=teacher, method=method):
        _train(step, optimizer, images, labels)  # the first step allocates
        with profile(activities=activities, acc_events=True) as trace:
            for _ in range(steps):
                _train(step, optimizer, images, labels)
            if images.is_cuda:
                torch.cuda.synchronize()
    return _table(trace.events() or [], steps, images.is_cuda)


def _train(step: TrainStep, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    with record_function(_PREFIX + "student"):  # what is neither network nor method is the supervised loss
        loss = step(images, labels)["total"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    with record_function(_PREFIX + "optimiser"):
        optimizer.step()


@contextlib.contextmanager
def _regions(**parts: nn.Module | None) -> Iterator[None]:
    """Within the context every forward pass of a part is a region of its name in the profile."""
    handles = []
    for name, part in parts.items():
        if part is not None:
            region = _Region(_PREFIX + name)
            handles += [
                part.register_forward_pre_hook(region.enter),
                part.register_forward_hook(region.leave),
            ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Region:
    def __init__(self, name: str) -> None:
        self.name = name
        self.open: Any = None

    def enter(self, module: nn.Module, inputs: Any) -> None:
        self.open = record_function(self.name)
        self.open.__enter__()

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.open.__exit__(None, None, None)


def _table(events: Iterable[Any], steps: int, on_gpu: bool) -> pd.DataFrame:
    """Self times of the host's events (which carry those of the kernels they launched), summed by part and group."""
    found = [event for event in events if event.device_type.name == "CPU"]
    recorded = _recorded_by(found)
    rows = [(_part(event, recorded), _group(event), _seconds(event, on_gpu) / steps) for event in found]
    table = pd.DataFrame(rows, columns=["part", "group", "seconds"]).dropna()
    table = table.groupby(["part", "group"], as_index=False).sum()
    table = table[table["seconds"] > 0].sort_values("seconds", ascending=False, ignore_index=True)
    return table.assign(share=table["seconds"] / table["seconds"].sum())


def _seconds(event: Any, on_gpu: bool) -> float:
    return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6


def _recorded_by(events: list[Any]) -> dict[int, str]:
    """Part by autograd's sequence number: that of the last forward operation that bears it, which made the node."""
    parts: dict[int, str] = {}
    for event in sorted(events, key=lambda event: event.time_range.start):
        part = _region(event)
        if event.sequence_nr >= 0 and part in ("student", "method"):
            parts[event.sequence_nr] = part
    return parts


def _ancestors(event: Any) -> Iterator[Any]:
    while event is not None:
        yield event
        event = event.cpu_parent


def _region(event: Any) -> str | None:
    """The innermost region around an event."""
    names = (ancestor.name for ancestor in _ancestors(event))
    return next((name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX)), None)


def _part(event: Any, recorded: dict[int, str]) -> str | None:
    """The part an event is charged to; None for what is between the parts (the profiler's own marks)."""
    for ancestor in _ancestors(event):
        if ancestor.name.startswith(_BACKWARD):
            return recorded.get(
                ancestor.sequence_nr, "optimiser"
            )  # gradients put where the optimiser finds them
        if ancestor.name.startswith(_PREFIX):
            return ancestor.name.removeprefix(_PREFIX)
    return None


def _group(event: Any) -> str:
    """The group of the innermost operation whose name tells it."""
    for ancestor in _ancestors(event):
        name = ancestor.name.lower()
        if name.startswith(_PREFIX):
            break
        for group, fragments in _FRAGMENTS.items():
            if any(fragment in name for fragment in fragments):
                return group
    return "other"
