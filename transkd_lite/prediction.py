"""Pictures in, label maps out: what a user of a trained network calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional

from transkd_lite.data.labels import VOID
from transkd_lite.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from transkd_lite.models.output import SegModel

__all__ = ["as_batch", "predict", "require_finite"]


def as_batch(images: Sequence[Any], *, normalize: bool = True) -> Tensor:
    """Stack pictures of one size into the float tensor (N, 3, H, W) that a network takes.

    Args:
        images: RGB pictures, PIL or uint8 arrays (H, W, 3).
        normalize: subtract ImageNet's mean and divide by its deviation; otherwise values are in [0, 1].

    Raises:
        ValueError: the pictures differ in size, or do not hold 8-bit RGB.
    """
    arrays = [np.asarray(image) for image in images]
    for array in arrays:
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(
                f"pictures are uint8 RGB (H, W, 3); got {array.dtype} {array.shape}: convert them first"
            )
    sizes = sorted({array.shape[:2] for array in arrays})
    if len(sizes) != 1:
        raise ValueError(
            f"a batch holds pictures of one size, got {sizes}: pass size=(height, width) to open_dataset"
        )
    batch = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    return functional.normalize(batch, list(IMAGENET_MEAN), list(IMAGENET_STD)) if normalize else batch


def require_finite(logits: Tensor) -> Tensor:
    """The logits; ValueError where some are not finite, since the class of the largest would be an accident."""
    broken = logits.numel() - int(logits.isfinite().sum())
    if broken:
        raise ValueError(
            f"every logit must be finite; {broken} of {logits.numel()} are not: the network's weights are broken or "
            "its precision is too low (precision='fp32')"
        )
    return logits


@torch.no_grad()
def predict(model: SegModel, images: Sequence[Any], *, normalize: bool = True) -> list[NDArray[np.uint8]]:
    """Segment pictures, each at its own size, with logits upsampled to it (bilinear).

    Args:
        model: the network; it runs where it is, and comes back in the mode in which it was.
        images: RGB pictures, PIL or uint8 arrays (H, W, 3).
        normalize: as in training, see `as_batch`.

    Returns:
        One map (H, W) of train ids for each picture.

    Raises:
        ValueError: logits that are not finite, or more of them than the 255 classes that a map of 8 bits can tell
            from void (a network on its own may have any number).
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    maps = []
    try:
        for image in images:
            batch = as_batch([image], normalize=normalize).to(device)
            logits = require_finite(model(batch).logits.float())
            if logits.shape[1] > VOID:
                raise ValueError(
                    f"label maps are uint8, with {VOID} for void, so predict takes up to {VOID} logits; "
                    f"got {logits.shape[1]}: take the argmax of the network's own logits"
                )
            logits = interpolate(logits, size=batch.shape[2:], mode="bilinear")
            maps.append(logits.argmax(1)[0].to(torch.uint8).cpu().numpy())
    finally:
        model.train(was_training)
    return maps
