"""People on foot and on two wheels: pedestrians, riders, bicycles, motorcycles. Sizes are in cm.

Part of the synthetic `streets` data. Source: this project's own.
"""

from __future__ import annotations

from transkd_lite.data.scene.canvas import (
    BICYCLE,
    MOTORCYCLE,
    PERSON,
    RIDER,
    Canvas,
    Colour,
    Dice,
    Face,
    shade,
)
from transkd_lite.data.scene.vehicles import CHROME, LIVERY, PAINT, RED_LIGHT, RUBBER, WHITE_LIGHT, wheel

__all__ = ["bicycle", "motorcycle", "person"]

SKIN: tuple[Colour, ...] = ((226, 184, 156), (196, 148, 116), (150, 104, 76), (96, 66, 50))

CLOTH: tuple[Colour, ...] = (
    (34, 36, 44), (58, 62, 74), (150, 40, 42), (44, 66, 124), (196, 190, 180), (96, 104, 70),
    (120, 90, 66), (210, 176, 60), (52, 110, 116), (140, 92, 140), (228, 228, 226), (80, 80, 80),
)  # fmt: skip


def person(canvas: Canvas, dice: Dice, x: int, z: int, lift: int = 0) -> None:
    """Paint a standing or walking person whose feet are at (x, lift, z)."""
    face = Face(canvas, x, z, lift=lift, flip=dice.chance(50))
    tall = dice.integer(112, 140) if dice.chance(12) else dice.integer(156, 190)
    trousers, coat = dice.colour(CLOTH), dice.colour(CLOTH)
    skin, hair = (
        dice.colour(SKIN, 8),
        dice.colour(((40, 30, 24), (90, 64, 40), (150, 120, 70), (120, 120, 120))),
    )
    if face.span(tall) < 9:
        face.rectangle(-14, 0, 14, tall // 2, trousers, PERSON)
        face.rectangle(-20, tall // 2, 20, tall * 84 // 100, coat, PERSON)
        face.rectangle(-9, tall * 84 // 100, 9, tall, skin, PERSON)
        return
    stride, wide = dice.integer(2, 26), dice.integer(19, 27) * tall // 175
    hip, neck = tall * 47 // 100, tall * 84 // 100
    skirt, bag = dice.chance(18), dice.chance(30)
    for foot, tone in ((-stride, 80), (stride, 100)):
        face.polygon(
            ((-11, hip + 4), (11, hip + 4), (foot + 7, 6), (foot - 7, 6)), shade(trousers, tone), PERSON
        )
        face.rectangle(foot - 9, 0, foot + 11, 8, RUBBER, PERSON)
    hem = hip - 24 if skirt else hip - 4
    flare = wide + 4 if skirt else wide - 6
    face.polygon(((-wide, neck - 6), (wide, neck - 6), (flare, hem), (-flare, hem)), coat, PERSON)
    swing = stride * 2 // 3
    for hand, shoulder in ((-swing - 4, -wide), (swing + 4, wide)):
        face.line(
            ((shoulder, neck - 8), (shoulder + hand // 3, hip + 14), (hand, hip - 4)),
            11,
            shade(coat, 82),
            PERSON,
        )
        face.disc(hand, hip - 4, 5, skin, PERSON)
    if bag:
        face.rectangle(-wide - 12, hip, -wide + 6, neck - 14, dice.colour(CLOTH), PERSON)
    head = tall * 7 // 100
    face.rectangle(-5, neck - 8, 5, neck + 4, skin, PERSON)
    face.oval(0, tall - head, head * 8 // 10, head, skin, PERSON)
    face.oval(0, tall - head * 6 // 10, head * 85 // 100, head * 7 // 10, hair, PERSON)


def _rider(face: Face, dice: Dice, seat: int, lean: int, bar: int) -> None:
    """Paint a rider in profile: seated at (0, seat), hands at (bar, seat + 12)."""
    coat, trousers = dice.colour(CLOTH), dice.colour(CLOTH)
    face.line(((-6, seat), (24, seat - 26), (6, seat - 66)), 15, trousers, RIDER)
    face.polygon(
        ((-16, seat - 4), (12, seat - 4), (lean + 16, seat + 56), (lean - 12, seat + 60)), coat, RIDER
    )
    face.line(((lean + 4, seat + 52), (lean + 22, seat + 26), (bar, seat + 14)), 10, shade(coat, 80), RIDER)
    face.oval(lean + 10, seat + 74, 11, 14, dice.colour(SKIN, 8), RIDER)
    helmet = dice.colour((*CLOTH, (230, 230, 230)))
    face.oval(lean + 8, seat + 80, 13, 10, helmet, RIDER)


def _rider_from_behind(face: Face, dice: Dice, seat: int) -> None:
    coat, trousers = dice.colour(CLOTH), dice.colour(CLOTH)
    for foot in (-15, 13):
        face.rectangle(foot - 6, 28, foot + 8, seat + 6, trousers, RIDER)
    face.polygon(((-18, seat - 4), (18, seat - 4), (24, seat + 58), (-24, seat + 58)), coat, RIDER)
    for hand, shoulder in ((-28, -22), (28, 22)):
        face.line(((shoulder, seat + 52), (hand, seat + 16)), 10, shade(coat, 82), RIDER)
    face.oval(0, seat + 74, 11, 14, dice.colour(SKIN, 8), RIDER)
    face.oval(0, seat + 80, 13, 11, dice.colour(CLOTH), RIDER)


def bicycle(
    canvas: Canvas, dice: Dice, x: int, z: int, *, ridden: bool, crossing: bool, lift: int = 0
) -> None:
    """Paint a bicycle, in profile (`crossing`) or from behind, with or without a rider."""
    face = Face(canvas, x, z, lift=lift, flip=dice.chance(50))
    paint = dice.colour(LIVERY + PAINT)
    if not crossing:
        if ridden:
            _rider_from_behind(face, dice, 92)
        face.rectangle(-5, 0, 5, 68, RUBBER, BICYCLE)
        face.rectangle(-26, 96, 26, 102, (60, 60, 62), BICYCLE)
        face.rectangle(-8, 62, 8, 92, paint, BICYCLE)
        return
    for hub in (-52, 52):
        face.disc(hub, 34, 34, RUBBER, BICYCLE)
        face.disc(hub, 34, 26, dice.pick(((92, 94, 96), (130, 132, 132))), BICYCLE)
        face.disc(hub, 34, 5, CHROME, BICYCLE)
    for path in (
        ((-52, 34), (-14, 76), (38, 74), (-6, 32), (-14, 84)),
        ((52, 34), (36, 88), (46, 102)),
        ((-52, 34), (-6, 32)),
    ):
        face.line(path, 6, paint, BICYCLE)
    face.rectangle(-26, 84, -2, 92, RUBBER, BICYCLE)
    if dice.chance(30):
        face.rectangle(40, 74, 72, 100, (120, 92, 60), BICYCLE)
    if ridden:
        _rider(face, dice, 92, dice.integer(4, 26), 44)


def motorcycle(
    canvas: Canvas, dice: Dice, x: int, z: int, *, ridden: bool, crossing: bool, lift: int = 0
) -> None:
    """Paint a motorcycle or scooter, in profile (`crossing`) or from behind."""
    face = Face(canvas, x, z, lift=lift, flip=dice.chance(50))
    paint = dice.colour(PAINT)
    if not crossing:
        if ridden:
            _rider_from_behind(face, dice, 80)
        face.rectangle(-9, 0, 9, 60, RUBBER, MOTORCYCLE)
        face.polygon(((-22, 34), (22, 34), (17, 84), (-17, 84)), paint, MOTORCYCLE)
        face.rectangle(-38, 92, 38, 99, (50, 50, 52), MOTORCYCLE)
        face.rectangle(-8, 62, 8, 72, RED_LIGHT, MOTORCYCLE)
        canvas.lamp(face.point(0, 67), face.span(40), RED_LIGHT, MOTORCYCLE)
        return
    for hub in (-68, 68):
        wheel(face, hub, 32, MOTORCYCLE)
    face.polygon(
        ((-70, 66), (-20, 78), (34, 92), (58, 60), (30, 26), (-36, 26), (-50, 52)), paint, MOTORCYCLE
    )
    face.polygon(((-76, 76), (2, 74), (4, 86), (-70, 88)), RUBBER, MOTORCYCLE)
    face.line(((68, 32), (42, 98), (30, 106)), 9, CHROME, MOTORCYCLE)
    face.rectangle(-40, 24, 24, 44, (70, 70, 72), MOTORCYCLE)
    face.disc(52, 88, 9, WHITE_LIGHT, MOTORCYCLE)
    if ridden:
        _rider(face, dice, 84, dice.integer(6, 24), 34)
