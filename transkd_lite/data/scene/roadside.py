"""What stands beside a road: hedges, trees, bushes, lamps, traffic lights, signs. Sizes are in cm.

Part of the synthetic `streets` data. Source: this project's own.
"""

from __future__ import annotations

from transkd_lite.data.scene.canvas import LIGHT, POLE, SIGN, VEGETATION, Canvas, Colour, Dice, Face, shade

__all__ = ["bush", "hedge", "sign", "street_lamp", "traffic_light", "tree"]

LEAVES: tuple[Colour, ...] = (
    (70, 98, 46),
    (52, 82, 40),
    (88, 112, 52),
    (58, 92, 62),
    (104, 112, 48),
    (44, 70, 38),
)

AUTUMN: tuple[Colour, ...] = ((160, 110, 44), (142, 82, 38), (176, 140, 56), (112, 100, 48))

BARK: tuple[Colour, ...] = ((74, 60, 48), (92, 80, 66), (58, 50, 44))

STEEL: tuple[Colour, ...] = ((96, 98, 100), (130, 132, 132), (66, 70, 72), (62, 82, 70), (158, 160, 158))

LIT: Colour = (255, 232, 160)


def hedge(canvas: Canvas, dice: Dice, x: int, z0: int, z1: int) -> None:
    """Paint a clipped hedge along the street."""
    height, leaf = dice.integer(90, 230), dice.colour(LEAVES)
    end = Face(canvas, x, z0, flip=x < 0)
    end.rectangle(0, 0, 120, height, shade(leaf, 90), VEGETATION)
    front = Face(canvas, x, z0, along=True)
    canvas.distance((z0 * 2 + z1) // 3)
    top = [(u, height + dice.integer(-14, 14)) for u in range(0, z1 - z0, 160)]
    front.polygon([(0, 0), *top, (z1 - z0, height), (z1 - z0, 0)], shade(leaf, 74), VEGETATION)


def tree(canvas: Canvas, dice: Dice, x: int, z: int, *, bare: bool = False) -> None:
    """Paint a broad-leaved tree, a conifer, or (`bare`) a leafless one; trunk and crown are both vegetation."""
    face = Face(canvas, x, z, flip=dice.chance(50))
    bark, leaf = dice.colour(BARK), dice.colour(AUTUMN if dice.chance(14) else LEAVES)
    tall, thick = dice.integer(450, 1100), dice.integer(10, 26)
    canvas.cast(x - 160, x + 160, max(z - 200, 300), z + 260, 90)
    if dice.chance(14):
        face.rectangle(-thick, 0, thick, 120, bark, VEGETATION)
        for tier in range(4):
            low, wide = 90 + tier * tall // 5, (tall * 26 // 100) * (5 - tier) // 5
            face.polygon(
                ((-wide, low), (wide, low), (0, low + tall * 2 // 5)), shade(leaf, 64 + tier * 9), VEGETATION
            )
        return
    fork = tall * dice.integer(30, 42) // 100
    face.polygon(
        ((-thick, 0), (thick, 0), (thick * 2 // 3, fork + 60), (-thick * 2 // 3, fork + 60)), bark, VEGETATION
    )
    spread = tall * dice.integer(24, 36) // 100
    if bare:
        for _ in range(9):
            tip, rise = dice.integer(-spread, spread), dice.integer(tall * 6 // 10, tall)
            elbow = (tip // 2 + dice.integer(-30, 30), (fork + rise) // 2)
            face.line(((0, fork), elbow, (tip, rise)), dice.integer(4, 12), bark, VEGETATION)
        return
    middle, rise = (fork + tall) // 2 + 40, (tall - fork) // 2
    face.crown([(0, middle, spread * 7 // 10)], shade(leaf, 58), VEGETATION)
    tones = ((74, -6), (104, 10)) if face.span(spread) < 7 else ((58, -12), (80, 0), (104, 14), (124, 26))
    for tone, drop in tones:
        # The brighter, the nearer to the light: smaller, to the right and higher.
        reach, size = spread * (100 - drop) // 100, spread * (100 - drop) // 100
        heart = middle + rise * drop // 60
        blobs = [
            (reach * u // 128 + drop, heart + rise * v * 7 // 1280, size * (38 * 128 + 14 * w) // 12_800)
            for u, v, w in dice.spread(5)
        ]
        face.crown(blobs, shade(leaf, tone), VEGETATION)


def bush(canvas: Canvas, dice: Dice, x: int, z: int) -> None:
    """Paint a low bush."""
    face = Face(canvas, x, z)
    leaf = dice.colour(LEAVES)
    wide, tall = dice.integer(50, 160), dice.integer(50, 150)
    for tone in (60, 84, 108):
        blobs = [
            (wide * u // 128, tall // 2 + tall * v // 512, wide * (50 * 128 + 14 * w) // 12_800)
            for u, v, w in dice.spread(4)
        ]
        face.crown(blobs, shade(leaf, tone), VEGETATION)


def street_lamp(canvas: Canvas, dice: Dice, x: int, z: int, *, night: bool) -> None:
    """Paint a lamp post whose arm reaches over the road (towards x = 0)."""
    face = Face(canvas, x, z, flip=x > 0)
    steel, tall, reach = dice.colour(STEEL), dice.integer(480, 850), dice.integer(60, 260)
    face.rectangle(-8, 0, 8, tall // 3, shade(steel, 84), POLE)
    face.rectangle(-5, 0, 5, tall, steel, POLE)
    face.line(((0, tall), (reach // 2, tall + 30), (reach, tall + 34)), 9, steel, POLE)
    face.rectangle(reach - 30, tall + 22, reach + 36, tall + 40, LIT if night else shade(steel, 120), POLE)
    canvas.lamp(face.point(reach, tall + 28), face.span(230), LIT, POLE)


def traffic_light(canvas: Canvas, dice: Dice, x: int, z: int) -> None:
    """Paint a traffic light on a pole, sometimes with a second one hung over the road."""
    face = Face(canvas, x, z, flip=x > 0)
    steel, tall = dice.colour(STEEL), dice.integer(300, 380)
    state = dice.pick((0, 0, 2, 2, 1))
    face.rectangle(-6, 0, 6, tall, steel, POLE)
    heads = [(0, tall)]
    if dice.chance(35):
        reach = dice.integer(220, 420)
        face.rectangle(-7, 0, 7, 560, steel, POLE)
        face.rectangle(0, 545, reach, 557, steel, POLE)
        heads.append((reach, 590))
    for u, top in heads:
        face.rectangle(u - 20, top - 100, u + 20, top + 6, (28, 32, 30), LIGHT)
        for row, colour in enumerate(((255, 44, 36), (255, 186, 50), (64, 226, 120))):
            centre = top - 18 - row * 30
            face.oval(u, centre, 11, 11, colour if row == state else shade(colour, 26), LIGHT)
            if row == state:
                canvas.lamp(face.point(u, centre), face.span(60), colour, LIGHT)


def sign(canvas: Canvas, dice: Dice, x: int, z: int) -> None:
    """Paint a traffic sign on its post: disc, triangle, square, diamond or a board with names."""
    face = Face(canvas, x, z)
    steel, tall, size = dice.colour(STEEL), dice.integer(220, 290), dice.integer(30, 44)
    face.rectangle(-4, 0, 4, tall, steel, POLE)
    kind = dice.integer(0, 5)
    red, blue, white, yellow = (196, 34, 36), (32, 76, 160), (232, 232, 228), (232, 184, 44)
    if kind == 0:
        face.oval(0, tall, size, size, red, SIGN)
        face.oval(0, tall, size * 7 // 10, size * 7 // 10, white, SIGN)
        face.rectangle(-size // 3, tall - 6, size // 3, tall + 6, (40, 40, 40), SIGN)
    elif kind == 1:
        face.polygon(((-size, tall - size), (size, tall - size), (0, tall + size * 8 // 10)), red, SIGN)
        face.polygon(
            (
                (-size * 6 // 10, tall - size * 7 // 10),
                (size * 6 // 10, tall - size * 7 // 10),
                (0, tall + size // 3),
            ),
            white,
            SIGN,
        )
    elif kind == 2:
        face.oval(0, tall, size, size, blue, SIGN)
        face.polygon(
            ((-8, tall - 20), (8, tall - 20), (8, tall), (20, tall), (0, tall + 24), (-20, tall), (-8, tall)),
            white,
            SIGN,
        )
    elif kind == 3:
        face.polygon(((0, tall - size), (size, tall), (0, tall + size), (-size, tall)), white, SIGN)
        inner = size * 7 // 10
        face.polygon(((0, tall - inner), (inner, tall), (0, tall + inner), (-inner, tall)), yellow, SIGN)
    elif kind == 4:
        face.rectangle(-size, tall - size, size, tall + size, blue, SIGN)
        face.rectangle(-size // 2, tall - size * 6 // 10, size // 2, tall + size * 6 // 10, white, SIGN)
    else:
        board = dice.pick(((32, 76, 160), (40, 110, 70), (226, 180, 50)))
        face.rectangle(-size * 2, tall - size, size * 2, tall + size, board, SIGN)
        for row in (-14, 10):
            face.rectangle(
                -size * 3 // 2, tall + row, size * dice.integer(0, 1), tall + row + 10, white, SIGN
            )
