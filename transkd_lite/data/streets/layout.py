"""How a street is laid out: lanes, kerbs, fronts on both sides, traffic; what is drawn in which order.

Part of the synthetic `streets` data (see `streets`). Source: this project's own.

The order is exact for upright things: a plane along the street separates two columns, and what stands on the camera's
side of it can only hide, never be hidden. So columns go outside to inside, and far to near within a column.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from transkd_lite.data.labels import Colour
from transkd_lite.data.streets import objects
from transkd_lite.data.streets.canvas import COLOURS, FAR, NEAR, Camera, Canvas, Dice, Id, Mood, shade

__all__ = ["FRONT", "GARDEN", "LANES", "PARKED", "PAVEMENT", "Street", "paint_ground", "paint_street"]

# --- The plan of one street: how wide its lanes and pavements are, where it is crossed, what stands where.

# Columns from the outside to the inside: what stands in a later one is painted over the earlier.
FRONT, GARDEN, PAVEMENT, PARKED, LANES = range(5)


class Street:
    """The plan of one scene; lengths in cm, x from the camera; `things` are (column, -z, order, draw)."""

    def __init__(self, canvas: Canvas, dice: Dice) -> None:
        self.canvas, self.dice, self.snowy = canvas, dice, canvas.mood.condition == "snow"
        self.things: list[tuple[int, int, int, Callable[[], None]]] = []
        self.style = dice.pick(("city", "city", "city", "avenue", "avenue", "suburb", "suburb", "industry", "park"))
        self.parking = dice.chance(45), dice.chance(48)
        self.left = -(170 + 330 * dice.pick((1, 1, 1, 2)) + 230 * self.parking[0] + dice.integer(0, 80))
        self.right = 170 + 330 * dice.pick((0, 0, 0, 1)) + 230 * self.parking[1] + dice.integer(0, 80)
        self.pavement = dice.integer(180, 620), dice.integer(180, 620)
        crossed = dice.chance(45)
        self.crossing, self.cross_width = (dice.integer(1100, 5000), dice.integer(650, 1100)) if crossed else (0, 0)

    def add(self, column: int, draw: Callable[..., None], x: int, z: int, *far: int, **options: Any) -> None:
        """Plan one thing at (x, z), or from z to `far`; it gets dice of its own."""
        thing = partial(draw, self.canvas, self.dice.fork(), x, z, *far, **options)
        self.things.append((column, -z, len(self.things), thing))

    def stand(self, column: int, draw: Callable[..., None], x: int, z: int, **options: Any) -> None:
        """Plan one upright thing at (x, z), unless it is out of sight."""
        self.add(column, draw, x, z, **options)  # the same draws, seen or not
        camera = self.canvas.camera
        ((pixel, _),) = camera.project([(x, 0, z)])
        if abs(pixel * 2 - camera.width) >= camera.width + 900 * camera.focal // max(z, NEAR):
            self.things.pop()

    def open_at(self, z0: int, z1: int) -> bool:
        """Tell whether [z0, z1] touches the side street."""
        return bool(self.crossing) and z0 < self.crossing + self.cross_width and z1 > self.crossing


# --- The ground of a street: verge, pavement, kerb, road, and what is painted on the road.


def paint_ground(street: Street, dice: Dice) -> None:
    """Paint verge, pavement, road and what is painted on the road."""
    camera, ground, pen = street.canvas.camera, street.canvas.ground, street.canvas.pen
    asphalt, grass = dice.colour("asphalt"), dice.colour("grass")
    # A pavement of asphalt, or of the road's own stone, can be told from the road by its kerb alone.
    paved = dice.chance(65)
    paving = dice.colour("paving") if paved else dice.colour((asphalt, COLOURS["asphalt"][0]), 10)
    urban = street.style == "city" or (street.style == "avenue" and dice.chance(60))
    base = (*paving, Id.SIDEWALK) if urban else (*grass, Id.TERRAIN)
    pen.rectangle((0, camera.horizon + 1, camera.width, camera.height), base)
    left, right, crossing = street.left, street.right, street.crossing
    beyond = crossing + street.cross_width
    for x0, x1 in ((left - street.pavement[0], left), (right, right + street.pavement[1])):
        ground(x0, x1, NEAR, FAR, paving, Id.SIDEWALK)
        for z in range(330, 2000, 120) if paved else ():  # the joints of its slabs
            pen.line(camera.project([(x0, 0, z), (x1, 0, z)]), (*shade(paving, 84), Id.SIDEWALK))
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
    paint = dice.colour("marking", 8)
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


# --- How a street is laid out: lanes, kerbs, fronts on both sides, traffic; what is drawn in which order.

# What lines a street of each style: below which of 100 it is a facade, a wall, a fence, a hedge; above: trees.
STYLES = {
    "city": (86, 90, 93, 95), "avenue": (62, 68, 74, 82), "suburb": (42, 52, 68, 86),
    "industry": (36, 60, 82, 86), "park": (14, 26, 40, 62),
}  # fmt: skip


def paint_street(size: tuple[int, int], mood: Mood, dice: Dice) -> Canvas:
    """Return a canvas of `size` (height, width) with one street painted on it."""
    canvas = Canvas(Camera(size, dice), mood)
    street = Street(canvas, dice)
    paint_ground(street, dice.fork())
    objects.skyline(canvas, dice.fork())
    for side in (-1, 1):
        line_side(street, dice.fork(), side)
        furnish(street, dice.fork(), side)
        if street.parking[side > 0]:
            park(street, dice.fork(), side)
    drive(street, dice.fork())
    cross(street, dice.fork())
    for *_, draw in sorted(street.things, key=lambda thing: thing[:3]):
        draw()
    paint_bonnet(canvas, dice.fork())
    return canvas


def line_side(street: Street, dice: Dice, side: int) -> None:
    """Stand houses, walls, fences, hedges and trees along one side, out of the way of the side street."""
    edge = street.right + street.pavement[1] if side > 0 else street.pavement[0] - street.left
    facades, walls, fences, hedges = STYLES[street.style]
    setback = 0 if street.style == "city" else dice.integer(0, 900)
    height = dice.integer(700, 2600) if street.style != "suburb" else dice.integer(420, 800)
    z, exposed = dice.integer(150, 500), True
    while z < 14_000:
        end = z + dice.integer(800, 2600) + z // 6
        if street.open_at(z, end):
            end = street.crossing - 60
            if end - z < 500:
                z, exposed = street.crossing + street.cross_width + dice.integer(200, 500), True
                continue
        roll = dice.integer(0, 99)
        is_open = roll >= facades
        if not is_open:
            tall = max(380, height * dice.integer(70, 130) // 100)
            look = {"height": tall, "gable": tall < 1100 and dice.chance(55), "exposed": exposed}
            street.add(FRONT, objects.facade, side * (edge + setback), z, end - 10, **look)
            roll = dice.integer(facades, 140) if setback > 120 else 100
        if roll < hedges:
            kind = objects.wall if roll < walls else objects.fence if roll < fences else objects.hedge
            street.add(GARDEN, kind, side * (edge + 10), z, end)
        elif roll < 100 or setback > 400:
            tree = partial(objects.tree, bare=street.snowy and dice.chance(60))
            for near in range(z + 100, end, dice.integer(350, 800)):
                x = side * (edge + dice.integer(80, 300 + setback // 2))
                street.stand(GARDEN, tree if dice.chance(60) else objects.bush, x, near)
        exposed = is_open or dice.chance(25)
        z = end + (dice.integer(100, 700) if exposed else 0)


def furnish(street: Street, dice: Dice, side: int) -> None:
    """Put poles, lamps, signs, trees, people and bicycles on one pavement."""
    kerb = street.right if side > 0 else -street.left
    wide, post = street.pavement[side > 0], side * (kerb + 40)
    trees = dice.chance(80 if street.style in ("avenue", "park", "suburb") else 40)
    bare = street.snowy and dice.chance(70)
    for z in range(dice.integer(500, 1500), 8000, dice.integer(1500, 2600)):
        street.stand(PAVEMENT, objects.street_lamp, post, z)
    for z in range(dice.integer(700, 1600), 7000, dice.integer(700, 1400)):
        if trees and not street.open_at(z - 200, z + 200):
            street.stand(PAVEMENT, objects.tree, side * (kerb + 90), z, bare=bare)
    for _ in range(dice.integer(0, 4)):
        street.stand(PAVEMENT, objects.sign, post, dice.integer(700, 3600))
    if street.crossing or dice.chance(35):
        z = street.crossing - 130 if street.crossing else dice.integer(700, 2600)
        if dice.chance(85):
            street.stand(PAVEMENT, objects.traffic_light, post, z)
    for _ in range(dice.integer(0, 9 if street.style in ("city", "avenue") else 4)):
        z, x = dice.integer(550, 4200), side * (kerb + dice.integer(50, max(60, wide - 30)))
        street.stand(PAVEMENT, objects.person, x, z)
    for _ in range(dice.pick((0, 0, 0, 1, 2, 4))):
        z, x = dice.integer(600, 2600), side * (kerb + dice.integer(30, 110))
        look = {"motor": dice.chance(22), "ridden": False, "crossing": dice.chance(65)}
        street.stand(PAVEMENT, objects.two_wheeler, x, z, **look)


def park(street: Street, dice: Dice, side: int) -> None:
    """Fill the parking lane of one side."""
    x = street.right - 110 if side > 0 else street.left + 110
    z = dice.integer(320, 900)
    while z < 6000:
        if not street.open_at(z - 300, z + 600) and dice.chance(80):
            if dice.chance(2):
                street.add(PARKED, objects.truck_or_bus, x, z, bus=False)
                z += 500
            else:
                street.add(PARKED, objects.car, x, z, oncoming=side < 0 and dice.chance(85))
        z += dice.integer(520, 640)


def drive(street: Street, dice: Dice) -> None:
    """Put traffic on the lanes: oncoming on the left, ahead of us on ours and to the right."""
    far_left = max(street.left + 230 * street.parking[0] + 150, -665)
    for oncoming, nearest, gap in ((True, (600, 2600), 4500), (False, (900, 4200), 5000)):
        z = dice.integer(*nearest)
        while z < 9000:
            x = dice.integer(-20, 20) if not oncoming else -335 if dice.chance(70) else far_left
            _vehicle(street, dice, x, z, oncoming=oncoming)
            z += dice.integer(900, gap)
    if street.right > 400 + 230 * street.parking[1] and dice.chance(60):
        _vehicle(street, dice, 335, dice.integer(600, 3000))


def _vehicle(street: Street, dice: Dice, x: int, z: int, *, oncoming: bool = False) -> None:
    roll = dice.integer(0, 99)
    if roll < 68:
        street.add(LANES, objects.car, x, z, oncoming=oncoming)
    elif roll < 78:
        street.add(LANES, objects.truck_or_bus, x, z, bus=roll >= 72, oncoming=oncoming)
    elif roll < 83:
        street.add(LANES, objects.tram, x, z)
    elif roll < 90:
        street.stand(LANES, objects.two_wheeler, x + 90, z, motor=True, ridden=dice.chance(90), crossing=False)
    else:
        street.stand(LANES, objects.two_wheeler, x + 110, z, motor=False, ridden=True, crossing=False)


def cross(street: Street, dice: Dice) -> None:
    """Let people, riders and cars cross the road ahead."""
    left, right = street.left + 230 * street.parking[0], street.right - 230 * street.parking[1]
    where = street.crossing - 260 if street.crossing else dice.integer(800, 3000)
    if street.crossing or dice.chance(35):
        for _ in range(dice.pick((0, 1, 1, 2, 3, 5))):
            z = where + dice.integer(-120, 120)
            street.stand(LANES, objects.person, dice.integer(left, right), z)
        if dice.chance(34):
            z = where + dice.integer(-150, 250)
            motor, x = dice.chance(25), dice.integer(left, right)
            street.stand(LANES, objects.two_wheeler, x, z, motor=motor, ridden=True, crossing=True)
    if street.crossing and dice.chance(45):
        z = street.crossing + street.cross_width // 3
        street.add(LANES, objects.car, dice.integer(-1200, 900), z, crossing=True)


def paint_bonnet(canvas: Canvas, dice: Dice) -> None:
    """Sometimes show the bonnet of our own car, which has no class (255)."""
    if not dice.chance(35):
        return
    (width, height), paint = canvas.picture.size, dice.colour("car")
    rise = height * dice.integer(3, 9) // 100
    middle = width // 2 - height * dice.integer(0, 15) // 100
    box = (middle - width * 6 // 10, height - rise, middle + width * 6 // 10, height + rise * 4)
    canvas.pen.ellipse(box, (*paint, Id.VOID))
