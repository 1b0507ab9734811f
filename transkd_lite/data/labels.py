"""Class names, palettes, official id tables and class weights of the datasets in this project.

A *train id* is what a network predicts: 0 to K-1 for the K scored classes, 255 (`VOID`) for every pixel
that is neither trained on nor scored. The files of a dataset often hold other numbers; the tables here
translate them.

Sources: `cityscapesscripts/helpers/labels.py` (names, colours, ids) and the authors' Cityscapes training script (class
weights); the CamVid colour list of Brostow et al. 2009 reduced to the 11 classes of the SegNet split, its other colours
grouped as in `camvidPixelLabelIDs` of MathWorks (lane markings are road, tunnels building, vans car, children
pedestrian, motorcycles bicyclist); the VOC2012 development kit (names and the colour rule), and the 40 NYUv2 classes of
Gupta et al. 2013. NYUv2 has no official palette, so its classes wear the VOC colours 1 to 40.
"""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import zip_longest
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import datasets
    from torch import Tensor

__all__ = [
    "CAMVID", "CITYSCAPES", "CITYSCAPES_CLASS_WEIGHTS", "CITYSCAPES_ID_TO_TRAIN_ID", "ILLEGAL", "NYU40", "VOC", "VOID",
    "Colour", "LabelSpace", "colour_ids", "colours", "label_space", "lookup_table", "read_rows", "require_train_ids",
    "voc_palette",
]  # fmt: skip

VOID = 255
ILLEGAL = 254  # what a lookup table holds for a value that no label file may contain

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class LabelSpace:
    """The K classes of a dataset in train-id order: their names and the colours they are drawn in.

    >>> space = LabelSpace(("road", "car"), ((128, 64, 128), (0, 0, 142)))
    >>> space.num_classes, space.names.index("car")
    (2, 1)
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(set(self.names)) == len(self.names) == len(self.palette) <= ILLEGAL:
            got = f"{len(self.names)} (first {self.names[:3]}) and {len(self.palette)} colours"
            advice = "name each once, and a background too, and give each its colour"
            raise ValueError(f"a label space names 2 to {ILLEGAL} different classes, got {got}: {advice}")

    @property
    def num_classes(self) -> int:
        """K, the number of scored classes (void is not one of them)."""
        return len(self.names)

    def colorize(self, label: np.ndarray) -> np.ndarray:
        """Draw train ids (H, W) in the palette: (H, W, 3) uint8; void and unknown ids come out black."""
        table = np.zeros((256, 3), dtype=np.uint8)
        table[: self.num_classes] = self.palette
        return table[np.asarray(label, dtype=np.uint8)]

    def difference(self, other: "LabelSpace") -> str:
        """The first class that is not the same in both, in words, or "" where all are; colours may differ."""
        pairs = enumerate(zip_longest(self.names, other.names))
        return next((f"class {k} is {a!r} in the one and {b!r} in the other" for k, (a, b) in pairs if a != b), "")

    def to_json(self, **extra: str) -> str:
        """The text that `open_dataset` keeps in `dataset.info.description`; `extra` rides along."""
        return json.dumps({**extra, "label_space": {"names": self.names, "palette": self.palette}})


def label_space(dataset: "datasets.Dataset") -> LabelSpace:
    """The label space that `open_dataset` wrote into a dataset; survives select, filter and shuffle.

    Raises `ValueError` for a dataset that was not made by `open_dataset`.
    """
    text = dataset.info.description
    try:
        fields = json.loads(text)["label_space"]
        return LabelSpace(tuple(fields["names"]), tuple((r, g, b) for r, g, b in fields["palette"]))
    except (json.JSONDecodeError, KeyError, TypeError):
        advice = "open data with open_dataset, or set their info.description = LabelSpace(names, palette).to_json()"
        raise ValueError(f"a description carries no class names: it is {text[:60]!r}; {advice}") from None


def colours(digits: str) -> tuple[Colour, ...]:
    """The colours that are written as six hexadecimal digits each.

    >>> colours("804080 00008e")
    ((128, 64, 128), (0, 0, 142))
    """
    return tuple((red, green, blue) for red, green, blue in map(bytes.fromhex, digits.split()))


def read_rows(name: str) -> Iterable[dict[str, str]]:
    """The rows of a table of this folder, classes.csv or streets.csv, by their columns' names."""
    return csv.DictReader(files("transkd_lite.data").joinpath(name).read_text(encoding="utf-8").splitlines())


def voc_palette(num_colours: int) -> tuple[Colour, ...]:
    """The first colours of the VOC rule: the bits of the index, three at a time, fill R, G, B from the top.

    >>> voc_palette(3)
    ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    """
    index, channel = np.ogrid[:num_colours, :3]
    levels = sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))
    return tuple((red, green, blue) for red, green, blue in np.asarray(levels).tolist())


def lookup_table(num_classes: int, ids: Mapping[Any, int] | None = None) -> bytes:
    """The train id of each of the 256 values of a file, for `bytes.translate`; `ILLEGAL` for one that may not occur.

    Without `ids` the file holds train ids already. 255 is void, unless `ids` say otherwise, as for masks of 0
    and 255. A value may be text, as the keys of JSON are. Raises `ValueError` for ids that no 8-bit file can hold, for
    train ids beyond `num_classes`, and where no value is a class.
    """
    given = {value: value for value in range(num_classes)} if ids is None else ids
    try:
        table = {int(v) if isinstance(v, str) else index(v): index(train_id) for v, train_id in given.items()}
        known, found = {*range(num_classes), VOID}, {*table.values(), VOID}
        sound = len(table) == len(given) and table.keys() <= {*range(256)} and {VOID} < found <= known
    except (AttributeError, TypeError, ValueError):
        sound = False
    if not sound:
        rule = f"ids (label_map) map values 0-255, each once, to train ids 0-{num_classes - 1} or {VOID}"
        raise ValueError(f"{rule}; got {ids!r}: write {{value: train id}}, with at least one class")
    return bytes((dict.fromkeys(range(256), ILLEGAL) | {VOID: VOID} | table).values())


def require_train_ids(labels: "Tensor", num_classes: int, where: str) -> None:
    """Raise `ValueError` naming the first label that is neither a train id nor void."""
    wrong = labels[(labels < 0) | ((labels >= num_classes) & (labels != VOID))]
    if wrong.numel():
        got = f"got label {int(wrong[0])} in {where}"
        raise ValueError(f"train ids are 0-{num_classes - 1} and {VOID}; {got}: map the labels to train ids")


# The rows of `classes.csv` by data set, in train-id order. `label_id` is what files hold that number classes otherwise.
# Of several colours the first is the one that the class is drawn in; files may have the others, too.
_TABLE: dict[str, list[dict[str, str]]] = {}
for _row in read_rows("classes.csv"):
    _TABLE.setdefault(_row["dataset"], []).append(_row)


def _space(dataset: str, palette: Iterable[Colour] = ()) -> LabelSpace:
    """The classes of a data set, in the colours of the table unless others are given."""
    rows = _TABLE[dataset]
    own = tuple(palette) or tuple(colours(row["colours"])[0] for row in rows)
    return LabelSpace(tuple(row["class"] for row in rows), own)


CITYSCAPES, CAMVID = _space("cityscapes"), _space("camvid")
VOC, NYU40 = _space("voc2012", voc_palette(21)), _space("nyuv2", voc_palette(41)[1:])
# Of the 34 ids that a *_labelIds.png may hold, 19 are scored; the rest (ego vehicle, parking ...) is void.
_SCORED_IDS = {int(row["label_id"]): k for k, row in enumerate(_TABLE["cityscapes"])}
CITYSCAPES_ID_TO_TRAIN_ID = dict.fromkeys(range(34), VOID) | _SCORED_IDS
# Of the supervised loss in the authors' training script: rare classes weigh up to four times as much as road.
CITYSCAPES_CLASS_WEIGHTS = tuple(float(row["weight"]) for row in _TABLE["cityscapes"])


def colour_ids(space: LabelSpace, ids: Mapping[Any, int] | None = None) -> tuple[tuple[Colour, int], ...]:
    """(colour, train id) of labels that are drawn in the colours of their classes; black and VOC's borders are void.

    None for colours that nobody chose (those of VOC from its second on) or that two classes share, and where `ids` say
    that labels are numbers. The labels of CamVid may have the 32 colours of the original too.

    >>> dict(colour_ids(LabelSpace(("road", "car"), ((128, 64, 128), (0, 0, 142)))))[0, 0, 142]
    1
    """
    classes: Iterable[Iterable[Colour]] = ((colour,) for colour in space.palette)
    if space == CAMVID:
        classes = (colours(row["colours"]) for row in _TABLE["camvid"])
    elif ids is not None or space.palette == voc_palette(len(space.palette) + 1)[1:]:
        return ()
    pairs = [(colour, k) for k, group in enumerate(classes) for colour in group]
    void = {(0, 0, 0): VOID, (224, 224, 192): VOID}
    return tuple((void | dict(pairs)).items()) if len(dict(pairs)) == len(pairs) else ()
