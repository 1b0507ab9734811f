"""Cars, trucks, buses and trams: a side along the street, an end across it. Sizes are in cm.

Part of the synthetic `streets` data. Source: this project's own.
"""

from __future__ import annotations

from transkd_lite.data.scene.canvas import BUS, CAR, NEAR, TRAIN, TRUCK, Canvas, Colour, Dice, Face, shade

__all__ = ["car", "tram", "truck_or_bus", "wheel"]

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


def wheel(face: Face, u: int, radius: int, label: int) -> None:
    face.disc(u, radius, radius, RUBBER, label)
    face.disc(u, radius, radius * 58 // 100, CHROME, label)


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
        wheel(face, shift + hub * long // 100, radius, CAR)


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
        wheel(side, hub, 48, label)
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
