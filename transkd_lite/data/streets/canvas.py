"""What a street scene is painted with: integer dice, a pinhole camera, a canvas whose pixels carry their label.

Everything that decides geometry is an integer (centimetres, pixels, draws of `Dice`), so labels are the same bytes
on every machine. The canvas is one RGBA picture whose fourth channel holds the train id: a brush stroke writes
colour and label at once, so the two cannot disagree by a pixel. Source: this project's own.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
from PIL import Image, ImageDraw

from transkd_lite.data.labels import Colour, colours, read_rows

__all__ = ["COLOURS", "FAR", "NEAR", "Camera", "Canvas", "Dice", "Face", "Id", "Mood", "Point", "draw_mood", "shade"]

Ink: TypeAlias = tuple[int, int, int, int]
Point: TypeAlias = tuple[int, int]
Leaf: TypeAlias = tuple[int, int, int]  # three integers in -128..127
T = TypeVar("T")

NEAR = 150  # cm; nearer points are moved here, which keeps projections finite
FAR = 30_000  # cm; where the ground meets the horizon
# What the things of a street may be painted with: `Dice.colour` takes one of a thing's colours.
COLOURS = {row["thing"]: colours(row["colours"]) for row in read_rows("streets.csv")}
_POOL = 2048
# A circle of radius 64 in twelve integer points: ImageDraw has no ellipse in perspective.
_CIRCLE = ((64, 0), (55, 32), (32, 55), (0, 64), (-32, 55), (-55, 32))
_CIRCLE += tuple((-u, -v) for u, v in _CIRCLE)  # type: ignore[assignment]


class Id:
    """The train ids of Cityscapes."""

    ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY = range(11)
    PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(11, 19)
    VOID = 255


class Dice:
    """Integer random numbers of one scene; `fork` gives every object its own, so that none disturbs another.

    Only the raw 64-bit stream of PCG64 is used, which NumPy promises never to change.
    """

    def __init__(self, *key: int) -> None:
        """Seed with `key`, a few integers >= 0: two different keys give independent streams."""
        self._pool: list[int] = np.random.PCG64(np.random.SeedSequence(key)).random_raw(_POOL).tolist()
        self._next, self._step = 0, 1

    def _roll(self) -> int:
        self._next = (self._next + self._step) % _POOL
        return self._pool[self._next] >> 11

    def integer(self, low: int, high: int) -> int:
        """Return an integer in [low, high], both included."""
        return low + self._roll() % (high - low + 1)

    def spread(self, count: int) -> list[Leaf]:
        """Return `count` triples of integers in -128..127, from one draw each."""
        words = [self._roll() for _ in range(count)]
        return [((word & 255) - 128, (word >> 8 & 255) - 128, (word >> 16 & 255) - 128) for word in words]

    def chance(self, percent: int) -> bool:
        """Return True in `percent` of 100 cases."""
        return self._roll() % 100 < percent

    def pick(self, options: Sequence[T]) -> T:
        """Return one of `options`, all equally likely."""
        return options[self._roll() % len(options)]

    def colour(self, options: str | Sequence[Colour], spread: int = 14) -> Colour:
        """Return one of `options`, or of the `COLOURS` of a thing, tinted and lighter or darker by at most `spread`."""
        red, green, blue = self.pick(COLOURS[options] if isinstance(options, str) else options)
        shift = self.integer(-spread, spread)
        tint = self.integer(-spread, spread) // 2
        return _clip(red + shift + tint), _clip(green + shift), _clip(blue + shift - tint)

    def fork(self) -> Self:
        """Return dice that read this pool from another place with another (odd) step: cheap, and no draw is shared."""
        child = object.__new__(type(self))
        word = self._roll()
        child._pool, child._next, child._step = self._pool, word % _POOL, (word >> 12) % 512 * 2 + 3
        return child


# --- The light and air of a street scene, drawn before anything is painted: one `Mood` a scene.


class Mood(NamedTuple):
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
    ceiling: int = 255  # of what does not shine
    night: bool = False


def draw_mood(condition: str, dice: Dice) -> Mood:
    """Return the light of one scene under `condition`, which varies from scene to scene."""
    level, warm = dice.integer(205, 285), dice.integer(-16, 16)
    gain = (level + warm, level, level - warm)
    grey = dice.integer(176, 222)
    air = (grey - dice.integer(0, 10), grey, grey + dice.integer(0, 10))
    roll = dice.integer
    if condition == "clear":
        sunny = dice.chance(65)
        zenith = dice.colour("blue sky") if sunny else (grey, grey, grey)
        sight, clouds, shadow = roll(14_000, 40_000), roll(0, 70), roll(110, 160) if sunny else 50
        return Mood(condition, (196, 210, 226), sight, zenith, clouds, gain, shadow)
    if condition == "fog":
        return Mood(condition, air, roll(800, 3000), air, 6, gain, 40)
    if condition == "rain":
        dim, sky = level * roll(68, 94) // 100, grey * 90 // 100
        sight, wet = roll(5000, 12_000), roll(90, 170)
        return Mood(condition, air, sight, (sky, sky, sky + 4), 40, (dim, dim, dim + 6), 40, wet=wet)
    if condition == "snow":
        sight, cover, sky = roll(3500, 10_000), roll(110, 250), grey * 104 // 100
        return Mood(condition, (214, 218, 224), sight, (sky, sky, sky + 4), 20, gain, 45, cover=cover)
    dark, tint, black = roll(98, 172), roll(-4, 18), dice.pick(COLOURS["night sky"])
    gain = (dark + tint, dark, dark - tint // 2)
    return Mood(condition, black, roll(7000, 16_000), black, 14, gain, 60, grain=8, ceiling=206, night=True)


# --- The camera, the canvas, and the faces that are painted on it.


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

    def project(self, points: Iterable[tuple[int, int, int]]) -> list[Point]:
        """Return the pixels (column, row) of points (x, y, z) of the world: the inner loop of all drawing."""
        centre, horizon, eye, focal, bend = self.centre, self.horizon, self.eye, self.focal, self.bend
        pixels = []
        for x, y, z in points:
            z = z if z > NEAR else NEAR
            pixels.append((centre + (x + bend * z * z // 25_000_000) * focal // z, horizon + (eye - y) * focal // z))
        return pixels


class Canvas:
    """An RGBA picture: three channels of colour and the train id; with a shadow mask and a list of lamps beside."""

    def __init__(self, camera: Camera, mood: Mood) -> None:
        """The mood's haze swallows half the colour at its visibility; paint is capped at its ceiling."""
        self.camera, self.mood = camera, mood
        size = (camera.width, camera.height)
        self.picture = Image.new("RGBA", size, (*mood.haze, Id.SKY))
        self.pen = ImageDraw.Draw(self.picture)
        self.shadow = Image.new("L", size)
        self.shadow_pen = ImageDraw.Draw(self.shadow)
        self.lit: list[tuple[int, int, int, Colour, Ink]] = []  # column, row, reach, colour and ink of every light

    def mist(self, z: int) -> int:
        """Return how much (256ths) the haze between tints what is `z` cm away."""
        return 256 * z // (z + self.mood.visibility)

    def ground(self, x0: int, x1: int, z0: int, z1: int, colour: Colour, label: int) -> None:
        """Paint the strip of ground between x0 and x1, from z0 to z1, that follows the road's bend."""
        self.pen.polygon(self._strip(x0, x1, z0, z1), (*colour, label))

    def cast(self, x0: int, x1: int, z0: int, z1: int, strength: int) -> None:
        """Darken a strip of ground; `strength` in 0..255. What stands on it is not touched."""
        self.shadow_pen.polygon(self._strip(x0, x1, z0, z1), strength)

    def _strip(self, x0: int, x1: int, z0: int, z1: int) -> list[tuple[int, int]]:
        inner = (400, 600, 900, 1300, 1900, 2800, 4000, 6000, 9000, 14_000)
        depths = [z0, *(z for z in inner if z0 < z < z1), z1]
        return self.camera.project([(x0, 0, z) for z in depths] + [(x1, 0, z) for z in reversed(depths)])


class Face:
    """A flat upright surface of one class: u runs along the street (`along`) or across it, v up; both in cm."""

    def __init__(self, canvas: Canvas, x: int, z: int, label: int, *, along: int = 0, flip: bool = False) -> None:
        """`along` is the face's length where it runs along the street: the haze is that of its first third."""
        self.canvas, self.x, self.z, self.label = canvas, x, z, label
        self.along, self.sign = along, -1 if flip else 1
        self.focal, self.depth = canvas.camera.focal, max(z, NEAR)
        (self.foot,) = canvas.camera.project([(x, 0, z)])
        self.mist = canvas.mist(z + along // 3)

    def ink(self, colour: Colour) -> Ink:
        """Return the RGBA value of `colour` seen through the haze, with the label."""
        mist, keep, mood, top = self.mist, 256 - self.mist, self.canvas.mood, self.canvas.mood.ceiling
        (red, green, blue), (r, g, b) = colour, mood.haze
        if mood.night and red == 255:  # it shines: neither haze nor night takes it away
            return red, green, blue, self.label
        red, green, blue = min(red, top), min(green, top), min(blue, top)
        return (red * keep + r * mist) >> 8, (green * keep + g * mist) >> 8, (blue * keep + b * mist) >> 8, self.label

    def pixels(self, *points: Point) -> list[Point]:
        """Return the pixels (column, row) of (u, v) points."""
        sign, (column, row), focal, depth = self.sign, self.foot, self.focal, self.depth
        if self.along:
            return self.canvas.camera.project([(self.x, v, self.z + sign * u) for u, v in points])
        return [(column + sign * u * focal // depth, row - v * focal // depth) for u, v in points]

    def span(self, length: int) -> int:
        """Return how many pixels `length` cm are, at the face's origin."""
        return length * self.focal // self.depth

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill the polygon of (u, v) points."""
        self.canvas.pen.polygon(self.pixels(*points), self.ink(colour))

    def mirrored(self, right: Sequence[Point], colour: Colour) -> None:
        """Fill the outline whose right half, from below to above, is given: the left one mirrors it."""
        left = [(-u, v) for u, v in right]
        self.polygon([left[0], *right, *left[:0:-1]], colour)

    def rectangle(self, u0: int, v0: int, u1: int, v1: int, colour: Colour) -> None:
        """Fill a rectangle; never thinner than one pixel."""
        if self.along:
            self.polygon(((u0, v0), (u1, v0), (u1, v1), (u0, v1)), colour)
            return
        (left, bottom), (right, top) = self.pixels((u0, v0), (u1, v1))
        left, right = sorted((left, right))
        # The far edges belong to the neighbour, or two adjacent rectangles would share a column.
        right, bottom = max(right - 1, left), max(bottom - 1, top)
        self.canvas.pen.rectangle((left, top, right, bottom), self.ink(colour))

    def centred(self, *boxes: tuple[int, int, int, Colour]) -> None:
        """Fill rectangles around the face's axis, each of (half width, bottom, top, colour)."""
        for half, low, high, colour in boxes:
            self.rectangle(-half, low, half, high, colour)

    def pair(self, edge: int, low: int, wide: int, tall: int, colour: Colour, shine: int = 0) -> None:
        """Fill two rectangles whose outer edges are `edge` cm from the middle; as lamps they `shine` so far (cm)."""
        for left in (-edge, edge - wide):
            self.rectangle(left, low, left + wide, low + tall, colour)
            if shine:
                self.lamp(left + wide // 2, low + tall // 2, shine, colour)

    def oval(self, u: int, v: int, width: int, height: int, colour: Colour) -> None:
        """Fill an ellipse with half axes `width` and `height`."""
        if self.along:
            self.polygon([(u + width * a // 64, v + height * b // 64) for a, b in _CIRCLE], colour)
            return
        ((column, row),), a, b = self.pixels((u, v)), self.span(width), self.span(height)
        self.canvas.pen.ellipse((column - a, row - b, column + a, row + b), self.ink(colour))

    def crown(self, leaves: Sequence[Leaf], heart: Point, reach: int, lift: int, size: int, colour: Colour) -> None:
        """Fill a flat ellipse for each of `leaves` (on a face across the street): `size` % of `reach` (cm) wide, around
        `heart`, `reach` cm to the sides and `lift` / 20 up and down.
        """
        ink, half = self.ink(colour), [reach * (size * 128 + 14 * w) // 12_800 for _, _, w in leaves]
        centres = self.pixels(*((heart[0] + reach * u // 128, heart[1] + lift * v // 2560) for u, v, _ in leaves))
        for (column, row), wide in zip(centres, half, strict=True):
            a = wide * self.focal // self.depth
            self.canvas.pen.ellipse((column - a, row - a * 4 // 5, column + a, row + a * 4 // 5), ink)

    def line(self, points: Sequence[Point], thickness: int, colour: Colour) -> None:
        """Draw a polyline `thickness` cm (at least a pixel) thick."""
        self.canvas.pen.line(self.pixels(*points), self.ink(colour), max(1, self.span(thickness)))

    def lamp(self, u: int, v: int, reach: int, colour: Colour) -> None:
        """Remember a light that was just painted at (u, v), and how far (cm) it shines at night."""
        ((column, row),), camera = self.pixels((u, v)), self.canvas.camera
        if 0 <= column < camera.width and 0 <= row < camera.height:
            self.canvas.lit.append((column, row, self.span(reach), colour, self.ink(colour)))


def shade(colour: Colour, percent: int) -> Colour:
    """Return `colour` at `percent` of its brightness."""
    red, green, blue = colour
    return _clip(red * percent // 100), _clip(green * percent // 100), _clip(blue * percent // 100)


def _clip(value: int) -> int:
    return 0 if value < 0 else 254 if value > 254 else value
