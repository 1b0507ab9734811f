"""What stands beside a road: hedges, trees, bushes, lamps, traffic lights, signs. Sizes are in cm.

Part of the synthetic `streets` data. Source: this project's own.
"""

from __future__ import annotations

from transkd_lite.data.labels import colours
from transkd_lite.data.scene.canvas import Canvas, Dice, Face, Id, shade

__all__ = ["bush", "hedge", "sign", "street_lamp", "traffic_light", "tree"]

LEAVES = colours("46622e 345228 587034 3a5c3e 687030 2c4626")
AUTUMN = colours("a06e2c 8e5226 b08c38 706430")
BARK = colours("4a3c30 5c5042 3a322c")
STEEL = colours("606264 828484 424648 3e5246 9ea09e")
LIT, *TRAFFIC_LIGHTS = colours("ffe8a0 ff2c24 ffba32 40e278")
RED, BLUE, WHITE, YELLOW = colours("c42224 204ca0 e8e8e4 e8b82c")
BOARD = colours("204ca0 286e46 e2b432")


def hedge(canvas: Canvas, dice: Dice, x: int, z0: int, z1: int) -> None:
    """Paint a clipped hedge along the street."""
    height, leaf, length = dice.integer(90, 230), dice.colour(LEAVES), z1 - z0
    end = Face(canvas, x, z0, Id.VEGETATION, flip=x < 0)
    end.rectangle(0, 0, 120, height, shade(leaf, 90))
    front = Face(canvas, x, z0, Id.VEGETATION, along=length)
    top = [(u, height + dice.integer(-14, 14)) for u in range(0, length, 160)]
    front.polygon([(0, 0), *top, (length, height), (length, 0)], shade(leaf, 74))


def tree(canvas: Canvas, dice: Dice, x: int, z: int, *, bare: bool = False) -> None:
    """Paint a broad-leaved tree, a conifer, or (`bare`) a leafless one; trunk and crown are both vegetation."""
    face = Face(canvas, x, z, Id.VEGETATION, flip=dice.chance(50))
    bark, leaf = dice.colour(BARK), dice.colour(AUTUMN if dice.chance(14) else LEAVES)
    tall, thick = dice.integer(450, 1100), dice.integer(10, 26)
    canvas.cast(x - 160, x + 160, max(z - 200, 300), z + 260, 90)
    if dice.chance(14):
        face.rectangle(-thick, 0, thick, 120, bark)
        for tier in range(4):
            low, wide = 90 + tier * tall // 5, (tall * 26 // 100) * (5 - tier) // 5
            face.mirrored(((wide, low), (0, low + tall * 2 // 5)), shade(leaf, 64 + tier * 9))
        return
    fork = tall * dice.integer(30, 42) // 100
    top = fork + 60
    face.polygon(((-thick, 0), (thick, 0), (thick * 2 // 3, top), (-thick * 2 // 3, top)), bark)
    spread = tall * dice.integer(24, 36) // 100
    if bare:
        for _ in range(9):
            tip, rise = dice.integer(-spread, spread), dice.integer(tall * 6 // 10, tall)
            elbow = (tip // 2 + dice.integer(-30, 30), (fork + rise) // 2)
            face.line(((0, fork), elbow, (tip, rise)), dice.integer(4, 12), bark)
        return
    middle, rise = (fork + tall) // 2 + 40, (tall - fork) // 2
    face.crown([(0, middle, spread * 7 // 10)], shade(leaf, 58))
    tones = ((74, -6), (104, 10)) if face.span(spread) < 7 else ((58, -12), (80, 0), (104, 14), (124, 26))
    for tone, drop in tones:
        # The brighter, the nearer to the light: smaller, to the right and higher.
        reach, heart = spread * (100 - drop) // 100, middle + rise * drop // 60
        blobs = [
            (reach * u // 128 + drop, heart + rise * v * 7 // 1280, reach * (38 * 128 + 14 * w) // 12_800)
            for u, v, w in dice.spread(5)
        ]
        face.crown(blobs, shade(leaf, tone))


def bush(canvas: Canvas, dice: Dice, x: int, z: int) -> None:
    """Paint a low bush."""
    face, leaf = Face(canvas, x, z, Id.VEGETATION), dice.colour(LEAVES)
    wide, tall = dice.integer(50, 160), dice.integer(50, 150)
    for tone in (60, 84, 108):
        blobs = [
            (wide * u // 128, tall // 2 + tall * v // 512, wide * (50 * 128 + 14 * w) // 12_800)
            for u, v, w in dice.spread(4)
        ]
        face.crown(blobs, shade(leaf, tone))


def street_lamp(canvas: Canvas, dice: Dice, x: int, z: int, *, night: bool) -> None:
    """Paint a lamp post whose arm reaches over the road (towards x = 0)."""
    face = Face(canvas, x, z, Id.POLE, flip=x > 0)
    steel, tall, reach = dice.colour(STEEL), dice.integer(480, 850), dice.integer(60, 260)
    face.rectangle(-8, 0, 8, tall // 3, shade(steel, 84))
    face.rectangle(-5, 0, 5, tall, steel)
    face.line(((0, tall), (reach // 2, tall + 30), (reach, tall + 34)), 9, steel)
    face.rectangle(reach - 30, tall + 22, reach + 36, tall + 40, LIT if night else shade(steel, 120))
    face.lamp(reach, tall + 28, 230, LIT)


def traffic_light(canvas: Canvas, dice: Dice, x: int, z: int) -> None:
    """Paint a traffic light on a pole, sometimes with a second one hung over the road."""
    face = Face(canvas, x, z, Id.POLE, flip=x > 0)
    steel, tall = dice.colour(STEEL), dice.integer(300, 380)
    state = dice.pick((0, 0, 2, 2, 1))
    face.rectangle(-6, 0, 6, tall, steel)
    heads = [(0, tall)]
    if dice.chance(35):
        reach = dice.integer(220, 420)
        face.rectangle(-7, 0, 7, 560, steel)
        face.rectangle(0, 545, reach, 557, steel)
        heads.append((reach, 590))
    face.label = Id.LIGHT
    for u, top in heads:
        face.rectangle(u - 20, top - 100, u + 20, top + 6, (28, 32, 30))
        for row, colour in enumerate(TRAFFIC_LIGHTS):
            centre = top - 18 - row * 30
            face.oval(u, centre, 11, 11, colour if row == state else shade(colour, 26))
            if row == state:
                face.lamp(u, centre, 60, colour)


def sign(canvas: Canvas, dice: Dice, x: int, z: int) -> None:
    """Paint a traffic sign on its post: disc, triangle, arrow, diamond, square or a board with names."""
    face = Face(canvas, x, z, Id.POLE)
    steel, tall, size = dice.colour(STEEL), dice.integer(220, 290), dice.integer(30, 44)
    face.rectangle(-4, 0, 4, tall, steel)
    face.label = Id.SIGN
    kind, inner, low = dice.integer(0, 5), size * 7 // 10, -size * 6 // 10
    if kind == 0:
        face.oval(0, tall, size, size, RED)
        face.oval(0, tall, inner, inner, WHITE)
        face.rectangle(-size // 3, tall - 6, size // 3, tall + 6, (40, 40, 40))
    elif kind == 1:
        face.mirrored(((size, tall - size), (0, tall + size * 8 // 10)), RED)
        base = tall - size * 7 // 10
        face.polygon(((low, base), (size * 6 // 10, base), (0, tall + size // 3)), WHITE)
    elif kind == 2:
        face.oval(0, tall, size, size, BLUE)
        face.mirrored(((8, tall - 20), (8, tall), (20, tall), (0, tall + 24)), WHITE)
    elif kind == 3:
        face.mirrored(((0, tall - size), (size, tall), (0, tall + size)), WHITE)
        face.mirrored(((0, tall - inner), (inner, tall), (0, tall + inner)), YELLOW)
    elif kind == 4:
        face.rectangle(-size, tall - size, size, tall + size, BLUE)
        face.rectangle(-size // 2, tall - size * 6 // 10, size // 2, tall + size * 6 // 10, WHITE)
    else:
        face.rectangle(-size * 2, tall - size, size * 2, tall + size, dice.pick(BOARD))
        for row in (-14, 10):
            length = size * dice.integer(0, 1)
            face.rectangle(-size * 3 // 2, tall + row, length, tall + row + 10, WHITE)
