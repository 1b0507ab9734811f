"""The attention panel: where blocks of several networks look from one pixel, side by side.

All that it shows comes from `attention_views`, pure functions of what the networks saw and of one `Choice`; a callback
reads the controls and puts two strings into their places. Everything works from the keyboard: the arrow keys move
a slider and a drop-down list. An `ipywidgets.Image` tells no click coordinates, so sliders choose the pixel.
Source: this project.
"""

from __future__ import annotations

from typing import Any

import ipywidgets

from transkd_lite.widgets.attention_views import EVERY, Choice, Looks, as_html, overlays, readout
from transkd_lite.widgets.weight_tables import alarm

__all__ = ["AttentionPanel"]

WIDE = ipywidgets.Layout(width="100%", max_width="400px")
WRAP = ipywidgets.Layout(flex_flow="row wrap", width="100%")
LABEL = {"description_width": "110px"}
TEXTS = {"row": "Pixel row", "column": "Pixel column"}


class AttentionPanel(ipywidgets.VBox):
    """Controls for network, image, stage, block, head and pixel; pictures of attention; the same in words.

    Args:
        looks: what the networks saw, from `attention_views.look`.
        start: what is shown first; None for the middle pixel of the first image.

    Raises:
        ValueError: `start` is not among the looks.

    controls holds the controls by field of `Choice`, so that a program can move them, too.
    """

    def __init__(self, looks: Looks, start: Choice | None = None) -> None:
        start = start or Choice(row=looks.size[0] // 2, column=looks.size[1] // 2)
        overlays(looks, start)
        self.looks = looks
        self.controls = _controls(looks, start)
        self.pictures, self.words, self.message = (ipywidgets.HTML() for _ in range(3))
        controls = ipywidgets.HBox([*self.controls.values()], layout=WRAP)
        super().__init__(
            [controls, self.message, self.pictures, self.words],
            layout=ipywidgets.Layout(width="100%", overflow="hidden"),
        )
        self.add_class("tk-attention")
        for control in self.controls.values():
            control.observe(lambda _: self.show(), names="value")
        self.show()

    def __repr__(self) -> str:
        return "The attention panel: run this notebook in JupyterLab to move its sliders."

    @property
    def choice(self) -> Choice:
        """What the controls ask for."""
        return Choice(**{name: control.value for name, control in self.controls.items()})

    def show(self) -> None:
        """Draw as the controls stand; an error appears in the panel, and goes when the next thing succeeds."""
        try:
            self._draw()
            self.message.value = ""
        except Exception as error:
            self.message.value = alarm(error)

    def _draw(self) -> None:
        stage = self.controls["stage"].value
        self.controls["block"].max = self.looks.depth(stage)
        self.controls["head"].max = self.looks.num_heads(stage)
        self.pictures.value = as_html(overlays(self.looks, self.choice), self.choice)
        self.words.value = readout(self.looks, self.choice)


def _controls(looks: Looks, start: Choice) -> dict[str, Any]:
    """One control for each field of `Choice`. The pixel moves by the stride of stage 1, the finest there is."""
    seen = next(iter(looks.attention.values()))
    (height, width), (rows, columns) = looks.size, seen[1, 1].size
    networks = ipywidgets.Dropdown(
        options=[EVERY, *looks.attention],
        value=start.network,
        description="Network",
        style=LABEL,
        layout=WIDE,
    )
    return {
        "network": networks,
        "image": _slider("image", start, 0, len(looks.pictures) - 1),
        "stage": _slider("stage", start, 1, max(stage for stage, _ in seen)),
        "block": _slider("block", start, 1, looks.depth(start.stage)),
        "head": _slider("head", start, 1, looks.num_heads(start.stage)),
        "row": _slider("row", start, 0, height - height // rows, height // rows),
        "column": _slider("column", start, 0, width - width // columns, width // columns),
    }


def _slider(field: str, start: Choice, low: int, high: int, step: int = 1) -> ipywidgets.IntSlider:
    return ipywidgets.IntSlider(
        value=min(getattr(start, field), high),
        min=low,
        max=high,
        step=step,
        description=TEXTS.get(field, field.capitalize()),
        style=LABEL,
        layout=WIDE,
    )
