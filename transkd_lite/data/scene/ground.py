"""The ground of a street: verge, pavement, kerb, road, and what is painted on the road.

Part of the synthetic `streets` data. Source: this project's own.
"""

from __future__ import annotations

from transkd_lite.data.labels import Colour, colours
from transkd_lite.data.scene.canvas import FAR, NEAR, Dice, Id, shade
from transkd_lite.data.scene.plan import Street

__all__ = ["paint_ground"]

ASPHALT = colours("5c5c5e 4c4e52 706e6a 645e5c 7e7a76")
PAVING = colours("8a8480 767270 9c928a 827068 6a6a6e")
GRASS = colours("60743a 767c42 506838 827452 70604a 928a60")
MARKING = colours("cecec8 b4b4ae d6c478")


def paint_ground(street: Street) -> None:
    """Paint sky, verge, pavement, road and what is painted on the road."""
    canvas, dice, camera = street.canvas, street.dice.fork(), street.canvas.camera
    ground, point, pen = canvas.ground, camera.point, canvas.pen
    asphalt, grass = dice.colour(ASPHALT), dice.colour(GRASS)
    # A pavement of asphalt, or of the road's own stone, can be told from the road by its kerb alone.
    paved = dice.chance(65)
    paving = dice.colour(PAVING) if paved else dice.colour((asphalt, ASPHALT[0]), 10)
    pen.rectangle((0, 0, camera.width, camera.height), (*street.mood.haze, Id.SKY))
    urban = street.style == "city" or (street.style == "avenue" and dice.chance(60))
    base = (*paving, Id.SIDEWALK) if urban else (*grass, Id.TERRAIN)
    pen.rectangle((0, camera.horizon + 1, camera.width, camera.height), base)
    left, right, crossing = street.left, street.right, street.crossing
    beyond = crossing + street.cross_width
    for x0, x1 in ((left - street.pavement[0], left), (right, right + street.pavement[1])):
        ground(x0, x1, NEAR, FAR, paving, Id.SIDEWALK)
        for z in range(330, 2000, 120) if paved else ():  # the joints of its slabs
            pen.line((point(x0, 0, z), point(x1, 0, z)), (*shade(paving, 84), Id.SIDEWALK))
    ground(left, right, NEAR, FAR, asphalt, Id.ROAD)
    if crossing:
        ground(-12_000, 12_000, crossing, beyond, asphalt, Id.ROAD)
    for kerb in (left, right):
        for z0, z1 in ((NEAR, crossing or 6000), (beyond, 6000)):
            if z1 > z0:
                ground(kerb - 9, kerb + 9, z0, z1, shade(paving, 122), Id.SIDEWALK)
    if street.style in ("avenue", "suburb") and dice.chance(50):
        for x in (left - 130, right + 10):
            ground(x, x + 120, NEAR, crossing or 5000, grass, Id.TERRAIN)
    _mark(street, dice, asphalt)


def _mark(street: Street, dice: Dice, asphalt: Colour) -> None:
    """Paint lane lines, patches, tracks, a zebra crossing and the shadow of the houses on the road."""
    ground, left, right, crossing = street.canvas.ground, street.left, street.right, street.crossing
    paint = dice.colour(MARKING, 8)
    for _ in range(dice.integer(0, 3)):
        x, z = dice.integer(left, right - 150), dice.integer(350, 2500)
        x1, z1 = x + dice.integer(80, 240), z + dice.integer(80, 700)
        ground(x, x1, z, z1, shade(asphalt, dice.integer(78, 116)), Id.ROAD)
    end, solid = crossing - 450 if crossing else 9000, dice.chance(20)
    for x in (*range(-170, left + 120, -330), *range(170, right - 120, 330)):
        if solid and x == -170:
            ground(x - 8, x + 8, NEAR, end, paint, Id.ROAD)
            continue
        for z in range(250 + dice.integer(0, 500), min(end, 7000), 900):
            ground(x - 7, x + 7, z, z + 330, paint, Id.ROAD)
    if crossing or dice.chance(20):
        near = crossing - 420 if crossing else dice.integer(700, 2500)
        for x in range(left + 30, right - 40, 100):
            ground(x, x + 50, near, near + 320, paint, Id.ROAD)
        ground(-150, right - 20, near - 140, near - 100, paint, Id.ROAD)
    sun = dice.integer(0, 100)
    if sun < 60:
        reach = dice.integer(100, 900)
        x0, x1 = (right - reach, right + 900) if sun < 30 else (left - 900, left + reach)
        for z in range(NEAR, 9000, 1500):
            if not dice.chance(25):
                street.canvas.cast(x0, x1, z, z + dice.integer(900, 1500), 200)
