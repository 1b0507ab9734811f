"""Guards: resizing keeps the layout of tokens and labels, and losses leave reduced precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from transkd_lite.distill.adapt import full_precision, resize_labels, resize_map, resize_tokens, valid_pixels


def test_tokens_are_resized_as_the_map_that_they_are() -> None:
    feature = torch.randn(2, 5, 4, 6)
    tokens = resize_tokens(feature.flatten(2).mT, (4, 6), (8, 3))
    torch.testing.assert_close(tokens, resize_map(feature, (8, 3)).flatten(2).mT)


def test_what_has_the_right_size_is_not_touched() -> None:
    feature, tokens = torch.randn(1, 2, 3, 4), torch.randn(1, 12, 2)
    assert resize_map(feature, (3, 4)) is feature
    assert resize_tokens(tokens, (3, 4), (3, 4)) is tokens


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_are_never_mixed(dtype: torch.dtype) -> None:
    labels = torch.tensor([[[0, 255], [18, 7]]], dtype=dtype)
    resized = resize_labels(labels, (5, 7))
    assert resized.dtype == torch.int64
    assert set(resized.unique().tolist()) == {0, 7, 18, 255}
    assert resize_labels(labels, (2, 2)).tolist() == labels.tolist()


def test_valid_pixels() -> None:
    feature = torch.zeros(1, 3, 2, 2)
    assert valid_pixels(None, feature).all()
    assert valid_pixels(torch.tensor([[[0, 255], [1, 2]]]), feature).tolist() == [
        [[True, False], [True, True]]
    ]


def test_full_precision_can_be_traced_without_data() -> None:
    assert full_precision(lambda x: x.sum())(torch.ones(3, device="meta")).shape == ()


def test_full_precision_widens_lists_too_and_keeps_float64() -> None:
    seen = []

    @full_precision
    def loss(tensors: list[Tensor], other: Tensor) -> Tensor:
        seen.extend(x.dtype for x in (*tensors, other))
        return (tensors[0] @ tensors[0]).sum()

    with torch.autocast("cpu", torch.bfloat16):
        value = loss([torch.ones(2, 2, dtype=torch.bfloat16)], other=torch.ones(1, dtype=torch.float64))
    assert seen == [torch.float32, torch.float64]
    assert value.dtype == torch.float32
