"""The light and air of a street scene, drawn before anything is painted: one `Mood` a scene.

Part of the synthetic `streets` data. Source: this project's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from transkd_lite.data.labels import Colour, colours
from transkd_lite.data.scene.canvas import Dice

__all__ = ["CONDITIONS", "Mood", "draw_mood"]

BLUE, DARK = colours("568ace 6ea0d8 4678be"), colours("0a0e22 1a1e34 302622")
CONDITIONS = ("clear", "fog", "night", "rain", "snow")


@dataclass(frozen=True)
class Mood:
    """Light and air of one scene; colours are 0..255, gains are 256ths, `visibility` is in cm."""

    condition: str
    haze: Colour
    visibility: int
    zenith: Colour
    clouds: int
    gain: Colour
    shadow: int
    cover: int = 0  # snow on the ground, 256ths
    wet: int = 0  # mirror on the road, 256ths
    grain: int = 3
    ceiling: int = 255

    @property
    def night(self) -> bool:
        return self.condition == "night"


def draw_mood(condition: str, dice: Dice) -> Mood:
    """Return the light of one scene under `condition`, which varies from scene to scene."""
    level, warm = dice.integer(205, 285), dice.integer(-16, 16)
    gain = (level + warm, level, level - warm)
    grey = dice.integer(176, 222)
    air = (grey - dice.integer(0, 10), grey, min(255, grey + dice.integer(0, 10)))
    roll = dice.integer

    def overcast(percent: int) -> Colour:
        value = min(255, grey * percent // 100)
        return value, value, min(255, value + 4)

    if condition == "clear":
        sunny = dice.chance(65)
        zenith = dice.colour(BLUE) if sunny else (grey, grey, grey)
        sight, clouds, shadow = roll(14_000, 40_000), roll(0, 70), roll(110, 160) if sunny else 50
        return Mood(condition, (196, 210, 226), sight, zenith, clouds, gain, shadow)
    if condition == "fog":
        return Mood(condition, air, roll(800, 3000), air, 6, gain, 40)
    if condition == "rain":
        dim = level * roll(68, 94) // 100
        sight, wet = roll(5000, 12_000), roll(90, 170)
        return Mood(condition, air, sight, overcast(90), 40, (dim, dim, dim + 6), 40, wet=wet)
    if condition == "snow":
        sight, cover = roll(3500, 10_000), roll(110, 250)
        return Mood(condition, (214, 218, 224), sight, overcast(104), 20, gain, 45, cover=cover)
    dark, tint, sky = roll(98, 172), roll(-4, 18), dice.pick(DARK)
    gain = (dark + tint, dark, dark - tint // 2)
    return Mood(condition, sky, roll(7000, 16_000), sky, 14, gain, 60, grain=8, ceiling=206)
