"""The ground of a street: verge, pavement, kerb, road, and what is painted on the road.

Part of the synthetic `streets` data. Source: this project's own.
"""

from __future__ import annotations

from transkd_lite.data.scene.canvas import (
    FAR,
    NEAR,
    ROAD,
    SIDEWALK,
    SKY,
    TERRAIN,
    Canvas,
    Colour,
    Dice,
    shade,
)
from transkd_lite.data.scene.plan import Street

__all__ = ["paint_ground"]

ASPHALT: tuple[Colour, ...] = ((92, 92, 94), (76, 78, 82), (112, 110, 106), (100, 94, 92), (126, 122, 118))

PAVING: tuple[Colour, ...] = (
    (138, 132, 128),
    (118, 114, 112),
    (156, 146, 138),
    (130, 112, 104),
    (106, 106, 110),
)

GRASS: tuple[Colour, ...] = (
    (96, 116, 58),
    (118, 124, 66),
    (80, 104, 56),
    (130, 116, 82),
    (112, 96, 74),
    (146, 138, 96),
)

MARKING: tuple[Colour, ...] = ((206, 206, 200), (180, 180, 174), (214, 196, 120))


def paint_ground(street: Street) -> None:
    """Paint sky, verge, pavement, road and what is painted on the road."""
    canvas, dice, camera = street.canvas, street.dice.fork(), street.canvas.camera
    asphalt, grass = dice.colour(ASPHALT), dice.colour(GRASS)
    # A pavement of asphalt, or of the road's own stone, can be told from the road by its kerb alone.
    paved = dice.chance(65)
    paving = dice.colour(PAVING) if paved else dice.colour((asphalt, ASPHALT[0]), 10)
    canvas.pen.rectangle((0, 0, camera.width, camera.height), (*street.mood.haze, SKY))
    urban = street.style == "city" or (street.style == "avenue" and dice.chance(60))
    base = (*paving, SIDEWALK) if urban else (*grass, TERRAIN)
    canvas.pen.rectangle((0, camera.horizon + 1, camera.width, camera.height), base)
    for x0, x1 in (
        (street.left - street.pavement[0], street.left),
        (street.right, street.right + street.pavement[1]),
    ):
        canvas.ground(x0, x1, NEAR, FAR, paving, SIDEWALK)
        if paved:
            _slabs(canvas, x0, x1, shade(paving, 84))
    canvas.ground(street.left, street.right, NEAR, FAR, asphalt, ROAD)
    if street.crossing:
        canvas.ground(-12_000, 12_000, street.crossing, street.crossing + street.cross_width, asphalt, ROAD)
    for kerb in (street.left, street.right):
        for z0, z1 in ((NEAR, street.crossing or 6000), (street.crossing + street.cross_width, 6000)):
            if z1 > z0:
                canvas.ground(kerb - 9, kerb + 9, z0, z1, shade(paving, 122), SIDEWALK)
    if street.style in ("avenue", "suburb") and dice.chance(50):
        for x in (street.left - 130, street.right + 10):
            canvas.ground(x, x + 120, NEAR, street.crossing or 5000, grass, TERRAIN)
    _mark(street, dice, asphalt)


def _slabs(canvas: Canvas, x0: int, x1: int, joint: Colour) -> None:
    """Draw the joints of paving slabs across a pavement."""
    for z in range(330, 2000, 120):
        canvas.pen.line((canvas.camera.point(x0, 0, z), canvas.camera.point(x1, 0, z)), (*joint, SIDEWALK))


def _mark(street: Street, dice: Dice, asphalt: Colour) -> None:
    """Paint lane lines, patches, tracks, a zebra crossing and the shadow of the houses on the road."""
    canvas, paint = street.canvas, dice.colour(MARKING, 8)
    for _ in range(dice.integer(0, 3)):
        x, z = dice.integer(street.left, street.right - 150), dice.integer(350, 2500)
        canvas.ground(
            x,
            x + dice.integer(80, 240),
            z,
            z + dice.integer(80, 700),
            shade(asphalt, dice.integer(78, 116)),
            ROAD,
        )
    end = street.crossing - 450 if street.crossing else 9000
    solid = dice.chance(20)
    lines = list(range(-170, street.left + 120, -330)) + list(range(170, street.right - 120, 330))
    for x in lines:
        if solid and x == -170:
            canvas.ground(x - 8, x + 8, NEAR, end, paint, ROAD)
            continue
        for z in range(250 + dice.integer(0, 500), min(end, 7000), 900):
            canvas.ground(x - 7, x + 7, z, z + 330, paint, ROAD)
    if street.crossing or dice.chance(20):
        near = street.crossing - 420 if street.crossing else dice.integer(700, 2500)
        for x in range(street.left + 30, street.right - 40, 100):
            canvas.ground(x, x + 50, near, near + 320, paint, ROAD)
        canvas.ground(-150, street.right - 20, near - 140, near - 100, paint, ROAD)
    low = dice.integer(0, 100)
    if low < 60:
        side = 1 if low < 30 else -1
        reach = dice.integer(100, 900)
        inner, outer = (
            (street.right - reach, street.right + 900)
            if side > 0
            else (street.left - 900, street.left + reach)
        )
        for z in range(NEAR, 9000, 1500):
            if not dice.chance(25):
                canvas.cast(inner, outer, z, z + dice.integer(900, 1500), 200)
