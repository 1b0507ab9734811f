"""Scores equal those of the official Cityscapes evaluator, from label files on disk to per-class IoU."""

import numpy as np
import pytest
import torch
from PIL import Image

from transkd_lite.data.datasets import open_dataset
from transkd_lite.data.labels import CITYSCAPES, CITYSCAPES_ID_TO_TRAIN_ID
from transkd_lite.metrics import evaluate

TRAIN_ID_TO_ID = {train_id: label_id for label_id, train_id in CITYSCAPES_ID_TO_TRAIN_ID.items() if train_id != 255}
SIZE = (40, 64)


class ReadsItsImage(torch.nn.Module):
    """A network that predicts the train id that the image's red channel holds."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.spec = type("Spec", (), {"num_classes": 19})()

    def forward(self, images):
        classes = (images[:, 0] * 255).round().long()
        logits = torch.nn.functional.one_hot(classes, 19).permute(0, 3, 1, 2).float()
        return type("Output", (), {"logits": logits})()


@pytest.fixture(scope="module")
def official():
    """``evaluateImgLists``; version 2.3 still asks NumPy for a function that NumPy 2.4 has dropped."""
    patch = pytest.MonkeyPatch()
    if not hasattr(np, "in1d"):
        patch.setattr(np, "in1d", np.isin, raising=False)
    patch.setenv("CITYSCAPES_DATASET", ".")
    patch.setenv("CITYSCAPES_RESULTS", ".")
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as evaluator

    patch.setattr(evaluator.args, "evalInstLevelScore", False)
    patch.setattr(evaluator.args, "JSONOutput", False)
    patch.setattr(evaluator.args, "quiet", True)
    yield lambda predictions, truths: evaluator.evaluateImgLists(predictions, truths, evaluator.args)
    patch.undo()


def draw(rng, ids, share_right):
    """Blocky label ids, and predicted train ids that agree with them in about ``share_right`` of the pixels."""
    truth = np.kron(rng.choice(ids, (SIZE[0] // 4, SIZE[1] // 4)), np.ones((4, 4), dtype=np.uint8)).astype(np.uint8)
    train_ids = np.vectorize(CITYSCAPES_ID_TO_TRAIN_ID.get)(truth)
    guess = rng.integers(0, 19, SIZE)
    right = (rng.random(SIZE) < share_right) & (train_ids != 255)
    return truth, np.where(right, train_ids, guess).astype(np.uint8)


@pytest.mark.parametrize(
    ("seed", "ids", "share_right"),
    [(0, range(34), 0.7), (1, range(34), 0.0), (2, range(34), 1.0), (3, [0, 7, 8, 26], 0.5), (4, [7, 8, 23], 1.0)],
    ids=["usual", "all by chance", "all right", "few classes", "few classes, perfect"],
)
def test_agrees_with_the_official_evaluator(trees, tmp_path, official, capsys, seed, ids, share_right):
    rng = np.random.default_rng(seed)
    predictions, truths = [], []
    for n in range(3):
        truth, predicted = draw(rng, list(ids), share_right)
        stem = f"val/aachen/aachen_{n:06d}_000019"
        image = Image.fromarray(np.repeat(predicted[..., None], 3, axis=2))
        trees.save(image, tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png")
        truths.append(trees.save(Image.fromarray(truth), tmp_path / f"gtFine/{stem}_gtFine_labelIds.png"))
        as_ids = np.vectorize(TRAIN_ID_TO_ID.get)(predicted).astype(np.uint8)
        predictions.append(trees.save(Image.fromarray(as_ids), tmp_path / f"results/aachen_{n:06d}_000019_pred.png"))
    theirs = official([str(p) for p in predictions], [str(t) for t in truths])
    data = open_dataset("cityscapes", "val", root=tmp_path)
    ours = evaluate(ReadsItsImage(), data, protocol="full", normalize=False, batch_size=2)
    assert ours.miou == pytest.approx(theirs["averageScoreClasses"], abs=1e-6)
    expected = [theirs["classScores"][name] for name in CITYSCAPES.names]
    assert ours.iou.tolist() == pytest.approx(expected, abs=1e-6, nan_ok=True)
