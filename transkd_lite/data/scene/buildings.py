"""What is built along a street: houses, walls, fences, and the skyline that closes the view. Sizes are in cm.

Part of the synthetic `streets` data. Source: this project's own.
"""

from __future__ import annotations

from transkd_lite.data.labels import Colour, colours
from transkd_lite.data.scene.canvas import Canvas, Dice, Face, Id, shade
from transkd_lite.data.scene.roadside import LEAVES, LIT, STEEL

__all__ = ["facade", "fence", "skyline", "wall"]

PLASTER = colours("c4b69c b4a694 965642 844a3c a8a8a4 cec8bc c6aa6e 787c82 929ca4 b28874 6c6056 d6d2cc")
STONE = colours("96928a 7e7a74 965c48 b0aa9e 686a6a c4bcaa")
ROOF = colours("783e30 563c36 4a4e54 605c5a")
SHOP = colours("3c4048 78322e 285046 96825a")
POSTER = colours("b44650 4678a0 c8b45a")
BOARDS = colours("7a5c3e 967a58 2c4636 cececa")
PANE: Colour = (56, 66, 78)


def _windows(face: Face, dice: Dice, length: int, height: int, wall: Colour, night: bool) -> None:
    """Paint rows of windows on a facade of `length` x `height` cm, with a ground floor of shops or doors."""
    storey, bay = dice.integer(290, 350), dice.integer(210, 420)
    wide, tall = bay * dice.integer(40, 62) // 100, storey * dice.integer(42, 60) // 100
    pane, sill = shade(PANE, dice.integer(70, 150)), dice.chance(50)
    pattern, lit = dice.integer(3, 11), dice.integer(10, 45)
    ground, ribbon = dice.integer(320, 420), dice.chance(15)
    shop = dice.colour(SHOP)
    pixels = face.span(storey) if not face.along else storey * face.focal // max(face.z, 400)
    columns = max(1, length // bay)
    middle = max(face.z + length // 2, 600)
    squeezed = face.along and abs(face.x) * face.focal * bay // (middle * middle) < 2
    margin = (length - columns * bay) // 2 + (bay - wide) // 2
    lefts = range(margin, margin + columns * bay, bay)
    for row in range((height - ground) // storey if pixels >= 3 else 0):
        low = ground + row * storey + (storey - tall) // 2
        if ribbon or squeezed or pixels < 5:
            face.rectangle(margin, low, length - margin, low + tall, pane)
            continue
        for column, left in enumerate(lefts):
            shines = night and (row * 7 + column * 13 + pattern * row * column) * 29 % 100 < lit
            face.rectangle(left, low, left + wide, low + tall, LIT if shines else pane)
            if sill and pixels >= 14:
                face.rectangle(left - 8, low - 14, left + wide + 8, low, shade(wall, 120))
    face.rectangle(0, 0, length, 40, shade(wall, 62))
    for column, left in enumerate(() if squeezed else lefts, pattern):
        door, glow = column % 4 == 0, night and column % 3 == 0
        colour = LIT if glow else shop if door else pane
        face.rectangle(left, 10 if door else 70, left + wide, 250, colour)
    if dice.chance(40):
        face.rectangle(0, 265, length, 310, shop)


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
    depth, bright, length = dice.integer(800, 1600), dice.integer(74, 108), z1 - z0
    ridge = height + depth * 45 // 100
    end = Face(canvas, x, z0, Id.BUILDING, flip=x < 0)
    end.rectangle(0, 0, depth, height, shade(wall, bright))
    if exposed:
        _windows(end, dice.fork(), depth, height, wall, night)
    if gable:
        end.polygon(((-30, height), (depth + 30, height), (depth // 2, ridge)), shade(wall, bright - 10))
    front = Face(canvas, x, z0, Id.BUILDING, along=length)
    front.rectangle(0, 0, length, height, shade(wall, 182 - bright))
    _windows(front, dice.fork(), length, height, wall, night)
    roof = dice.colour(ROOF)
    if gable:
        inner = x + (-depth // 2 if x < 0 else depth // 2)
        slope = canvas.camera.project(
            [(x, height, z0), (x, height, z1), (inner, ridge, z1), (inner, ridge, z0)]
        )
        canvas.pen.polygon(slope, front.ink(roof))
    else:
        front.rectangle(0, height - 45, length, height, shade(wall, 125))


def wall(canvas: Canvas, dice: Dice, x: int, z0: int, z1: int) -> None:
    """Paint a free-standing wall along the street."""
    height, stone = dice.integer(110, 320), dice.colour(PLASTER if dice.chance(35) else STONE)
    end, length = Face(canvas, x, z0, Id.WALL, flip=x < 0), z1 - z0
    end.rectangle(0, 0, 40, height, shade(stone, 92))
    front = Face(canvas, x, z0, Id.WALL, along=length)
    front.rectangle(0, 0, length, height, stone)
    for post in range(0, length, dice.integer(240, 500)):
        front.rectangle(post, 0, post + 24, height, shade(stone, 84))
    if dice.chance(45):
        left = dice.integer(0, max(0, length - 320))
        front.rectangle(left, height // 4, left + 260, height * 3 // 4, dice.colour(POSTER))
    front.rectangle(0, height - 16, length, height, shade(stone, 122))


def fence(canvas: Canvas, dice: Dice, x: int, z0: int, z1: int) -> None:
    """Paint a fence along the street: boards, or bars that really let what stands behind be seen."""
    height, length = dice.integer(90, 210), z1 - z0
    paint = dice.colour((*STEEL, *BOARDS))
    front = Face(canvas, x, z0, Id.FENCE, along=length)
    boards = dice.chance(55)
    step = dice.integer(24, 70) if boards else dice.integer(18, 34)
    if boards:
        front.rectangle(0, 5, length, height, paint)
    u = 0
    while u < length:
        if boards:
            front.rectangle(u, 5, u + step // 4 + 2, height, shade(paint, 64))
        else:
            front.line(((u, 0), (u, height)), 4, paint)
        # Farther apart where they would fall on the same column of pixels.
        z = max(z0 + u, 400)
        u += max(step, 2 * z * z // (front.focal * max(abs(x), 200)))
    for rail in () if boards else (height, height * 55 // 100, 14):
        front.rectangle(0, rail - 7, length, rail + 3, shade(paint, 88))


def skyline(canvas: Canvas, dice: Dice) -> None:
    """Paint what closes the view at the horizon: far houses, towers, tree tops."""
    left = -14_000
    while left < 14_000:
        wide, tall = dice.integer(500, 2400), dice.integer(300, 2200)
        face = Face(canvas, left, 20_000, Id.BUILDING)
        if dice.chance(45):
            face.label = Id.VEGETATION
            face.oval(wide // 2, 200, wide * 7 // 10, tall * 6 // 10, dice.colour(LEAVES))
        else:
            face.rectangle(0, -200, wide, tall, dice.colour(PLASTER))
        left += wide * dice.integer(60, 110) // 100
