"""``transkd data check``: what is in a root, against what should be, on one screen."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from transkd_lite.data.datasets import layout_of, root_of
from transkd_lite.data.decode import DataError, read_files
from transkd_lite.data.folders import Listing, Pair
from transkd_lite.data.labels import VOID, LabelSpace, lookup_table
from transkd_lite.data.official import folder_splits, read_classes
from transkd_lite.data.verify import over_pairs

__all__ = ["Report", "SplitReport", "check_dataset"]

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
