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

from transkd_lite.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from transkd_lite.models.output import SegModel

__all__ = ["as_batch", "predict"]


def as_batch(images: Sequence[Any], *, normalize: bool = True) -> Tensor:
    """Stack pictures of one size into the float tensor (N, 3, H, W) that a network takes.

    Args:
        images: RGB pictures, PIL or uint8 arrays (H, W, 3).
        normalize: subtract ImageNet's mean and divide by its deviation; otherwise values are in [0, 1].

    Raises:
        ValueError: the pictures differ in size.
    """
    arrays = [np.asarray(image) for image in images]
    sizes = sorted({array.shape[:2] for array in arrays})
    if len(sizes) != 1:
        raise ValueError(
            f"a batch holds pictures of one size, got {sizes}: pass size=(height, width) to open_dataset"
        )
    batch = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    return functional.normalize(batch, list(IMAGENET_MEAN), list(IMAGENET_STD)) if normalize else batch


@torch.no_grad()
def predict(model: SegModel, images: Sequence[Any], *, normalize: bool = True) -> list[NDArray[np.uint8]]:
    """Segment pictures, each at its own size, with logits upsampled to it (bilinear).

    Args:
        model: the network; it runs where it is, and comes back in the mode in which it was.
        images: RGB pictures, PIL or uint8 arrays (H, W, 3).
        normalize: as in training, see `as_batch`.

    Returns:
        One map (H, W) of train ids for each picture.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    maps = []
    for image in images:
        batch = as_batch([image], normalize=normalize).to(device)
        logits = interpolate(model(batch).logits.float(), size=batch.shape[2:], mode="bilinear")
        maps.append(logits.argmax(1)[0].to(torch.uint8).cpu().numpy())
    model.train(was_training)
    return maps
