"""What stands in a street scene: buildings, walls, fences, trees, poles, traffic lights, signs, the skyline.

Part of the synthetic `streets` data (see `streets`). Source: this project's own.
"""

from __future__ import annotations

from transkd_lite.data.scene.canvas import Canvas, Colour, Dice, Face, shade

__all__ = [
    "bush",
    "facade",
    "fence",
    "hedge",
    "sign",
    "skyline",
    "street_lamp",
    "traffic_light",
    "tree",
    "wall",
]

BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION = range(2, 9)

PLASTER: tuple[Colour, ...] = (
    (196, 182, 156), (180, 166, 148), (150, 86, 66), (132, 74, 60), (168, 168, 164), (206, 200, 188),
    (198, 170, 110), (120, 124, 130), (146, 156, 164), (178, 136, 116), (108, 96, 86), (214, 210, 204),
)  # fmt: skip
STONE: tuple[Colour, ...] = (
    (150, 146, 138),
    (126, 122, 116),
    (150, 92, 72),
    (176, 170, 158),
    (104, 106, 106),
    (196, 188, 170),
)
ROOF: tuple[Colour, ...] = ((120, 62, 48), (86, 60, 54), (74, 78, 84), (96, 92, 90))
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
PANE: Colour = (56, 66, 78)


def _windows(face: Face, dice: Dice, length: int, height: int, wall: Colour, night: bool) -> None:
    """Paint rows of windows on a facade of `length` x `height` cm, with a ground floor of shops or doors."""
    storey, bay = dice.integer(290, 350), dice.integer(210, 420)
    wide, tall = bay * dice.integer(40, 62) // 100, storey * dice.integer(42, 60) // 100
    pane, sill = shade(PANE, dice.integer(70, 150)), dice.chance(50)
    pattern, lit = dice.integer(3, 11), dice.integer(10, 45)
    ground, ribbon = dice.integer(320, 420), dice.chance(15)
    shop = dice.colour(((60, 64, 72), (120, 50, 46), (40, 80, 70), (150, 130, 90)))
    pixels = face.span(storey) if not face.along else storey * face.focal // max(face.z, 400)
    columns = max(1, length // bay)
    middle = max(face.z + length // 2, 600)
    squeezed = face.along and abs(face.x) * face.focal * bay // (middle * middle) < 2
    margin = (length - columns * bay) // 2 + (bay - wide) // 2
    if pixels >= 3:
        for row in range((height - ground) // storey):
            low = ground + row * storey + (storey - tall) // 2
            if ribbon or squeezed or pixels < 5:
                face.rectangle(margin, low, length - margin, low + tall, pane, BUILDING)
                continue
            for column in range(columns):
                left = margin + column * bay
                shines = night and (row * 7 + column * 13 + pattern * row * column) * 29 % 100 < lit
                face.rectangle(left, low, left + wide, low + tall, LIT if shines else pane, BUILDING)
                if sill and pixels >= 14:
                    face.rectangle(left - 8, low - 14, left + wide + 8, low, shade(wall, 120), BUILDING)
    face.rectangle(0, 0, length, 40, shade(wall, 62), BUILDING)
    for column in range(0 if squeezed else columns):
        left = margin + column * bay
        door = (column + pattern) % 4 == 0
        glow = night and (column + pattern) % 3 == 0
        face.rectangle(
            left, 10 if door else 70, left + wide, 250, LIT if glow else shop if door else pane, BUILDING
        )
    if dice.chance(40):
        face.rectangle(0, 265, length, 310, shop, BUILDING)


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
    outward = -1 if x < 0 else 1
    depth = dice.integer(800, 1600)
    bright = dice.integer(74, 108)
    end = Face(canvas, x, z0, flip=x < 0)
    end.rectangle(0, 0, depth, height, shade(wall, bright), BUILDING)
    if exposed:
        _windows(end, dice.fork(), depth, height, wall, night)
    if gable:
        end.polygon(
            ((-30, height), (depth + 30, height), (depth // 2, height + depth * 45 // 100)),
            shade(wall, bright - 10),
            BUILDING,
        )
    front = Face(canvas, x, z0, along=True)
    canvas.distance((z0 * 2 + z1) // 3)
    front.rectangle(0, 0, z1 - z0, height, shade(wall, 182 - bright), BUILDING)
    _windows(front, dice.fork(), z1 - z0, height, wall, night)
    roof = dice.colour(ROOF)
    if gable:
        far = canvas.camera.point
        ridge = height + depth * 45 // 100
        corners = [
            far(x, height, z0),
            far(x, height, z1),
            far(x + outward * depth // 2, ridge, z1),
            far(x + outward * depth // 2, ridge, z0),
        ]
        canvas.pen.polygon(corners, canvas.ink(roof, BUILDING))
    else:
        front.rectangle(0, height - 45, z1 - z0, height, shade(wall, 125), BUILDING)


def wall(canvas: Canvas, dice: Dice, x: int, z0: int, z1: int) -> None:
    """Paint a free-standing wall along the street."""
    height, stone = dice.integer(110, 320), dice.colour(PLASTER if dice.chance(35) else STONE)
    end = Face(canvas, x, z0, flip=x < 0)
    end.rectangle(0, 0, 40, height, shade(stone, 92), WALL)
    front = Face(canvas, x, z0, along=True)
    canvas.distance((z0 * 2 + z1) // 3)
    length = z1 - z0
    front.rectangle(0, 0, length, height, stone, WALL)
    for post in range(0, length, dice.integer(240, 500)):
        front.rectangle(post, 0, post + 24, height, shade(stone, 84), WALL)
    if dice.chance(45):
        patch = dice.integer(0, max(0, length - 320))
        front.rectangle(
            patch,
            height // 4,
            patch + 260,
            height * 3 // 4,
            dice.colour(((180, 70, 80), (70, 120, 160), (200, 180, 90))),
            WALL,
        )
    front.rectangle(0, height - 16, length, height, shade(stone, 122), WALL)


def fence(canvas: Canvas, dice: Dice, x: int, z0: int, z1: int) -> None:
    """Paint a fence along the street: boards, or bars that really let what stands behind be seen."""
    height, length = dice.integer(90, 210), z1 - z0
    paint = dice.colour((*STEEL, (122, 92, 62), (150, 122, 88), (44, 70, 54), (206, 206, 202)))
    front = Face(canvas, x, z0, along=True)
    canvas.distance((z0 * 2 + z1) // 3)
    if dice.chance(55):
        front.rectangle(0, 5, length, height, paint, FENCE)
        step = dice.integer(24, 70)
        for slat in _spaced(front, step, length):
            front.rectangle(slat, 5, slat + step // 4 + 2, height, shade(paint, 64), FENCE)
        return
    step = dice.integer(18, 34)
    for bar in _spaced(front, step, length):
        front.line(((bar, 0), (bar, height)), 4, paint, FENCE)
    for rail in (height, height * 55 // 100, 14):
        front.rectangle(0, rail - 7, length, rail + 3, shade(paint, 88), FENCE)


def _spaced(front: Face, step: int, length: int) -> list[int]:
    """Return places along a face, `step` cm apart, farther where they would fall on the same column of pixels."""
    places, u = [], 0
    while u < length:
        places.append(u)
        z = max(front.z + u, 400)
        u += max(step, 2 * z * z // (front.focal * max(abs(front.x), 200)))
    return places


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


def skyline(canvas: Canvas, dice: Dice) -> None:
    """Paint what closes the view at the horizon: far houses, towers, tree tops."""
    depth = 20_000
    canvas.distance(depth)
    left = -14_000
    while left < 14_000:
        wide, tall = dice.integer(500, 2400), dice.integer(300, 2200)
        face = Face(canvas, left, depth)
        if dice.chance(45):
            face.oval(wide // 2, 200, wide * 7 // 10, tall * 6 // 10, dice.colour(LEAVES), VEGETATION)
        else:
            face.rectangle(0, -200, wide, tall, dice.colour(PLASTER), BUILDING)
        left += wide * dice.integer(60, 110) // 100
