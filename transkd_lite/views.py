"""Logits of an image from several looks at it: mirrored, at several scales, window by window.

What benchmarks call test-time augmentation. Every look gives class probabilities, which are averaged; a window's
probabilities are averaged where windows overlap, as mmsegmentation does. One plain look is the network as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["Views"]

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Views:
    """Which looks are taken.

    flip: also mirror the image. scales: factors of the image's size. window: (height, width) of windows in pixels, or
    None for the whole image; stride: (down, right) between windows, two thirds of the window by default.
    Raises `ValueError` for a scale or a size that is not positive.
    """

    flip: bool = False
    scales: Sequence[float] = (1.0,)
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(
                f"scales must be one or more factors above 0, such as (0.75, 1.0); got {self.scales}"
            )
        for name in ("window", "stride"):
            value = getattr(self, name)
            if value is not None and (len(value) != 2 or min(value) < 1):
                raise ValueError(f"{name} must be (height, width) in pixels above 0, or None; got {value}")

    @property
    def plain(self) -> bool:
        """Whether this is the network as it is."""
        return tuple(self.scales) == (1.0,) and not self.flip and self.window is None

    def __call__(self, network: Network, images: Tensor) -> Tensor:
        """Scores of images (N, 3, H, W): the logits of one plain look, else log-probabilities (N, K, H, W).

        network: images -> logits at any size.
        """
        if self.plain:
            return network(images)
        size = (images.shape[2], images.shape[3])
        looks = [self._look(network, _scaled(images, scale), size) for scale in self.scales]
        if self.flip:
            mirrored = images.flip(3)
            looks += [self._look(network, _scaled(mirrored, s), size).flip(3) for s in self.scales]
        return torch.stack(looks).mean(0).log()

    def _look(self, network: Network, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Probabilities (N, K, *size) of one look."""
        if self.window is None:
            probabilities = _enlarged(network(images), images).softmax(1)
        else:
            probabilities = self._windows(network, images)
        return interpolate(probabilities, size=size, mode="bilinear", align_corners=False)

    def _windows(self, network: Network, images: Tensor) -> Tensor:
        assert self.window is not None
        height, width = (min(w, n) for w, n in zip(self.window, images.shape[2:], strict=True))
        down, right = self.stride or (max(1, 2 * height // 3), max(1, 2 * width // 3))
        total, count = torch.zeros((), device=images.device), torch.zeros_like(images[:1, :1])
        for top in _starts(images.shape[2], height, down):
            for left in _starts(images.shape[3], width, right):
                part = images[:, :, top : top + height, left : left + width]
                inside = (left, images.shape[3] - left - width, top, images.shape[2] - top - height)
                total = total + torch.nn.functional.pad(_enlarged(network(part), part).softmax(1), inside)
                count[:, :, top : top + height, left : left + width] += 1
        return total / count


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin so that they cover the whole length; the last one ends with it.

    >>> _starts(10, 4, 3), _starts(10, 4, 4), _starts(4, 4, 3)
    ([0, 3, 6], [0, 4, 6], [0])
    """
    return sorted({min(start, length - window) for start in range(0, length - window + stride, stride)})


def _scaled(images: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return images
    size = [max(32, round(scale * n)) for n in images.shape[2:]]
    return interpolate(images, size=size, mode="bilinear", align_corners=False)


def _enlarged(logits: Tensor, images: Tensor) -> Tensor:
    size = (images.shape[2], images.shape[3])
    return interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
