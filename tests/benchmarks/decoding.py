"""How many samples a second come from disk: plain Pillow, `open_dataset`, and its Arrow cache, by workers.

    python tests/benchmarks/decoding.py [--camvid DIR] [--num 24]

The Cityscapes tree is generated: 1024x2048 PNG pairs as noisy as real ones (3.3 MB an image). "CPU ms" is processor
time for one sample in the main process and hardly depends on what else the machine does; the rates are wall clock.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import DataLoader

from transkd_lite.data.datasets import open_dataset
from transkd_lite.data.transforms import to_tensors


def generate_cityscapes(root: Path, num: int) -> Path:
    """``num`` train pairs of 1024x2048: smooth shapes plus sensor noise, labels of large regions."""
    rng = np.random.default_rng(0)
    for n in range(num):
        stem = f"train/aachen/aachen_{n:06d}_000019"
        shapes = Image.fromarray(rng.integers(20, 200, (16, 32, 3), dtype=np.uint8)).resize((2048, 1024))
        noisy = np.clip(np.asarray(shapes) + rng.normal(0, 3, (1024, 2048, 3)), 0, 255).astype(np.uint8)
        ids = Image.fromarray(rng.integers(7, 34, (32, 64), dtype=np.uint8)).resize(
            (2048, 1024), Image.Resampling.NEAREST
        )
        for folder, ending, picture in (
            ("leftImg8bit", "leftImg8bit", Image.fromarray(noisy)),
            ("gtFine", "gtFine_labelIds", ids),
        ):
            path = root / folder / f"{stem}_{ending}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    return root


class Items:
    """A map-style dataset over a function of the index, as `DataLoader` wants it."""

    def __init__(self, length: int, get: Callable[[int], tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.length, self.get = length, get

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.get(index)


def cpu_ms(items: Items) -> float:
    """Processor time for one sample, after one pass that warms the disk cache."""
    for index in range(len(items)):
        items[index]
    start = time.process_time()
    for index in range(len(items)):
        items[index]
    return (time.process_time() - start) / len(items) * 1000


def rate(items: Items, workers: int) -> float:
    """Samples a second over two passes, from the first sample on (starting the workers does not count)."""
    order = list(range(len(items))) * 2
    stream = iter(DataLoader(items, batch_size=None, sampler=order, num_workers=workers))  # type: ignore[arg-type]
    next(stream)
    start = time.perf_counter()
    count = sum(1 for _ in stream)
    return count / (time.perf_counter() - start)


def plain_pillow(pairs: list[tuple[str, str]], size: tuple[int, int]) -> Items:
    """What one would write by hand, without any checking."""

    def get(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = (Image.open(path) for path in pairs[index])
        small = image.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR)
        return to_tensors({"image": small, "label": label.resize(size[::-1], Image.Resampling.NEAREST)})

    return Items(len(pairs), get)


def measure(name: str, root: Path, size: tuple[int, int], num: int, cache: Path) -> None:
    """Print one line for each way of reading, with 1 and 2 workers."""
    data = open_dataset(name, "train", root=root, size=size).select(range(num))
    kept = open_dataset(name, "train", root=root, size=size, cache=cache).select(range(num))
    rows = data.with_format(None)
    pairs = [(row["image"]["path"], row["label"]["path"]) for row in rows]
    ways = {
        "plain Pillow": plain_pillow(pairs, size),
        "open_dataset": Items(num, lambda index: to_tensors(data[index])),
        "with cache": Items(num, lambda index: to_tensors(kept[index])),
    }
    for way, items in ways.items():
        rates = "".join(f"{rate(items, workers):11.1f}" for workers in (1, 2))
        print(f"{name:>12} {size[0]}x{size[1]:<5} {way:<13}{cpu_ms(items):8.2f}{rates}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, default=os.environ.get("TRANSKD_CAMVID_ROOT"))
    parser.add_argument("--num", type=int, default=24, help="samples of each dataset")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Pillow {PIL.__version__}")
    print(f"{'dataset':>12} {'size':<9} {'':<13}{'CPU ms':>8}{'1 worker/s':>11}{'2 workers/s':>12}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRANSKD_CACHE"] = folder
        root = generate_cityscapes(Path(folder, "cityscapes"), args.num)
        measure("cityscapes", root, (512, 1024), args.num, Path(folder, "arrow"))
        if args.camvid:
            measure("camvid", args.camvid, (360, 480), args.num * 4, Path(folder, "arrow"))
        else:
            print("camvid left out: give --camvid DIR")


if __name__ == "__main__":
    main()
