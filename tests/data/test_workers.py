"""The same seed gives the same batches, whether the main process decodes or four workers do."""

import pytest
import torch

from transkd_lite.data.datasets import open_dataset
from transkd_lite.training.config import TrainConfig
from transkd_lite.training.stream import SampleStore, batches


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # four workers on fewer cores, on purpose
@pytest.mark.parametrize("augment", ["standard", "paper"])
def test_same_seed_same_batches_with_0_or_4_workers(trees, tmp_path, augment):
    data = open_dataset("camvid", "train", root=trees.camvid(tmp_path, num=5), size=(8, 12))

    def stream(seed, workers):
        torch.manual_seed(workers)  # whatever else has drawn from the global generator must not matter
        store = SampleStore(data, cache_mb=0, num_classes=11)
        config = TrainConfig(batch_size=2, seed=seed, augment=augment, crop=(8, 8), workers=workers)
        return list(batches(store, config, range(6)))

    alone, shared = stream(3, 0), stream(3, 4)
    assert len(alone) == len(shared) == 6
    for left, right in zip(alone, shared, strict=True):
        assert torch.equal(left[0], right[0])
        assert torch.equal(left[1], right[1])
    assert not all(torch.equal(left[0], right[0]) for left, right in zip(alone, stream(4, 0), strict=True))
