"""What a street scene is painted with: integer dice, a pinhole camera, a canvas whose pixels carry their label.

Part of the synthetic `streets` data, which stand in for Cityscapes (TransKD, Section IV-A). Source: this project's own.

Everything that decides geometry is an integer (centimetres, pixels, draws of `Dice`), so labels are the same bytes
on every machine. The canvas is one RGBA picture whose fourth channel holds the train id: a brush stroke writes
colour and label at once, so the two cannot disagree by a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["FAR", "NEAR", "Camera", "Canvas", "Colour", "Dice", "Face", "shade"]

Colour: TypeAlias = tuple[int, int, int]
T = TypeVar("T")

# Train ids of Cityscapes.
ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY = range(11)
PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(11, 19)
VOID = 255

NEAR = 150  # cm; nearer points are moved here, which keeps projections finite
FAR = 30_000  # cm; where the ground meets the horizon
_POOL = 2048
# A circle of radius 64 in twelve integer points: ImageDraw has no ellipse in perspective.
_CIRCLE = ((64, 0), (55, 32), (32, 55), (0, 64), (-32, 55), (-55, 32))
_CIRCLE += tuple((-u, -v) for u, v in _CIRCLE)  # type: ignore[assignment]


class Dice:
    """Integer random numbers of one scene; `fork` gives every object its own, so that none disturbs another.

    Only the raw 64-bit stream of PCG64 is used, which NumPy promises never to change.
    """

    def __init__(self, *key: int) -> None:
        """Seed with `key`, a few integers >= 0: two different keys give independent streams."""
        self._pool: list[int] = np.random.PCG64(np.random.SeedSequence(key)).random_raw(_POOL).tolist()
        self._next = 0
        self._step = 1

    def _roll(self) -> int:
        self._next = (self._next + self._step) % _POOL
        return self._pool[self._next] >> 11

    def integer(self, low: int, high: int) -> int:
        """Return an integer in [low, high], both included."""
        return low + self._roll() % (high - low + 1)

    def spread(self, count: int) -> list[tuple[int, int, int]]:
        """Return `count` triples of integers in -128..127, from one draw each."""
        words = [self._roll() for _ in range(count)]
        return [((word & 255) - 128, (word >> 8 & 255) - 128, (word >> 16 & 255) - 128) for word in words]

    def chance(self, percent: int) -> bool:
        """Return True in `percent` of 100 cases."""
        return self._roll() % 100 < percent

    def pick(self, options: Sequence[T]) -> T:
        """Return one of `options`, all equally likely."""
        return options[self._roll() % len(options)]

    def colour(self, options: Sequence[Colour], spread: int = 14) -> Colour:
        """Return one of `options`, lighter or darker and tinted by at most `spread` grey levels a channel."""
        red, green, blue = self.pick(options)
        shift = self.integer(-spread, spread)
        tint = self.integer(-spread, spread) // 2
        return _clip(red + shift + tint), _clip(green + shift), _clip(blue + shift - tint)

    def fork(self) -> Dice:
        """Return dice that read this pool from another place with another (odd) step: cheap, and no draw is shared."""
        child = object.__new__(Dice)
        child._pool = self._pool
        word = self._roll()
        child._next = word % _POOL
        child._step = (word >> 12) % 512 * 2 + 3
        return child


class Camera:
    """A pinhole camera behind a windscreen; world x right, y up, z ahead, in cm from the road below the camera."""

    def __init__(self, size: tuple[int, int], dice: Dice) -> None:
        """`size` is (height, width) in pixels; everything else is drawn relative to it."""
        self.height, self.width = size
        self.focal = self.height * dice.integer(150, 205) // 100
        self.horizon = self.height * dice.integer(34, 46) // 100
        self.centre = self.width // 2 + self.height * dice.integer(-24, 24) // 100
        self.eye = dice.integer(120, 165)
        # The road bends by this many cm at 50 m, growing with the square of the distance.
        self.bend = dice.pick((0, 0, 1, 1, 1)) * dice.integer(-700, 700)

    def point(self, x: int, y: int, z: int) -> tuple[int, int]:
        """Return the pixel (column, row) of a point of the world."""
        z = max(z, NEAR)
        x += self.bend * z * z // 25_000_000
        return self.centre + x * self.focal // z, self.horizon + (self.eye - y) * self.focal // z


class Canvas:
    """An RGBA picture: three channels of colour and the train id; with a shadow mask and a list of lamps beside."""

    def __init__(self, camera: Camera, haze: Colour, visibility: int, ceiling: int = 255) -> None:
        """`haze` swallows half the colour at `visibility` cm; paint is capped at `ceiling` (lamps are brighter)."""
        self.camera = camera
        self.haze = haze
        self.visibility = visibility
        self.ceiling = ceiling
        size = (camera.width, camera.height)
        self.picture = Image.new("RGBA", size)
        self.pen = ImageDraw.Draw(self.picture)
        self.shadow = Image.new("L", size)
        self.shadow_pen = ImageDraw.Draw(self.shadow)
        self._lamps: list[tuple[int, int, int, Colour, tuple[int, int, int, int]]] = []
        self._mist = 0

    def distance(self, z: int) -> None:
        """Say how far away (cm) the next strokes are: the haze between tints them."""
        self._mist = 256 * z // (z + self.visibility)

    def ink(self, colour: Colour, label: int) -> tuple[int, int, int, int]:
        """Return the RGBA value of `colour` seen through the haze, with its label."""
        mist, clear, top = self._mist, 256 - self._mist, self.ceiling
        red, green, blue = colour
        if top < 255:
            if red == 255:  # it shines: neither haze nor night takes it away
                return red, green, blue, label
            red, green, blue = min(red, top), min(green, top), min(blue, top)
        haze_red, haze_green, haze_blue = self.haze
        return (
            (red * clear + haze_red * mist) >> 8,
            (green * clear + haze_green * mist) >> 8,
            (blue * clear + haze_blue * mist) >> 8,
            label,
        )

    def lamp(self, pixel: tuple[int, int], radius: int, colour: Colour, label: int) -> None:
        """Remember a light that was just painted at `pixel`, and how far (pixels) it shines at night."""
        column, row = pixel
        if 0 <= column < self.camera.width and 0 <= row < self.camera.height:
            self._lamps.append((column, row, radius, colour, self.ink(colour, label)))

    def lamps(self) -> list[tuple[int, int, int, Colour, int]]:
        """Return (column, row, radius, colour, train id) of every light that nothing was painted over."""
        pixel = self.picture.getpixel
        return [
            (u, v, reach, colour, ink[3]) for u, v, reach, colour, ink in self._lamps if pixel((u, v)) == ink
        ]

    def ground(self, x0: int, x1: int, z0: int, z1: int, colour: Colour, label: int) -> None:
        """Paint the strip of ground between x0 and x1, from z0 to z1, that follows the road's bend."""
        self.pen.polygon(self._strip(x0, x1, z0, z1), (*colour, label))

    def cast(self, x0: int, x1: int, z0: int, z1: int, strength: int) -> None:
        """Darken a strip of ground; `strength` in 0..255. What stands on it is not touched."""
        self.shadow_pen.polygon(self._strip(x0, x1, z0, z1), strength)

    def _strip(self, x0: int, x1: int, z0: int, z1: int) -> list[tuple[int, int]]:
        inner = (400, 600, 900, 1300, 1900, 2800, 4000, 6000, 9000, 14_000)
        depths = [z0, *(z for z in inner if z0 < z < z1), z1]
        point = self.camera.point
        return [point(x0, 0, z) for z in depths] + [point(x1, 0, z) for z in reversed(depths)]


class Face:
    """A flat upright surface: u runs along the street (`along`) or across it, v runs up; both in cm."""

    def __init__(
        self, canvas: Canvas, x: int, z: int, *, along: bool = False, flip: bool = False, lift: int = 0
    ) -> None:
        self.canvas = canvas
        self.x, self.z, self.lift, self.along = x, z, lift, along
        self.sign = -1 if flip else 1
        camera = canvas.camera
        self.depth = max(z, NEAR)
        self.foot = camera.point(x, lift, z)
        self.focal = camera.focal
        canvas.distance(z)

    def point(self, u: int, v: int) -> tuple[int, int]:
        """Return the pixel of (u, v)."""
        if self.along:
            return self.canvas.camera.point(self.x, self.lift + v, self.z + self.sign * u)
        column, row = self.foot
        return column + self.sign * u * self.focal // self.depth, row - v * self.focal // self.depth

    def span(self, length: int) -> int:
        """Return how many pixels `length` cm are, at the face's origin."""
        return length * self.focal // self.depth

    def polygon(self, points: Sequence[tuple[int, int]], colour: Colour, label: int) -> None:
        """Fill the polygon of (u, v) points."""
        canvas = self.canvas
        canvas.pen.polygon(self._project(points), canvas.ink(colour, label))

    def _project(self, points: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        # The inner loop of all drawing: `point`, written out.
        focal, sign = self.focal, self.sign
        if not self.along:
            (column, row), depth = self.foot, self.depth
            return [(column + sign * u * focal // depth, row - v * focal // depth) for u, v in points]
        camera, x, z0 = self.canvas.camera, self.x, self.z
        centre, horizon, eye, bend = camera.centre, camera.horizon, camera.eye - self.lift, camera.bend
        pixels = []
        for u, v in points:
            z = z0 + sign * u
            z = NEAR if z < NEAR else z
            pixels.append(
                (centre + (x + bend * z * z // 25_000_000) * focal // z, horizon + (eye - v) * focal // z)
            )
        return pixels

    def rectangle(self, u0: int, v0: int, u1: int, v1: int, colour: Colour, label: int) -> None:
        """Fill a rectangle; never thinner than one pixel."""
        if self.along:
            self.polygon(((u0, v0), (u1, v0), (u1, v1), (u0, v1)), colour, label)
            return
        left, bottom = self.point(u0, v0)
        right, top = self.point(u1, v1)
        if left > right:
            left, right = right, left
        # The far edges belong to the neighbour, or two adjacent rectangles would share a column.
        right, bottom = max(right - 1, left), max(bottom - 1, top)
        self.canvas.pen.rectangle((left, top, right, bottom), self.canvas.ink(colour, label))

    def disc(self, u: int, v: int, radius: int, colour: Colour, label: int) -> None:
        """Fill a circle."""
        if self.along:
            ring = [(u + radius * a // 64, v + radius * b // 64) for a, b in _CIRCLE]
            self.polygon(ring, colour, label)
            return
        self.oval(u, v, radius, radius, colour, label)

    def oval(self, u: int, v: int, width: int, height: int, colour: Colour, label: int) -> None:
        """Fill an ellipse with half axes `width` and `height` (on a face across the street)."""
        column, row = self.point(u, v)
        a, b = self.span(width), self.span(height)
        self.canvas.pen.ellipse((column - a, row - b, column + a, row + b), self.canvas.ink(colour, label))

    def crown(self, blobs: Sequence[tuple[int, int, int]], colour: Colour, label: int) -> None:
        """Fill many flat ellipses (u, v, half width), as foliage has them (on a face across the street)."""
        ink, ellipse = self.canvas.ink(colour, label), self.canvas.pen.ellipse
        for u, v, wide in blobs:
            column, row = self.point(u, v)
            a = wide * self.focal // self.depth
            b = a * 4 // 5
            ellipse((column - a, row - b, column + a, row + b), ink)

    def line(self, points: Sequence[tuple[int, int]], thickness: int, colour: Colour, label: int) -> None:
        """Draw a polyline `thickness` cm (at least a pixel) thick."""
        canvas = self.canvas
        path = [self.point(u, v) for u, v in points]
        canvas.pen.line(path, canvas.ink(colour, label), max(1, self.span(thickness)))


def shade(colour: Colour, percent: int) -> Colour:
    """Return `colour` at `percent` of its brightness."""
    red, green, blue = colour
    return _clip(red * percent // 100), _clip(green * percent // 100), _clip(blue * percent // 100)


def _clip(value: int) -> int:
    return 0 if value < 0 else 254 if value > 254 else value
