"""What happens to an image and its label between decoding and the network: one joint, seeded transform.

``make_transform`` returns a picklable callable. Every random number comes from the generator it is given, so
that a sample looks the same whichever worker makes it. Names of ``augment``:

- ``none``         nothing random (but a random crop when ``crop`` is set and the image is larger)
- ``flip``         horizontal flip with probability 1/2
- ``paper``        the authors' training augmentation with its two faults: flip, then image and quarter-size
label are
                   translated by the *same* number of pixels (-2 to 2), so that labels drift by up to 6 image
                   pixels, and where the shift is negative the uncovered strip of the label becomes class 0
                   instead of void
- ``paper-fixed``  the same with the drift mended: the full-size label moves with the image, uncovered strips
are void
- ``standard``     random scale 0.5 to 2, crop in which no class covers more than 3/4, flip, colour jitter

Built on the functional kernels of torchvision v2. Source of ``paper``: the published training
scripts; ``standard`` follows the usual recipe of SegFormer (Xie et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from transkd_lite.data.labels import VOID

__all__ = [
    "AUGMENTATIONS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Transform",
    "make_transform",
    "require_labelled",
    "to_tensors",
    "translate",
]


def to_tensors(sample: Any) -> tuple[Tensor, Tensor]:
    """uint8 image (3, H, W) and uint8 label (H, W) of a sample {"image", "label"} (PIL, numpy or torch).

    Raises `ValueError` if the two do not have the same height and width, or hold what 8 bits cannot.
    """
    image, label = (_as_uint8(sample[name], name) for name in ("image", "label"))
    if not isinstance(sample["image"], Tensor):
        image = image.permute(2, 0, 1).contiguous()
    if image.shape[-2:] != label.shape[-2:]:
        raise ValueError(
            f"image and label must have one size; got {tuple(image.shape[-2:])} and "
            f"{tuple(label.shape[-2:])}: pass size=(height, width) to open_dataset"
        )
    return image, label


def _as_uint8(value: Any, what: str) -> Tensor:
    """A picture as a uint8 tensor; a number that 8 bits cannot hold is an error, where a cast would wrap around."""
    if isinstance(value, Tensor) and value.dtype == torch.uint8:
        return value
    given = value.cpu().numpy() if isinstance(value, Tensor) else np.array(value)
    kept = given.astype(np.uint8, copy=False)
    if kept is not given and (kept != given).any():
        raise ValueError(
            f"every {what} holds whole numbers from 0 to 255; got {given[kept != given][0]!r}: "
            "give pixels as uint8, and void as 255"
        )
    return torch.from_numpy(kept)


def require_labelled(labels: Iterable[Tensor], where: str) -> None:
    """Raise `ValueError` where all labels are void: no loss and no score is defined there. Stops at the first class."""
    if all(bool((label == VOID).all()) for label in labels):
        raise ValueError(
            f"at least one pixel must have a class; all of {where} are void ({VOID}): "
            "check how the labels are read (label_map)"
        )


# --- What happens to an image and its label between decoding and the network: one joint, seeded transform.

AUGMENTATIONS = ("none", "flip", "paper", "paper-fixed", "standard")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

MAX_CLASS_SHARE = 0.75  # of the labelled pixels of a crop, as in the SegFormer recipe
CROP_TRIES = 10
MAX_SHIFT = 2  # pixels, the authors' translation
JITTER = (
    (F.adjust_brightness, 0.7, 1.3),
    (F.adjust_contrast, 0.7, 1.3),
    (F.adjust_saturation, 0.7, 1.3),
    (F.adjust_hue, -0.05, 0.05),
)


@dataclass(frozen=True)
class Transform:
    """A joint transform of image and label; see `make_transform`."""

    augment: str = "none"
    crop: tuple[int, int] | None = None
    normalize: bool = False
    ignore_index: int = VOID

    def __call__(self, image: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """image (3, H, W) and label (H, W), both uint8 -> float32 (3, h, w) and int64 (h, w)."""
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            got = f"{image.dtype} {tuple(image.shape)}"
            raise ValueError(f"image must be uint8 (3, H, W), got {got}: decode it as RGB")
        if label.dtype != torch.uint8 or label.shape != image.shape[-2:]:
            rule = f"label must be uint8 {tuple(image.shape[-2:])} like its image"
            got = f"{label.dtype} {tuple(label.shape)}"
            raise ValueError(f"{rule}, got {got}: decode it as 8-bit train ids")
        image, label = self._augmented(image, label[None], generator)
        pixels = F.to_dtype(image, torch.float32, scale=True)
        if self.normalize:
            pixels = F.normalize(pixels, list(IMAGENET_MEAN), list(IMAGENET_STD))
        train_ids = label[0].long()
        if self.ignore_index != VOID:
            train_ids = train_ids.masked_fill(train_ids == VOID, self.ignore_index)
        return pixels.contiguous(), train_ids.contiguous()

    def _augmented(self, image: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """image (3, H, W) and label (1, H, W) after everything that is random, in this order."""

        def uniform(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        height, width = self.crop or label.shape[-2:]
        if self.augment == "standard":
            # Scaling, then cropping is cropping a window of size / scale, then scaling, at a fraction of the work.
            scale = uniform(0.5, 2.0)
            window = (max(round(height / scale), 1), max(round(width / scale), 1))
            image, label = _random_crop(image, label, window, generator)
            image = F.resize(image, [height, width], interpolation=InterpolationMode.BILINEAR, antialias=True)
            label = _nearest(label, height, width)
        elif self.crop:
            image, label = _random_crop(image, label, self.crop, generator)
        if self.augment != "none" and torch.rand((), generator=generator) < 0.5:
            image, label = F.horizontal_flip(image), F.horizontal_flip(label)
        if self.augment in ("paper", "paper-fixed"):
            right, down = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (2,), generator=generator).tolist()
            image = translate(image, right, down, fill=0)
            if self.augment == "paper":
                quarter = _nearest(label, max((height + 2) // 4, 1), max((width + 2) // 4, 1))
                drifted = translate(quarter, right, down, fill=VOID, fill_beyond=0)
                # Blown up to the image's size; nearest resizing to 1/4 gives back exactly the drifted quarter label.
                label = _nearest(drifted, height, width)
            else:
                label = translate(label, right, down, fill=VOID)
        if self.augment == "standard":
            for adjust, low, high in JITTER:
                image = adjust(image, uniform(low, high))
        return image, label


def make_transform(
    *, augment: str = "none", crop: tuple[int, int] | None = None, normalize: bool = False, ignore_index: int = VOID
) -> Transform:
    """The transform called ``augment`` (see the module's list).

    Args:
        augment: one of ``AUGMENTATIONS``.
        crop: (height, width) of what comes out; smaller images are padded (black, void). None keeps the size.
        normalize: subtract the ImageNet mean and divide by its deviation; otherwise images are in [0, 1].
        ignore_index: the number that void pixels carry in the label that comes out.

    Raises ValueError for an unknown name or a crop that is not two positive ints.

    >>> image, label = torch.full((3, 4, 8), 255, dtype=torch.uint8), torch.zeros(4, 8, dtype=torch.uint8)
    >>> x, y = make_transform(augment="flip")(image, label, torch.Generator().manual_seed(0))
    >>> x.shape, x.max().item(), y.dtype
    (torch.Size([3, 4, 8]), 1.0, torch.int64)
    """
    if augment not in AUGMENTATIONS:
        raise ValueError(f"augment is one of {', '.join(AUGMENTATIONS)}, got {augment!r}: choose one of these")
    if crop is not None:
        crop = tuple(crop)  # type: ignore[assignment]
        if len(crop) != 2 or not all(isinstance(side, int) and side > 0 for side in crop):
            raise ValueError(f"crop is (height, width) in positive pixels, got {crop!r}: try (512, 512)")
    return Transform(augment, crop, normalize, ignore_index)


def translate(image: Tensor, right: int, down: int, fill: int, fill_beyond: int | None = None) -> Tensor:
    """Move a picture (..., H, W) by whole pixels.

    Args:
        right, down: shift in pixels; negative moves to the left and up.
        fill: what the strip on the left or at the top is filled with (positive shifts).
        fill_beyond: what the strip on the right or at the bottom is filled with (negative shifts); None:
            ``fill``.
    """
    height, width = image.shape[-2:]
    beyond = fill if fill_beyond is None else fill_beyond
    moved = F.pad(image, [max(right, 0), max(down, 0), 0, 0], fill=fill)
    moved = F.pad(moved, [0, 0, max(-right, 0), max(-down, 0)], fill=beyond)
    return F.crop(moved, max(-down, 0), max(-right, 0), height, width)


def _random_crop(
    image: Tensor, label: Tensor, size: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A window of ``size``, preferably one where no class covers more than ``MAX_CLASS_SHARE`` of what is labelled."""
    below, beside = (max(wanted - has, 0) for wanted, has in zip(size, label.shape[-2:], strict=True))
    if below or beside:
        padding = [beside // 2, below // 2, beside - beside // 2, below - below // 2]
        image, label = F.pad(image, padding, fill=0), F.pad(label, padding, fill=VOID)
    room = (label.shape[-2] - size[0], label.shape[-1] - size[1])
    for _ in range(CROP_TRIES if any(room) else 1):
        top, left = (int(torch.randint(r + 1, (), generator=generator)) for r in room)
        window = F.crop(label, top, left, *size)
        counts = torch.bincount(window.flatten(), minlength=256)[:VOID]
        if counts.max() < MAX_CLASS_SHARE * counts.sum():
            break
    return F.crop(image, top, left, *size), window


def _nearest(label: Tensor, height: int, width: int) -> Tensor:
    """Nearest neighbour at pixel centres (4i + 2 for a quarter, as Pillow): labels stay on their image."""
    return F.resize(label, [height, width], interpolation=InterpolationMode.NEAREST_EXACT)
