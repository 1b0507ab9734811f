"""A column type for `datasets` whose stored value is one integer and whose decoded value is a drawn picture.

Part of the synthetic `streets` data. Source: this project's own, after `datasets.features.Image`.

Importing this module registers the type, so `datasets.load_from_disk` knows it only after this import.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import pyarrow as pa
from datasets.features.features import register_feature
from PIL import Image

from transkd_lite.data.streets import CONDITIONS, Scene, draw_scene

__all__ = ["StreetPart", "key_of"]


@dataclass
class StreetPart:
    """One part ("image" or "label") of the scenes of one seed, split and size; a value is `key_of` a scene."""

    seed: int
    split: str
    height: int
    width: int
    part: str
    dtype: ClassVar[str] = "PIL.Image.Image"
    pa_type: ClassVar[Any] = pa.int64()
    _type: str = field(default="StreetPart", init=False, repr=False)

    def __call__(self) -> Any:
        """Return the Arrow type of what is stored."""
        return self.pa_type

    def encode_example(self, value: int) -> int:
        """Return what is stored for a scene: its key."""
        return int(value)

    def decode_example(self, value: int, token_per_repo_id: Any = None) -> Image.Image:
        """Draw the scene of a key: an RGB picture, or an 8-bit one of train ids."""
        scene = _draw(value, self.seed, self.split, self.height, self.width)
        return Image.fromarray(scene.image if self.part == "image" else scene.label)


def key_of(index: int, condition: str) -> int:
    """Return the integer that names scene `index` in the given weather.

    >>> key_of(7, "fog")
    36
    """
    return index * len(CONDITIONS) + CONDITIONS.index(condition)


@lru_cache(maxsize=64)
def _draw(key: int, seed: int, split: str, height: int, width: int) -> Scene:
    # Kept, so that the image and the label of one row cost one drawing.
    index, weather = divmod(key, len(CONDITIONS))
    return draw_scene(seed, index, (height, width), CONDITIONS[weather], split=split)


with warnings.catch_warnings():
    # The function calls itself experimental; the tests would notice if it changed.
    warnings.simplefilter("ignore", UserWarning)
    register_feature(StreetPart, "StreetPart")
