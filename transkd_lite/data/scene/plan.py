"""The plan of one street: how wide its lanes and pavements are, where it is crossed, what stands where.

Part of the synthetic `streets` data. Source: this project's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from transkd_lite.data.scene.canvas import NEAR, Canvas, Dice
from transkd_lite.data.scene.weather import Mood

__all__ = ["FRONT", "GARDEN", "LANES", "PARKED", "PAVEMENT", "Street", "plan_street"]

# Columns from the outside to the inside: what stands in a later one is painted over the earlier.
FRONT, GARDEN, PAVEMENT, PARKED, LANES = range(5)


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

    def add(self, column: int, draw: Callable[..., None], x: int, z: int, *far: int, **options: Any) -> None:
        """Plan one thing at (x, z), or from z to `far`; it gets dice of its own."""
        dice = self.dice.fork()
        thing = partial(draw, self.canvas, dice, x, z, *far, **options)
        self.things.append((column, -z, len(self.things), thing))

    def stand(self, column: int, draw: Callable[..., None], x: int, z: int, **options: Any) -> None:
        """Plan one upright thing at (x, z), unless it is out of sight."""
        camera = self.canvas.camera
        aside = abs(camera.point(x, 0, z)[0] * 2 - camera.width)
        if aside < camera.width + 900 * camera.focal // max(z, NEAR):
            self.add(column, draw, x, z, **options)
        else:
            self.dice.fork()  # the same draws, seen or not

    def open_at(self, z0: int, z1: int) -> bool:
        """Tell whether [z0, z1] touches the side street."""
        return bool(self.crossing) and z0 < self.crossing + self.cross_width and z1 > self.crossing


def plan_street(canvas: Canvas, dice: Dice, mood: Mood) -> Street:
    style = dice.pick(("city", "city", "city", "avenue", "avenue", "suburb", "suburb", "industry", "park"))
    street = Street(canvas, dice, mood, style)
    street.parking = dice.chance(45), dice.chance(48)
    street.left = -(170 + 330 * dice.pick((1, 1, 1, 2)) + 230 * street.parking[0] + dice.integer(0, 80))
    street.right = 170 + 330 * dice.pick((0, 0, 0, 1)) + 230 * street.parking[1] + dice.integer(0, 80)
    street.pavement = dice.integer(180, 620), dice.integer(180, 620)
    if dice.chance(45):
        street.crossing, street.cross_width = dice.integer(1100, 5000), dice.integer(650, 1100)
    return street
