"""What the attention panel shows, as pure values: pictures of attention over the image, and the same in words.

    looks = look({"teacher": teacher, "student": student}, pictures, labels, space)
    overlays(looks, Choice(stage=3, row=20, column=60))

Static figures and tests call these, too.
"""

from __future__ import annotations

import base64
import html
import io
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
from transkd_lite.inspection import AttentionSummary, Block, BlockAttention, attend, summarize
from transkd_lite.models.output import SegModel
from transkd_lite.prediction import as_batch, predict

__all__ = ["Choice", "Looks", "look", "overlays", "readout", "view"]

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

    def class_at(self, image: int, row: int, column: int) -> str:
        """Name of the labelled class at a pixel."""
        return _name(self.space, int(self.labels[image, row, column]))


@dataclass(frozen=True)
class View:
    """One network's answer to a choice.

    block and head are the ones shown; position is the query's on the stage's grid; weights (H_i, W_i) add up to
    1; own_class is the share of attention on positions of the query's labelled class, nan at void.
    """

    block: int
    head: int
    position: tuple[int, int]
    weights: Tensor
    summary: AttentionSummary
    own_class: float


def _name(space: LabelSpace, train_id: int) -> str:
    return "void" if train_id == VOID else space.names[train_id]


def look(
    networks: Mapping[str, SegModel],
    pictures: Sequence[Any],
    labels: Sequence[ArrayLike],
    space: LabelSpace,
    *,
    normalize: bool = True,
) -> Looks:
    """Run every network once on the pictures and keep all attention.

    Args:
        networks: by name; SegFormers or PVTv2s of four stages.
        pictures: RGB pictures of one size, PIL or uint8 arrays (H, W, 3).
        labels: a map (H, W) of train ids for each.
        space: the classes' names.
        normalize: as in training, see `as_batch`.

    Raises:
        ValueError: no networks, pictures of several sizes, or networks without such attention.
    """
    if not networks:
        raise ValueError("look needs at least one network, got none: pass {name: network}")
    batch = as_batch(pictures, normalize=normalize)
    return Looks(
        [np.asarray(picture) for picture in pictures],
        torch.stack([torch.from_numpy(np.array(label, np.int64)) for label in labels]),
        space,
        {name: attend(model, batch) for name, model in networks.items()},
        {name: predict(model, pictures, normalize=normalize) for name, model in networks.items()},
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
    row, column = (
        p * n // full
        for p, n, full in zip((choice.row, choice.column), attention.size, looks.size, strict=True)
    )
    position = row, column
    at = {"head": head, "image": choice.image}
    weights = attention.query(position, **at)
    own = int(looks.labels[choice.image, choice.row, choice.column])
    share = (
        float("nan")
        if own == VOID
        else float((weights * _members(looks, choice.image, own, attention.size)).sum())
    )
    return View(block, head, position, weights, summarize(attention, position, **at), share)


def _members(looks: Looks, image: int, train_id: int, size: tuple[int, int]) -> Tensor:
    """How much of each position's cell of pixels is of a class, (H_i, W_i)."""
    return F.adaptive_avg_pool2d((looks.labels[image] == train_id).float()[None], size)[0]


def overlays(looks: Looks, choice: Choice) -> dict[str, NDArray[np.uint8]]:
    """Pictures (4 H, 4 W, 3): the chosen one, then for each chosen network its attention laid over it.

    A map is scaled to its own largest weight, dark blue for none and yellow for the most, and the frame is the
    query's position on the stage's grid.
    """
    out: dict[str, NDArray[np.uint8]] = {}
    for name in _chosen(looks, choice):
        seen = view(looks, name, choice)
        picture = looks.pictures[choice.image]
        out.setdefault("image", _framed(picture, seen))
        out[name] = _framed(_coloured(picture, seen.weights.numpy()), seen)
    return out


def _chosen(looks: Looks, choice: Choice) -> list[str]:
    if choice.network != EVERY and choice.network not in looks.attention:
        raise ValueError(f"network must be one of {[EVERY, *looks.attention]}, got {choice.network!r}")
    return [name for name in looks.attention if choice.network in (EVERY, name)]


def _coloured(picture: NDArray[np.uint8], weights: NDArray[Any]) -> NDArray[np.uint8]:
    grey = Image.fromarray(picture).convert("L")
    levels = Image.fromarray(np.uint8(255 * weights / weights.max()))
    colours = ImageOps.colorize(levels.resize(grey.size, Image.Resampling.NEAREST), DARK, BRIGHT, MIDDLE)
    return np.asarray(Image.blend(colours, grey.convert("RGB"), GREY))


def _framed(picture: NDArray[np.uint8], seen: View) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    big = Image.fromarray(picture).resize((ENLARGE * width, ENLARGE * height), Image.Resampling.NEAREST)
    (row, column), (rows, columns) = seen.position, seen.weights.shape
    cell = ENLARGE * height // rows, ENLARGE * width // columns
    box = (column * cell[1], row * cell[0], (column + 1) * cell[1] - 1, (row + 1) * cell[0] - 1)
    draw = ImageDraw.Draw(big)
    draw.rectangle(box, outline="black", width=4)
    draw.rectangle(box, outline="white", width=2)
    return np.asarray(big)


def readout(looks: Looks, choice: Choice) -> str:
    """The same in words, as HTML: the query's pixel, class and position, then a row of numbers a network."""
    names = _chosen(looks, choice)
    first = view(looks, names[0], choice)
    grid = "{} × {}".format(*first.weights.shape)
    query = (
        f"Query: pixel row {choice.row}, column {choice.column}, labelled "
        f"<b>{html.escape(looks.class_at(choice.image, choice.row, choice.column))}</b>. Stage {choice.stage} sees it "
        f"at row {first.position[0]}, column {first.position[1]} of its {grid} grid."
    )
    titles = (
        "network",
        "block, head",
        "predicts",
        "looks most at",
        "share",
        "effective keys",
        "distance",
        "own class",
    )
    head = "".join(f'<th style="text-align:left; padding:0 1em 0 0">{title}</th>' for title in titles)
    rows = "".join(_row(looks, name, choice) for name in names)
    return f"<p data-query>{query}</p><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(looks: Looks, name: str, choice: Choice) -> str:
    seen = view(looks, name, choice)
    summary = seen.summary
    stride = looks.size[0] // seen.weights.shape[0]
    row, column = (
        (2 * p + 1) * full // (2 * n)
        for p, full, n in zip(summary.peak, looks.size, seen.weights.shape, strict=True)
    )
    predicted = int(looks.predictions[name][choice.image][choice.row, choice.column])
    cells = (
        name,
        f"{seen.block}, {seen.head}",
        _name(looks.space, predicted),
        f"pixel ({row}, {column}), {looks.class_at(choice.image, row, column)}",
        f"{summary.share:.3f}",
        f"{summary.effective:.1f} of {summary.keys}",
        f"{summary.distance * stride:.0f} pixels",
        "" if seen.own_class != seen.own_class else f"{seen.own_class:.3f}",
    )
    shown = "".join(f'<td style="padding:0 1em 0 0">{html.escape(cell)}</td>' for cell in cells)
    return f'<tr data-network="{html.escape(name, quote=True)}">{shown}</tr>'


def as_html(pictures: Mapping[str, NDArray[np.uint8]], choice: Choice) -> str:
    """The pictures side by side as far as there is room, each with its name and words for who cannot see it."""
    figures = []
    for name, picture in pictures.items():
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="png")
        encoded = base64.b64encode(buffer.getvalue()).decode()
        place = f"pixel row {choice.row}, column {choice.column}"
        what = f"image with the query at {place}" if name == "image" else f"attention of {name} from {place}"
        figures.append(
            '<figure style="flex:1 1 200px; max-width:420px; min-width:0; margin:0">'
            f'<img alt="{html.escape(what, quote=True)}" src="data:image/png;base64,{encoded}" '
            'style="width:100%; image-rendering:pixelated">'
            f"<figcaption>{html.escape(name)}</figcaption></figure>"
        )
    return f'<div style="display:flex; flex-wrap:wrap; gap:8px">{"".join(figures)}</div>'
