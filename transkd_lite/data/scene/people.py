"""People on foot and on two wheels: pedestrians, riders, bicycles, motorcycles. Sizes are in cm.

Part of the synthetic `streets` data. Source: this project's own.
"""

from __future__ import annotations

from transkd_lite.data.labels import colours
from transkd_lite.data.scene.canvas import Canvas, Dice, Face, Id, shade
from transkd_lite.data.scene.vehicles import CHROME, LIVERY, PAINT, RED_LIGHT, RUBBER, WHITE_LIGHT, wheel

__all__ = ["bicycle", "motorcycle", "person"]

SKIN = colours("e2b89c c49474 96684c 604232")
HAIR = colours("281e18 5a4028 967846 787878")
CLOTH = colours("22242c 3a3e4a 96282a 2c427c c4beb4 606846 785a42 d2b03c 346e74 8c5c8c e4e4e2 505050")


def person(canvas: Canvas, dice: Dice, x: int, z: int) -> None:
    """Paint a standing or walking person whose feet are at (x, z)."""
    face = Face(canvas, x, z, Id.PERSON, flip=dice.chance(50))
    tall = dice.integer(112, 140) if dice.chance(12) else dice.integer(156, 190)
    trousers, coat = dice.colour(CLOTH), dice.colour(CLOTH)
    skin, hair = dice.colour(SKIN, 8), dice.colour(HAIR)
    hip, neck = tall * 47 // 100, tall * 84 // 100
    if face.span(tall) < 9:
        face.rectangle(-14, 0, 14, tall // 2, trousers)
        face.rectangle(-20, tall // 2, 20, neck, coat)
        face.rectangle(-9, neck, 9, tall, skin)
        return
    stride, wide = dice.integer(2, 26), dice.integer(19, 27) * tall // 175
    skirt, bag = dice.chance(18), dice.chance(30)
    for foot, tone in ((-stride, 80), (stride, 100)):
        leg = ((-11, hip + 4), (11, hip + 4), (foot + 7, 6), (foot - 7, 6))
        face.polygon(leg, shade(trousers, tone))
        face.rectangle(foot - 9, 0, foot + 11, 8, RUBBER)
    hem = (wide + 4, hip - 24) if skirt else (wide - 6, hip - 4)
    face.mirrored(((wide, neck - 6), hem), coat)
    swing = stride * 2 // 3
    for hand, shoulder in ((-swing - 4, -wide), (swing + 4, wide)):
        arm = ((shoulder, neck - 8), (shoulder + hand // 3, hip + 14), (hand, hip - 4))
        face.line(arm, 11, shade(coat, 82))
        face.oval(hand, hip - 4, 5, 5, skin)
    if bag:
        face.rectangle(-wide - 12, hip, -wide + 6, neck - 14, dice.colour(CLOTH))
    head = tall * 7 // 100
    face.rectangle(-5, neck - 8, 5, neck + 4, skin)
    face.oval(0, tall - head, head * 8 // 10, head, skin)
    face.oval(0, tall - head * 6 // 10, head * 85 // 100, head * 7 // 10, hair)


def _rider(face: Face, dice: Dice, seat: int, lean: int, bar: int) -> None:
    """Paint a rider in profile: seated at (0, seat), hands at (bar, seat + 12)."""
    face.label = Id.RIDER
    coat, trousers = dice.colour(CLOTH), dice.colour(CLOTH)
    face.line(((-6, seat), (24, seat - 26), (6, seat - 66)), 15, trousers)
    face.polygon(((-16, seat - 4), (12, seat - 4), (lean + 16, seat + 56), (lean - 12, seat + 60)), coat)
    face.line(((lean + 4, seat + 52), (lean + 22, seat + 26), (bar, seat + 14)), 10, shade(coat, 80))
    face.oval(lean + 10, seat + 74, 11, 14, dice.colour(SKIN, 8))
    face.oval(lean + 8, seat + 80, 13, 10, dice.colour((*CLOTH, (230, 230, 230))))


def _rider_from_behind(face: Face, dice: Dice, seat: int) -> None:
    label, face.label = face.label, Id.RIDER
    coat, trousers = dice.colour(CLOTH), dice.colour(CLOTH)
    for foot in (-15, 13):
        face.rectangle(foot - 6, 28, foot + 8, seat + 6, trousers)
    face.mirrored(((18, seat - 4), (24, seat + 58)), coat)
    for hand, shoulder in ((-28, -22), (28, 22)):
        face.line(((shoulder, seat + 52), (hand, seat + 16)), 10, shade(coat, 82))
    face.oval(0, seat + 74, 11, 14, dice.colour(SKIN, 8))
    face.oval(0, seat + 80, 13, 11, dice.colour(CLOTH))
    face.label = label


def bicycle(canvas: Canvas, dice: Dice, x: int, z: int, *, ridden: bool, crossing: bool) -> None:
    """Paint a bicycle, in profile (`crossing`) or from behind, with or without a rider."""
    face = Face(canvas, x, z, Id.BICYCLE, flip=dice.chance(50))
    paint = dice.colour(LIVERY + PAINT)
    if not crossing:
        if ridden:
            _rider_from_behind(face, dice, 92)
        face.rectangle(-5, 0, 5, 68, RUBBER)
        face.rectangle(-26, 96, 26, 102, (60, 60, 62))
        face.rectangle(-8, 62, 8, 92, paint)
        return
    for hub in (-52, 52):
        face.oval(hub, 34, 34, 34, RUBBER)
        face.oval(hub, 34, 26, 26, dice.pick(((92, 94, 96), (130, 132, 132))))
        face.oval(hub, 34, 5, 5, CHROME)
    face.line(((-52, 34), (-14, 76), (38, 74), (-6, 32), (-14, 84)), 6, paint)
    face.line(((52, 34), (36, 88), (46, 102)), 6, paint)
    face.line(((-52, 34), (-6, 32)), 6, paint)
    face.rectangle(-26, 84, -2, 92, RUBBER)
    if dice.chance(30):
        face.rectangle(40, 74, 72, 100, (120, 92, 60))
    if ridden:
        _rider(face, dice, 92, dice.integer(4, 26), 44)


def motorcycle(canvas: Canvas, dice: Dice, x: int, z: int, *, ridden: bool, crossing: bool) -> None:
    """Paint a motorcycle or scooter, in profile (`crossing`) or from behind."""
    face = Face(canvas, x, z, Id.MOTORCYCLE, flip=dice.chance(50))
    paint = dice.colour(PAINT)
    if not crossing:
        if ridden:
            _rider_from_behind(face, dice, 80)
        face.rectangle(-9, 0, 9, 60, RUBBER)
        face.mirrored(((22, 34), (17, 84)), paint)
        face.rectangle(-38, 92, 38, 99, (50, 50, 52))
        face.rectangle(-8, 62, 8, 72, RED_LIGHT)
        face.lamp(0, 67, 40, RED_LIGHT)
        return
    for hub in (-68, 68):
        wheel(face, hub, 32)
    face.polygon(((-70, 66), (-20, 78), (34, 92), (58, 60), (30, 26), (-36, 26), (-50, 52)), paint)
    face.polygon(((-76, 76), (2, 74), (4, 86), (-70, 88)), RUBBER)
    face.line(((68, 32), (42, 98), (30, 106)), 9, CHROME)
    face.rectangle(-40, 24, 24, 44, (70, 70, 72))
    face.oval(52, 88, 9, 9, WHITE_LIGHT)
    if ridden:
        _rider(face, dice, 84, dice.integer(6, 24), 34)
