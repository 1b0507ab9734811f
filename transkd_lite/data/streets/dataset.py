"""A column type for `datasets` whose stored value is one integer and whose decoded value is a drawn picture.

Part of the synthetic `streets` data. Source: this project's own, after `datasets.features.Image`.

Importing this module registers the type, so `datasets.load_from_disk` knows it only after this import.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
from datasets.features.features import register_feature
from PIL import Image

from transkd_lite.data.labels import CITYSCAPES
from transkd_lite.data.streets import NUM_SCENES, SPLITS, Scene, draw_scene, require_known, require_size
from transkd_lite.data.streets.canvas import CONDITIONS

if TYPE_CHECKING:
    import datasets

__all__ = ["StreetPart", "key_of", "open_streets"]


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


def open_streets(
    split: str,
    *,
    size: tuple[int, int] | int | None = (128, 256),
    num: int | None = None,
    seed: int = 0,
    conditions: Sequence[str] | None = None,
) -> datasets.Dataset:
    """Open `num` scenes as a table with the columns image, label and condition.

    Args:
        split: train, val or test.
        size: (height, width); an int n means (n, 2n); None means (128, 256).
        num: how many scenes; None takes 2000, 200 or 500 for train, val and test.
        seed: which family of scenes.
        conditions: keep to these, in turn; None takes all five.

    Returns: a `datasets.Dataset`; a row is {"image": PIL RGB, "label": PIL "L", "condition": str}.

    Raises: ValueError for an unknown split or condition, a negative seed or a `num` below 1.
    """
    import datasets

    require_known(split, SPLITS, "split")
    num = NUM_SCENES[split] if num is None else num
    if num < 1 or seed < 0:
        raise ValueError(f"streets need num >= 1 and seed >= 0, got num={num} and seed={seed}: mend these")
    chosen = CONDITIONS if conditions is None else conditions
    if isinstance(chosen, str) or not chosen:
        raise ValueError(f'conditions is a list of names, got {chosen!r}: pass for example ("fog", "snow")')
    for condition in chosen:
        require_known(condition, CONDITIONS, "condition")
    weather = [chosen[index % len(chosen)] for index in range(num)]
    keys = [key_of(index, name) for index, name in enumerate(weather)]
    height, width = require_size((size, 2 * size) if isinstance(size, int) else size or (128, 256))
    image, label = (StreetPart(seed, split, height, width, part) for part in ("image", "label"))
    features = datasets.Features({"image": image, "label": label, "condition": datasets.Value("string")})
    description = CITYSCAPES.to_json(dataset="streets", split=split)
    info = datasets.DatasetInfo(description=description, features=features)
    return datasets.Dataset.from_dict({"image": keys, "label": keys, "condition": weather}, info=info)
