"""The score is the benchmark's: worked by hand, against numpy, and with the authors' twentieth class."""

from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import transkd_lite as tk
from transkd_lite.data.labels import LabelSpace
from transkd_lite.data.transforms import to_tensors
from transkd_lite.metrics import SegMetrics, evaluate
from transkd_lite.models.output import ModelSpec, SegModel, SegOutput


class Quarter(SegModel):
    """Sees the class in the red channel: logits at 1/4 size from the pixel at the centre of each 4 x 4 block."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.spec = ModelSpec("quarter", (1, 1, 1, 1), num_classes=num_classes)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> SegOutput:
        ids = (images[:, 0, 2::4, 2::4] * 255).round().long()
        logits = torch.nn.functional.one_hot(ids, self.spec.num_classes).permute(0, 3, 1, 2).float()
        return SegOutput(logits * self.scale, (), ())


def picture(classes: np.ndarray) -> Image.Image:
    return Image.fromarray(np.stack([classes] * 3, axis=-1).astype(np.uint8))


def blocks(small: list[list[int]], factor: int = 4) -> np.ndarray:
    return np.kron(np.array(small, dtype=np.uint8), np.ones((factor, factor), dtype=np.uint8))


def test_iou_of_a_matrix_worked_by_hand() -> None:
    metrics = SegMetrics(torch.tensor([[2, 1, 0], [0, 3, 0], [0, 0, 0]]), torch.tensor([1, 0, 0]))
    assert metrics.iou[0] == 2 / 4  # two hits, one taken for class 1, one for no class
    assert metrics.iou[1] == 3 / 4
    assert metrics.iou[2].isnan()
    assert metrics.miou == pytest.approx(0.625)  # over the two classes that occur
    assert metrics.pixel_accuracy == pytest.approx(5 / 7)
    assert metrics.to_dict()["iou"] == {"0": 0.5, "1": 0.75, "2": None}


@pytest.mark.parametrize("protocol", ["full", "paper"])
def test_a_perfect_network_scores_one_and_void_does_not_count(protocol: str) -> None:
    truth = blocks([[0, 0, 1, 1], [2, 2, 1, 1]], 16)
    label = truth.copy()
    label[:16, :16] = 255
    sample = {"image": picture(truth), "label": Image.fromarray(label)}
    metrics = evaluate(Quarter(3), [sample], protocol=protocol, normalize=False)
    counted = int(metrics.confusion.sum())
    assert counted == (label != 255).sum() // (1 if protocol == "full" else 16)
    assert metrics.miou == metrics.pixel_accuracy == 1.0


def test_paper_protocol_resizes_labels_as_pillow_does() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (32, 64), dtype=np.uint8)
    shown = rng.integers(0, 3, (32, 64), dtype=np.uint8)
    metrics = evaluate(Quarter(3), [{"image": picture(shown), "label": label}], protocol="paper", normalize=False)
    small = np.array(Image.fromarray(label).resize((16, 8), Image.Resampling.NEAREST))
    expected = np.zeros((3, 3), dtype=int)
    np.add.at(expected, (small.ravel(), shown[2::4, 2::4].ravel()), 1)
    np.testing.assert_array_equal(metrics.confusion.numpy(), expected)


def test_a_predicted_void_class_is_a_miss() -> None:
    shown, truth = blocks([[0, 2], [1, 1]], 16), blocks([[0, 0], [1, 1]], 16)
    metrics = evaluate(
        Quarter(3), [{"image": picture(shown), "label": truth}], protocol="paper", num_classes=2, normalize=False
    )
    assert metrics.confusion.shape == (2, 2)
    assert metrics.iou.tolist() == [0.5, 1.0]
    assert metrics.pixel_accuracy == 0.75


def test_batches_and_sizes_make_no_difference() -> None:
    rng = np.random.default_rng(1)
    sizes = [(32, 32), (32, 32), (64, 32), (32, 64), (32, 64)]
    data = [{"image": picture(rng.integers(0, 3, s)), "label": rng.integers(0, 3, s, dtype=np.uint8)} for s in sizes]
    one, four = (evaluate(Quarter(3), data, batch_size=b, normalize=False) for b in (1, 4))
    assert torch.equal(one.confusion, four.confusion)
    assert int(one.confusion.sum()) == sum(h * w for h, w in sizes)


def test_the_network_keeps_its_mode() -> None:
    model = Quarter(3).train()
    evaluate(model, [{"image": picture(blocks([[0]], 32)), "label": blocks([[0]], 32)}], normalize=False)
    assert model.training


def test_bad_input_is_named() -> None:
    model, label = Quarter(3), np.full((32, 32), 44, dtype=np.uint8)
    sample = {"image": picture(np.zeros((32, 32))), "label": label}
    with pytest.raises(ValueError, match="protocol must be one of 'full', 'paper'; got 'half'"):
        evaluate(model, [sample], protocol="half")
    with pytest.raises(ValueError, match="train ids are 0-2 and 255; got label 44"):
        evaluate(model, [sample])
    with pytest.raises(ValueError, match="at least one sample"):
        evaluate(model, [])
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        evaluate(model, [sample], batch_size=0)
    with pytest.raises(ValueError, match=r"precision must be one of .*; got 'fp8'"):
        evaluate(model, [sample], precision="fp8")
    with pytest.raises(ValueError, match=r"of one size; got .*\(3, 32, 32\) and .*\(16, 32\)"):
        evaluate(model, [{"image": sample["image"], "label": label[:16]}])


class Broken(Quarter):
    """Two of its logits are no numbers."""

    def forward(self, images: Tensor) -> SegOutput:
        output = super().forward(images)
        output.logits[0, 0, 0, 0], output.logits[0, 2, 7, 7] = float("nan"), -float("inf")
        return output


class Unused(Quarter):
    """A network that must not be asked."""

    def forward(self, images: Tensor) -> SegOutput:
        raise AssertionError("work was spent before the refusal")


@pytest.mark.parametrize("protocol", ["full", "paper"])
def test_logits_that_are_no_numbers_have_no_score(protocol: str) -> None:
    road = {"image": picture(np.zeros((32, 32))), "label": np.zeros((32, 32), np.uint8)}
    model = Broken(3).train()
    with torch.no_grad(), pytest.raises(ValueError, match="every logit must be finite; 2 of 192 are not"):
        evaluate(model, [road], protocol=protocol, normalize=False)
    assert model.training


def test_labels_without_a_class_have_no_score() -> None:
    label = np.full((32, 32), 255, np.uint8)
    sample = {"image": picture(np.zeros((32, 32))), "label": label}
    with pytest.raises(ValueError, match=r"all of the labels of data are void \(255\)"):
        evaluate(Unused(3), [sample, sample])
    label[0, 0] = 0  # one pixel, which a quarter of the size does not show
    assert evaluate(Quarter(3), [sample], normalize=False).pixel_accuracy == 1.0
    with pytest.raises(ValueError, match="at the size of protocol 'paper' all are void"):
        evaluate(Quarter(3), [sample], protocol="paper", normalize=False)


def test_a_condition_without_a_class_is_named_before_any_is_scored() -> None:
    table = {
        "image": [picture(np.zeros((32, 32)))] * 3,
        "label": [Image.fromarray(np.full((32, 32), value, np.uint8)) for value in (0, 0, 255)],
        "condition": ["clear", "fog", "snow"],
    }
    features = {"image": datasets.Image(), "label": datasets.Image(), "condition": datasets.Value("string")}
    data = datasets.Dataset.from_dict(table, features=datasets.Features(features))
    with pytest.raises(ValueError, match="all of the labels with condition 'snow' are void"):
        tk.evaluate_by(Unused(3), data)
    scores = tk.evaluate_by(Quarter(3), data.select([0, 1]), normalize=False)
    assert {name: score.miou for name, score in scores.items()} == {"clear": 1.0, "fog": 1.0}


def test_network_and_data_have_the_same_classes() -> None:
    data = tk.open_dataset("streets", "val", size=(32, 64), num=1)
    names, palette = tk.label_space(data).names, tk.label_space(data).palette
    for num_logits in (11, 18, 21):
        with pytest.raises(ValueError, match=f"for 19 classes has 19 logits, or one more for void; got {num_logits}"):
            evaluate(Unused(num_logits), data)
    for num_logits in (19, 20):
        model = Quarter(num_logits)
        model.forward = lambda images, k=num_logits: SegOutput(torch.ones(len(images), k, 8, 16), (), ())
        assert evaluate(model, data).confusion.shape == (19, 19)
        model.forward = lambda images: SegOutput(torch.ones(len(images), 30, 8, 16), (), ())
        with pytest.raises(ValueError, match="got 30"):
            evaluate(model, data)
    other = Unused(19)
    other.label_space = LabelSpace((names[1], names[0], *names[2:]), palette)
    for model in (other, torch.compile(other)):
        with pytest.raises(ValueError, match="class 0 is 'sidewalk' in the one and 'road' in the other"):
            evaluate(model, data)
    with pytest.raises(ValueError, match=r"got 11: .*\(19\)"):
        evaluate(Unused(19), data, num_classes=11)


def test_names_of_the_network_serve_data_without_names() -> None:
    model = Quarter(3)
    model.label_space = LabelSpace(("road", "car"), ((0, 0, 0), (1, 1, 1)))
    truth = blocks([[0, 1]], 32)
    scores = evaluate(model, [{"image": picture(truth), "label": truth}], normalize=False)
    assert scores.to_dict()["iou"] == {"road": 1.0, "car": 1.0}


def test_the_number_of_classes_fits_labels_of_8_bits_and_is_no_single_one() -> None:
    truth = blocks([[0, 254], [254, 255]], 32)
    sample = {"image": picture(truth % 255), "label": truth}
    assert evaluate(Quarter(255), [sample], normalize=False).confusion.sum() == 3 * 32 * 32
    for num_classes in (1, 256, 1000):
        with pytest.raises(ValueError, match=f"num_classes must be 2 to 255, got {num_classes}"):
            evaluate(Unused(num_classes), [sample])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("label", np.full((32, 32), 256), r"labels hold whole numbers from 0 to 255; got np.int64\(256\)"),
        ("label", torch.full((32, 32), -1), "whole numbers from 0 to 255"),
        ("image", np.full((32, 32, 3), 1.5), "a picture is .* numbers from 0 to 255, or of floats from 0 to 1"),
    ],
)
def test_numbers_that_do_not_fit_into_8_bits_do_not_wrap_around(name: str, value: Any, message: str) -> None:
    sample = {"image": picture(np.zeros((32, 32))), "label": np.zeros((32, 32), np.uint8), name: value}
    with pytest.raises(ValueError, match=message):
        evaluate(Unused(3), [sample])
    small = {**sample, "label": np.ones((32, 32), np.int64), "image": np.zeros((32, 32, 3), np.float32)}
    assert to_tensors(small)[1].unique().tolist() == [1]


def test_scores_by_condition_add_up_to_the_whole():
    model = tk.create_model("segformer_b0", 19)
    data = tk.open_dataset("streets", "val", size=(32, 64), num=7)
    groups = tk.evaluate_by(model, data, batch_size=1)  # larger ones would hold other images in each call
    assert list(groups) == ["clear", "fog", "night", "rain", "snow"]
    whole = tk.evaluate(model, data, batch_size=1)
    assert torch.equal(sum(scores.confusion for scores in groups.values()), whole.confusion)
    with pytest.raises(ValueError, match="'weather' doesn't exist"):
        tk.evaluate_by(model, data, "weather")
