"""What happens to an image and its label between decoding and the network: one joint, seeded transform.

`make_transform` returns a picklable callable. Every random number comes from the generator it is given, so
that a sample looks the same whichever worker makes it. Names of `augment`:

- `none`         nothing random (but a random crop when `crop` is set and the image is larger)
- `flip`         horizontal flip with probability 1/2
- `paper`        the authors' training augmentation with its two faults: flip, then image and quarter-size label are
                   translated by the *same* number of pixels (-2 to 2), so that labels drift by up to 6 image
                   pixels, and where the shift is negative the uncovered strip of the label becomes class 0
                   instead of void
- `paper-fixed`  the same with the drift mended: the full-size label moves with the image, uncovered strips are void
- `standard`     random scale 0.5 to 2, crop in which no class covers more than 3/4, flip, colour jitter

Built on the functional kernels of torchvision v2. Source of `paper`: the published training
scripts; `standard` follows the usual recipe of SegFormer (Xie et al. 2021).
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from torch import Generator, Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from transkd_lite.data import Augmentation
from transkd_lite.data.decoding import to_rgb
from transkd_lite.data.labels import VOID

__all__ = [
    "IMAGENET_MEAN", "IMAGENET_STD", "make_transform", "normalized", "require_labelled", "resize_labels", "to_tensors",
    "translate",
]  # fmt: skip

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def to_tensors(sample: Any) -> tuple[Tensor, Tensor]:
    """uint8 image (3, H, W) and uint8 label (H, W) of a sample {"image", "label"} (PIL, numpy or torch).

    The image may be whatever `to_rgb` takes. Raises `ValueError` for a label's number that 8 bits cannot hold, where a
    cast would wrap around, and what `to_rgb` raises.
    """
    value = sample["label"]
    given = value.numpy(force=True) if isinstance(value, Tensor) else np.array(value)
    label = given.astype(np.uint8, copy=False)
    if (label != given).any():
        raise ValueError(f"labels hold whole numbers from 0 to 255; got {given[label != given][0]!r}: give uint8")
    return torch.from_numpy(to_rgb(sample["image"])).permute(2, 0, 1).contiguous(), torch.from_numpy(label)


def require_labelled(labels: Iterable[Tensor], where: str) -> None:
    """Raise `ValueError` where all labels are void: no loss and no score is defined there. Stops at the first class."""
    if all(bool((label == VOID).all()) for label in labels):
        raise ValueError(f"at least one pixel must have a class; all of {where} are void ({VOID}): check label_map")


def resize_labels(labels: Tensor | None, size: Sequence[int]) -> Tensor:
    """Nearest-neighbour resize of integer labels (N, h, w) to (N, *size), as int64.

    A position takes the label of the pixel in the middle of its cell: pixel 4i + 2 at a quarter of the size, 32i + 16
    at 1/32. So do Pillow and with it the authors' data loader. This is the one rule for transforms, losses, methods and
    scores. Raises `ValueError` for another shape, or none.

    >>> resize_labels(torch.arange(8).view(1, 1, 8), (1, 2))
    tensor([[[2, 6]]])
    """
    if labels is None or labels.ndim != 3:
        raise ValueError(f"labels must have shape (N, h, w), got {None if labels is None else tuple(labels.shape)}")
    if tuple(labels.shape[1:]) == tuple(size):
        return labels.long()
    rows, columns = (
        (2 * torch.arange(new, device=labels.device) + 1) * old // (2 * new)
        for old, new in zip(labels.shape[1:], size, strict=True)
    )
    return labels[:, rows[:, None], columns].long()


def normalized(images: Tensor) -> Tensor:
    """Images (…, 3, H, W) in [0, 1] less ImageNet's mean, divided by its deviation."""
    return F.normalize(images, list(IMAGENET_MEAN), list(IMAGENET_STD))


def make_transform(
    *, augment: str = "none", crop: tuple[int, int] | None = None, normalize: bool = False
) -> Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]:
    """The transform called `augment` (see the module's list): (image, label, generator) -> (image, label).

    It takes an image (3, H, W) and a label (H, W), both uint8, and returns them as float32 (3, h, w) and int64 (h, w).

    augment: one of `Augmentation`.
    crop: (height, width) of what comes out; smaller images are padded (black, void). None keeps the size.
    normalize: subtract the ImageNet mean and divide by its deviation; otherwise images are in [0, 1].

    Raises `ValueError` for an unknown name or a crop that is not two positive ints; the transform for another shape.

    >>> image, label = torch.full((3, 4, 8), 255, dtype=torch.uint8), torch.zeros(4, 8, dtype=torch.uint8)
    >>> x, y = make_transform(augment="flip")(image, label, torch.Generator().manual_seed(0))
    >>> x.shape, x.max().item(), y.dtype
    (torch.Size([3, 4, 8]), 1.0, torch.int64)
    """
    if augment not in get_args(Augmentation):
        raise ValueError(f"augment is one of {', '.join(get_args(Augmentation))}, got {augment!r}: choose one of these")
    if crop is not None and (len(crop) != 2 or min(crop) < 1):
        raise ValueError(f"crop is (height, width) in positive pixels, got {crop!r}: try (512, 512)")
    return partial(_transform, augment, crop, normalize)


def _transform(
    augment: str, crop: tuple[int, int] | None, normalize: bool, image: Tensor, label: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    if image.dtype != torch.uint8 or label.dtype != torch.uint8 or image.shape != (3, *label.shape):
        got = " and ".join(f"{picture.dtype} {tuple(picture.shape)}" for picture in (image, label))
        raise ValueError(f"image must be uint8 (3, H, W) and label uint8 (H, W) of one size; got {got}: resize them")

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    label = label[None]
    height, width = crop or label.shape[-2:]
    if augment == "standard":
        # Scaling, then cropping is cropping a window of size / scale, then scaling, at a fraction of the work.
        scale = uniform(0.5, 2.0)
        window = (max(round(height / scale), 1), max(round(width / scale), 1))
        image, label = _random_crop(image, label, window, generator)
        image = F.resize(image, [height, width], interpolation=InterpolationMode.BILINEAR, antialias=True)
        label = resize_labels(label, (height, width))
    elif crop:
        image, label = _random_crop(image, label, crop, generator)
    if augment != "none" and is_flipped(generator):
        image, label = F.horizontal_flip(image), F.horizontal_flip(label)
    if augment in ("paper", "paper-fixed"):
        right, down = torch.randint(-2, 3, (2,), generator=generator).tolist()
        image = translate(image, right, down, fill=0)
        if augment == "paper":
            quarter = resize_labels(label, (max((height + 2) // 4, 1), max((width + 2) // 4, 1)))
            drifted = translate(quarter, right, down, fill=VOID, fill_beyond=0)
            # Blown up to the image's size; nearest resizing to 1/4 gives back exactly the drifted quarter label.
            label = resize_labels(drifted, (height, width))
        else:
            label = translate(label, right, down, fill=VOID)
    if augment == "standard":
        for adjust in (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation):
            image = adjust(image, uniform(0.7, 1.3))
        image = F.adjust_hue(image, uniform(-0.05, 0.05))
    pixels = F.to_dtype(image, torch.float32, scale=True)
    return (normalized(pixels) if normalize else pixels).contiguous(), label[0].long().contiguous()


def is_flipped(generator: Generator) -> bool:
    """Draw whether a picture is flipped; the first thing that the transform "flip" draws."""
    return bool(torch.rand((), generator=generator) < 0.5)


def translate(image: Tensor, right: int, down: int, fill: int, fill_beyond: int | None = None) -> Tensor:
    """Move a picture (..., H, W) by whole pixels.

    right, down: shift in pixels; negative moves to the left and up.
    fill: what the strip on the left or at the top is filled with (positive shifts).
    fill_beyond: what the strip on the right or at the bottom is filled with (negative shifts); None: `fill`.
    """
    height, width = image.shape[-2:]
    beyond = fill if fill_beyond is None else fill_beyond
    moved = F.pad(image, [max(right, 0), max(down, 0), 0, 0], fill=fill)
    moved = F.pad(moved, [0, 0, max(-right, 0), max(-down, 0)], fill=beyond)
    return F.crop(moved, max(-down, 0), max(-right, 0), height, width)


def _random_crop(image: Tensor, label: Tensor, size: tuple[int, int], generator: Generator) -> tuple[Tensor, Tensor]:
    """A window of `size`, within ten tries one where no class covers over 3/4 of what is labelled (SegFormer)."""
    below, beside = (max(wanted - has, 0) for wanted, has in zip(size, label.shape[-2:], strict=True))
    if below or beside:
        padding = [beside // 2, below // 2, beside - beside // 2, below - below // 2]
        image, label = F.pad(image, padding, fill=0), F.pad(label, padding, fill=VOID)
    room = (label.shape[-2] - size[0], label.shape[-1] - size[1])
    for _ in range(10 if any(room) else 1):
        top, left = (int(torch.randint(r + 1, (), generator=generator)) for r in room)
        window = F.crop(label, top, left, *size)
        counts = torch.bincount(window.flatten(), minlength=256)[:VOID]
        if counts.max() < 0.75 * counts.sum():
            break
    return F.crop(image, top, left, *size), window
