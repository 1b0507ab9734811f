"""The light and air of a street scene, drawn before anything is painted: one `Mood` a scene.

Part of the synthetic `streets` data. Source: this project's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from transkd_lite.data.scene.canvas import Colour, Dice

__all__ = ["CONDITIONS", "Mood", "draw_mood"]

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
    if condition == "clear":
        sunny = dice.chance(65)
        zenith = (
            dice.colour(((86, 138, 206), (110, 160, 216), (70, 120, 190))) if sunny else (grey, grey, grey)
        )
        return Mood(
            condition,
            (196, 210, 226),
            dice.integer(14_000, 40_000),
            zenith,
            dice.integer(0, 70),
            gain,
            dice.integer(110, 160) if sunny else 50,
        )
    if condition == "fog":
        return Mood(condition, air, dice.integer(800, 3000), air, 6, gain, 40)
    if condition == "rain":
        dim = level * dice.integer(68, 94) // 100
        return Mood(
            condition,
            air,
            dice.integer(5000, 12_000),
            _grey(grey, 90),
            40,
            (dim, dim, dim + 6),
            40,
            wet=dice.integer(90, 170),
        )
    if condition == "snow":
        return Mood(
            condition,
            (214, 218, 224),
            dice.integer(3500, 10_000),
            _grey(grey, 104),
            20,
            gain,
            45,
            cover=dice.integer(110, 250),
        )
    dark = dice.integer(98, 172)
    tint = dice.integer(-4, 18)
    sky = dice.pick(((10, 14, 34), (26, 30, 52), (48, 38, 34)))
    return Mood(
        condition,
        sky,
        dice.integer(7000, 16_000),
        sky,
        14,
        (dark + tint, dark, dark - tint // 2),
        60,
        grain=8,
        ceiling=206,
    )


def _grey(level: int, percent: int) -> Colour:
    """Return a grey at `percent` of `level`."""
    value = min(255, level * percent // 100)
    return value, value, min(255, value + 4)
