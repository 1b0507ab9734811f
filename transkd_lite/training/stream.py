"""From a dataset to batches: decode once, augment by seed, and know every sample from its position alone.

The stream of samples is endless and is a pure function of the seed: position p is sample
`order(p // n)[p % n]` of epoch `p // n`, and its augmentation draws from a generator seeded by (seed, epoch, index). So
a run can go on from any step with nothing but the step number, whatever the number of workers or processes.
"""

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from transkd_lite.data.labels import VOID, require_train_ids
from transkd_lite.data.transforms import is_flipped, make_transform, require_labelled, to_tensors
from transkd_lite.training.config import TrainConfig

__all__ = ["SampleStore", "UnreadableSampleError", "batches", "mix_seed"]


def mix_seed(*numbers: int) -> int:
    """One 63-bit seed of several whole numbers; unlike a sum it gives (1, 2) and (2, 1) streams of their
    own.
    """
    words = np.random.SeedSequence([int(n) for n in numbers]).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


class UnreadableSampleError(RuntimeError):
    """A sample could not be decoded: its file vanished or is damaged."""


class SampleStore:
    """Decoded samples of a dataset, kept in memory as uint8 where all, if as large as the first, fit into cache_mb.

    Of samples of unlike sizes as many are kept as fit.

    Indexing gives (image (3, H, W), label (H, W)). Raises `UnreadableSampleError` for a sample that cannot be
    decoded, and `ValueError` for a label that is no train id and where no pixel of any sample has a class.
    """

    def __init__(self, data: Any, cache_mb: int = 1024, num_classes: int = VOID) -> None:
        if len(data) == 0:
            raise ValueError("train_data must hold at least one sample; got none: check split and filters")
        self.data, self.num_classes = data, num_classes
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.keeps, self.room = True, cache_mb * 2**20  # the first sample, whose size says whether all are
        image, label = self[0]
        self.image_size = (int(image.shape[-2]), int(image.shape[-1]))
        self.num_bytes = len(data) * (image.nbytes + label.nbytes)
        self.keeps = self.num_bytes <= cache_mb * 2**20
        require_labelled((self[index][1] for index in range(len(self))), "the labels of train_data")

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index in self._kept:
            return self._kept[index]
        try:
            sample = self.data[index]
        except Exception as error:
            found = f"number {index} of {len(self.data)} is not ({type(error).__name__}: {error})"
            advice = "put the file back, then go on with resume=True"
            raise UnreadableSampleError(f"every sample must be readable; {found}: {advice}") from error
        pair = to_tensors(sample)
        require_train_ids(pair[1], self.num_classes, f"sample {index}")
        if self.keeps and (size := pair[0].nbytes + pair[1].nbytes) <= self.room:
            self._kept[index], self.room = pair, self.room - size
        return pair


class _Augmented(Dataset[Any]):
    """The store seen through a run's augmentation, with keys; an item is addressed by (epoch, index)."""

    def __init__(self, store: SampleStore, config: TrainConfig) -> None:
        self.store, self.config = store, config
        self.transform = make_transform(augment=config.augment, crop=config.crop, normalize=config.normalize)

    def __getitem__(self, where: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        epoch, index = where
        drawn = mix_seed(self.config.seed, epoch, index)
        flipped = self.config.num_states == 2 and is_flipped(torch.Generator().manual_seed(drawn))
        pair = self.transform(*self.store[index], torch.Generator().manual_seed(drawn))
        return *pair, index + len(self.store) * flipped


def _stack(samples: list[tuple[Tensor, Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
    images, labels, keys = zip(*samples, strict=True)
    sizes = {tuple(label.shape) for label in labels}
    if len(sizes) > 1:
        raise ValueError(f"the images of a batch must have one size; got {sorted(sizes)}: set crop=(height, width)")
    return torch.stack(images), torch.stack(labels), torch.tensor(keys)


def batches(store: SampleStore, config: TrainConfig, steps: range, rank: int = 0, world_size: int = 1) -> DataLoader:
    """Loader of (images (n, 3, h, w), labels (n, h, w), keys (n,)), one mini-batch per step; n = size / processes.

    config: its batch_size, seed, augmentation and workers. rank: which of the `world_size` processes this one is.
    A sample's key is its number; where nothing but flips is drawn, the key of a flipped sample is its number plus the
    number of samples.
    Raises `ValueError` if the processes cannot share a batch evenly.
    """
    size = config.batch_size
    if size % world_size:
        raise ValueError(f"batch_size must be a multiple of the {world_size} processes; got batch_size={size}")
    if config.workers and store.keeps:  # loader processes share one copy instead of each making its own
        for index in range(len(store)):
            store[index]

    @functools.lru_cache(maxsize=1)
    def order(epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(mix_seed(config.seed, epoch))
        return torch.randperm(len(store), generator=generator).tolist()

    def share(step: int) -> list[tuple[int, int]]:
        """(epoch, index) of every sample of the step's batch that this process takes."""
        positions = range(step * size + rank, (step + 1) * size, world_size)
        return [(epoch, order(epoch)[offset]) for epoch, offset in (divmod(p, len(store)) for p in positions)]

    return DataLoader(
        _Augmented(store, config), batch_sampler=map(share, steps), num_workers=config.workers, collate_fn=_stack,
        pin_memory=config.device != "cpu" and torch.cuda.is_available(),
        prefetch_factor=4 if config.workers else None,
        # Making the iterator draws from it, not from the global one.
        generator=torch.Generator().manual_seed(config.seed),
    )  # fmt: skip
