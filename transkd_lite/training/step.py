"""One training step as a module: student, teacher, method and supervision give one dictionary of loss terms.

The teacher runs without a graph (the authors record it; same numbers, more time and memory). Being one
module, the step is what DistributedDataParallel wraps, so the student's and the method's gradients are
reduced together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from transkd_lite.data.labels import VOID
from transkd_lite.distill.distiller import Distiller
from transkd_lite.metrics import autocast, match_sizes

__all__ = ["TrainStep", "cross_entropy", "label_weight", "synced_batch_norm"]

# --- The supervised part of the loss: cross entropy, at the size of the labels or of the logits.
#
# The paper's scripts resize labels to a quarter ("quarter"); most later work upsamples the logits ("full").


def label_weight(labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """Sum of the class weights over all pixels that are not void (their number where weights are None); a
    scalar.
    """
    valid = labels != VOID
    if class_weights is None:
        return valid.sum().float()
    return (class_weights[labels.masked_fill(~valid, 0)] * valid).sum()


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    total: Tensor | None = None,
) -> Tensor:
    """Weighted mean cross entropy of logits (N, K, H, W) against labels (N, H, W) of the same size.

    The sum over pixels is divided by `total`, the sum of the pixels' class weights (taken over this batch
    if None). Without any valid pixel the loss is 0 and still has a gradient, where PyTorch's mean would be
    0 / 0.
    """
    if total is None:
        total = label_weight(labels, class_weights)
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
        weight = label_weight(labels, self.class_weights)
        if self.world_size > 1:
            dist.all_reduce(weight)
            weight = weight / self.world_size
        return cross_entropy(logits, labels, self.class_weights, weight)


@contextlib.contextmanager
def synced_batch_norm(module: nn.Module, world_size: int) -> Iterator[None]:
    """Within the context every BatchNorm in training takes its statistics over all processes.

    PyTorch's SyncBatchNorm needs a GPU; this works on any backend and leaves the modules as they were.
    """
    norms = (
        [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if world_size > 1
        else []
    )
    for norm in norms:
        norm.forward = _SyncedForward(norm, world_size)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


class _SyncedForward:
    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, world_size: int) -> None:
        self.norm, self.world_size = norm, world_size

    def __call__(self, x: Tensor) -> Tensor:
        norm = self.norm
        if not norm.training:
            return type(norm).forward(norm, x)
        dims = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        wide = x.float()
        count = wide.numel() / wide.shape[1] * self.world_size
        mean = all_reduce(wide.sum(dims)) / count
        centred = wide - mean.view(shape)
        variance = all_reduce(centred.square().sum(dims)) / count
        self._track(mean.detach(), variance.detach() * count / max(1.0, count - 1))
        y = centred * torch.rsqrt(variance + norm.eps).view(shape)
        if norm.affine:
            y = y * norm.weight.view(shape) + norm.bias.view(shape)
        return y.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        norm = self.norm
        if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
            return
        norm.num_batches_tracked += 1
        rate = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), rate)
        norm.running_var.lerp_(variance.to(norm.running_var.dtype), rate)
