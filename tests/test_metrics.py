"""The score is the benchmark's: worked by hand, against numpy, and with the authors' twentieth class."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import transkd_lite as tk
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
    metrics = evaluate(
        Quarter(3), [{"image": picture(shown), "label": label}], protocol="paper", normalize=False
    )
    small = np.array(Image.fromarray(label).resize((16, 8), Image.Resampling.NEAREST))
    expected = np.zeros((3, 3), dtype=int)
    np.add.at(expected, (small.ravel(), shown[2::4, 2::4].ravel()), 1)
    np.testing.assert_array_equal(metrics.confusion.numpy(), expected)


def test_a_predicted_void_class_is_a_miss() -> None:
    shown, truth = blocks([[0, 2], [1, 1]], 16), blocks([[0, 0], [1, 1]], 16)
    metrics = evaluate(
        Quarter(3),
        [{"image": picture(shown), "label": truth}],
        protocol="paper",
        num_classes=2,
        normalize=False,
    )
    assert metrics.confusion.shape == (2, 2)
    assert metrics.iou.tolist() == [0.5, 1.0]
    assert metrics.pixel_accuracy == 0.75


def test_batches_and_sizes_make_no_difference() -> None:
    rng = np.random.default_rng(1)
    sizes = [(32, 32), (32, 32), (64, 32), (32, 64), (32, 64)]
    data = [
        {"image": picture(rng.integers(0, 3, s)), "label": rng.integers(0, 3, s, dtype=np.uint8)}
        for s in sizes
    ]
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
    with pytest.raises(ValueError, match=r"one size; got \(32, 32\) and \(16, 32\)"):
        evaluate(model, [{"image": sample["image"], "label": label[:16]}])


def test_absent_classes_count_as_zero_only_where_all_classes_are_asked_for():
    scores = SegMetrics(torch.tensor([[2, 0, 0], [0, 2, 0], [0, 0, 0]]), torch.zeros(3, dtype=torch.long))
    assert scores.miou == 1.0
    assert scores.miou_all == pytest.approx(2 / 3)


def test_scores_by_condition_add_up_to_the_whole():
    model = tk.create_model("segformer_b0", 19)
    data = tk.open_dataset("streets", "val", size=(32, 64), num=7)
    groups = tk.evaluate_by(model, data, batch_size=1)  # larger ones would hold other images in each call
    assert list(groups) == ["clear", "fog", "night", "rain", "snow"]
    whole = tk.evaluate(model, data, batch_size=1)
    assert torch.equal(sum(scores.confusion for scores in groups.values()), whole.confusion)
    with pytest.raises(ValueError, match=r"column 'weather' is not in this table.*condition"):
        tk.evaluate_by(model, data, "weather")
