"""How a street is laid out: lanes, kerbs, fronts on both sides, traffic; what is drawn in which order.

Part of the synthetic `streets` data (see `streets`). Source: this project's own.

The order is exact for upright things: a plane along the street separates two columns, and what stands on the camera's
side of it can only hide, never be hidden. So columns go outside to inside, and far to near within a column.
"""

from __future__ import annotations

from itertools import accumulate

from transkd_lite.data.scene import buildings, people, roadside, vehicles
from transkd_lite.data.scene.canvas import Camera, Canvas, Dice, Id
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
        line_side(street, side)
        furnish(street, side)
        park(street, side)
    drive(street)
    cross(street)
    for *_, draw in sorted(street.things, key=lambda thing: thing[:3]):
        draw()
    paint_bonnet(street)
    return canvas


def line_side(street: Street, side: int) -> None:
    """Stand houses, walls, fences, hedges and trees along one side, out of the way of the side street."""
    dice, night = street.dice.fork(), street.mood.night
    edge = street.right + street.pavement[1] if side > 0 else street.pavement[0] - street.left
    facades, walls, fences, hedges = accumulate(STYLES[street.style])
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
            look = {
                "height": tall,
                "gable": tall < 1100 and dice.chance(55),
                "night": night,
                "exposed": exposed,
            }
            street.add(FRONT, buildings.facade, side * (edge + setback), z, end - 10, **look)
            roll = dice.integer(facades, 140) if setback > 120 else 100
        if roll < hedges:
            kind = buildings.wall if roll < walls else buildings.fence if roll < fences else roadside.hedge
            street.add(GARDEN, kind, side * (edge + 10), z, end)
        elif roll < 100 or setback > 400:
            _grove(street, dice, side, edge, setback, z, end)
        exposed = is_open or dice.chance(25)
        z = end + (dice.integer(100, 700) if exposed else 0)


def _grove(street: Street, dice: Dice, side: int, edge: int, setback: int, z0: int, z1: int) -> None:
    """Plant trees and bushes on open ground."""
    bare = street.mood.condition == "snow" and dice.chance(60)
    for z in range(z0 + 100, z1, dice.integer(350, 800)):
        x = side * (edge + dice.integer(80, 300 + setback // 2))
        if dice.chance(60):
            street.stand(GARDEN, roadside.tree, x, z, bare=bare)
        else:
            street.stand(GARDEN, roadside.bush, x, z)


def furnish(street: Street, side: int) -> None:
    """Put poles, lamps, signs, trees, people and bicycles on one pavement."""
    dice, mood = street.dice.fork(), street.mood
    kerb = street.right if side > 0 else -street.left
    wide, post = street.pavement[side > 0], side * (kerb + 40)
    trees = dice.chance(80 if street.style in ("avenue", "park", "suburb") else 40)
    bare = mood.condition == "snow" and dice.chance(70)
    for z in range(dice.integer(500, 1500), 8000, dice.integer(1500, 2600)):
        street.stand(PAVEMENT, roadside.street_lamp, post, z, night=mood.night)
    for z in range(dice.integer(700, 1600), 7000, dice.integer(700, 1400)):
        if trees and not street.open_at(z - 200, z + 200):
            street.stand(PAVEMENT, roadside.tree, side * (kerb + 90), z, bare=bare)
    for _ in range(dice.integer(0, 4)):
        street.stand(PAVEMENT, roadside.sign, post, dice.integer(700, 3600))
    if street.crossing or dice.chance(35):
        z = street.crossing - 130 if street.crossing else dice.integer(700, 2600)
        if dice.chance(85):
            street.stand(PAVEMENT, roadside.traffic_light, post, z)
    for _ in range(dice.integer(0, 9 if street.style in ("city", "avenue") else 4)):
        z, x = dice.integer(550, 4200), side * (kerb + dice.integer(50, max(60, wide - 30)))
        street.stand(PAVEMENT, people.person, x, z)
    for _ in range(dice.pick((0, 0, 0, 1, 2, 4))):
        z, x = dice.integer(600, 2600), side * (kerb + dice.integer(30, 110))
        kind = people.motorcycle if dice.chance(22) else people.bicycle
        street.stand(PAVEMENT, kind, x, z, ridden=False, crossing=dice.chance(65))


def park(street: Street, side: int) -> None:
    """Fill the parking lane of one side, where there is one."""
    if not street.parking[side > 0]:
        return
    dice = street.dice.fork()
    x = street.right - 110 if side > 0 else street.left + 110
    z = dice.integer(320, 900)
    while z < 6000:
        if not street.open_at(z - 300, z + 600) and dice.chance(80):
            if dice.chance(2):
                street.add(PARKED, vehicles.truck_or_bus, x, z, bus=False)
                z += 500
            else:
                street.add(PARKED, vehicles.car, x, z, oncoming=side < 0 and dice.chance(85))
        z += dice.integer(520, 640)


def drive(street: Street) -> None:
    """Put traffic on the lanes: oncoming on the left, ahead of us on ours and to the right."""
    dice = street.dice.fork()
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
        street.add(LANES, vehicles.car, x, z, oncoming=oncoming)
    elif roll < 78:
        street.add(LANES, vehicles.truck_or_bus, x, z, bus=roll >= 72, oncoming=oncoming)
    elif roll < 83:
        street.add(LANES, vehicles.tram, x, z)
    elif roll < 90:
        street.stand(LANES, people.motorcycle, x + 90, z, ridden=dice.chance(90), crossing=False)
    else:
        street.stand(LANES, people.bicycle, x + 110, z, ridden=True, crossing=False)


def cross(street: Street) -> None:
    """Let people, riders and cars cross the road ahead."""
    dice = street.dice.fork()
    left, right = street.left + 230 * street.parking[0], street.right - 230 * street.parking[1]
    where = street.crossing - 260 if street.crossing else dice.integer(800, 3000)
    if street.crossing or dice.chance(35):
        for _ in range(dice.pick((0, 1, 1, 2, 3, 5))):
            z = where + dice.integer(-120, 120)
            street.stand(LANES, people.person, dice.integer(left, right), z)
        if dice.chance(34):
            z = where + dice.integer(-150, 250)
            kind = people.motorcycle if dice.chance(25) else people.bicycle
            street.stand(LANES, kind, dice.integer(left, right), z, ridden=True, crossing=True)
    if street.crossing and dice.chance(45):
        z = street.crossing + street.cross_width // 3
        street.add(LANES, vehicles.car, dice.integer(-1200, 900), z, crossing=True)


def paint_bonnet(street: Street) -> None:
    """Sometimes show the bonnet of our own car, which has no class (255)."""
    dice, camera = street.dice.fork(), street.canvas.camera
    if not dice.chance(35):
        return
    paint = dice.colour(vehicles.PAINT)
    rise, width, height = camera.height * dice.integer(3, 9) // 100, camera.width, camera.height
    middle = camera.width // 2 - camera.height * dice.integer(0, 15) // 100
    box = (middle - width * 6 // 10, height - rise, middle + width * 6 // 10, height + rise * 4)
    street.canvas.pen.ellipse(box, (*paint, Id.VOID))
