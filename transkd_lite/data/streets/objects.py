"""What stands and moves in a street: roadside things, buildings, vehicles, people.

Part of the synthetic `streets` data. Source: this project's own.
"""

from transkd_lite.data.labels import Colour, colours
from transkd_lite.data.streets.canvas import COLOURS, Canvas, Dice, Face, Id, Point, shade

__all__ = [
    "bush", "car", "facade", "fence", "hedge", "person", "sign", "skyline", "street_lamp", "traffic_light", "tram",
    "tree", "truck_or_bus", "two_wheeler", "wall",
]  # fmt: skip

# --- What stands beside a road: hedges, trees, bushes, lamps, traffic lights, signs. Sizes are in cm.

LIT, *TRAFFIC_LIGHTS = colours("ffe8a0 ff2c24 ffba32 40e278")
RED, BLUE, WHITE, YELLOW = colours("c42224 204ca0 e8e8e4 e8b82c")


def hedge(canvas: Canvas, dice: Dice, x: int, z0: int, z1: int) -> None:
    """Paint a clipped hedge along the street."""
    height, leaf, length = dice.integer(90, 230), dice.colour("leaves"), z1 - z0
    Face(canvas, x, z0, Id.VEGETATION, flip=x < 0).rectangle(0, 0, 120, height, shade(leaf, 90))
    front = Face(canvas, x, z0, Id.VEGETATION, along=length)
    top = [(u, height + dice.integer(-14, 14)) for u in range(0, length, 160)]
    front.polygon([(0, 0), *top, (length, height), (length, 0)], shade(leaf, 74))


def tree(canvas: Canvas, dice: Dice, x: int, z: int, *, bare: bool = False) -> None:
    """Paint a broad-leaved tree, a conifer, or (`bare`) a leafless one; trunk and crown are both vegetation."""
    face = Face(canvas, x, z, Id.VEGETATION, flip=dice.chance(50))
    bark, leaf = dice.colour("bark"), dice.colour("autumn leaves" if dice.chance(14) else "leaves")
    tall, thick = dice.integer(450, 1100), dice.integer(10, 26)
    canvas.cast(x - 160, x + 160, max(z - 200, 300), z + 260, 90)
    if dice.chance(14):
        face.centred((thick, 0, 120, bark))
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
    face.crown([(0, 0, 0)], (0, middle), spread, 0, 70, shade(leaf, 58))
    tones = ((74, -6), (104, 10)) if face.span(spread) < 7 else ((58, -12), (80, 0), (104, 14), (124, 26))
    for tone, drop in tones:
        # The brighter, the nearer to the light: smaller, to the right and higher.
        reach, heart = spread * (100 - drop) // 100, middle + rise * drop // 60
        face.crown(dice.spread(5), (drop, heart), reach, rise * 14, 38, shade(leaf, tone))


def bush(canvas: Canvas, dice: Dice, x: int, z: int) -> None:
    """Paint a low bush."""
    face, leaf = Face(canvas, x, z, Id.VEGETATION), dice.colour("leaves")
    wide, tall = dice.integer(50, 160), dice.integer(50, 150)
    for tone in (60, 84, 108):
        face.crown(dice.spread(4), (0, tall // 2), wide, tall * 5, 50, shade(leaf, tone))


def street_lamp(canvas: Canvas, dice: Dice, x: int, z: int) -> None:
    """Paint a lamp post whose arm reaches over the road (towards x = 0)."""
    face = Face(canvas, x, z, Id.POLE, flip=x > 0)
    steel, tall, reach = dice.colour("steel"), dice.integer(480, 850), dice.integer(60, 260)
    face.centred((8, 0, tall // 3, shade(steel, 84)), (5, 0, tall, steel))
    face.line(((0, tall), (reach // 2, tall + 30), (reach, tall + 34)), 9, steel)
    face.rectangle(reach - 30, tall + 22, reach + 36, tall + 40, LIT if canvas.mood.night else shade(steel, 120))
    face.lamp(reach, tall + 28, 230, LIT)


def traffic_light(canvas: Canvas, dice: Dice, x: int, z: int) -> None:
    """Paint a traffic light on a pole, sometimes with a second one hung over the road."""
    face = Face(canvas, x, z, Id.POLE, flip=x > 0)
    steel, tall = dice.colour("steel"), dice.integer(300, 380)
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
    steel, tall, size = dice.colour("steel"), dice.integer(220, 290), dice.integer(30, 44)
    face.centred((4, 0, tall, steel))
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
        face.rectangle(-size * 2, tall - size, size * 2, tall + size, dice.pick(COLOURS["sign board"]))
        for row in (-14, 10):
            length = size * dice.integer(0, 1)
            face.rectangle(-size * 3 // 2, tall + row, length, tall + row + 10, WHITE)


# --- What is built along a street: houses, walls, fences, and the skyline that closes the view. Sizes are in cm.

PANE: Colour = (56, 66, 78)


def _windows(face: Face, dice: Dice, length: int, height: int, wall: Colour) -> None:
    """Paint rows of windows on a facade of `length` x `height` cm, with a ground floor of shops or doors."""
    night, storey, bay = face.canvas.mood.night, dice.integer(290, 350), dice.integer(210, 420)
    wide, tall = bay * dice.integer(40, 62) // 100, storey * dice.integer(42, 60) // 100
    pane, sill = shade(PANE, dice.integer(70, 150)), dice.chance(50)
    pattern, lit = dice.integer(3, 11), dice.integer(10, 45)
    ground, ribbon = dice.integer(320, 420), dice.chance(15)
    shop = dice.colour("shop")
    pixels = face.span(storey) if not face.along else storey * face.focal // max(face.z, 400)
    columns = max(1, length // bay)
    middle = max(face.z + length // 2, 600)
    squeezed = face.along and abs(face.x) * face.focal * bay // (middle * middle) < 2
    margin = (length - columns * bay) // 2 + (bay - wide) // 2
    lefts = range(margin, margin + columns * bay, bay)
    for row in range((height - ground) // storey if pixels >= 3 else 0):
        low = ground + row * storey + (storey - tall) // 2
        if ribbon or squeezed or pixels < 5:
            face.rectangle(margin, low, length - margin, low + tall, pane)
            continue
        for column, left in enumerate(lefts):
            shines = night and (row * 7 + column * 13 + pattern * row * column) * 29 % 100 < lit
            face.rectangle(left, low, left + wide, low + tall, LIT if shines else pane)
            if sill and pixels >= 14:
                face.rectangle(left - 8, low - 14, left + wide + 8, low, shade(wall, 120))
    face.rectangle(0, 0, length, 40, shade(wall, 62))
    for column, left in enumerate(() if squeezed else lefts, pattern):
        door, glow = column % 4 == 0, night and column % 3 == 0
        colour = LIT if glow else shop if door else pane
        face.rectangle(left, 10 if door else 70, left + wide, 250, colour)
    if dice.chance(40):
        face.rectangle(0, 265, length, 310, shop)


def facade(canvas: Canvas, dice: Dice, x: int, z0: int, z1: int, *, height: int, gable: bool, exposed: bool) -> None:
    """Paint a house from z0 to z1 whose street front stands at x (the sign of x says on which side)."""
    wall = dice.colour("plaster")
    depth, bright, length = dice.integer(800, 1600), dice.integer(74, 108), z1 - z0
    ridge = height + depth * 45 // 100
    end = Face(canvas, x, z0, Id.BUILDING, flip=x < 0)
    end.rectangle(0, 0, depth, height, shade(wall, bright))
    if exposed:
        _windows(end, dice.fork(), depth, height, wall)
    if gable:
        end.polygon(((-30, height), (depth + 30, height), (depth // 2, ridge)), shade(wall, bright - 10))
    front = Face(canvas, x, z0, Id.BUILDING, along=length)
    front.rectangle(0, 0, length, height, shade(wall, 182 - bright))
    _windows(front, dice.fork(), length, height, wall)
    roof = dice.colour("roof")
    if gable:
        inner = x + (-depth // 2 if x < 0 else depth // 2)
        slope = canvas.camera.project([(x, height, z0), (x, height, z1), (inner, ridge, z1), (inner, ridge, z0)])
        canvas.pen.polygon(slope, front.ink(roof))
    else:
        front.rectangle(0, height - 45, length, height, shade(wall, 125))


def wall(canvas: Canvas, dice: Dice, x: int, z0: int, z1: int) -> None:
    """Paint a free-standing wall along the street."""
    height, stone, length = dice.integer(110, 320), dice.colour("plaster" if dice.chance(35) else "stone"), z1 - z0
    Face(canvas, x, z0, Id.WALL, flip=x < 0).rectangle(0, 0, 40, height, shade(stone, 92))
    front = Face(canvas, x, z0, Id.WALL, along=length)
    front.rectangle(0, 0, length, height, stone)
    for post in range(0, length, dice.integer(240, 500)):
        front.rectangle(post, 0, post + 24, height, shade(stone, 84))
    if dice.chance(45):
        left = dice.integer(0, max(0, length - 320))
        front.rectangle(left, height // 4, left + 260, height * 3 // 4, dice.colour("poster"))
    front.rectangle(0, height - 16, length, height, shade(stone, 122))


def fence(canvas: Canvas, dice: Dice, x: int, z0: int, z1: int) -> None:
    """Paint a fence along the street: boards, or bars that really let what stands behind be seen."""
    height, length = dice.integer(90, 210), z1 - z0
    paint = dice.colour(COLOURS["steel"] + COLOURS["wood"])
    front = Face(canvas, x, z0, Id.FENCE, along=length)
    boards = dice.chance(55)
    step = dice.integer(24, 70) if boards else dice.integer(18, 34)
    if boards:
        front.rectangle(0, 5, length, height, paint)
    u = 0
    while u < length:
        if boards:
            front.rectangle(u, 5, u + step // 4 + 2, height, shade(paint, 64))
        else:
            front.line(((u, 0), (u, height)), 4, paint)
        # Farther apart where they would fall on the same column of pixels.
        z = max(z0 + u, 400)
        u += max(step, 2 * z * z // (front.focal * max(abs(x), 200)))
    for rail in () if boards else (height, height * 55 // 100, 14):
        front.rectangle(0, rail - 7, length, rail + 3, shade(paint, 88))


def skyline(canvas: Canvas, dice: Dice) -> None:
    """Paint what closes the view at the horizon: far houses, towers, tree tops."""
    left = -14_000
    while left < 14_000:
        wide, tall = dice.integer(500, 2400), dice.integer(300, 2200)
        face = Face(canvas, left, 20_000, Id.BUILDING)
        if dice.chance(45):
            face.label = Id.VEGETATION
            face.oval(wide // 2, 200, wide * 7 // 10, tall * 6 // 10, dice.colour("leaves"))
        else:
            face.rectangle(0, -200, wide, tall, dice.colour("plaster"))
        left += wide * dice.integer(60, 110) // 100


# --- Cars, trucks, buses and trams: a side along the street, an end across it. Sizes are in cm.

GLASS, RUBBER, CHROME, RED_LIGHT, WHITE_LIGHT = colours("2c3640 1a1a1c a8acb0 ff1e1a fffae6")
_LIGHTS = {True: (WHITE_LIGHT, 80), False: (RED_LIGHT, 45)}  # of a large vehicle, oncoming or not; how far they shine

# Each kind of car: how many cm its roof lies ahead of the rear bumper; then its side profiles, of the body and of the
# panes, as (percent of length, percent of height) from the rear bumper.
_CARS = {
    "sedan": (70, ((0, 22), (0, 60), (16, 66), (30, 99), (58, 100), (76, 64), (98, 54), (100, 22)),
              (((22, 67), (32, 93), (45, 94), (45, 66)), ((47, 66), (47, 94), (57, 94), (71, 66)))),
    "hatch": (25, ((0, 22), (1, 62), (8, 96), (18, 100), (58, 100), (77, 64), (98, 54), (100, 22)),
              (((10, 67), (16, 93), (38, 94), (38, 66)), ((40, 66), (40, 94), (57, 94), (72, 66)))),
    "estate": (15, ((0, 22), (0, 66), (5, 97), (12, 100), (60, 99), (77, 64), (99, 54), (100, 22)),
               (((6, 68), (10, 92), (36, 94), (36, 67)), ((38, 67), (38, 94), (59, 93), (72, 67)))),
    "van": (0, ((0, 18), (0, 96), (4, 100), (74, 100), (90, 58), (100, 48), (100, 18)),
            (((60, 62), (60, 92), (73, 92), (84, 62)),)),
}  # fmt: skip


def wheels(face: Face, radius: int, *hubs: int) -> None:
    for u in hubs:
        face.oval(u, radius, radius, radius, RUBBER)
        face.oval(u, radius, radius * 58 // 100, radius * 58 // 100, CHROME)


def _car_side(face: Face, kind: str, long: int, tall: int, paint: Colour) -> None:
    """Paint a car in profile on `face`, its rear at u = 0."""

    def outline(points: tuple[Point, ...]) -> list[Point]:
        return [(a * long // 100, b * tall // 100) for a, b in points]

    _, body, panes = _CARS[kind]
    face.polygon(outline(body), paint)
    if face.z > 5500:
        return
    face.polygon(outline(((0, 20), (0, 34), (100, 34), (100, 20))), shade(paint, 72))
    for pane in panes:
        face.polygon(outline(pane), GLASS)
    wheels(face, tall * 22 // 100, 19 * long // 100, 81 * long // 100)


def car(canvas: Canvas, dice: Dice, x: int, z: int, *, oncoming: bool = False, crossing: bool = False) -> None:
    """Paint a car: its near end around (x, z), or, `crossing`, in profile with its rear at x."""
    kind = dice.pick(("sedan", "hatch", "hatch", "estate", "estate", "van"))
    long = dice.integer(380, 480) + (60 if kind == "van" else 0)
    tall = dice.integer(140, 156) + (44 if kind == "van" else dice.pick((0, 0, 18)))
    wide, paint = dice.integer(172, 192), dice.colour("car")
    if crossing:
        _car_side(Face(canvas, x, z, Id.CAR, flip=dice.chance(50)), kind, long, tall, paint)
        return
    half, belt = wide // 2, tall * 60 // 100
    canvas.cast(x - half - 16, x + half + 16, z - 30, z + long + 20, 130)
    inner, far = x + half if x < 0 else x - half, z + long if oncoming else z
    side = Face(canvas, inner, far, Id.CAR, along=long, flip=oncoming)
    side.mist = canvas.mist(z + long // 2)
    _car_side(side, kind, long, tall, shade(paint, 90))
    roof = Face(canvas, x, z + _CARS[kind][0] + (60 if oncoming and kind != "van" else 0), Id.CAR)
    roof.mirrored(((half - 4, belt - 6), (half - 20, tall - 2), (half - 28, tall)), shade(paint, 88))
    roof.mirrored(((half - 14, belt), (half - 30, tall - 12)), GLASS)
    end, light = Face(canvas, x, z, Id.CAR), WHITE_LIGHT if oncoming else RED_LIGHT
    if end.span(wide) < 9:
        end.centred((half, 10, belt, paint), (half - 10, belt - 26, belt - 8, light))
        end.lamp(0, belt - 16, 70, light)
        return
    end.pair(half - 6, 0, 22, 34, RUBBER)
    end.mirrored(((half, 24), (half, belt - 14), (half - 8, belt + 2)), paint)
    end.centred((half, 20, 36, shade(paint, 62)))
    end.pair(half - 5, belt - 24, 32, 16, light, 90 if oncoming else 45)
    if oncoming:
        end.centred((38, belt - 26, belt - 12, (30, 32, 34)))
    end.centred((26, 40, 52, (216, 216, 206)))


def truck_or_bus(canvas: Canvas, dice: Dice, x: int, z: int, *, bus: bool, oncoming: bool = False) -> None:
    """Paint a truck (a box and a cab) or a bus (a box full of windows) with its near end at z."""
    label = Id.BUS if bus else Id.TRUCK
    long = dice.integer(1000, 1250) if bus else dice.integer(620, 1000)
    tall, half = dice.integer(290, 330) if bus else dice.integer(280, 370), dice.integer(236, 252) // 2
    paint = dice.colour("livery" if bus or dice.chance(60) else "car")
    canvas.cast(x - half - 20, x + half + 20, z - 40, z + long + 30, 150)
    side = Face(canvas, x + half if x < 0 else x - half, z, label, along=long)
    side.rectangle(0, 45, long, tall, shade(paint, 84))
    if bus:
        for door in range(40, long - 160, 190):
            side.rectangle(door, 150, door + 164, tall - 60, GLASS)
        side.rectangle(0, 45, long, 75, shade(paint, 60))
    else:
        gap = 0 if oncoming else long - 240
        side.rectangle(gap, 45, gap + 240, tall * 84 // 100, shade(dice.colour("car"), 90))
        side.rectangle(gap + 60, 150, gap + 170, tall * 76 // 100, GLASS)
        side.rectangle(0, 45, long, 78, (54, 54, 58))
        if dice.chance(50):
            side.rectangle(long // 4 + 60, 150, long * 2 // 3, 230, dice.colour("livery"))
    wheels(side, 48, *((200, long - 250) if bus else (130, long // 2 - 60, long - 150)))
    end = Face(canvas, x, z, label)
    end.pair(half - 8, 0, 36, 60, RUBBER)
    end.centred((half, 42, tall, paint))
    if bus or oncoming:
        board = (255, 180, 60) if dice.chance(60) else RUBBER
        end.centred((half - 14, 120 if oncoming else 170, tall - 48, GLASS), (half - 40, tall - 40, tall - 14, board))
    else:
        end.centred((3, 90, tall - 14, shade(paint, 70)), (half - 8, 86, 92, shade(paint, 70)))
    end.centred((half, 42, 62, shade(paint, 55)))
    end.pair(half - 10, 72, 30, 20, *_LIGHTS[oncoming])


def tram(canvas: Canvas, dice: Dice, x: int, z: int) -> None:
    """Paint a tram (train id 16) on its rails, its near end at z: long, low floor, panoramic windscreen."""
    long, tall, half = dice.integer(2200, 3600), dice.integer(320, 352), dice.integer(118, 128)
    paint, trim = dice.colour("livery"), dice.colour("trim")
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
    end.centred((half - 44, tall - 44, tall - 18, (255, 186, 70)), (half, 24, 52, shade(trim, 60)))
    end.pair(half - 16, 78, 28, 20, *_LIGHTS[oncoming])
    mast = Face(canvas, x, z + 500, Id.TRAIN)
    mast.line(((-50, tall), (10, tall + 70), (-20, tall + 130), (60, tall + 130)), 6, (50, 50, 54))


# --- People on foot and on two wheels: pedestrians, riders, bicycles, motorcycles. Sizes are in cm.


def person(canvas: Canvas, dice: Dice, x: int, z: int) -> None:
    """Paint a standing or walking person whose feet are at (x, z)."""
    face = Face(canvas, x, z, Id.PERSON, flip=dice.chance(50))
    tall = dice.integer(112, 140) if dice.chance(12) else dice.integer(156, 190)
    trousers, coat = dice.colour("cloth"), dice.colour("cloth")
    skin, hair = dice.colour("skin", 8), dice.colour("hair")
    hip, neck = tall * 47 // 100, tall * 84 // 100
    if face.span(tall) < 9:
        face.centred((14, 0, tall // 2, trousers), (20, tall // 2, neck, coat), (9, neck, tall, skin))
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
        face.rectangle(-wide - 12, hip, -wide + 6, neck - 14, dice.colour("cloth"))
    head = tall * 7 // 100
    face.centred((5, neck - 8, neck + 4, skin))
    face.oval(0, tall - head, head * 8 // 10, head, skin)
    face.oval(0, tall - head * 6 // 10, head * 85 // 100, head * 7 // 10, hair)


def _rider(face: Face, dice: Dice, seat: int, lean: int | None = None, bar: int = 0) -> None:
    """Paint a rider seated at (0, seat): from behind, or in profile with this `lean` and hands at (bar, seat + 14)."""
    label, face.label = face.label, Id.RIDER
    coat, trousers = dice.colour("cloth"), dice.colour("cloth")
    if lean is None:
        for foot in (-15, 13):
            face.rectangle(foot - 6, 28, foot + 8, seat + 6, trousers)
        face.mirrored(((18, seat - 4), (24, seat + 58)), coat)
        for hand, shoulder in ((-28, -22), (28, 22)):
            face.line(((shoulder, seat + 52), (hand, seat + 16)), 10, shade(coat, 82))
        head, cap, brim, hats = 0, 0, 11, COLOURS["cloth"]
    else:
        face.line(((-6, seat), (24, seat - 26), (6, seat - 66)), 15, trousers)
        face.polygon(((-16, seat - 4), (12, seat - 4), (lean + 16, seat + 56), (lean - 12, seat + 60)), coat)
        face.line(((lean + 4, seat + 52), (lean + 22, seat + 26), (bar, seat + 14)), 10, shade(coat, 80))
        head, cap, brim, hats = lean + 10, lean + 8, 10, (*COLOURS["cloth"], (230, 230, 230))
    face.oval(head, seat + 74, 11, 14, dice.colour("skin", 8))
    face.oval(cap, seat + 80, 13, brim, dice.colour(hats))
    face.label = label


def two_wheeler(canvas: Canvas, dice: Dice, x: int, z: int, *, motor: bool, ridden: bool, crossing: bool) -> None:
    """Paint a bicycle or (`motor`) a motorcycle, in profile (`crossing`) or from behind, with or without a rider."""
    face = Face(canvas, x, z, Id.MOTORCYCLE if motor else Id.BICYCLE, flip=dice.chance(50))
    paint = dice.colour("car" if motor else COLOURS["livery"] + COLOURS["car"])
    if ridden and not crossing:
        _rider(face, dice, 80 if motor else 92)
    if motor and crossing:
        wheels(face, 32, -68, 68)
        face.polygon(((-70, 66), (-20, 78), (34, 92), (58, 60), (30, 26), (-36, 26), (-50, 52)), paint)
        face.polygon(((-76, 76), (2, 74), (4, 86), (-70, 88)), RUBBER)
        face.line(((68, 32), (42, 98), (30, 106)), 9, CHROME)
        face.rectangle(-40, 24, 24, 44, (70, 70, 72))
        face.oval(52, 88, 9, 9, WHITE_LIGHT)
    elif motor:
        face.centred((9, 0, 60, RUBBER))
        face.mirrored(((22, 34), (17, 84)), paint)
        face.centred((38, 92, 99, (50, 50, 52)), (8, 62, 72, RED_LIGHT))
        face.lamp(0, 67, 40, RED_LIGHT)
    elif crossing:
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
    else:
        face.centred((5, 0, 68, RUBBER), (26, 96, 102, (60, 60, 62)), (8, 62, 92, paint))
    if ridden and crossing:
        seat, lean, bar = (84, (6, 24), 34) if motor else (92, (4, 26), 44)
        _rider(face, dice, seat, dice.integer(*lean), bar)
