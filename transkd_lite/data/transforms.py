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

Built on torchvision v2 (``tv_tensors`` and functional kernels). Source of ``paper``: the published training
scripts; ``standard`` follows the usual recipe of SegFormer (Xie et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from transkd_lite.data.labels import VOID

__all__ = ["AUGMENTATIONS", "IMAGENET_MEAN", "IMAGENET_STD", "Transform", "make_transform", "translate"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MAX_CLASS_SHARE = 0.75  # of the labelled pixels of a crop, as in the SegFormer recipe
CROP_TRIES = 10
MAX_SHIFT = 2  # pixels, the authors' translation
JITTER = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.05}

Sample = tuple[Tensor, Tensor]  # image (3, H, W), label (H, W)


@dataclass(frozen=True)
class Transform:
    """A joint transform of image and label; see `make_transform`."""

    augment: str = "none"
    crop: tuple[int, int] | None = None
    normalize: bool = False
    ignore_index: int = VOID

    def __call__(self, image: Tensor, label: Tensor, generator: torch.Generator) -> Sample:
        """image (3, H, W) and label (H, W), both uint8 -> float32 (3, h, w) and int64 (h, w)."""
        _require_sample(image, label)
        sample = (tv_tensors.Image(image), tv_tensors.Mask(label))
        image, label = AUGMENTATIONS[self.augment](sample, self.crop, generator)
        pixels = F.to_dtype(image.as_subclass(Tensor), torch.float32, scale=True)
        if self.normalize:
            pixels = F.normalize(pixels, list(IMAGENET_MEAN), list(IMAGENET_STD))
        train_ids = label.as_subclass(Tensor).long()
        if self.ignore_index != VOID:
            train_ids = train_ids.masked_fill(train_ids == VOID, self.ignore_index)
        return pixels.contiguous(), train_ids.contiguous()


def make_transform(
    *,
    augment: str = "none",
    crop: tuple[int, int] | None = None,
    normalize: bool = False,
    ignore_index: int = VOID,
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
        raise ValueError(
            f"augment must be one of {', '.join(AUGMENTATIONS)}, got {augment!r}: choose one of these"
        )
    if crop is not None:
        crop = tuple(crop)  # type: ignore[assignment]
        if len(crop) != 2 or not all(isinstance(side, int) and side > 0 for side in crop):
            raise ValueError(
                f"crop is (height, width) in positive pixels, got {crop!r}: for example crop=(512, 512)"
            )
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


def _identity(sample: Sample, crop: tuple[int, int] | None, generator: torch.Generator) -> Sample:
    return sample if crop is None else _random_crop(sample, crop, generator)


def _flip(sample: Sample, crop: tuple[int, int] | None, generator: torch.Generator) -> Sample:
    return _random_flip(_identity(sample, crop, generator), generator)


def _paper(sample: Sample, crop: tuple[int, int] | None, generator: torch.Generator) -> Sample:
    image, label = _flip(sample, crop, generator)
    right, down = _random_shift(generator)
    height, width = label.shape
    quarter = _nearest(label, (max((height + 2) // 4, 1), max((width + 2) // 4, 1)))
    drifted = translate(quarter, right, down, fill=VOID, fill_beyond=0)
    # Blown up to the image's size; nearest resizing to 1/4 gives back exactly the drifted quarter label.
    return translate(image, right, down, fill=0), _nearest(drifted, (height, width))


def _paper_fixed(sample: Sample, crop: tuple[int, int] | None, generator: torch.Generator) -> Sample:
    image, label = _flip(sample, crop, generator)
    right, down = _random_shift(generator)
    return translate(image, right, down, fill=0), translate(label, right, down, fill=VOID)


def _standard(sample: Sample, crop: tuple[int, int] | None, generator: torch.Generator) -> Sample:
    image, label = sample
    out = crop or (image.shape[-2], image.shape[-1])
    scale = _uniform(0.5, 2.0, generator)
    # Scaling, then cropping is cropping a window of size / scale, then scaling, at a fraction of the work.
    window = (max(round(out[0] / scale), 1), max(round(out[1] / scale), 1))
    image, label = _random_crop((image, label), window, generator)
    image = F.resize(image, list(out), interpolation=InterpolationMode.BILINEAR, antialias=True)
    image, label = _random_flip((image, _nearest(label, out)), generator)
    return _jitter(image, generator), label


AUGMENTATIONS: dict[str, Callable[[Sample, tuple[int, int] | None, torch.Generator], Sample]] = {
    "none": _identity,
    "flip": _flip,
    "paper": _paper,
    "paper-fixed": _paper_fixed,
    "standard": _standard,
}


def _random_flip(sample: Sample, generator: torch.Generator) -> Sample:
    if torch.rand((), generator=generator) < 0.5:
        return F.horizontal_flip(sample[0]), F.horizontal_flip(sample[1])
    return sample


def _random_shift(generator: torch.Generator) -> tuple[int, int]:
    right, down = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (2,), generator=generator).tolist()
    return right, down


def _random_crop(sample: Sample, size: tuple[int, int], generator: torch.Generator) -> Sample:
    """A window of ``size``, preferably one where no class covers more than ``MAX_CLASS_SHARE``."""
    image, label = _pad_to(sample, size)
    room = (label.shape[-2] - size[0], label.shape[-1] - size[1])
    for _ in range(CROP_TRIES if any(room) else 1):
        top, left = (int(torch.randint(r + 1, (), generator=generator)) for r in room)
        window = F.crop(label, top, left, *size)
        if _largest_share(window) < MAX_CLASS_SHARE:
            break
    return F.crop(image, top, left, *size), window


def _pad_to(sample: Sample, size: tuple[int, int]) -> Sample:
    image, label = sample
    below, beside = max(size[0] - label.shape[-2], 0), max(size[1] - label.shape[-1], 0)
    if not below and not beside:
        return sample
    padding = [beside // 2, below // 2, beside - beside // 2, below - below // 2]
    return F.pad(image, padding, fill=0), F.pad(label, padding, fill=VOID)


def _largest_share(label: Tensor) -> float:
    """Share of the most frequent class among the labelled pixels (1 when nothing is labelled)."""
    counts = torch.bincount(label.as_subclass(Tensor).flatten(), minlength=256)[:VOID]
    return float(counts.max() / counts.sum()) if counts.sum() else 1.0


def _jitter(image: Tensor, generator: torch.Generator) -> Tensor:
    for name in ("brightness", "contrast", "saturation"):
        factor = _uniform(1 - JITTER[name], 1 + JITTER[name], generator)
        image = getattr(F, f"adjust_{name}")(image, factor)
    return F.adjust_hue(image, _uniform(-JITTER["hue"], JITTER["hue"], generator))


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _nearest(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest neighbour at pixel centres (4i + 2 for a quarter, as Pillow): labels stay on their image."""
    resized = F.resize(
        label.as_subclass(Tensor)[None], list(size), interpolation=InterpolationMode.NEAREST_EXACT
    )
    return tv_tensors.Mask(resized[0])


def _require_sample(image: Tensor, label: Tensor) -> None:
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(
            f"image must be uint8 (3, H, W), got {image.dtype} {tuple(image.shape)}: decode it as RGB"
        )
    if label.dtype != torch.uint8 or label.shape != image.shape[-2:]:
        raise ValueError(
            f"label must be uint8 {tuple(image.shape[-2:])} like its image, "
            f"got {label.dtype} {tuple(label.shape)}: decode it as 8-bit train ids"
        )
