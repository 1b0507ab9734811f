"""Light and weather of a street scene: mood before painting, texture, shadow, haze, rain, snow and night after it.

Part of the synthetic `streets` data (see `streets`). Source: this project's own.

All arithmetic is on integers, so images are the same on every machine. Labels are never touched here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from transkd_lite.data.canvas import FAR, Canvas, Colour, Dice

__all__ = ["CONDITIONS", "Mood", "develop", "draw_mood"]

CONDITIONS = ("clear", "fog", "night", "rain", "snow")

Pixels = NDArray[np.int32]
Noise = NDArray[np.int16]
_TILE = 512
_SKY = 10
_IGNORE = 255


@dataclass(frozen=True)
class Mood:
    """Light and air of one scene; colours are 0..255, gains are 256ths, `visibility` is in cm."""

    condition: str
    haze: Colour
    visibility: int
    zenith: Colour
    clouds: int
    gain: Colour
    shadow: int
    cover: int = 0  # snow on the ground, 256ths
    wet: int = 0  # mirror on the road, 256ths
    grain: int = 3
    ceiling: int = 255

    @property
    def night(self) -> bool:
        return self.condition == "night"


def draw_mood(condition: str, dice: Dice) -> Mood:
    """Return the light of one scene under `condition`, which varies from scene to scene."""
    level, warm = dice.integer(205, 285), dice.integer(-16, 16)
    gain = (level + warm, level, level - warm)
    grey = dice.integer(176, 222)
    air = (grey - dice.integer(0, 10), grey, min(255, grey + dice.integer(0, 10)))
    if condition == "clear":
        sunny = dice.chance(65)
        zenith = (
            dice.colour(((86, 138, 206), (110, 160, 216), (70, 120, 190))) if sunny else (grey, grey, grey)
        )
        return Mood(
            condition,
            (196, 210, 226),
            dice.integer(14_000, 40_000),
            zenith,
            dice.integer(0, 70),
            gain,
            dice.integer(110, 160) if sunny else 50,
        )
    if condition == "fog":
        return Mood(condition, air, dice.integer(800, 3000), air, 6, gain, 40)
    if condition == "rain":
        dim = level * dice.integer(68, 94) // 100
        return Mood(
            condition,
            air,
            dice.integer(5000, 12_000),
            shade_grey(grey, 90),
            40,
            (dim, dim, dim + 6),
            40,
            wet=dice.integer(90, 170),
        )
    if condition == "snow":
        return Mood(
            condition,
            (214, 218, 224),
            dice.integer(3500, 10_000),
            shade_grey(grey, 104),
            20,
            gain,
            45,
            cover=dice.integer(110, 250),
        )
    dark = dice.integer(92, 156)
    tint = dice.integer(-4, 18)
    sky = dice.pick(((10, 14, 34), (26, 30, 52), (48, 38, 34)))
    return Mood(
        condition,
        sky,
        dice.integer(7000, 16_000),
        sky,
        14,
        (dark + tint, dark, dark - tint // 2),
        60,
        grain=8,
        ceiling=206,
    )


def shade_grey(level: int, percent: int) -> Colour:
    """Return a grey at `percent` of `level`."""
    value = min(255, level * percent // 100)
    return value, value, min(255, value + 4)


def develop(canvas: Canvas, mood: Mood, dice: Dice) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the finished image (H, W, 3) and the label (H, W), both uint8, of a painted canvas."""
    painted = np.array(canvas.picture)
    label = painted[..., 3]
    image = painted[..., :3].astype(np.int32)
    depth, ground = _ground_noise(canvas)
    _paint_sky(image, label, canvas, mood, dice)
    _lay_snow(image, label, ground, canvas, mood, dice)
    _texture(image, label, ground, depth, canvas, mood, dice)
    _mirror(image, label, ground, canvas, mood)
    _shade_ground(image, label, depth, canvas, mood)
    image = _expose(image, mood)
    _shine(image, label, canvas, mood)
    _precipitate(image, canvas, mood, dice)
    grain = _crop(_noise(0), image.shape[0], image.shape[1], dice)
    image += (grain * mood.grain >> 5)[..., None]
    return np.clip(image, 0, 255).astype(np.uint8), label.copy()


@lru_cache(maxsize=8)
def _noise(radius: int) -> Noise:
    """Return a (512, 512) tile of periodic integer noise around 0, about -64..64, with blobs of `radius` pixels."""
    words = np.random.PCG64(np.random.SeedSequence([2202, 13393, radius])).random_raw(_TILE * _TILE // 8)
    tile = words.view(np.uint8).astype(np.int32).reshape(_TILE, _TILE) - 128
    for axis in (0, 1):
        tile = sum(np.roll(tile, shift, axis) for shift in range(-radius, radius + 1))  # type: ignore[assignment]
    spread = int(np.abs(tile).mean())
    return np.clip(tile * 32 // max(spread, 1), -96, 96).astype(np.int16)


def _crop(tile: Noise, height: int, width: int, dice: Dice) -> Noise:
    """Return a (height, width) window of `tile` at a place the dice choose, enlarged for large images."""
    zoom = max(1, height // 128)
    top, left = dice.integer(0, 127), dice.integer(0, 127)
    rows, columns = -(-height // zoom), -(-width // zoom)
    window = tile[np.arange(top, top + rows) % _TILE][:, np.arange(left, left + columns) % _TILE]
    if zoom > 1:
        window = window.repeat(zoom, 0).repeat(zoom, 1)
    return window[:height, :width]


def _ground_noise(canvas: Canvas) -> tuple[NDArray[np.int32], Noise]:
    """Return each row's ground distance (H, 1) in cm and noise (H, W) that lies flat on the ground."""
    camera = canvas.camera
    below = np.maximum(np.arange(camera.height, dtype=np.int32) - camera.horizon, 1)
    depth = np.minimum(camera.eye * camera.focal // below, FAR)[:, None].astype(np.int32)
    across = (np.arange(camera.width, dtype=np.int32) - camera.centre)[None] * depth // camera.focal
    tile = _noise(2)
    rows, columns = (depth // 4) % _TILE, (across // 3) % _TILE
    return depth, tile[rows, columns]


def _paint_sky(image: Pixels, label: NDArray[np.uint8], canvas: Canvas, mood: Mood, dice: Dice) -> None:
    """Fill the sky with a gradient from zenith to haze, and clouds."""
    rows = max(1, min(canvas.camera.height, canvas.camera.horizon + 2))
    mix = np.minimum(np.arange(rows, dtype=np.int32) * 256 // rows, 256)[:, None, None]
    sky = (np.array(mood.zenith, np.int32) * (256 - mix) + np.array(mood.haze, np.int32) * mix) >> 8
    cloud = _crop(_noise(12), rows, image.shape[1], dice)[..., None]
    cloud = np.maximum(cloud + 10, 0) * mood.clouds >> 6
    white = 70 if mood.night else 236
    sky = sky + ((white - sky) * np.minimum(cloud, 200) >> 8)
    mask = label[:rows] == _SKY
    image[:rows][mask] = np.broadcast_to(sky, (rows, image.shape[1], 3))[mask]


def _lay_snow(
    image: Pixels, label: NDArray[np.uint8], ground: Noise, canvas: Canvas, mood: Mood, dice: Dice
) -> None:
    """Whiten the ground: verges most, the road least, in patches."""
    if not mood.cover:
        return
    share = np.zeros(256, np.int32)
    share[[0, 1, 9]] = (dice.integer(10, 60), dice.integer(60, 95), 100)
    share[[2, 8, 13]] = (6, dice.integer(8, 34), 10)
    cover = share[label] * mood.cover // 100
    blotch = _crop(_noise(4), label.shape[0], label.shape[1], dice)
    cover = np.clip(cover + ((blotch + ground // 2) // 2 * (cover > 20)), 0, 236)[..., None]
    image += (np.array((232, 236, 242), np.int32) - image) * cover >> 8


# How strongly each class takes fine, leafy and ground-bound texture, in 256ths of its brightness at full noise.
_FINE = np.full(256, 8, np.int16)
_FINE[[0, 1, 2, 3, 4, 8, 9, 10, 255]] = (10, 14, 14, 26, 16, 44, 30, 0, 4)
_LEAFY = np.zeros(256, np.int16)
_LEAFY[[2, 3, 8, 9, 11, 12, 13]] = (12, 22, 64, 34, 14, 14, 6)
_FLAT = np.zeros(256, np.int16)
_FLAT[[0, 1, 9]] = (20, 34, 70)


def _texture(
    image: Pixels,
    label: NDArray[np.uint8],
    ground: Noise,
    depth: NDArray[np.int32],
    canvas: Canvas,
    mood: Mood,
    dice: Dice,
) -> None:
    height, width = label.shape
    delta = _crop(_noise(0), height, width, dice) * _FINE[label]
    delta += _crop(_noise(2), height, width, dice) * _LEAFY[label]
    fade = (256 * 1500 // (1500 + depth)).astype(np.int16)
    delta += (ground * fade >> 8) * _FLAT[label]
    strength = 5 if mood.condition == "fog" else 6
    image += image * ((delta >> 6) * strength // 6).astype(np.int32)[..., None] >> 8


def _mirror(image: Pixels, label: NDArray[np.uint8], ground: Noise, canvas: Canvas, mood: Mood) -> None:
    """Let a wet road mirror what stands above the horizon."""
    if not mood.wet:
        return
    height, horizon = label.shape[0], canvas.camera.horizon
    rows = np.clip(2 * horizon - np.arange(height), 0, height - 1)
    puddle = np.clip(mood.wet + ground // 2, 20, 220) * ((label == 0) | (label == 1))
    image += (image[rows] - image) * puddle[..., None] >> 8


def _shade_ground(
    image: Pixels, label: NDArray[np.uint8], depth: NDArray[np.int32], canvas: Canvas, mood: Mood
) -> None:
    """Let cast shadows fall on the ground, and the haze lie over it."""
    top = min(max(canvas.camera.horizon, 0), label.shape[0])
    image, label = image[top:], label[top:]
    flat = (label < 2) | (label == 9)
    shadow = np.array(canvas.shadow)[top:].astype(np.int32) * mood.shadow >> 8
    image -= image * (shadow * flat)[..., None] >> 8
    mist = 256 * depth[top:] // (depth[top:] + mood.visibility) * flat
    image += (np.array(mood.haze, np.int32) - image) * mist[..., None] >> 8
    if mood.night:
        _headlights(image, canvas, depth[top:])


def _headlights(image: Pixels, canvas: Canvas, depth: NDArray[np.int32]) -> None:
    """Brighten what our own headlights reach: a cone ahead, brightest at some ten metres."""
    camera = canvas.camera
    across = np.abs(np.arange(camera.width, dtype=np.int32) - camera.centre)[None] * 100 // camera.focal
    beam = np.maximum(60 - across, 0) * 4
    reach = 200 * depth // (depth + 500) * 1200 // (depth + 1200)
    image += image * (beam * reach >> 8)[..., None] >> 8


def _expose(image: Pixels, mood: Mood) -> Pixels:
    """Apply the colour of the light; at night all is dark but what shines (brighter than the ceiling)."""
    ramp = np.arange(256, dtype=np.int32)
    curves = ramp[:, None] * np.array(mood.gain, np.int32) >> 8
    if mood.night:
        glow = np.clip(ramp - mood.ceiling, 0, 49)[:, None] * 170 // 49
        curves = curves + glow
    clipped = np.clip(image, 0, 255)
    return np.stack([curves[clipped[..., channel], channel] for channel in range(3)], axis=-1)


@lru_cache(maxsize=64)
def _halo(radius: int) -> NDArray[np.int32]:
    """Return a round glow (2r+1, 2r+1) that falls from 256 at the centre to 0 at `radius`."""
    axis = np.arange(-radius, radius + 1, dtype=np.int32) ** 2
    fall = 256 - 256 * (axis[:, None] + axis[None]) // (radius * radius + 1)
    return (np.maximum(fall, 0) ** 3 >> 16)[..., None]


def _shine(image: Pixels, label: NDArray[np.uint8], canvas: Canvas, mood: Mood) -> None:
    """Add the halo of every lamp that can be seen (at night; headlights and signals faintly in fog and rain)."""
    power = {"night": 230, "rain": 90, "fog": 90}.get(mood.condition, 0)
    height, width = label.shape
    for column, row, radius, colour, owner in canvas.lamps if power else ():
        if not (0 <= column < width and 0 <= row < height) or label[row, column] != owner:
            continue
        if owner == 5 and not mood.night:
            continue
        radius = max(2, min(radius, height // 3))
        top, left = max(0, row - radius), max(0, column - radius)
        bottom, right = min(height, row + radius + 1), min(width, column + radius + 1)
        halo = _halo(radius)[
            top - row + radius : bottom - row + radius, left - column + radius : right - column + radius
        ]
        image[top:bottom, left:right] += halo * (np.array(colour, np.int32) * power >> 8) >> 8


def _precipitate(image: Pixels, canvas: Canvas, mood: Mood, dice: Dice) -> None:
    """Draw falling rain or snow over the picture."""
    height, width = image.shape[:2]
    if mood.condition == "rain":
        streaks = _crop(_noise(0), height, width, dice)
        long = max(3, height // 16)
        streaks = np.where(streaks > 62, streaks, 0)
        fallen = np.maximum.reduce(
            [np.roll(streaks, (k, k // 4), (0, 1)) for k in range(0, long, max(1, height // 128))]
        )
        image += (np.array((206, 212, 220), np.int32) - image) * (fallen * dice.integer(20, 60) >> 6)[
            ..., None
        ] >> 8
    if mood.condition == "snow":
        flakes = _crop(_noise(1), height, width, dice)
        flakes = np.clip((flakes - dice.integer(62, 84)) * 14, 0, 220)
        image += (np.array((250, 250, 252), np.int32) - image) * flakes[..., None] >> 8
