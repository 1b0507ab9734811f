"""Synthetic street scenes, drawn on the fly from a seed, with the 19 classes of Cityscapes and five conditions.

Stands in for Cityscapes and ACDC (TransKD, Section IV-A) where no photographs are at hand: small, free, endless, and
synthetic, so its numbers say nothing about real streets. Source: this project's own.

A dataset of streets stores one integer a scene, which is drawn when its row is read. Splits cannot overlap: the split
is part of the key that seeds a scene's random numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transkd_lite.data.decoding import Size
from transkd_lite.data.labels import CITYSCAPES, Colour
from transkd_lite.data.streets.canvas import FAR, Canvas, Dice, Id, draw_mood
from transkd_lite.data.streets.layout import paint_street

if TYPE_CHECKING:
    import datasets

__all__ = ["CONDITIONS", "NUM_SCENES", "SPLITS", "Scene", "SceneDecoder", "develop", "draw_scene", "open_streets"]

# --- From a painted canvas to a photograph: sky, snow, texture, reflections, shadows, haze, exposure, lamps, rain.
#
# All arithmetic is on integers, so images are the same on every machine. Labels are read here and never changed.

Ints = NDArray[np.int32]
Noise = NDArray[np.int16]

_TILE = 512

# How strongly each class takes fine, leafy and ground-bound texture, in 256ths of its brightness at full noise.
_FINE, _LEAFY, _FLAT = np.zeros((3, 256), np.int16)
_FINE[:] = 8
_FINE[[0, 1, 2, 3, 4, 8, 9, 10, 255]] = (10, 14, 14, 22, 16, 44, 30, 0, 4)
_LEAFY[[2, 3, 8, 9, 11, 12, 13]] = (14, 20, 64, 34, 14, 14, 6)
_FLAT[[0, 1, 9]] = (20, 34, 70)


def develop(canvas: Canvas, dice: Dice) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the finished image (H, W, 3) and the label (H, W), both uint8, of a painted canvas."""
    photo = Photograph(canvas, dice)
    for process in (photo.sky, photo.snow, photo.texture, photo.mirror, photo.shade, photo.expose, photo.shine):
        process()
    photo.precipitate()
    photo.image += photo.grain(0) * np.int16(canvas.mood.grain) >> 5
    return np.ascontiguousarray(np.clip(photo.image, 0, 255).astype(np.uint8).transpose(1, 2, 0)), photo.label


@lru_cache(maxsize=8)
def _noise(radius: int) -> Noise:
    """Return a (512, 512) tile of periodic noise in -96..96, 32 on average, with blobs of `radius` pixels."""
    words = np.random.PCG64(np.random.SeedSequence([2202, 13393, radius])).random_raw(_TILE * _TILE // 8)
    tile = words.astype("<u8").view(np.uint8).astype(np.int32).reshape(_TILE, _TILE) - 128
    for axis in (0, 1):
        tile = np.sum([np.roll(tile, shift, axis) for shift in range(-radius, radius + 1)], axis=0)
    return np.clip(tile * 32 // max(int(np.abs(tile).sum()) // tile.size, 1), -96, 96).astype(np.int16)


@lru_cache(maxsize=64)
def _halo(radius: int) -> Ints:
    """Return a round glow (2r+1, 2r+1) that falls from 256 at the centre to 0 at `radius`."""
    square = np.arange(-radius, radius + 1, dtype=np.int32) ** 2
    return np.maximum(256 - 256 * (square[:, None] + square[None]) // (radius * radius + 1), 0) ** 3 >> 16


def _plane(colour: Colour) -> Ints:
    return np.array(colour, np.int32)[:, None, None]


class Photograph:
    """What is being developed: image (3, H, W), label (H, W), distance (H, 1) and flat noise (H, W) of the ground.

    Channels come first, for NumPy broadcasts a map over whole planes several times faster. `top` is the row of the
    horizon, `aside` the columns' distance from the middle.
    """

    def __init__(self, canvas: Canvas, dice: Dice) -> None:
        painted, camera = np.array(canvas.picture), canvas.camera
        self.canvas, self.mood, self.dice = canvas, canvas.mood, dice
        self.image = np.ascontiguousarray(painted[..., :3].transpose(2, 0, 1)).astype(np.int32)
        self.label = np.ascontiguousarray(painted[..., 3])
        (self.height, self.width), self.top = self.label.shape, camera.horizon
        self.aside = np.arange(self.width, dtype=np.int32)[None] - camera.centre
        below = np.maximum(np.arange(self.height, dtype=np.int32) - self.top, 1)
        self.depth = np.minimum(camera.eye * camera.focal // below, FAR)[:, None].astype(np.int32)
        self.ground = np.zeros(self.label.shape, np.int16)
        across = self.aside * self.depth[self.top :] // (3 * camera.focal)
        self.ground[self.top :] = _noise(2)[(self.depth[self.top :] >> 2) % _TILE, across % _TILE]

    def blend(self, colour: Colour, share: Ints | Noise) -> None:
        """Mix `share` (H, W; 256ths) of one colour in."""
        self.image += (_plane(colour) - self.image) * share.astype(np.int32) >> 8

    def grain(self, radius: int, rows: int | None = None) -> Noise:
        """Return noise (H or `rows`, W) with blobs of `radius` pixels, enlarged for large images."""
        rows = rows or self.height
        zoom, top, left = max(1, rows // 128), self.dice.integer(0, 127), self.dice.integer(0, 127)
        columns = np.arange(left, left - (-self.width // zoom))
        window = _noise(radius)[top : top - (-rows // zoom)].take(columns, 1, mode="wrap")
        return window.repeat(zoom, 0).repeat(zoom, 1)[:rows, : self.width]

    def sky(self) -> None:
        """Fill the sky with a gradient from zenith to haze, and clouds."""
        mood, rows = self.mood, self.top + 2
        mix = (np.arange(rows, dtype=np.int32) * 256 // rows)[None, :, None]
        sky = (_plane(mood.zenith) * (256 - mix) + _plane(mood.haze) * mix) >> 8
        cloud = np.maximum(self.grain(12, rows).astype(np.int32) + 10, 0)
        cloud = np.minimum(cloud * mood.clouds >> 6, 200)
        sky = sky + (((70 if mood.night else 236) - sky) * cloud >> 8)
        self.image[:, :rows] = np.where(self.label[:rows] == Id.SKY, sky, self.image[:, :rows])

    def snow(self) -> None:
        """Whiten the ground: verges most, the road least, in patches."""
        if not self.mood.cover:
            return
        dice, share = self.dice, np.zeros(256, np.int32)
        share[[Id.ROAD, Id.SIDEWALK, Id.TERRAIN]] = (dice.integer(10, 60), dice.integer(60, 95), 100)
        share[[Id.BUILDING, Id.VEGETATION, Id.CAR]] = (6, dice.integer(8, 34), 10)
        cover = (share * self.mood.cover // 100)[self.label]
        patches = (self.grain(4) + self.ground // 2) // 2 * (cover > 20)
        self.blend((232, 236, 242), np.clip(cover + patches, 0, 236))

    def texture(self) -> None:
        """Give each class its own grain, relative to its brightness; on the ground it fades with distance."""
        delta = self.grain(0) * _FINE[self.label]
        delta += self.grain(2) * _LEAFY[self.label]
        fade = (256 * 1500 // (1500 + self.depth)).astype(np.int16)
        delta += (self.ground * fade >> 8) * _FLAT[self.label]
        strength = 5 if self.mood.condition == "fog" else 6
        self.image += self.image * ((delta >> 6) * np.int16(strength) // 6).astype(np.int32) >> 8

    def mirror(self) -> None:
        """Let a wet road mirror what stands above the horizon."""
        if self.mood.wet:
            rows = np.clip(2 * self.top - np.arange(self.height), 0, self.height - 1)
            puddle = np.clip(self.mood.wet + self.ground // 2, 20, 220).astype(np.int32) * (self.label <= Id.SIDEWALK)
            self.image += (self.image[:, rows] - self.image) * puddle >> 8

    def shade(self) -> None:
        """Let cast shadows fall on the ground, the haze lie over it, and our headlights reach it at night."""
        mood, image = self.mood, self.image[:, self.top :]
        label, depth = self.label[self.top :], self.depth[self.top :]
        flat = (label <= Id.SIDEWALK) | (label == Id.TERRAIN)
        shadow = np.array(self.canvas.shadow)[self.top :].astype(np.int32)
        image -= image * ((shadow * mood.shadow >> 8) * flat) >> 8
        mist = 256 * depth // (depth + mood.visibility) * flat
        image += (_plane(mood.haze) - image) * mist >> 8
        if mood.night:  # a cone ahead, brightest at some ten metres
            aside = np.abs(self.aside) * 100 // self.canvas.camera.focal
            reach = 200 * depth // (depth + 500) * 1200 // (depth + 1200)
            image += image * (np.maximum(60 - aside, 0) * 4 * reach >> 8) >> 8

    def expose(self) -> None:
        """Apply the colour of the light; at night all is dark but what shines (brighter than the ceiling)."""
        image = np.clip(self.image, 0, 255)
        self.image = image * _plane(self.mood.gain) >> 8
        if self.mood.night:
            self.image += np.maximum(image - self.mood.ceiling, 0) * 111 >> 5

    def shine(self) -> None:
        """Add the halo of every lamp that is not hidden: all at night, those of traffic also in fog and rain."""
        power = {"night": 230, "rain": 90, "fog": 90}.get(self.mood.condition, 0)
        for column, row, reach, colour, ink in self.canvas.lit if power else ():
            hidden = self.canvas.picture.getpixel((column, row)) != ink  # something was painted over it
            if hidden or (ink[3] == Id.POLE and not self.mood.night):
                continue
            radius = max(2, min(reach, self.height // 3))
            top, left = max(0, row - radius), max(0, column - radius)
            glow = _halo(radius)[top - row + radius :, left - column + radius :]
            patch = self.image[:, top : top + glow.shape[0], left : left + glow.shape[1]]
            patch += glow[: patch.shape[1], : patch.shape[2]] * (_plane(colour) * power >> 8) >> 8

    def precipitate(self) -> None:
        """Draw falling rain or snow over the picture."""
        if self.mood.condition == "rain":
            drops = self.grain(0)
            drops = np.where(drops > 62, drops, 0)
            fall = range(0, max(3, self.height // 16), max(1, self.height // 128))
            streaks = np.maximum.reduce([np.roll(drops, (step, step // 4), (0, 1)) for step in fall])
            self.blend((206, 212, 220), streaks * np.int16(self.dice.integer(20, 60)) >> 6)
        if self.mood.condition == "snow":
            flakes = self.grain(1) - np.int16(self.dice.integer(62, 84))
            self.blend((250, 250, 252), np.clip(flakes * 14, 0, 220))


# --- One scene, and a table of many.

CONDITIONS = ("clear", "fog", "night", "rain", "snow")
SPLITS = {"train": 0, "val": 1, "test": 2}
NUM_SCENES = {"train": 2000, "val": 200, "test": 500}


class Scene(NamedTuple):
    """One street: image (H, W, 3) uint8, label (H, W) uint8 train ids (255 = void), the condition's name."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    condition: str


def draw_scene(
    seed: int, index: int, size: tuple[int, int] = (128, 256), condition: str | None = None, *, split: str = "train"
) -> Scene:
    """Draw scene `index` of a split: the same arguments give the same bytes on every machine.

    seed: which family of scenes, >= 0.
    index: which scene of it, >= 0.
    size: (height, width) in pixels, each 32..2048; the composition is the same at every size.
    condition: one of `CONDITIONS`; None takes them in turn by index, so each makes up a fifth.
    split: train, val or test; different splits never share a scene.

    Returns a `Scene`. Its arrays are the caller's own.

    Raises: ValueError for a size, condition or split that is not one of these, and for a negative seed or index.

    >>> scene = draw_scene(0, 3, size=(64, 128))
    >>> scene.image.shape, scene.label.shape, scene.condition
    ((64, 128, 3), (64, 128), 'rain')
    """
    condition = CONDITIONS[index % len(CONDITIONS)] if condition is None else condition
    require_known(condition, CONDITIONS, "condition")
    require_known(split, SPLITS, "split")
    size = require_size(size)
    dice = Dice(seed, SPLITS[split], index)
    mood, light = draw_mood(condition, dice.fork()), dice.fork()
    return Scene(*develop(paint_street(size, mood, dice), light), condition)


def require_size(size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2 or not all(32 <= side <= 2048 for side in size):
        raise ValueError(f"size is (height, width), each 32..2048 pixels, got {tuple(size)}: try (128, 256)")
    return size[0], size[1]


def require_known(value: str, known: Any, what: str) -> None:
    if value not in known:
        raise ValueError(f"a {what} of streets is one of {', '.join(known)}, got {value!r}: take one of these")


_drawn = lru_cache(maxsize=256)(draw_scene)  # a validation split that is scored every few steps is drawn once


@dataclass(frozen=True)
class SceneDecoder:
    """Turns a batch of table rows into PIL images of one seed, split and size; `datasets` calls it at every access.

    What the columns image and label store is the scene's index, times five, plus the number of its condition.
    """

    seed: int
    split: str
    size: tuple[int, int]

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        kinds = [kind for kind in ("image", "label") if kind in batch]
        keys = [divmod(key, len(CONDITIONS)) for key in (batch[kinds[0]] if kinds else ())]
        scenes = [_drawn(self.seed, k, self.size, CONDITIONS[weather], split=self.split) for k, weather in keys]
        return batch | {kind: [Image.fromarray(getattr(scene, kind)) for scene in scenes] for kind in kinds}


def open_streets(
    split: str, size: Size = (128, 256), num: int | None = None, seed: int = 0, conditions: Sequence[str] | None = None
) -> "datasets.Dataset":
    """Open `num` scenes as a table with the columns image, label and condition.

    split: train, val or test.
    size: (height, width); an int n means (n, 2n); None means (128, 256).
    num: how many scenes; None takes 2000, 200 or 500 for train, val and test.
    seed: which family of scenes.
    conditions: keep to these, in turn; None takes all five.

    Returns a `datasets.Dataset`; a row is {"image": PIL RGB, "label": PIL "L", "condition": str}.

    Raises: ValueError for an unknown split or condition, a negative seed or a `num` below 1.
    """
    import datasets

    require_known(split, SPLITS, "split")
    num = NUM_SCENES[split] if num is None else num
    if num < 1 or seed < 0:
        raise ValueError(f"streets need num >= 1 and seed >= 0, got num={num} and seed={seed}: mend these")
    chosen = (conditions,) if isinstance(conditions, str) else tuple(conditions or CONDITIONS)
    for condition in chosen:
        require_known(condition, CONDITIONS, "condition")
    wanted = require_size((size, 2 * size) if isinstance(size, int) else size or (128, 256))
    weather = [chosen[index % len(chosen)] for index in range(num)]
    keys = [index * len(CONDITIONS) + CONDITIONS.index(name) for index, name in enumerate(weather)]
    info = datasets.DatasetInfo(CITYSCAPES.to_json(dataset="streets", split=split))
    table = datasets.Dataset.from_dict({"image": keys, "label": keys, "condition": weather}, info=info)
    return table.with_transform(SceneDecoder(seed, split, wanted))
