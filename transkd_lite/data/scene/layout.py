"""How a street is laid out: lanes, kerbs, fronts on both sides, traffic; what is drawn in which order.

Part of the synthetic `streets` data (see `streets`). Source: this project's own.

The order is exact for upright things: a plane along the street separates two columns, and what stands on the camera's
side of it can only hide, never be hidden. So columns go outside to inside, and far to near within a column.
"""

from __future__ import annotations

from transkd_lite.data.scene import buildings, people, roadside, vehicles
from transkd_lite.data.scene.canvas import VOID, Camera, Canvas, Dice
from transkd_lite.data.scene.ground import paint_ground
from transkd_lite.data.scene.plan import FRONT, GARDEN, LANES, PARKED, PAVEMENT, Street, plan_street
from transkd_lite.data.scene.weather import Mood

__all__ = ["paint_street"]

# What lines a street of each style: percent of facade, wall, fence, hedge (the rest: open ground with trees).
STYLES = {
    "city": (86, 4, 3, 2),
    "avenue": (62, 6, 6, 8),
    "suburb": (42, 10, 16, 18),
    "industry": (36, 24, 22, 4),
    "park": (14, 12, 14, 22),
}


def paint_street(size: tuple[int, int], mood: Mood, dice: Dice) -> Canvas:
    """Return a canvas of `size` (height, width) with one street painted on it."""
    canvas = Canvas(Camera(size, dice), mood.haze, mood.visibility, mood.ceiling)
    street = plan_street(canvas, dice, mood)
    paint_ground(street)
    buildings.skyline(canvas, dice.fork())
    for side in (-1, 1):
        _line_side(street, side)
        _furnish(street, side)
        _park(street, side)
    _drive(street)
    _cross(street)
    for *_, draw in sorted(street.things, key=lambda thing: thing[:3]):
        draw()
    _paint_bonnet(street)
    return canvas


def _line_side(street: Street, side: int) -> None:
    """Stand houses, walls, fences, hedges and trees along one side, out of the way of the side street."""
    dice, night = street.dice.fork(), street.mood.night
    edge = street.right + street.pavement[1] if side > 0 else street.pavement[0] - street.left
    facades, walls, fences, hedges = STYLES[street.style]
    setback = 0 if street.style == "city" else dice.integer(0, 900)
    height = dice.integer(700, 2600) if street.style != "suburb" else dice.integer(420, 800)
    z = dice.integer(150, 500)
    exposed = True
    while z < 14_000:
        end = z + dice.integer(800, 2600) + z // 6
        if street.open_at(z, end):
            end = street.crossing - 60
            if end - z < 500:
                z = street.crossing + street.cross_width + dice.integer(200, 500)
                exposed = True
                continue
        roll = dice.integer(0, 99)
        roll_was_open = roll >= facades
        if roll < facades:
            tall = max(380, height * dice.integer(70, 130) // 100)
            gable = tall < 1100 and dice.chance(55)
            street.add(
                FRONT,
                z,
                buildings.facade,
                side * (edge + setback),
                z,
                end - 10,
                height=tall,
                gable=gable,
                night=night,
                exposed=exposed,
            )
            roll = dice.integer(facades, 140) if setback > 120 else 100
        if roll < facades + walls + fences + hedges:
            kind = (
                buildings.wall
                if roll < facades + walls
                else buildings.fence
                if roll < facades + walls + fences
                else roadside.hedge
            )
            street.add(GARDEN, z, kind, side * (edge + 10), z, end)
        elif roll < 100 or setback > 400:
            _grove(street, dice, side, edge, setback, z, end)
        exposed = roll_was_open or dice.chance(25)
        z = end + (dice.integer(100, 700) if exposed else 0)


def _grove(street: Street, dice: Dice, side: int, edge: int, setback: int, z0: int, z1: int) -> None:
    """Plant trees and bushes on open ground."""
    bare = street.mood.condition == "snow" and dice.chance(60)
    for z in range(z0 + 100, z1, dice.integer(350, 800)):
        x = side * (edge + dice.integer(80, 300 + setback // 2))
        if dice.chance(60):
            street.stand(GARDEN, x, z, roadside.tree, bare=bare)
        else:
            street.stand(GARDEN, x, z, roadside.bush)


def _furnish(street: Street, side: int) -> None:
    """Put poles, lamps, signs, trees, people and bicycles on one pavement."""
    dice, mood = street.dice.fork(), street.mood
    kerb = street.right if side > 0 else -street.left
    wide = street.pavement[1 if side > 0 else 0]
    post = side * (kerb + 40)
    trees = dice.chance(80 if street.style in ("avenue", "park", "suburb") else 40)
    bare = mood.condition == "snow" and dice.chance(70)
    for z in range(dice.integer(500, 1500), 8000, dice.integer(1500, 2600)):
        street.stand(PAVEMENT, post, z, roadside.street_lamp, night=mood.night)
    for z in range(dice.integer(700, 1600), 7000, dice.integer(700, 1400)):
        if trees and not street.open_at(z - 200, z + 200):
            street.stand(PAVEMENT, side * (kerb + 90), z, roadside.tree, bare=bare)
    for _ in range(dice.integer(0, 4)):
        street.stand(PAVEMENT, post, dice.integer(700, 3600), roadside.sign)
    if street.crossing or dice.chance(35):
        z = street.crossing - 130 if street.crossing else dice.integer(700, 2600)
        if dice.chance(85):
            street.stand(PAVEMENT, post, z, roadside.traffic_light)
    for _ in range(dice.integer(0, 9) if street.style in ("city", "avenue") else dice.integer(0, 4)):
        z, x = dice.integer(550, 4200), side * (kerb + dice.integer(50, max(60, wide - 30)))
        street.stand(PAVEMENT, x, z, people.person)
    for _ in range(dice.pick((0, 0, 0, 1, 2, 4))):
        z, x = dice.integer(600, 2600), side * (kerb + dice.integer(30, 110))
        kind = people.motorcycle if dice.chance(22) else people.bicycle
        street.stand(PAVEMENT, x, z, kind, ridden=False, crossing=dice.chance(65))


def _park(street: Street, side: int) -> None:
    """Fill the parking lane of one side, where there is one."""
    if not street.parking[1 if side > 0 else 0]:
        return
    dice = street.dice.fork()
    x = street.right - 110 if side > 0 else street.left + 110
    z = dice.integer(320, 900)
    while z < 6000:
        if not street.open_at(z - 300, z + 600) and dice.chance(80):
            if dice.chance(2):
                street.add(PARKED, z, vehicles.truck_or_bus, x, z, bus=False, oncoming=False)
                z += 500
            else:
                street.add(PARKED, z, vehicles.car, x, z, oncoming=side < 0 and dice.chance(85))
        z += dice.integer(520, 640)


def _drive(street: Street) -> None:
    """Put traffic on the lanes: oncoming on the left, ahead of us on ours and to the right."""
    dice = street.dice.fork()
    first_left = -335
    last_left = street.left + 230 * street.parking[0] + 150
    z = dice.integer(600, 2600)
    while z < 9000:
        _vehicle(street, dice, first_left if dice.chance(70) else max(last_left, -665), z, oncoming=True)
        z += dice.integer(900, 4500)
    z = dice.integer(900, 4200)
    while z < 9000:
        _vehicle(street, dice, dice.integer(-20, 20), z, oncoming=False)
        z += dice.integer(900, 5000)
    if street.right > 600 + 230 * street.parking[1] - 200 and dice.chance(60):
        z = dice.integer(600, 3000)
        _vehicle(street, dice, 335, z, oncoming=False)


def _vehicle(street: Street, dice: Dice, x: int, z: int, *, oncoming: bool) -> None:
    roll = dice.integer(0, 99)
    if roll < 68:
        street.add(LANES, z, vehicles.car, x, z, oncoming=oncoming)
    elif roll < 72:
        street.add(LANES, z, vehicles.truck_or_bus, x, z, bus=False, oncoming=oncoming)
    elif roll < 78:
        street.add(LANES, z, vehicles.truck_or_bus, x, z, bus=True, oncoming=oncoming)
    elif roll < 83:
        street.add(LANES, z, vehicles.tram, x, z)
    elif roll < 90:
        street.stand(LANES, x + 90, z, people.motorcycle, ridden=dice.chance(90), crossing=False)
    else:
        street.stand(LANES, x + 110, z, people.bicycle, ridden=True, crossing=False)


def _cross(street: Street) -> None:
    """Let people, riders and cars cross the road ahead."""
    dice = street.dice.fork()
    left, right = street.left + 230 * street.parking[0], street.right - 230 * street.parking[1]
    where = street.crossing - 260 if street.crossing else dice.integer(800, 3000)
    if street.crossing or dice.chance(35):
        for _ in range(dice.pick((0, 1, 1, 2, 3, 5))):
            z = where + dice.integer(-120, 120)
            street.stand(LANES, dice.integer(left, right), z, people.person)
        if dice.chance(34):
            z = where + dice.integer(-150, 250)
            kind = people.motorcycle if dice.chance(25) else people.bicycle
            street.stand(LANES, dice.integer(left, right), z, kind, ridden=True, crossing=True)
    if street.crossing and dice.chance(45):
        z = street.crossing + street.cross_width // 3
        street.add(LANES, z, vehicles.car, dice.integer(-1200, 900), z, crossing=True)


def _paint_bonnet(street: Street) -> None:
    """Sometimes show the bonnet of our own car, which has no class (255)."""
    dice, camera = street.dice.fork(), street.canvas.camera
    if not dice.chance(35):
        return
    paint = dice.colour(vehicles.PAINT)
    rise, width, height = camera.height * dice.integer(3, 9) // 100, camera.width, camera.height
    middle = camera.width // 2 - camera.height * dice.integer(0, 15) // 100
    box = (middle - width * 6 // 10, height - rise, middle + width * 6 // 10, height + rise * 4)
    street.canvas.pen.ellipse(box, (*paint, VOID))
