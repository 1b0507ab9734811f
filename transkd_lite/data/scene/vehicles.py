"""Cars, trucks, buses and trams: a side along the street, an end across it. Sizes are in cm.

Part of the synthetic `streets` data. Source: this project's own.
"""

from __future__ import annotations

from transkd_lite.data.labels import Colour, colours
from transkd_lite.data.scene.canvas import Canvas, Dice, Face, Id, Point, shade

__all__ = ["car", "tram", "truck_or_bus", "wheel"]

PAINT = colours("181a1e 34373c 767a80 b2b6ba e2e4e4 901c1e 1e3878 22523e c4a82c 7e6046 466e96 dee0de")
LIVERY = colours("ce3c2c e4be3c 3c7854 dededa 325c96 969ca0 c48232")
TRIM = colours("e2e2de 464a50 d2be78")
GLASS, RUBBER, CHROME, RED_LIGHT, WHITE_LIGHT = colours("2c3640 1a1a1c a8acb0 ff1e1a fffae6")

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
_SETBACK = {"sedan": 70, "hatch": 25, "estate": 15, "van": 0}  # of the roof, from the rear bumper


def wheel(face: Face, u: int, radius: int) -> None:
    face.oval(u, radius, radius, radius, RUBBER)
    face.oval(u, radius, radius * 58 // 100, radius * 58 // 100, CHROME)


def _lights(end: Face, edge: int, low: int, wide: int, tall: int, oncoming: bool, reach: int = 80) -> None:
    """Paint the two lights of a vehicle's near end: white ones that shine `reach` cm, or red ones."""
    end.pair(edge, low, wide, tall, *((WHITE_LIGHT, reach) if oncoming else (RED_LIGHT, 45)))


def _car_side(face: Face, kind: str, long: int, tall: int, paint: Colour) -> None:
    """Paint a car in profile on `face`, its rear at u = 0."""

    def outline(points: tuple[Point, ...]) -> list[Point]:
        return [(a * long // 100, b * tall // 100) for a, b in points]

    face.polygon(outline(_BODIES[kind]), paint)
    if face.z > 5500:
        return
    face.polygon(outline(((0, 20), (0, 34), (100, 34), (100, 20))), shade(paint, 72))
    for pane in _GLASS[kind]:
        face.polygon(outline(pane), GLASS)
    for hub in (19, 81):
        wheel(face, hub * long // 100, tall * 22 // 100)


def _car_end(
    canvas: Canvas, x: int, z: int, wide: int, tall: int, paint: Colour, kind: str, oncoming: bool
) -> None:
    """Paint the near end of a car: its rear, or its front when `oncoming`."""
    roof = Face(canvas, x, z + _SETBACK[kind] + (60 if oncoming and kind != "van" else 0), Id.CAR)
    half, belt = wide // 2, tall * 60 // 100
    top = ((half - 4, belt - 6), (half - 20, tall - 2), (half - 28, tall))
    roof.mirrored(top, shade(paint, 88))
    roof.mirrored(((half - 14, belt), (half - 30, tall - 12)), GLASS)
    end = Face(canvas, x, z, Id.CAR)
    if end.span(wide) < 9:
        light = WHITE_LIGHT if oncoming else RED_LIGHT
        end.rectangle(-half, 10, half, belt, paint)
        end.rectangle(-half + 10, belt - 26, half - 10, belt - 8, light)
        end.lamp(0, belt - 16, 70, light)
        return
    end.pair(half - 6, 0, 22, 34, RUBBER)
    end.mirrored(((half, 24), (half, belt - 14), (half - 8, belt + 2)), paint)
    end.rectangle(-half, 20, half, 36, shade(paint, 62))
    _lights(end, half - 5, belt - 24, 32, 16, oncoming, 90)
    if oncoming:
        end.rectangle(-38, belt - 26, 38, belt - 12, (30, 32, 34))
    end.rectangle(-26, 40, 26, 52, (216, 216, 206))


def car(
    canvas: Canvas, dice: Dice, x: int, z: int, *, oncoming: bool = False, crossing: bool = False
) -> None:
    """Paint a car: its near end around (x, z), or, `crossing`, in profile with its rear at x."""
    kind = dice.pick(("sedan", "hatch", "hatch", "estate", "estate", "van"))
    long = dice.integer(380, 480) + (60 if kind == "van" else 0)
    tall = dice.integer(140, 156) + (44 if kind == "van" else dice.pick((0, 0, 18)))
    wide, paint = dice.integer(172, 192), dice.colour(PAINT)
    if crossing:
        _car_side(Face(canvas, x, z, Id.CAR, flip=dice.chance(50)), kind, long, tall, paint)
        return
    half = wide // 2
    canvas.cast(x - half - 16, x + half + 16, z - 30, z + long + 20, 130)
    inner, far = x + half if x < 0 else x - half, z + long if oncoming else z
    side = Face(canvas, inner, far, Id.CAR, along=long, flip=oncoming)
    side.mist = canvas.mist(z + long // 2)
    _car_side(side, kind, long, tall, shade(paint, 90))
    _car_end(canvas, x, z, wide, tall, paint, kind, oncoming)


def truck_or_bus(canvas: Canvas, dice: Dice, x: int, z: int, *, bus: bool, oncoming: bool = False) -> None:
    """Paint a truck (a box and a cab) or a bus (a box full of windows) with its near end at z."""
    label = Id.BUS if bus else Id.TRUCK
    long = dice.integer(1000, 1250) if bus else dice.integer(620, 1000)
    tall, half = dice.integer(290, 330) if bus else dice.integer(280, 370), dice.integer(236, 252) // 2
    paint = dice.colour(LIVERY if bus or dice.chance(60) else PAINT)
    canvas.cast(x - half - 20, x + half + 20, z - 40, z + long + 30, 150)
    side = Face(canvas, x + half if x < 0 else x - half, z, label, along=long)
    side.rectangle(0, 45, long, tall, shade(paint, 84))
    if bus:
        for door in range(40, long - 160, 190):
            side.rectangle(door, 150, door + 164, tall - 60, GLASS)
        side.rectangle(0, 45, long, 75, shade(paint, 60))
    else:
        gap = 0 if oncoming else long - 240
        side.rectangle(gap, 45, gap + 240, tall * 84 // 100, shade(dice.colour(PAINT), 90))
        side.rectangle(gap + 60, 150, gap + 170, tall * 76 // 100, GLASS)
        side.rectangle(0, 45, long, 78, (54, 54, 58))
        if dice.chance(50):
            side.rectangle(long // 4 + 60, 150, long * 2 // 3, 230, dice.colour(LIVERY))
    for hub in (200, long - 250) if bus else (130, long // 2 - 60, long - 150):
        wheel(side, hub, 48)
    end = Face(canvas, x, z, label)
    end.pair(half - 8, 0, 36, 60, RUBBER)
    end.rectangle(-half, 42, half, tall, paint)
    if bus or oncoming:
        end.rectangle(-half + 14, 120 if oncoming else 170, half - 14, tall - 48, GLASS)
        board = (255, 180, 60) if dice.chance(60) else RUBBER
        end.rectangle(-half + 40, tall - 40, half - 40, tall - 14, board)
    else:
        end.rectangle(-3, 90, 3, tall - 14, shade(paint, 70))
        end.rectangle(-half + 8, 86, half - 8, 92, shade(paint, 70))
    end.rectangle(-half, 42, half, 62, shade(paint, 55))
    _lights(end, half - 10, 72, 30, 20, oncoming)


def tram(canvas: Canvas, dice: Dice, x: int, z: int) -> None:
    """Paint a tram (train id 16) on its rails, its near end at z: long, low floor, panoramic windscreen."""
    long, tall, half = dice.integer(2200, 3600), dice.integer(320, 352), dice.integer(118, 128)
    paint, trim = dice.colour(LIVERY), dice.colour(TRIM)
    oncoming = dice.chance(60)
    canvas.cast(x - half - 20, x + half + 20, z - 40, z + long, 150)
    side = Face(canvas, x + half if x < 0 else x - half, z, Id.TRAIN, along=long)
    side.mist = canvas.mist(z + long // 4)
    side.rectangle(0, 20, long, tall, shade(paint, 84))
    side.rectangle(0, 20, long, 60, shade(trim, 60))
    side.rectangle(0, tall - 40, long, tall, shade(trim, 84))
    for pane in range(80, long - 150, 200):
        door = pane // 200 % 4 == 1
        side.rectangle(pane, 50 if door else 130, pane + (130 if door else 176), tall - 66, GLASS)
    for joint in range(760, long, 760):
        side.rectangle(joint, 20, joint + 40, tall - 6, (40, 40, 42))
    end = Face(canvas, x, z, Id.TRAIN)
    end.mirrored(((half, 24), (half, tall - 70), (half - 26, tall)), paint)
    end.mirrored(((half - 12, 120), (half - 30, tall - 52)), GLASS)
    end.rectangle(-half + 44, tall - 44, half - 44, tall - 18, (255, 186, 70))
    end.rectangle(-half, 24, half, 52, shade(trim, 60))
    _lights(end, half - 16, 78, 28, 20, oncoming)
    mast = Face(canvas, x, z + 500, Id.TRAIN)
    mast.line(((-50, tall), (10, tall + 70), (-20, tall + 130), (60, tall + 130)), 6, (50, 50, 54))
