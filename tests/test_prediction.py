"""Prediction agrees with scoring, whatever the sizes of the pictures."""

import numpy as np
import pytest
import torch

import transkd_lite as tk


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tk.create_model("segformer_b0", 5)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("normalize", [True, False])
def test_predictions_are_what_evaluate_scores(model, normalize):
    images = [picture(64, 96, k) for k in range(3)]
    maps = tk.predict(model, images, normalize=normalize)
    data = [{"image": image, "label": label} for image, label in zip(images, maps, strict=True)]
    # One image at a time, as `predict` takes them: a mini-batch of three may differ in the last digits.
    assert tk.evaluate(model, data, normalize=normalize, batch_size=1).pixel_accuracy == 1.0
    assert len(np.unique(maps)) > 1
    assert tk.evaluate(model, data, normalize=not normalize, batch_size=1).pixel_accuracy < 0.99


def test_sizes_may_differ_and_the_mode_is_kept(model):
    model.train()
    maps = tk.predict(model, [picture(64, 96), picture(40, 72)])
    assert [m.shape for m in maps] == [(64, 96), (40, 72)]
    assert maps[0].dtype == np.uint8
    assert model.training


def test_a_batch_has_one_size():
    with pytest.raises(ValueError, match=r"\(40, 72\), \(64, 96\)"):
        tk.as_batch([picture(64, 96), picture(40, 72)])
    assert tk.as_batch([picture(64, 96)] * 2).shape == (2, 3, 64, 96)
