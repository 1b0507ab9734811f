"""The attention panel: where blocks of several networks look from one pixel, side by side.

All that it shows are pure functions of what the networks saw and of one `Choice`; a callback reads the controls and
puts two strings into their places. Everything works from the keyboard: the arrow keys move a slider and a drop-down
list. An `ipywidgets.Image` tells no click coordinates, so sliders choose the pixel. Source: this project.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from typing import Any

import ipywidgets
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transkd_lite.widgets.attention_views import EVERY, Choice, Looks, overlays, view
from transkd_lite.widgets.weight_tables import WRAP, Panel, html_table, labelled

__all__ = ["AttentionPanel", "readout"]


class AttentionPanel(Panel):
    """Controls for network, image, stage, block, head and pixel; pictures of attention; the same in words.

    Args:
        looks: what the networks saw, from `attention_views.look`.
        start: what is shown first; None for the middle pixel of the first image.

    Raises:
        ValueError: `start` is not among the looks.

    controls holds the controls by field of `Choice`, so that a program can move them, too.
    """

    title = "The attention panel"

    def __init__(self, looks: Looks, start: Choice | None = None) -> None:
        start = start or Choice(row=looks.size[0] // 2, column=looks.size[1] // 2)
        overlays(looks, start)
        self.looks = looks
        seen = next(iter(looks.attention.values()))
        (height, width), (rows, columns) = looks.size, seen[1, 1].size  # the finest grid that there is
        limits = {
            "image": ("Image", 0, len(looks.pictures) - 1, 1),
            "stage": ("Stage", 1, max(stage for stage, _ in seen), 1),
            "block": ("Block", 1, looks.depth(start.stage), 1),
            "head": ("Head", 1, looks.num_heads(start.stage), 1),
            "row": ("Pixel row", 0, height - height // rows, height // rows),
            "column": ("Pixel column", 0, width - width // columns, width // columns),
        }
        names = [EVERY, *looks.attention]
        self.controls: dict[str, Any] = {
            "network": labelled(ipywidgets.Dropdown, "Network", options=names, value=start.network)
        }
        for field, (name, low, high, step) in limits.items():
            at = min(getattr(start, field), high)
            self.controls[field] = labelled(
                ipywidgets.IntSlider, name, value=at, min=low, max=high, step=step
            )
        self.pictures, self.words = ipywidgets.HTML(), ipywidgets.HTML()
        controls = ipywidgets.HBox([*self.controls.values()], layout=WRAP)
        super().__init__("tk-attention", [controls], [self.pictures, self.words])
        for control in self.controls.values():
            control.observe(lambda _: self.guarded(self.show), names="value")
        self.guarded(self.show)

    @property
    def choice(self) -> Choice:
        """What the controls ask for."""
        return Choice(**{name: control.value for name, control in self.controls.items()})

    def show(self) -> None:
        """Draw as the controls stand."""
        stage = self.controls["stage"].value
        self.controls["block"].max = self.looks.depth(stage)
        self.controls["head"].max = self.looks.num_heads(stage)
        self.pictures.value = as_html(overlays(self.looks, self.choice), self.choice)
        self.words.value = readout(self.looks, self.choice)


def as_html(pictures: Mapping[str, NDArray[np.uint8]], choice: Choice) -> str:
    """The pictures side by side as far as there is room, each with its name and words for who cannot see it."""
    figures, place = "", f"pixel row {choice.row}, column {choice.column}"
    for name, picture in pictures.items():
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="png")
        encoded = base64.b64encode(buffer.getvalue()).decode()
        what = f"image with the query at {place}" if name == "image" else f"attention of {name} from {place}"
        figures += (
            '<figure style="flex:1 1 200px; max-width:420px; min-width:0; margin:0">'
            f'<img alt="{html.escape(what)}" src="data:image/png;base64,{encoded}" '
            'style="width:100%; image-rendering:pixelated">'
            f"<figcaption>{html.escape(name)}</figcaption></figure>"
        )
    return f'<div style="display:flex; flex-wrap:wrap; gap:8px">{figures}</div>'


def readout(looks: Looks, choice: Choice) -> str:
    """The same in words, as HTML: the query's pixel, class and position, then a row of numbers a network."""
    rows = {}
    for name in looks.chosen(choice):
        seen = view(looks, name, choice)
        grid_rows, grid_columns = seen.weights.shape
        sizes = zip(seen.peak, looks.size, seen.weights.shape, strict=True)
        row, column = ((2 * at + 1) * full // (2 * cells) for at, full, cells in sizes)
        predicted = int(looks.predictions[name][choice.image][choice.row, choice.column])
        cells = {
            "block, head": f"{seen.block}, {seen.head}",
            "predicts": looks.class_name(predicted),
            "looks most at": f"pixel ({row}, {column}), {looks.class_at(choice.image, row, column)}",
            "share": f"{seen.share:.3f}",
            "effective keys": f"{seen.effective:.1f} of {seen.keys}",
            "distance": f"{seen.distance * (looks.size[0] // grid_rows):.0f} pixels",
            "own class": "" if np.isnan(seen.own_class) else f"{seen.own_class:.3f}",
        }
        rows[name] = {head: html.escape(cell) for head, cell in cells.items()}
    label = html.escape(looks.class_at(choice.image, choice.row, choice.column))
    query = (
        f"Query: pixel row {choice.row}, column {choice.column}, labelled <b>{label}</b>. Stage {choice.stage} sees it "
        f"at row {seen.position[0]}, column {seen.position[1]} of its {grid_rows} × {grid_columns} grid."
    )
    table = html_table("What the chosen block and head attend to", "network", rows)
    return f"<p data-query>{query}</p>{table}"
