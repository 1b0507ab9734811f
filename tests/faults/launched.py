"""A user's training script: `python launched.py FOLDER METHOD [steps]`, alone or by `torch.distributed.run`.

The images differ very much in how much of them is void; one has no label at all.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import transkd_lite as tk

VOID_ROWS = (0, 31, 2, 32, 16, 30, 1, 24)  # of 32


def scenes() -> list[dict[str, Any]]:
    """Noise whose label can be read from the first channel, the upper rows void."""
    images = np.random.default_rng(0).integers(0, 256, (len(VOID_ROWS), 32, 32, 3), dtype=np.uint8)
    labels = (images[..., 0] // 86).astype(np.uint8)
    for label, rows in zip(labels, VOID_ROWS, strict=True):
        label[:rows] = 255
    return [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]


def main(folder: Path, method: str) -> None:
    """Train without dropout, whose draws depend on which process an image is in."""
    torch.manual_seed(0)
    student, teacher = (tk.create_model("segformer_b0", 3, drop_path=0.0, head_dropout=0.0) for _ in range(2))
    # eps: steps in proportion to the gradient. Adam's own go anywhere where the gradient is nothing but rounding.
    config = tk.TrainConfig(
        steps=5, batch_size=4, lr=1e-3, eps=0.1, log_every=1, precision="fp32", augment="none", device="cpu"
    )
    distiller = tk.create_method(method, student, teacher)
    result = tk.fit(
        student, scenes(), config=config, teacher=teacher, method=distiller, val_data=scenes()[:3], out_dir=folder
    )
    print(f"mIoU {result.metrics['full']['miou']!r}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
