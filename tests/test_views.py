"""Several looks at an image: each option does what it says, and none changes what need not change."""

import pytest
import torch

import transkd_lite as tk
from transkd_lite.views import Views


def brightness(images):
    """A network that looks at single pixels: two classes, dark and bright, at a quarter of the size."""
    grey = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 4)
    return torch.cat([-grey, grey], 1) * 8


def left_is_one(images):
    """A network that sees nothing and calls the left half class 1."""
    logits = torch.zeros(len(images), 2, images.shape[2] // 4, images.shape[3] // 4)
    logits[:, 1, :, : logits.shape[3] // 2] = 4.0
    return logits


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_one_plain_look_is_the_network_itself(images):
    assert torch.equal(Views()(brightness, images), brightness(images))


def test_a_mirrored_look_cancels_what_depends_on_the_side(images):
    scores = Views(flip=True)(left_is_one, images).exp()
    assert torch.allclose(scores, scores.flip(3), atol=1e-6)
    assert not torch.allclose(Views(window=(64, 96))(left_is_one, images).exp(), scores)


def test_windows_as_large_as_the_image_change_nothing(images):
    whole = torch.nn.functional.interpolate(brightness(images), size=(64, 96), mode="bilinear").softmax(1)
    for window in ((64, 96), (500, 500)):
        assert torch.allclose(Views(window=window)(brightness, images).exp(), whole, atol=1e-6)


def test_windows_cover_every_pixel_and_average_to_probabilities(images):
    scores = Views(window=(32, 40), stride=(30, 33), scales=(0.75, 1.0), flip=True)(brightness, images).exp()
    assert scores.shape == (2, 2, 64, 96)
    assert torch.allclose(scores.sum(1), torch.ones(2, 64, 96), atol=1e-5)


def test_scales_are_those_asked_for(images):
    seen = []
    Views(scales=(0.5, 1.0, 1.5))(
        lambda batch: seen.append(tuple(batch.shape[2:])) or brightness(batch), images
    )
    assert seen == [(32, 48), (64, 96), (96, 144)]


@pytest.mark.parametrize("wrong", [{"scales": ()}, {"scales": (0.0,)}, {"window": (0, 4)}, {"stride": (4,)}])
def test_nonsense_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Views(**wrong)


def test_evaluate_takes_them():
    torch.manual_seed(0)
    model = tk.create_model("segformer_b0", 19)
    data = tk.open_dataset("streets", "val", size=(64, 96), num=2)
    plain, same = tk.evaluate(model, data), tk.evaluate(model, data, window=(64, 96))

    def moved(scores):
        """At most the share of pixels whose class differs from the plain look's, and twice that at least."""
        return float((scores.confusion - plain.confusion).abs().sum() / plain.confusion.sum())

    assert moved(same) < 0.002  # where two classes are equal but for the last digit, rounding decides
    looks = tk.evaluate(model, data, flip=True, scales=(0.75, 1.0), window=(48, 48))
    assert looks.confusion.sum() == plain.confusion.sum()
    assert moved(looks) > 0.02
    with pytest.raises(ValueError, match="paper"):
        tk.evaluate(model, data, protocol="paper", flip=True)
