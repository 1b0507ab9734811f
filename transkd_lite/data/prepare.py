"""``transkd data prepare nyuv2``: the official MATLAB files as folders of JPEG images and 40-class PNG
labels.

The labelled set has 894 raw classes; Gupta et al. (2013) map them to 40. MATLAB stores columns first, so
the HDF5 arrays are (1449, 3, 640, 480) and (1449, 640, 480) and every picture is transposed here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from transkd_lite.data.decode import DataError

__all__ = ["prepare_nyuv2"]


def prepare_nyuv2(labeled: str | Path, mapping: str | Path, splits: str | Path, root: str | Path) -> Path:
    """Write ``images/0001.jpg`` …, ``labels40/0001.png`` …, ``train.txt`` and ``test.txt`` into ``root``.

    Args:
        labeled: ``nyu_depth_v2_labeled.mat`` (HDF5), with images and labels.
        mapping: ``classMapping40.mat``, whose ``mapClass`` (1, 894) takes raw classes to 1-40.
        splits: ``splits.mat``, with ``trainNdxs`` and ``testNdxs`` that count from 1.

    Files that exist are not made again, so an interrupted run goes on; the two lists come last. Returns
    ``root``.

    Raises FileNotFoundError or DataError naming the file that is missing or is not what it should be.
    """
    import h5py
    from tqdm.auto import tqdm

    root = Path(root)
    to_40 = np.concatenate([[0], _matlab(mapping, "mapClass")]).astype(np.uint8)
    lists = {"train": _matlab(splits, "trainNdxs"), "test": _matlab(splits, "testNdxs")}
    for folder in ("images", "labels40"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    with _explained(labeled, "a HDF5 file with images and labels"), h5py.File(labeled) as archive:
        images, labels = archive["images"], archive["labels"]  # (3, W, H) and (W, H) each, as MATLAB has them
        for index in tqdm(range(len(images)), "NYUv2", unit="image"):
            photo, ids = images[index].transpose(2, 1, 0), to_40[labels[index]].T
            _save(photo, root / "images" / f"{index + 1:04d}.jpg", "JPEG")
            _save(ids, root / "labels40" / f"{index + 1:04d}.png", "PNG")
    for name, numbers in lists.items():
        (root / f"{name}.txt").write_text("".join(f"{number:04d}\n" for number in np.sort(numbers)))
    return root


def _save(pixels: np.ndarray, path: Path, format: str) -> None:
    """A whole picture file or none; one that exists stays."""
    if not path.exists():
        aside = path.with_suffix(".partial")
        Image.fromarray(np.ascontiguousarray(pixels)).save(aside, format, quality=95, subsampling=0)
        os.replace(aside, path)


def _matlab(path: str | Path, variable: str) -> np.ndarray:
    """A row or column of whole numbers from a MATLAB 5 file, flat."""
    from scipy.io import loadmat

    with _explained(path, f"a MATLAB file with {variable}"):
        return loadmat(path)[variable].ravel().astype(np.int64)


@contextmanager
def _explained(path: str | Path, expected: str) -> Iterator[None]:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} should be {expected}, but does not exist: see transkd data fetch nyuv2"
        )
    try:
        yield
    except (KeyError, OSError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise DataError(f"{path} should be {expected}, but gave {error!r}: download it again") from None
