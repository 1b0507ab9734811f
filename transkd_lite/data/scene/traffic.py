"""What moves through a street scene: people, riders, bicycles, motorcycles, cars, trucks, buses, trams.

Part of the synthetic `streets` data (see `streets`). Source: this project's own.

Every thing is a few flat shapes on `Face`s: a side along the street, an end across it. Sizes are in cm.
"""

from __future__ import annotations

from transkd_lite.data.scene.canvas import NEAR, Canvas, Colour, Dice, Face, shade

__all__ = ["bicycle", "car", "motorcycle", "person", "tram", "truck_or_bus"]

PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(11, 19)

SKIN: tuple[Colour, ...] = ((226, 184, 156), (196, 148, 116), (150, 104, 76), (96, 66, 50))
CLOTH: tuple[Colour, ...] = (
    (34, 36, 44), (58, 62, 74), (150, 40, 42), (44, 66, 124), (196, 190, 180), (96, 104, 70),
    (120, 90, 66), (210, 176, 60), (52, 110, 116), (140, 92, 140), (228, 228, 226), (80, 80, 80),
)  # fmt: skip
PAINT: tuple[Colour, ...] = (
    (24, 26, 30), (52, 55, 60), (118, 122, 128), (178, 182, 186), (226, 228, 228), (144, 28, 30),
    (30, 56, 120), (34, 82, 62), (196, 168, 44), (126, 96, 70), (70, 110, 150), (222, 224, 222),
)  # fmt: skip
LIVERY: tuple[Colour, ...] = (
    (206, 60, 44), (228, 190, 60), (60, 120, 84), (222, 222, 218), (50, 92, 150), (150, 156, 160), (196, 130, 50),
)  # fmt: skip
GLASS: Colour = (44, 54, 64)
RUBBER: Colour = (26, 26, 28)
CHROME: Colour = (168, 172, 176)
RED_LIGHT: Colour = (255, 30, 26)
WHITE_LIGHT: Colour = (255, 250, 230)


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


def _wheel(face: Face, u: int, radius: int, label: int) -> None:
    face.disc(u, radius, radius, RUBBER, label)
    face.disc(u, radius, radius * 58 // 100, CHROME, label)


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
        _wheel(face, hub, 32, MOTORCYCLE)
    face.polygon(
        ((-70, 66), (-20, 78), (34, 92), (58, 60), (30, 26), (-36, 26), (-50, 52)), paint, MOTORCYCLE
    )
    face.polygon(((-76, 76), (2, 74), (4, 86), (-70, 88)), RUBBER, MOTORCYCLE)
    face.line(((68, 32), (42, 98), (30, 106)), 9, CHROME, MOTORCYCLE)
    face.rectangle(-40, 24, 24, 44, (70, 70, 72), MOTORCYCLE)
    face.disc(52, 88, 9, WHITE_LIGHT, MOTORCYCLE)
    if ridden:
        _rider(face, dice, 84, dice.integer(6, 24), 34)


# Side profiles as (percent of length, percent of height) from the rear bumper, body first, then glass.
_BODIES = {
    "sedan": ((0, 22), (0, 60), (16, 66), (30, 99), (58, 100), (76, 64), (98, 54), (100, 22)),
    "hatch": ((0, 22), (1, 62), (8, 96), (18, 100), (58, 100), (77, 64), (98, 54), (100, 22)),
    "estate": ((0, 22), (0, 66), (5, 97), (12, 100), (60, 99), (77, 64), (99, 54), (100, 22)),
    "van": ((0, 18), (0, 96), (4, 100), (74, 100), (90, 58), (100, 48), (100, 18)),
}
_GLASS = {
    "sedan": (((22, 67), (32, 93), (45, 94), (45, 66)), ((47, 66), (47, 94), (57, 94), (71, 66))),
    "hatch": (((10, 67), (16, 93), (38, 94), (38, 66)), ((40, 66), (40, 94), (57, 94), (72, 66))),
    "estate": (((6, 68), (10, 92), (36, 94), (36, 67)), ((38, 67), (38, 94), (59, 93), (72, 67))),
    "van": (((60, 62), (60, 92), (73, 92), (84, 62)),),
}


def _side(face: Face, dice: Dice, kind: str, long: int, tall: int, paint: Colour, shift: int = 0) -> None:
    """Paint a car in profile on `face`, its rear at u = shift."""

    def outline(points: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
        return [(shift + a * long // 100, b * tall // 100) for a, b in points]

    face.polygon(outline(_BODIES[kind]), paint, CAR)
    if face.z > 5500:
        return
    face.polygon(outline(((0, 20), (0, 34), (100, 34), (100, 20))), shade(paint, 72), CAR)
    for pane in _GLASS[kind]:
        face.polygon(outline(pane), GLASS, CAR)
    radius = tall * 22 // 100
    for hub in (19, 81):
        _wheel(face, shift + hub * long // 100, radius, CAR)


def _car_end(
    canvas: Canvas, x: int, z: int, wide: int, tall: int, paint: Colour, kind: str, oncoming: bool
) -> None:
    """Paint the near end of a car: its rear, or its front when `oncoming`."""
    setback = {"sedan": 70, "hatch": 25, "estate": 15, "van": 0}[kind] + (
        60 if oncoming and kind != "van" else 0
    )
    roof = Face(canvas, x, z + setback)
    half = wide // 2
    belt = tall * 60 // 100
    roof.polygon(
        (
            (-half + 4, belt - 6),
            (half - 4, belt - 6),
            (half - 20, tall - 2),
            (half - 28, tall),
            (28 - half, tall),
            (20 - half, tall - 2),
        ),
        shade(paint, 88),
        CAR,
    )
    roof.polygon(
        ((-half + 14, belt), (half - 14, belt), (half - 30, tall - 12), (30 - half, tall - 12)), GLASS, CAR
    )
    end = Face(canvas, x, z)
    light = WHITE_LIGHT if oncoming else RED_LIGHT
    if end.span(wide) < 9:
        end.rectangle(-half, 10, half, belt, paint, CAR)
        end.rectangle(-half + 10, belt - 26, half - 10, belt - 8, light, CAR)
        canvas.lamp(end.point(0, belt - 16), end.span(70), light, CAR)
        return
    for left in (-half + 6, half - 28):
        end.rectangle(left, 0, left + 22, 34, RUBBER, CAR)
    end.polygon(
        (
            (-half, 24),
            (half, 24),
            (half, belt - 14),
            (half - 8, belt + 2),
            (8 - half, belt + 2),
            (-half, belt - 14),
        ),
        paint,
        CAR,
    )
    end.rectangle(-half, 20, half, 36, shade(paint, 62), CAR)
    for left in (-half + 5, half - 37):
        end.rectangle(left, belt - 24, left + 32, belt - 8, light, CAR)
        canvas.lamp(end.point(left + 16, belt - 16), end.span(90 if oncoming else 45), light, CAR)
    if oncoming:
        end.rectangle(-38, belt - 26, 38, belt - 12, (30, 32, 34), CAR)
    end.rectangle(-26, 40, 26, 52, (216, 216, 206), CAR)


def car(
    canvas: Canvas, dice: Dice, x: int, z: int, *, oncoming: bool = False, crossing: bool = False
) -> None:
    """Paint a car: its near end around (x, z), or, `crossing`, in profile with its rear at x."""
    kind = dice.pick(("sedan", "hatch", "hatch", "estate", "estate", "van"))
    long = dice.integer(380, 480) + (60 if kind == "van" else 0)
    tall = dice.integer(140, 156) + (44 if kind == "van" else dice.pick((0, 0, 18)))
    wide = dice.integer(172, 192)
    paint = dice.colour(PAINT)
    if crossing:
        _side(Face(canvas, x, z, flip=dice.chance(50)), dice, kind, long, tall, paint)
        return
    inner = x + wide // 2 if x < 0 else x - wide // 2
    canvas.cast(x - wide // 2 - 16, x + wide // 2 + 16, max(z - 30, NEAR), z + long + 20, 130)
    far = z + long if oncoming else z
    side = Face(canvas, inner, far, along=True, flip=oncoming)
    canvas.distance(z + long // 2)
    _side(side, dice, kind, long, tall, shade(paint, 90))
    _car_end(canvas, x, z, wide, tall, paint, kind, oncoming)


def truck_or_bus(canvas: Canvas, dice: Dice, x: int, z: int, *, bus: bool, oncoming: bool = False) -> None:
    """Paint a truck (a box and a cab) or a bus (a box full of windows) with its near end at z."""
    label = BUS if bus else TRUCK
    long = dice.integer(1000, 1250) if bus else dice.integer(620, 1000)
    tall, wide = dice.integer(290, 330) if bus else dice.integer(280, 370), dice.integer(236, 252)
    paint = dice.colour(LIVERY if bus or dice.chance(60) else PAINT)
    half = wide // 2
    inner = x + half if x < 0 else x - half
    canvas.cast(x - half - 20, x + half + 20, max(z - 40, NEAR), z + long + 30, 150)
    side = Face(canvas, inner, z, along=True)
    canvas.distance(z + long // 3)
    dark = shade(paint, 84)
    side.rectangle(0, 45, long, tall, dark, label)
    if bus:
        for door in range(40, long - 160, 190):
            side.rectangle(door, 150, door + 164, tall - 60, GLASS, label)
        side.rectangle(0, 45, long, 75, shade(paint, 60), label)
    else:
        gap = 0 if oncoming else long - 240
        side.rectangle(gap, 45, gap + 240, tall * 84 // 100, shade(dice.colour(PAINT), 90), label)
        side.rectangle(gap + 60, 150, gap + 170, tall * 76 // 100, GLASS, label)
        side.rectangle(0, 45, long, 78, (54, 54, 58), label)
        if dice.chance(50):
            side.rectangle(long // 4 + 60, 150, long * 2 // 3, 230, dice.colour(LIVERY), label)
    for hub in (130, long // 2 - 60, long - 150) if not bus else (200, long - 250):
        _wheel(side, hub, 48, label)
    _tall_end(canvas, dice, x, z, half, tall, paint, label, glazed=bus or oncoming, oncoming=oncoming)


def _tall_end(
    canvas: Canvas,
    dice: Dice,
    x: int,
    z: int,
    half: int,
    tall: int,
    paint: Colour,
    label: int,
    *,
    glazed: bool,
    oncoming: bool,
) -> None:
    end = Face(canvas, x, z)
    for left in (-half + 8, half - 44):
        end.rectangle(left, 0, left + 36, 60, RUBBER, label)
    end.rectangle(-half, 42, half, tall, paint, label)
    if glazed:
        low = 120 if oncoming else 170
        end.rectangle(-half + 14, low, half - 14, tall - 48, GLASS, label)
        end.rectangle(
            -half + 40, tall - 40, half - 40, tall - 14, (255, 180, 60) if dice.chance(60) else RUBBER, label
        )
    else:
        end.rectangle(-3, 90, 3, tall - 14, shade(paint, 70), label)
        end.rectangle(-half + 8, 86, half - 8, 92, shade(paint, 70), label)
    end.rectangle(-half, 42, half, 62, shade(paint, 55), label)
    light = WHITE_LIGHT if oncoming else RED_LIGHT
    for left in (-half + 10, half - 40):
        end.rectangle(left, 72, left + 30, 92, light, label)
        canvas.lamp(end.point(left + 15, 82), end.span(80 if oncoming else 45), light, label)


def tram(canvas: Canvas, dice: Dice, x: int, z: int) -> None:
    """Paint a tram (train id 16) on its rails, its near end at z: long, low floor, panoramic windscreen."""
    long, tall, half = dice.integer(2200, 3600), dice.integer(320, 352), dice.integer(118, 128)
    paint = dice.colour(LIVERY)
    trim = dice.colour(((226, 226, 222), (70, 74, 80), (210, 190, 120)))
    oncoming = dice.chance(60)
    inner = x + half if x < 0 else x - half
    canvas.cast(x - half - 20, x + half + 20, max(z - 40, NEAR), z + long, 150)
    side = Face(canvas, inner, z, along=True)
    canvas.distance(z + long // 4)
    side.rectangle(0, 20, long, tall, shade(paint, 84), TRAIN)
    side.rectangle(0, 20, long, 60, shade(trim, 60), TRAIN)
    side.rectangle(0, tall - 40, long, tall, shade(trim, 84), TRAIN)
    for pane in range(80, long - 150, 200):
        door = pane // 200 % 4 == 1
        side.rectangle(pane, 50 if door else 130, pane + (130 if door else 176), tall - 66, GLASS, TRAIN)
    for joint in range(760, long, 760):
        side.rectangle(joint, 20, joint + 40, tall - 6, (40, 40, 42), TRAIN)
    end = Face(canvas, x, z)
    end.polygon(
        (
            (-half, 24),
            (half, 24),
            (half, tall - 70),
            (half - 26, tall),
            (26 - half, tall),
            (-half, tall - 70),
        ),
        paint,
        TRAIN,
    )
    end.polygon(
        ((-half + 12, 120), (half - 12, 120), (half - 30, tall - 52), (30 - half, tall - 52)), GLASS, TRAIN
    )
    end.rectangle(-half + 44, tall - 44, half - 44, tall - 18, (255, 186, 70), TRAIN)
    end.rectangle(-half, 24, half, 52, shade(trim, 60), TRAIN)
    light = WHITE_LIGHT if oncoming else RED_LIGHT
    for left in (-half + 16, half - 44):
        end.rectangle(left, 78, left + 28, 98, light, TRAIN)
        canvas.lamp(end.point(left + 14, 88), end.span(80 if oncoming else 45), light, TRAIN)
    mast = Face(canvas, x, z + 500)
    mast.line(((-50, tall), (10, tall + 70), (-20, tall + 130), (60, tall + 130)), 6, (50, 50, 54), TRAIN)
