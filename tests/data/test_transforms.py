"""The joint transforms: image and label stay together, and all randomness comes from the generator given."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from transkd_lite.data import Augmentation
from transkd_lite.data.transforms import make_transform, translate

H, W = 24, 40


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coded_sample(height: int = H, width: int = W) -> tuple[torch.Tensor, torch.Tensor]:
    """An image whose red channel is its label, so that any drift between the two shows."""
    label = torch.randint(0, 19, (height, width), generator=generator(5), dtype=torch.uint8)
    return torch.stack([label, label, label]), label


@pytest.mark.parametrize("augment", sorted(get_args(Augmentation)))
@pytest.mark.parametrize("crop", [None, (16, 32), (32, 64)])
def test_shapes_types_and_repeatability(augment, crop):
    image, label = coded_sample()
    before = torch.random.get_rng_state()
    transform = make_transform(augment=augment, crop=crop)
    x, y = transform(image, label, generator(3))
    x_again, y_again = transform(image, label, generator(3))
    assert x.shape == (3, *(crop or (H, W)))
    assert y.shape == x.shape[-2:]
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert type(x) is torch.Tensor
    assert type(y) is torch.Tensor
    assert 0 <= x.min() <= x.max() <= 1
    assert set(y.unique().tolist()) <= {*range(19), 255}
    assert torch.equal(x, x_again)
    assert torch.equal(y, y_again)
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator must not be touched"


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    augment=st.sampled_from(["none", "flip", "paper-fixed"]),
    crop=st.none() | st.tuples(st.integers(1, 48), st.integers(1, 48)),
)
def test_label_stays_on_its_image(seed, height, width, augment, crop):
    image, label = coded_sample(height, width)
    x, y = make_transform(augment=augment, crop=crop)(image, label, generator(seed))
    drawn = (x[0] * 255).round().long()
    assert torch.equal(drawn[y != 255], y[y != 255])
    assert (drawn[y == 255] == 0).all(), "what is void here is padding, and padding is black"


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), height=st.integers(2, 60), width=st.integers(2, 60))
def test_standard_works_at_any_size(seed, height, width):
    image, label = coded_sample(height, width)
    x, y = make_transform(augment="standard")(image, label, generator(seed))
    assert x.shape[-2:] == y.shape == (height, width)


def test_standard_scales_without_drift():
    label = torch.zeros(64, 64, dtype=torch.uint8)
    label[:, 32:] = 1
    image = (label * 255).expand(3, -1, -1).contiguous()
    for seed in range(20):
        x, y = make_transform(augment="standard", crop=(32, 32))(image, label, generator(seed))
        bright = x.mean(0) > 0.5 * x.mean(0).max()
        inside = (y == 0) | (y == 1)
        edge = (bright[inside] != (y == 1)[inside]).float().mean()
        assert edge <= 2 / 32, "at most the one-pixel seam may differ"


def authors_paper_step(image: Image.Image, label: Image.Image, right: int, down: int):
    """The published step as mathematics on Pillow pictures: label to 1/4, then the same pixel shift for both."""
    label = label.resize((int(image.width / 4 + 0.5), int(image.height / 4 + 0.5)), Image.Resampling.NEAREST)

    def shift(picture, fill):
        grown = ImageOps.expand(picture, border=(right, down, 0, 0), fill=fill)
        return grown.crop((0, 0, grown.width - right, grown.height - down))

    return shift(image, 0), shift(label, 255)


@pytest.mark.parametrize("seed", range(12))
def test_paper_is_the_authors_step_with_its_drift(seed):
    image, label = coded_sample(32, 48)
    x, y = make_transform(augment="paper")(image, label, generator(seed))
    draws = generator(seed)
    if torch.rand((), generator=draws) < 0.5:
        image, label = image.flip(-1), label.flip(-1)
    right, down = torch.randint(-2, 3, (2,), generator=draws).tolist()
    photo, quarter = authors_paper_step(
        Image.fromarray(image.permute(1, 2, 0).numpy()), Image.fromarray(label.numpy()), right, down
    )
    ours = torch.nn.functional.interpolate(y[None, None].double(), size=(8, 12), mode="nearest")[0, 0]
    assert np.array_equal(ours.numpy(), np.asarray(quarter))
    assert np.array_equal((x * 255).round().permute(1, 2, 0).numpy(), np.asarray(photo))


def test_paper_fills_negative_shifts_with_road_and_fixed_with_void():
    image, label = torch.full((3, 32, 48), 9, dtype=torch.uint8), torch.full((32, 48), 9, dtype=torch.uint8)

    def values(augment):
        transform = make_transform(augment=augment)
        return {int(v) for seed in range(40) for v in transform(image, label, generator(seed))[1].unique()}

    assert values("paper") == {0, 9, 255}
    assert values("paper-fixed") == {9, 255}


def test_translate_moves_and_fills():
    picture = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3)
    assert translate(picture, 1, 0, fill=9).tolist() == [[[9, 0, 1], [9, 3, 4]]]
    assert translate(picture, -1, 1, fill=9, fill_beyond=7).tolist() == [[[9, 9, 7], [1, 2, 7]]]


def test_crop_avoids_one_class_covering_all():
    label = torch.zeros(32, 64, dtype=torch.uint8)
    label[:, 32:] = torch.randint(1, 19, (32, 32), generator=generator(1), dtype=torch.uint8)
    image = torch.zeros(3, 32, 64, dtype=torch.uint8)
    crop = make_transform(augment="none", crop=(16, 16))
    shares = [float((crop(image, label, generator(s))[1] == 0).float().mean()) for s in range(60)]
    assert np.mean([share > 0.75 for share in shares]) < 0.1, "without the limit about a third would be road alone"


def test_crop_of_void_only_still_returns():
    image, label = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.full((8, 8), 255, dtype=torch.uint8)
    assert make_transform(crop=(4, 4))(image, label, generator())[1].shape == (4, 4)


def test_normalization():
    image, label = coded_sample()
    plain, _ = make_transform()(image, label, generator())
    x, _ = make_transform(normalize=True)(image, label, generator())
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(x, (plain - mean[:, None, None]) / std[:, None, None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "papper"}, "paper-fixed.*got 'papper'"),
        ({"crop": (0, 8)}, r"positive pixels, got \(0, 8\)"),
        ({"crop": (8,)}, "crop is"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        make_transform(**options)


def test_wrong_samples_are_explained():
    transform = make_transform()
    image, label = coded_sample()
    with pytest.raises(ValueError, match="image must be uint8"):
        transform(image.float(), label, generator())
    with pytest.raises(ValueError, match="label uint8"):
        transform(image, label[:-1], generator())
