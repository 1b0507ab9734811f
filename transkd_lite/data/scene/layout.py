"""How a street is laid out: lanes, kerbs, fronts on both sides, traffic; what is drawn in which order.

Part of the synthetic `streets` data (see `streets`). Source: this project's own.

The order is exact for upright things: a plane along the street separates two columns, and what stands on the camera's
side of it can only hide, never be hidden. So columns go outside to inside, and far to near within a column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from transkd_lite.data.scene import scenery, traffic
from transkd_lite.data.scene.canvas import FAR, NEAR, Camera, Canvas, Colour, Dice, shade
from transkd_lite.data.scene.weather import Mood

__all__ = ["paint_street"]

ROAD, SIDEWALK, TERRAIN, SKY, IGNORE = 0, 1, 9, 10, 255
FRONT, GARDEN, PAVEMENT, PARKED, LANES = range(5)

ASPHALT: tuple[Colour, ...] = ((92, 92, 94), (76, 78, 82), (112, 110, 106), (100, 94, 92), (126, 122, 118))
PAVING: tuple[Colour, ...] = (
    (138, 132, 128),
    (118, 114, 112),
    (156, 146, 138),
    (130, 112, 104),
    (106, 106, 110),
)
GRASS: tuple[Colour, ...] = (
    (96, 116, 58),
    (118, 124, 66),
    (80, 104, 56),
    (130, 116, 82),
    (112, 96, 74),
    (146, 138, 96),
)
MARKING: tuple[Colour, ...] = ((206, 206, 200), (180, 180, 174), (214, 196, 120))

# What lines a street of each style: percent of facade, wall, fence, hedge (the rest: open ground with trees).
STYLES = {
    "city": (86, 4, 3, 2),
    "avenue": (62, 6, 6, 8),
    "suburb": (42, 10, 16, 18),
    "industry": (36, 24, 22, 4),
    "park": (14, 12, 14, 22),
}


@dataclass
class Street:
    """The plan of one scene; lengths in cm, x from the camera; `things` are (column, -z, order, draw)."""

    canvas: Canvas
    dice: Dice
    mood: Mood
    style: str
    left: int = 0
    right: int = 0
    parking: tuple[bool, bool] = (False, False)
    pavement: tuple[int, int] = (200, 200)
    crossing: int = 0
    cross_width: int = 0
    things: list[tuple[int, int, int, Callable[[], None]]] = field(default_factory=list)

    def add(self, column: int, z: int, draw: Callable[..., None], *args: int, **options: bool | int) -> None:
        """Plan one thing at distance `z`; it gets dice of its own."""
        dice = self.dice.fork()
        self.things.append((column, -z, len(self.things), lambda: draw(self.canvas, dice, *args, **options)))

    def stand(
        self, column: int, x: int, z: int, draw: Callable[..., None], *args: int, **options: bool | int
    ) -> None:
        """Plan one upright thing at (x, z), unless it is out of sight."""
        dice, camera = self.dice.fork(), self.canvas.camera
        if abs(camera.point(x, 0, z)[0] * 2 - camera.width) < camera.width + 900 * camera.focal // max(
            z, NEAR
        ):
            self.things.append(
                (column, -z, len(self.things), lambda: draw(self.canvas, dice, x, z, *args, **options))
            )

    def open_at(self, z0: int, z1: int) -> bool:
        """Tell whether [z0, z1] touches the side street."""
        return bool(self.crossing) and z0 < self.crossing + self.cross_width and z1 > self.crossing


def paint_street(size: tuple[int, int], mood: Mood, dice: Dice) -> Canvas:
    """Return a canvas of `size` (height, width) with one street painted on it."""
    canvas = Canvas(Camera(size, dice), mood.haze, mood.visibility, mood.ceiling)
    street = _plan(canvas, dice, mood)
    _paint_ground(street)
    scenery.skyline(canvas, dice.fork())
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


def _plan(canvas: Canvas, dice: Dice, mood: Mood) -> Street:
    style = dice.pick(("city", "city", "city", "avenue", "avenue", "suburb", "suburb", "industry", "park"))
    street = Street(canvas, dice, mood, style)
    street.parking = dice.chance(45), dice.chance(48)
    street.left = -(170 + 330 * dice.pick((1, 1, 1, 2)) + 230 * street.parking[0] + dice.integer(0, 80))
    street.right = 170 + 330 * dice.pick((0, 0, 0, 1)) + 230 * street.parking[1] + dice.integer(0, 80)
    street.pavement = dice.integer(180, 620), dice.integer(180, 620)
    if dice.chance(45):
        street.crossing, street.cross_width = dice.integer(1100, 5000), dice.integer(650, 1100)
    return street


def _paint_ground(street: Street) -> None:
    """Paint sky, verge, pavement, road and what is painted on the road."""
    canvas, dice, camera = street.canvas, street.dice.fork(), street.canvas.camera
    asphalt, grass = dice.colour(ASPHALT), dice.colour(GRASS)
    # A pavement of asphalt, or of the road's own stone, can be told from the road by its kerb alone.
    paved = dice.chance(65)
    paving = dice.colour(PAVING) if paved else dice.colour((asphalt, ASPHALT[0]), 10)
    canvas.pen.rectangle((0, 0, camera.width, camera.height), (*street.mood.haze, SKY))
    urban = street.style == "city" or (street.style == "avenue" and dice.chance(60))
    base = (*paving, SIDEWALK) if urban else (*grass, TERRAIN)
    canvas.pen.rectangle((0, camera.horizon + 1, camera.width, camera.height), base)
    for x0, x1 in (
        (street.left - street.pavement[0], street.left),
        (street.right, street.right + street.pavement[1]),
    ):
        canvas.ground(x0, x1, NEAR, FAR, paving, SIDEWALK)
        if paved:
            _slabs(canvas, x0, x1, shade(paving, 84))
    canvas.ground(street.left, street.right, NEAR, FAR, asphalt, ROAD)
    if street.crossing:
        canvas.ground(-12_000, 12_000, street.crossing, street.crossing + street.cross_width, asphalt, ROAD)
    for kerb in (street.left, street.right):
        for z0, z1 in ((NEAR, street.crossing or 6000), (street.crossing + street.cross_width, 6000)):
            if z1 > z0:
                canvas.ground(kerb - 9, kerb + 9, z0, z1, shade(paving, 122), SIDEWALK)
    if street.style in ("avenue", "suburb") and dice.chance(50):
        for x in (street.left - 130, street.right + 10):
            canvas.ground(x, x + 120, NEAR, street.crossing or 5000, grass, TERRAIN)
    _mark(street, dice, asphalt)


def _slabs(canvas: Canvas, x0: int, x1: int, joint: Colour) -> None:
    """Draw the joints of paving slabs across a pavement."""
    for z in range(330, 2000, 120):
        canvas.pen.line((canvas.camera.point(x0, 0, z), canvas.camera.point(x1, 0, z)), (*joint, SIDEWALK))


def _mark(street: Street, dice: Dice, asphalt: Colour) -> None:
    """Paint lane lines, patches, tracks, a zebra crossing and the shadow of the houses on the road."""
    canvas, paint = street.canvas, dice.colour(MARKING, 8)
    for _ in range(dice.integer(0, 3)):
        x, z = dice.integer(street.left, street.right - 150), dice.integer(350, 2500)
        canvas.ground(
            x,
            x + dice.integer(80, 240),
            z,
            z + dice.integer(80, 700),
            shade(asphalt, dice.integer(78, 116)),
            ROAD,
        )
    end = street.crossing - 450 if street.crossing else 9000
    solid = dice.chance(20)
    lines = list(range(-170, street.left + 120, -330)) + list(range(170, street.right - 120, 330))
    for x in lines:
        if solid and x == -170:
            canvas.ground(x - 8, x + 8, NEAR, end, paint, ROAD)
            continue
        for z in range(250 + dice.integer(0, 500), min(end, 7000), 900):
            canvas.ground(x - 7, x + 7, z, z + 330, paint, ROAD)
    if street.crossing or dice.chance(20):
        near = street.crossing - 420 if street.crossing else dice.integer(700, 2500)
        for x in range(street.left + 30, street.right - 40, 100):
            canvas.ground(x, x + 50, near, near + 320, paint, ROAD)
        canvas.ground(-150, street.right - 20, near - 140, near - 100, paint, ROAD)
    low = dice.integer(0, 100)
    if low < 60:
        side = 1 if low < 30 else -1
        reach = dice.integer(100, 900)
        inner, outer = (
            (street.right - reach, street.right + 900)
            if side > 0
            else (street.left - 900, street.left + reach)
        )
        for z in range(NEAR, 9000, 1500):
            if not dice.chance(25):
                canvas.cast(inner, outer, z, z + dice.integer(900, 1500), 200)


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
                scenery.facade,
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
                scenery.wall
                if roll < facades + walls
                else scenery.fence
                if roll < facades + walls + fences
                else scenery.hedge
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
            street.stand(GARDEN, x, z, scenery.tree, bare=bare)
        else:
            street.stand(GARDEN, x, z, scenery.bush)


def _furnish(street: Street, side: int) -> None:
    """Put poles, lamps, signs, trees, people and bicycles on one pavement."""
    dice, mood = street.dice.fork(), street.mood
    kerb = street.right if side > 0 else -street.left
    wide = street.pavement[1 if side > 0 else 0]
    post = side * (kerb + 40)
    trees = dice.chance(80 if street.style in ("avenue", "park", "suburb") else 40)
    bare = mood.condition == "snow" and dice.chance(70)
    for z in range(dice.integer(500, 1500), 8000, dice.integer(1500, 2600)):
        street.stand(PAVEMENT, post, z, scenery.street_lamp, night=mood.night)
    for z in range(dice.integer(700, 1600), 7000, dice.integer(700, 1400)):
        if trees and not street.open_at(z - 200, z + 200):
            street.stand(PAVEMENT, side * (kerb + 90), z, scenery.tree, bare=bare)
    for _ in range(dice.integer(0, 4)):
        street.stand(PAVEMENT, post, dice.integer(700, 3600), scenery.sign)
    if street.crossing or dice.chance(35):
        z = street.crossing - 130 if street.crossing else dice.integer(700, 2600)
        if dice.chance(85):
            street.stand(PAVEMENT, post, z, scenery.traffic_light)
    for _ in range(dice.integer(0, 9) if street.style in ("city", "avenue") else dice.integer(0, 4)):
        z, x = dice.integer(550, 4200), side * (kerb + dice.integer(50, max(60, wide - 30)))
        street.stand(PAVEMENT, x, z, traffic.person)
    for _ in range(dice.pick((0, 0, 0, 1, 2, 4))):
        z, x = dice.integer(600, 2600), side * (kerb + dice.integer(30, 110))
        kind = traffic.motorcycle if dice.chance(22) else traffic.bicycle
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
                street.add(PARKED, z, traffic.truck_or_bus, x, z, bus=False, oncoming=False)
                z += 500
            else:
                street.add(PARKED, z, traffic.car, x, z, oncoming=side < 0 and dice.chance(85))
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
        street.add(LANES, z, traffic.car, x, z, oncoming=oncoming)
    elif roll < 72:
        street.add(LANES, z, traffic.truck_or_bus, x, z, bus=False, oncoming=oncoming)
    elif roll < 78:
        street.add(LANES, z, traffic.truck_or_bus, x, z, bus=True, oncoming=oncoming)
    elif roll < 83:
        street.add(LANES, z, traffic.tram, x, z)
    elif roll < 90:
        street.stand(LANES, x + 90, z, traffic.motorcycle, ridden=dice.chance(90), crossing=False)
    else:
        street.stand(LANES, x + 110, z, traffic.bicycle, ridden=True, crossing=False)


def _cross(street: Street) -> None:
    """Let people, riders and cars cross the road ahead."""
    dice = street.dice.fork()
    left, right = street.left + 230 * street.parking[0], street.right - 230 * street.parking[1]
    where = street.crossing - 260 if street.crossing else dice.integer(800, 3000)
    if street.crossing or dice.chance(35):
        for _ in range(dice.pick((0, 1, 1, 2, 3, 5))):
            z = where + dice.integer(-120, 120)
            street.stand(LANES, dice.integer(left, right), z, traffic.person)
        if dice.chance(34):
            z = where + dice.integer(-150, 250)
            kind = traffic.motorcycle if dice.chance(25) else traffic.bicycle
            street.stand(LANES, dice.integer(left, right), z, kind, ridden=True, crossing=True)
    if street.crossing and dice.chance(45):
        z = street.crossing + street.cross_width // 3
        street.add(LANES, z, traffic.car, dice.integer(-1200, 900), z, crossing=True)


def _paint_bonnet(street: Street) -> None:
    """Sometimes show the bonnet of our own car, which has no class (255)."""
    dice, camera = street.dice.fork(), street.canvas.camera
    if not dice.chance(35):
        return
    paint = dice.colour(traffic.PAINT)
    rise, width, height = camera.height * dice.integer(3, 9) // 100, camera.width, camera.height
    middle = camera.width // 2 - camera.height * dice.integer(0, 15) // 100
    box = (middle - width * 6 // 10, height - rise, middle + width * 6 // 10, height + rise * 4)
    street.canvas.pen.ellipse(box, (*paint, IGNORE))
