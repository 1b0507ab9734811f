"""What the attention panel shows, as pure values: pictures of attention over the image.

    looks = look({"teacher": teacher, "student": student}, pictures, labels, space)
    overlays(looks, Choice(stage=3, row=20, column=60))

Static figures and tests call these, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from transkd_lite.data.labels import VOID, LabelSpace
from transkd_lite.inspection import Block, BlockAttention, attend
from transkd_lite.models.output import SegModel
from transkd_lite.prediction import as_batch, predict

__all__ = ["EVERY", "Choice", "Looks", "View", "look", "overlays", "view"]

DARK, MIDDLE, BRIGHT = "#00224e", "#7d7c78", "#fee838"  # of cividis
ENLARGE = 4  # screen pixels of a picture's pixel
GREY = 0.35  # how much of the picture shines through the attention
EVERY = "all"


@dataclass(frozen=True)
class Choice:
    """What is asked: image from 0; stage, block and head from 1; the query's pixel; one network's name or "all".

    A network with fewer blocks or heads than asked shows its last.
    """

    image: int = 0
    stage: int = 4
    block: int = 1
    head: int = 1
    row: int = 0
    column: int = 0
    network: str = EVERY


@dataclass(frozen=True)
class Looks:
    """N pictures uint8 (H, W, 3) with labels (N, H, W) of train ids, and of each network all its attention and
    its label maps.
    """

    pictures: Sequence[NDArray[np.uint8]]
    labels: Tensor
    space: LabelSpace
    attention: Mapping[str, Mapping[Block, BlockAttention]]
    predictions: Mapping[str, Sequence[NDArray[np.uint8]]]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the pictures."""
        return self.labels.shape[1], self.labels.shape[2]

    def depth(self, stage: int) -> int:
        """The most blocks that a network has in this stage."""
        return max(block for seen in self.attention.values() for s, block in seen if s == stage)

    def num_heads(self, stage: int) -> int:
        """The most heads that a network has in this stage."""
        return max(seen[stage, 1].num_heads for seen in self.attention.values())

    def class_name(self, train_id: int) -> str:
        """Name of a class, "void" for what has none."""
        return "void" if train_id == VOID else self.space.names[train_id]

    def class_at(self, image: int, row: int, column: int) -> str:
        """Name of the labelled class at a pixel."""
        return self.class_name(int(self.labels[image, row, column]))

    def chosen(self, choice: Choice) -> list[str]:
        """The networks that a choice names. Raises ValueError for one that is not there."""
        if choice.network not in (EVERY, *self.attention):
            raise ValueError(f"network must be one of {[EVERY, *self.attention]}, got {choice.network!r}")
        return [name for name in self.attention if choice.network in (EVERY, name)]


@dataclass(frozen=True)
class View:
    """One network's answer to a choice.

    - block, head: the ones shown; position: the query's on the stage's grid; weights: (H_i, W_i), adding up to 1.
    - own_class: the share of attention on positions of the query's labelled class, nan at void.
    - peak: (row, column) of the stage's grid in the middle of the strongest key; share: that key's weight.
    - keys: how many there are; effective: exp(entropy), from 1 (one key has all) to `keys` (all alike).
    - distance: mean distance of keys from the query, weighted by attention, in positions of the stage's grid.
    """

    block: int
    head: int
    position: tuple[int, int]
    weights: Tensor
    own_class: float
    peak: tuple[int, int]
    share: float
    keys: int
    effective: float
    distance: float


def look(
    networks: Mapping[str, SegModel],
    pictures: Sequence[Any],
    labels: Sequence[ArrayLike],
    space: LabelSpace,
) -> Looks:
    """Run every network once on the pictures and keep all attention.

    Args:
        networks: by name; SegFormers or PVTv2s of four stages.
        pictures: RGB pictures of one size, PIL or uint8 arrays (H, W, 3).
        labels: a map (H, W) of train ids for each.
        space: the classes' names.

    Raises:
        ValueError: no networks, pictures of several sizes, or networks without such attention.
    """
    if not networks:
        raise ValueError("look needs at least one network, got none: pass {name: network}")
    batch = as_batch(pictures)
    return Looks(
        [np.asarray(picture) for picture in pictures],
        torch.stack([torch.from_numpy(np.array(label, np.int64)) for label in labels]),
        space,
        {name: attend(model, batch) for name, model in networks.items()},
        {name: predict(model, pictures) for name, model in networks.items()},
    )


def view(looks: Looks, network: str, choice: Choice) -> View:
    """What one network's block and head attend to from the chosen pixel.

    Raises ValueError for a stage, image or pixel that is not there.
    """
    seen = looks.attention[network]
    depth = max((block for stage, block in seen if stage == choice.stage), default=0)
    if depth == 0:
        raise ValueError(f"stage {choice.stage}: {network} has stages 1 to {max(seen)[0]}")
    block = min(choice.block, depth)
    attention = seen[choice.stage, block]
    head = min(choice.head, attention.num_heads)
    (height, width), (rows, columns) = looks.size, attention.size
    position = choice.row * rows // height, choice.column * columns // width
    weights = attention.query(position, head=head, image=choice.image)
    labels, own_class = looks.labels[choice.image], float("nan")
    if labels[choice.row, choice.column] != VOID:
        own = (labels == labels[choice.row, choice.column]).float()
        own_class = float((weights * F.adaptive_avg_pool2d(own[None], attention.size)[0]).sum())
    keys = attention.keys(position, head=head, image=choice.image).double()
    r, (h, w) = attention.reduction, keys.shape
    ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    middle = (r - 1) / 2  # of a key, from its first position on
    away = torch.hypot(r * ys + middle - position[0], r * xs + middle - position[1])
    best = int(keys.argmax())
    return View(
        *(block, head, position, weights, own_class),
        peak=(best // w * r + r // 2, best % w * r + r // 2),
        share=float(keys.max()),
        keys=h * w,
        effective=float(torch.special.entr(keys).sum().exp()),
        distance=float((keys * away).sum()),
    )


def overlays(looks: Looks, choice: Choice) -> dict[str, NDArray[np.uint8]]:
    """Pictures (4 H, 4 W, 3): the chosen one, then for each chosen network its attention laid over it.

    A map is scaled to its own largest weight, dark blue for none and yellow for the most, and the frame is the
    query's position on the stage's grid.
    """
    views = {name: view(looks, name, choice) for name in looks.chosen(choice)}
    layers = {"image": Image.fromarray(looks.pictures[choice.image])}
    grey, nearest = layers["image"].convert("L"), Image.Resampling.NEAREST
    for name, seen in views.items():
        levels = Image.fromarray(np.uint8(255 * seen.weights.numpy() / float(seen.weights.max())))
        colours = ImageOps.colorize(levels.resize(grey.size, nearest), DARK, BRIGHT, MIDDLE)
        layers[name] = Image.blend(colours, grey.convert("RGB"), GREY)
    (row, column), (rows, columns) = seen.position, seen.weights.shape
    width, height = ENLARGE * grey.width, ENLARGE * grey.height
    tall, wide = height // rows, width // columns
    frame = (column * wide, row * tall, (column + 1) * wide - 1, (row + 1) * tall - 1)
    out = {}
    for name, layer in layers.items():
        large = layer.resize((width, height), nearest)
        draw = ImageDraw.Draw(large)
        draw.rectangle(frame, outline="black", width=4)
        draw.rectangle(frame, outline="white", width=2)
        out[name] = np.asarray(large)
    return out
