"""One training step as a module: student, teacher, method and supervision give one dictionary of loss terms.

The teacher runs without a graph (the authors record it; same numbers, more time and memory). Being one
module, the step is what DistributedDataParallel wraps, so the student's and the method's gradients are
reduced together.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.overrides import TorchFunctionMode

from transkd_lite.data.labels import VOID
from transkd_lite.distill.distiller import Distiller
from transkd_lite.metrics import autocast, match_sizes

__all__ = ["SyncedBatchNorm", "TrainStep", "cross_entropy"]

# --- The supervised part of the loss: cross entropy, at the size of the labels or of the logits.
#
# The paper's scripts resize labels to a quarter ("quarter"); most later work upsamples the logits ("full").


def cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, world_size: int = 1) -> Tensor:
    """Weighted mean cross entropy of logits (N, K, H, W) against labels (N, H, W) of the same size.

    The sum over pixels is divided by the class weights of all pixels that are not void, their number where weights are
    None (with several processes, their mean over processes). Without any valid pixel the loss is 0 and still has a
    gradient, where PyTorch's mean would be 0 / 0.
    """
    valid = labels != VOID
    weights = valid if class_weights is None else class_weights[labels.masked_fill(~valid, 0)] * valid
    total = weights.sum().float()
    if world_size > 1:
        dist.all_reduce(total)
        total = total / world_size
    summed = F.cross_entropy(logits.float(), labels, class_weights, ignore_index=VOID, reduction="sum")
    return summed / total.clamp(min=torch.finfo(torch.float32).tiny)


# --- One training step as a module: student, teacher, method and supervision give one dictionary of loss terms.


class TrainStep(nn.Module):
    """forward(images (n, 3, h, w), labels (n, h, w)) -> {"total", "ce", and one scalar for each term of the
    method}.

    `total` is ce + method.combine(terms). The teacher is held outside the module tree: it is neither
    trained, saved nor reduced.

    With several processes the mean over them is the loss of one process with the whole batch: ce is divided by the
    class weights of the whole batch, and a method's means over valid pixels by their number in the whole batch.
    Terms that relate images to each other (cirkd, the intra-class part of dist) relate those of one process.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None = None,
        method: nn.Module | None = None,
        *,
        supervise: str = "full",
        class_weights: Tensor | None = None,
        precision: str = "fp32",
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.student = student
        self.method: Any = method  # what it can beside forward is not known to nn.Module
        self._outside = (teacher,)
        self.supervise = supervise
        self.precision, self.world_size = precision, world_size
        if isinstance(method, Distiller):
            method.join_training(world_size)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss terms of one batch."""
        teacher = self._outside[0]
        with autocast(images.device, self.precision):
            target = None
            if teacher is not None:
                with torch.no_grad():
                    target = teacher(images)
            output = self.student(images)
            terms = {} if self.method is None else self.method(images, output, target, labels)
            extra = 0.0 if self.method is None else self.method.combine(terms)
        ce = self.supervised(output.logits, labels)
        return {"total": ce + extra, "ce": ce, **terms}

    def supervised(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of logits (n, K, h, w) with labels (n, H, W), as the step takes it."""
        logits, labels = match_sizes(logits.float(), labels, self.supervise)
        return cross_entropy(logits, labels, self.class_weights, self.world_size)


class SyncedBatchNorm(TorchFunctionMode):
    """Within the context every BatchNorm in training takes its statistics over all processes.

    PyTorch's SyncBatchNorm needs a GPU; this works on any backend and leaves the modules as they are.
    """

    def __init__(self, world_size: int) -> None:
        super().__init__()
        self.world_size = world_size

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What a call of one of PyTorch's functions gives."""
        kwargs = kwargs or {}
        if func is F.batch_norm:
            given = inspect.signature(func).bind(*args, **kwargs)
            given.apply_defaults()
            if given.arguments.pop("training"):
                return self._normalise(**given.arguments)
        return func(*args, **kwargs)

    def _normalise(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        dims = [d for d in range(input.dim()) if d != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        wide = input.float()
        count = wide.numel() / wide.shape[1] * self.world_size
        mean = all_reduce(wide.sum(dims)) / count
        centred = wide - mean.view(shape)
        variance = all_reduce(centred.square().sum(dims)) / count
        with torch.no_grad():
            if running_mean is not None and running_var is not None:
                unbiased = variance * count / max(1.0, count - 1)
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        y = centred * torch.rsqrt(variance + eps).view(shape)
        if weight is not None and bias is not None:
            y = y * weight.view(shape) + bias.view(shape)
        return y.to(input.dtype)
