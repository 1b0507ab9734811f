"""The synthetic streets as a table of `datasets`: it stores one integer a scene, which is drawn when its row is read.

Source: this project's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from PIL import Image

from transkd_lite.data.decoding import Size
from transkd_lite.data.labels import CITYSCAPES
from transkd_lite.data.streets import NUM_SCENES, SPLITS, draw_scene, require_known, require_size
from transkd_lite.data.streets.canvas import CONDITIONS

if TYPE_CHECKING:
    import datasets

__all__ = ["SceneDecoder", "open_streets"]


_drawn = lru_cache(maxsize=256)(draw_scene)  # a validation split that is scored every few steps is drawn once


@dataclass(frozen=True)
class SceneDecoder:
    """Turns a batch of table rows into PIL images of one seed, split and size; `datasets` calls it at every access.

    What the columns image and label store is the scene's index, times five, plus the number of its condition.
    """

    seed: int
    split: str
    size: tuple[int, int]

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        kinds = [kind for kind in ("image", "label") if kind in batch]
        keys = [divmod(key, len(CONDITIONS)) for key in (batch[kinds[0]] if kinds else ())]
        scenes = [_drawn(self.seed, k, self.size, CONDITIONS[weather], split=self.split) for k, weather in keys]
        return batch | {kind: [Image.fromarray(getattr(scene, kind)) for scene in scenes] for kind in kinds}


def open_streets(
    split: str, size: Size = (128, 256), num: int | None = None, seed: int = 0, conditions: Sequence[str] | None = None
) -> "datasets.Dataset":
    """Open `num` scenes as a table with the columns image, label and condition.

    split: train, val or test.
    size: (height, width); an int n means (n, 2n); None means (128, 256).
    num: how many scenes; None takes 2000, 200 or 500 for train, val and test.
    seed: which family of scenes.
    conditions: keep to these, in turn; None takes all five.

    Returns a `datasets.Dataset`; a row is {"image": PIL RGB, "label": PIL "L", "condition": str}.

    Raises: ValueError for an unknown split or condition, a negative seed or a `num` below 1.
    """
    import datasets

    require_known(split, SPLITS, "split")
    num = NUM_SCENES[split] if num is None else num
    if num < 1 or seed < 0:
        raise ValueError(f"streets need num >= 1 and seed >= 0, got num={num} and seed={seed}: mend these")
    chosen = (conditions,) if isinstance(conditions, str) else tuple(conditions or CONDITIONS)
    for condition in chosen:
        require_known(condition, CONDITIONS, "condition")
    wanted = require_size((size, 2 * size) if isinstance(size, int) else size or (128, 256))
    weather = [chosen[index % len(chosen)] for index in range(num)]
    keys = [index * len(CONDITIONS) + CONDITIONS.index(name) for index, name in enumerate(weather)]
    info = datasets.DatasetInfo(CITYSCAPES.to_json(dataset="streets", split=split))
    table = datasets.Dataset.from_dict({"image": keys, "label": keys, "condition": weather}, info=info)
    return table.with_transform(SceneDecoder(seed, split, wanted))
