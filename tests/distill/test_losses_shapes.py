"""Guards: resizing keeps the layout of tokens and labels, and losses leave reduced precision."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import Tensor

from transkd_lite.distill import losses
from transkd_lite.distill.losses import full_precision, pooling_window, resize_labels, resize_map, valid_pixels


def test_what_has_the_right_size_is_not_touched() -> None:
    feature = torch.randn(1, 2, 3, 4)
    assert resize_map(feature, (3, 4)) is feature


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_are_never_mixed(dtype: torch.dtype) -> None:
    labels = torch.tensor([[[0, 255], [18, 7]]], dtype=dtype)
    resized = resize_labels(labels, (5, 7))
    assert resized.dtype == torch.int64
    assert set(resized.unique().tolist()) == {0, 7, 18, 255}
    assert resize_labels(labels, (2, 2)).tolist() == labels.tolist()


def test_a_position_takes_the_label_in_the_middle_of_its_cell() -> None:
    labels = torch.arange(128 * 64).view(1, 128, 64)
    assert torch.equal(resize_labels(labels, (32, 16)), labels[:, 2::4, 2::4])
    assert torch.equal(resize_labels(labels, (4, 2)), labels[:, 16::32, 16::32])
    assert losses.resize_labels is resize_labels


@pytest.mark.parametrize("size", [(5, 7), (12, 10), (1, 1), (45, 99)])
def test_labels_are_resized_as_pillow_does(size: tuple[int, int]) -> None:
    labels = torch.randint(0, 255, (1, 33, 71), dtype=torch.uint8)
    resized = Image.fromarray(labels[0].numpy()).resize(size[::-1], Image.Resampling.NEAREST)
    assert resize_labels(labels, size)[0].tolist() == torch.tensor(list(resized.getdata())).view(size).tolist()


def test_valid_pixels() -> None:
    feature = torch.zeros(1, 3, 2, 2)
    assert valid_pixels(None, feature).all()
    assert valid_pixels(torch.tensor([[[0, 255], [1, 2]]]), feature).tolist() == [[[True, False], [True, True]]]


def test_full_precision_can_be_traced_without_data() -> None:
    assert full_precision(lambda x: x.sum())(torch.ones(3, device="meta")).shape == ()


def test_full_precision_widens_what_is_narrow_and_keeps_float64() -> None:
    seen = []

    @full_precision
    def loss(tensor: Tensor, other: Tensor) -> Tensor:
        seen.extend((tensor.dtype, other.dtype))
        return (tensor @ tensor).sum()

    with torch.autocast("cpu", torch.bfloat16):
        value = loss(torch.ones(2, 2, dtype=torch.bfloat16), other=torch.ones(1, dtype=torch.float64))
    assert seen == [torch.float32, torch.float64]
    assert value.dtype == torch.float32


def test_features_of_several_stages_are_widened_too() -> None:
    features = [torch.rand(1, 2, 4, 4).bfloat16() for _ in range(2)]
    with torch.autocast("cpu", torch.bfloat16):
        value = losses.hcl(features, [f + 1 for f in features])
    torch.testing.assert_close(value, losses.hcl([f.float() for f in features], [(f + 1).float() for f in features]))


@pytest.mark.parametrize(
    ("size", "most", "window"),
    [((64, 128), 8192, 1), ((256, 256), 8192, 4), ((64, 129), 8192, 2), ((2, 4), 2048, 1), ((64, 128), 2048, 2)],
)
def test_windows_are_no_larger_than_needed(size: tuple[int, int], most: int, window: int) -> None:
    assert pooling_window(size, most) == window
