"""Synthetic street scenes, drawn on the fly from a seed, with the 19 classes of Cityscapes and five conditions.

Stands in for Cityscapes and ACDC (TransKD, Section IV-A) where no photographs are at hand: small, free, endless, and
synthetic, so its numbers say nothing about real streets. Source: this project's own.

A dataset of streets stores one integer a scene, which is drawn when its row is read (`scene.feature`). Splits
cannot overlap: the split is part of the key that seeds a scene's random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transkd_lite.data.labels import CITYSCAPES
from transkd_lite.data.scene.canvas import Dice
from transkd_lite.data.scene.develop import develop
from transkd_lite.data.scene.layout import paint_street
from transkd_lite.data.scene.weather import CONDITIONS, draw_mood

if TYPE_CHECKING:
    import datasets

__all__ = ["CONDITIONS", "NUM_SCENES", "SPLITS", "Scene", "draw_scene", "open_streets"]

SPLITS = {"train": 0, "val": 1, "test": 2}
NUM_SCENES = {"train": 2000, "val": 200, "test": 500}
MIN_SIZE, MAX_SIZE = 32, 2048


class Scene(NamedTuple):
    """One street: image (H, W, 3) uint8, label (H, W) uint8 train ids (255 = void), the condition's name."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    condition: str


def draw_scene(
    seed: int,
    index: int,
    size: tuple[int, int] = (128, 256),
    condition: str | None = None,
    *,
    split: str = "train",
) -> Scene:
    """Draw scene `index` of a split: the same arguments give the same bytes on every machine.

    Args:
        seed: which family of scenes, >= 0.
        index: which scene of it, >= 0.
        size: (height, width) in pixels, each 32..2048; the composition is the same at every size.
        condition: one of `CONDITIONS`; None takes them in turn by index, so each makes up a fifth.
        split: train, val or test; different splits never share a scene.

    Returns: a `Scene`. Its arrays are the caller's own.

    Raises: ValueError for a size, condition or split that is not one of these.

    >>> scene = draw_scene(0, 3, size=(64, 128))
    >>> scene.image.shape, scene.label.shape, scene.condition
    ((64, 128, 3), (64, 128), 'rain')
    """
    condition = CONDITIONS[index % len(CONDITIONS)] if condition is None else condition
    _require(condition, CONDITIONS, "condition")
    _require(split, SPLITS, "split")
    size = _require_size(size)
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index are 0 or more, got seed={seed} and index={index}: mend these")
    dice = Dice(seed, SPLITS[split], index)
    mood, light = draw_mood(condition, dice.fork()), dice.fork()
    image, label = develop(paint_street(size, mood, dice), mood, light)
    return Scene(image, label, condition)


def open_streets(
    split: str,
    *,
    size: tuple[int, int] | int | None = (128, 256),
    num: int | None = None,
    seed: int = 0,
    conditions: Sequence[str] | None = None,
) -> datasets.Dataset:
    """Open `num` scenes as a table with the columns image, label and condition.

    Args:
        split: train, val or test.
        size: (height, width); an int n means (n, 2n); None means (128, 256).
        num: how many scenes; None takes 2000, 200 or 500 for train, val and test.
        seed: which family of scenes.
        conditions: keep to these, in turn; None takes all five.

    Returns: a `datasets.Dataset`; a row is {"image": PIL RGB, "label": PIL "L", "condition": str}.

    Raises: ValueError for an unknown split or condition, a negative seed or a `num` below 1.
    """
    import datasets

    from transkd_lite.data.scene.feature import StreetPart, key_of

    _require(split, SPLITS, "split")
    num = NUM_SCENES[split] if num is None else num
    if num < 1 or seed < 0:
        raise ValueError(f"streets need num >= 1 and seed >= 0, got num={num} and seed={seed}: mend these")
    chosen = CONDITIONS if conditions is None else conditions
    if isinstance(chosen, str) or not chosen:
        raise ValueError(f'conditions is a list of names, got {chosen!r}: pass for example ("fog", "snow")')
    for condition in chosen:
        _require(condition, CONDITIONS, "condition")
    weather = [chosen[index % len(chosen)] for index in range(num)]
    keys = [key_of(index, name) for index, name in enumerate(weather)]
    height, width = _require_size((size, 2 * size) if isinstance(size, int) else size or (128, 256))
    image, label = (StreetPart(seed, split, height, width, part) for part in ("image", "label"))
    features = datasets.Features({"image": image, "label": label, "condition": datasets.Value("string")})
    description = CITYSCAPES.to_json(dataset="streets", split=split)
    info = datasets.DatasetInfo(description=description, features=features)
    return datasets.Dataset.from_dict({"image": keys, "label": keys, "condition": weather}, info=info)


def _require_size(size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2 or not all(MIN_SIZE <= side <= MAX_SIZE for side in size):
        bounds = f"each {MIN_SIZE}..{MAX_SIZE} pixels"
        raise ValueError(f"size is (height, width), {bounds}, got {tuple(size)}: try (128, 256)")
    return size[0], size[1]


def _require(value: str, known: Any, what: str) -> None:
    if value not in known:
        raise ValueError(
            f"a {what} of streets is one of {', '.join(known)}, got {value!r}: take one of these"
        )
