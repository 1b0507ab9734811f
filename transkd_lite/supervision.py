"""The supervised part of the loss: cross entropy, at the size of the labels or of the logits.

The paper's scripts resize labels to a quarter ("quarter"); most later work upsamples the logits ("full").
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .data.labels import VOID
from .distill.adapt import resize_labels

__all__ = ["cross_entropy", "label_weight", "match_sizes", "resize_labels"]


def match_sizes(logits: Tensor, labels: Tensor, supervise: str) -> tuple[Tensor, Tensor]:
    """Bring logits (N, K, h, w) and labels (N, H, W) to one size: "full" (H, W) or "quarter" (h, w)."""
    if supervise == "quarter":
        return logits, resize_labels(labels, (logits.shape[-2], logits.shape[-1]))
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return logits, labels


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
