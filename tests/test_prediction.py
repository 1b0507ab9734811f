"""Prediction agrees with scoring, whatever the sizes of the pictures."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

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
    with pytest.raises(ValueError, match=r"pictures of one size.*\(40, 72, 3\).*\(64, 96, 3\)"):
        tk.as_batch([picture(64, 96), picture(40, 72)])
    assert tk.as_batch([picture(64, 96)] * 2).shape == (2, 3, 64, 96)


def test_logits_that_are_no_numbers_give_no_map(model):
    broken = copy.deepcopy(model).train()
    broken.head.classifier.bias.data[3] = float("nan")
    with pytest.raises(ValueError, match="every logit must be finite; 128 of 640 are not"):
        tk.predict(broken, [picture(32, 64)])
    assert broken.training


def test_classes_that_a_map_of_8_bits_cannot_tell_from_void_are_refused():
    pictures = [picture(32, 32)]
    wide, most = (tk.create_model("segformer_b0", k, decoder_channels=8) for k in (256, 255))
    most.head.classifier.bias.data[254] = 1e3
    assert np.unique(tk.predict(most, pictures)).tolist() == [254]
    with pytest.raises(ValueError, match="predict takes up to 255 logits; got 256"):
        tk.predict(wide, pictures)


def test_pictures_of_any_kind_alone_or_many(model, tmp_path):
    rgb = picture(32, 64)
    wanted = tk.predict(model, [rgb])[0]
    file = tmp_path / "a.png"
    Image.fromarray(rgb).save(file)
    for one in (rgb, rgb / 255, torch.from_numpy(rgb).permute(2, 0, 1), Image.fromarray(rgb), file, str(file)):
        assert np.array_equal(tk.predict(model, one)[0], wanted)
    for many in (rgb[None], [file], torch.from_numpy(rgb[None]).permute(0, 3, 1, 2)):
        assert np.array_equal(tk.predict(model, many)[0], wanted)
    assert tk.predict(model, rgb[..., 0])[0].shape == (32, 64)
    with pytest.raises(ValueError, match="got uint16"):
        tk.predict(model, rgb.astype(np.uint16) * 256)
    sample = {"image": rgb / 255, "label": wanted}
    assert tk.evaluate(model, [sample]).pixel_accuracy == 1.0, "scored as they are predicted"
