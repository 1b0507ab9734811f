"""What is built along a street: houses, walls, fences, and the skyline that closes the view. Sizes are in cm.

Part of the synthetic `streets` data. Source: this project's own.
"""

from __future__ import annotations

from transkd_lite.data.scene.canvas import (
    BUILDING,
    FENCE,
    VEGETATION,
    WALL,
    Canvas,
    Colour,
    Dice,
    Face,
    shade,
)
from transkd_lite.data.scene.roadside import LEAVES, LIT, STEEL

__all__ = ["facade", "fence", "skyline", "wall"]

PLASTER: tuple[Colour, ...] = (
    (196, 182, 156), (180, 166, 148), (150, 86, 66), (132, 74, 60), (168, 168, 164), (206, 200, 188),
    (198, 170, 110), (120, 124, 130), (146, 156, 164), (178, 136, 116), (108, 96, 86), (214, 210, 204),
)  # fmt: skip

STONE: tuple[Colour, ...] = (
    (150, 146, 138),
    (126, 122, 116),
    (150, 92, 72),
    (176, 170, 158),
    (104, 106, 106),
    (196, 188, 170),
)

ROOF: tuple[Colour, ...] = ((120, 62, 48), (86, 60, 54), (74, 78, 84), (96, 92, 90))

PANE: Colour = (56, 66, 78)


def _windows(face: Face, dice: Dice, length: int, height: int, wall: Colour, night: bool) -> None:
    """Paint rows of windows on a facade of `length` x `height` cm, with a ground floor of shops or doors."""
    storey, bay = dice.integer(290, 350), dice.integer(210, 420)
    wide, tall = bay * dice.integer(40, 62) // 100, storey * dice.integer(42, 60) // 100
    pane, sill = shade(PANE, dice.integer(70, 150)), dice.chance(50)
    pattern, lit = dice.integer(3, 11), dice.integer(10, 45)
    ground, ribbon = dice.integer(320, 420), dice.chance(15)
    shop = dice.colour(((60, 64, 72), (120, 50, 46), (40, 80, 70), (150, 130, 90)))
    pixels = face.span(storey) if not face.along else storey * face.focal // max(face.z, 400)
    columns = max(1, length // bay)
    middle = max(face.z + length // 2, 600)
    squeezed = face.along and abs(face.x) * face.focal * bay // (middle * middle) < 2
    margin = (length - columns * bay) // 2 + (bay - wide) // 2
    if pixels >= 3:
        for row in range((height - ground) // storey):
            low = ground + row * storey + (storey - tall) // 2
            if ribbon or squeezed or pixels < 5:
                face.rectangle(margin, low, length - margin, low + tall, pane, BUILDING)
                continue
            for column in range(columns):
                left = margin + column * bay
                shines = night and (row * 7 + column * 13 + pattern * row * column) * 29 % 100 < lit
                face.rectangle(left, low, left + wide, low + tall, LIT if shines else pane, BUILDING)
                if sill and pixels >= 14:
                    face.rectangle(left - 8, low - 14, left + wide + 8, low, shade(wall, 120), BUILDING)
    face.rectangle(0, 0, length, 40, shade(wall, 62), BUILDING)
    for column in range(0 if squeezed else columns):
        left = margin + column * bay
        door = (column + pattern) % 4 == 0
        glow = night and (column + pattern) % 3 == 0
        face.rectangle(
            left, 10 if door else 70, left + wide, 250, LIT if glow else shop if door else pane, BUILDING
        )
    if dice.chance(40):
        face.rectangle(0, 265, length, 310, shop, BUILDING)


def facade(
    canvas: Canvas,
    dice: Dice,
    x: int,
    z0: int,
    z1: int,
    *,
    height: int,
    gable: bool,
    night: bool,
    exposed: bool,
) -> None:
    """Paint a house from z0 to z1 whose street front stands at x (the sign of x says on which side)."""
    wall = dice.colour(PLASTER)
    outward = -1 if x < 0 else 1
    depth = dice.integer(800, 1600)
    bright = dice.integer(74, 108)
    end = Face(canvas, x, z0, flip=x < 0)
    end.rectangle(0, 0, depth, height, shade(wall, bright), BUILDING)
    if exposed:
        _windows(end, dice.fork(), depth, height, wall, night)
    if gable:
        end.polygon(
            ((-30, height), (depth + 30, height), (depth // 2, height + depth * 45 // 100)),
            shade(wall, bright - 10),
            BUILDING,
        )
    front = Face(canvas, x, z0, along=True)
    canvas.distance((z0 * 2 + z1) // 3)
    front.rectangle(0, 0, z1 - z0, height, shade(wall, 182 - bright), BUILDING)
    _windows(front, dice.fork(), z1 - z0, height, wall, night)
    roof = dice.colour(ROOF)
    if gable:
        far = canvas.camera.point
        ridge = height + depth * 45 // 100
        corners = [
            far(x, height, z0),
            far(x, height, z1),
            far(x + outward * depth // 2, ridge, z1),
            far(x + outward * depth // 2, ridge, z0),
        ]
        canvas.pen.polygon(corners, canvas.ink(roof, BUILDING))
    else:
        front.rectangle(0, height - 45, z1 - z0, height, shade(wall, 125), BUILDING)


def wall(canvas: Canvas, dice: Dice, x: int, z0: int, z1: int) -> None:
    """Paint a free-standing wall along the street."""
    height, stone = dice.integer(110, 320), dice.colour(PLASTER if dice.chance(35) else STONE)
    end = Face(canvas, x, z0, flip=x < 0)
    end.rectangle(0, 0, 40, height, shade(stone, 92), WALL)
    front = Face(canvas, x, z0, along=True)
    canvas.distance((z0 * 2 + z1) // 3)
    length = z1 - z0
    front.rectangle(0, 0, length, height, stone, WALL)
    for post in range(0, length, dice.integer(240, 500)):
        front.rectangle(post, 0, post + 24, height, shade(stone, 84), WALL)
    if dice.chance(45):
        patch = dice.integer(0, max(0, length - 320))
        front.rectangle(
            patch,
            height // 4,
            patch + 260,
            height * 3 // 4,
            dice.colour(((180, 70, 80), (70, 120, 160), (200, 180, 90))),
            WALL,
        )
    front.rectangle(0, height - 16, length, height, shade(stone, 122), WALL)


def fence(canvas: Canvas, dice: Dice, x: int, z0: int, z1: int) -> None:
    """Paint a fence along the street: boards, or bars that really let what stands behind be seen."""
    height, length = dice.integer(90, 210), z1 - z0
    paint = dice.colour((*STEEL, (122, 92, 62), (150, 122, 88), (44, 70, 54), (206, 206, 202)))
    front = Face(canvas, x, z0, along=True)
    canvas.distance((z0 * 2 + z1) // 3)
    if dice.chance(55):
        front.rectangle(0, 5, length, height, paint, FENCE)
        step = dice.integer(24, 70)
        for slat in _spaced(front, step, length):
            front.rectangle(slat, 5, slat + step // 4 + 2, height, shade(paint, 64), FENCE)
        return
    step = dice.integer(18, 34)
    for bar in _spaced(front, step, length):
        front.line(((bar, 0), (bar, height)), 4, paint, FENCE)
    for rail in (height, height * 55 // 100, 14):
        front.rectangle(0, rail - 7, length, rail + 3, shade(paint, 88), FENCE)


def _spaced(front: Face, step: int, length: int) -> list[int]:
    """Return places along a face, `step` cm apart, farther where they would fall on the same column of pixels."""
    places, u = [], 0
    while u < length:
        places.append(u)
        z = max(front.z + u, 400)
        u += max(step, 2 * z * z // (front.focal * max(abs(front.x), 200)))
    return places


def skyline(canvas: Canvas, dice: Dice) -> None:
    """Paint what closes the view at the horizon: far houses, towers, tree tops."""
    depth = 20_000
    canvas.distance(depth)
    left = -14_000
    while left < 14_000:
        wide, tall = dice.integer(500, 2400), dice.integer(300, 2200)
        face = Face(canvas, left, depth)
        if dice.chance(45):
            face.oval(wide // 2, 200, wide * 7 // 10, tall * 6 // 10, dice.colour(LEAVES), VEGETATION)
        else:
            face.rectangle(0, -200, wide, tall, dice.colour(PLASTER), BUILDING)
        left += wide * dice.integer(60, 110) // 100
