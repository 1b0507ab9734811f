"""The look that all figures share, and how one is shown: stored together with its words."""

import base64
import html
import io
import re
from collections.abc import Iterable
from contextlib import ContextDecorator
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

__all__ = ["COLOURS", "RC", "STYLES", "colours", "show", "to_html", "to_png"]

# For names of no method: none of these colours is a method's.
COLOURS = ("#4B3FE0", "#2F8F1F", "#D4004C", "#8A6400", "#C800A1", "#1F4E63", "#7A8C00")
# One colour a method in every figure: TransKD and its parts are warm, other distillation is cool, and what learns
# from no teacher is grey.
METHOD_COLOURS = dict.fromkeys(("none", "alone", "student"), "#767676") | {
    "teacher": "#000000", "transkd-base": "#D55E00", "transkd-gl": "#B8860B", "transkd-ea": "#CC79A7", "csf": "#8C2D04",
    "pea": "#E0705C", "kd": "#0072B2", "cwd": "#56B4E9", "review": "#009E73", "cwd-features": "#5E4FA2",
    "dkd": "#80B1D3", "dist": "#01665E", "fitnet": "#8DD3C7", "at": "#542788", "skd": "#66C2A5", "ifvd": "#B2ABD2",
    "cirkd": "#1D91C0", "mgd": "#35978F", "abf": "#009E73",
}  # fmt: skip
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)))  # one fewer: no pair repeats soon
MARKERS = "os^Dv"
RC: Any = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
RC |= {"axes.titlesize": 10, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8}
# Decorates what draws: matplotlib reads its settings whenever it makes a text.
in_style: ContextDecorator = plt.rc_context(RC)  # type: ignore[assignment]


def show(fig: Figure, alt: str) -> None:
    """Display `fig` once, as a PNG of 150 dpi, with `alt` as alternative text and as the sentence below.

    JupyterLab and nbconvert drop the alternative text of a bare PNG, so it travels in three forms: an HTML
    figure for front ends, a PNG with metadata for tools, and the plain sentence for terminals.

    fig: the figure; it is closed afterwards, so that a notebook does not show it twice.
    alt: one or two sentences that tell what the figure shows and what to read in it.
    Raises `ValueError`: if `alt` is blank: a picture without words is lost on those who do not see it.
    """
    if not alt.strip():
        raise ValueError("show(fig, alt): alt is blank; say in a sentence what the figure shows")
    png = to_png(fig)
    plt.close(fig)
    bundle = {"text/html": to_html(png, alt), "image/png": base64.b64encode(png).decode(), "text/plain": alt}
    display(bundle, raw=True, metadata={"image/png": {"alt": alt}})


def to_html(png: bytes, alt: str) -> str:
    """A picture as an HTML figure, with `alt` for who does not see it and as caption.

    An inch of the figure is 120 pixels wide, so that letters are as large in all figures, or less where there is no
    room; but a picture of more than 560 pixels is not drawn smaller than that, as on a phone: it is scrolled sideways.
    """
    text, width = html.escape(alt), int.from_bytes(png[16:20], "big") * 120 // 150
    return (
        '<figure style="margin:0 0 1em 0; max-width:100%; overflow-x:auto; border-radius:6px">'
        f'<img alt="{text}" style="max-width:100%; width:{width}px; min-width:{min(width, 560)}px; height:auto" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f'<figcaption style="max-width:56em; margin-top:.3em"><em>{text}</em></figcaption></figure>'
    )


def to_png(fig: Figure) -> bytes:
    """The figure as an opaque PNG of 150 dpi and at most 256 colours: a third of the size, the same look."""
    buffer, out = io.BytesIO(), io.BytesIO()
    fig.savefig(buffer, format="png", dpi=150, bbox_inches="tight", facecolor="white")
    # An octree keeps the colours of rare classes; the default median cut moves them by up to 50 levels.
    octree, plain = Image.Quantize.FASTOCTREE, Image.Dither.NONE
    picture = Image.open(buffer).convert("RGB").quantize(256, method=octree, dither=plain)
    picture.save(out, format="png", optimize=True)
    return out.getvalue()


@in_style
def new_axes(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, NDArray[Any]]:
    """A figure of `rows` x `columns` axes in the course's style; sizes in inches; options of `Figure.subplots`.

    pyplot does not know it: it needs no closing, and can be drawn in any thread.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def colours(names: Iterable[str]) -> list[str]:
    """A colour for each name: a method's, for its variants and terms, too; names of no method take theirs in order."""
    others = cycle(COLOURS)
    return [METHOD_COLOURS.get(re.split("[ ,:_]", str(name).lower())[0]) or next(others) for name in names]


def literal(name: object) -> str:
    """A name as it is, where matplotlib would read `$a$` as mathematics and leave `_a` out of a legend."""
    return re.sub("^_", " _", str(name)).replace("$", r"\$")


def legend_below(fig: Figure, columns: int = 2, handles: Any = None) -> None:
    """Name what has a label in the axes of `fig`, or only these handles, below them."""
    fig.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def row_axes(names: Iterable[str], xlabel: str, row: float) -> tuple[Figure, Axes]:
    """A figure with one row for each name, the first at the bottom; `row` is its height in inches."""
    names = [literal(name) for name in names]
    figure, ((axis,),) = new_axes(1, 1, 7, row * len(names) + 1.2)
    axis.set(yticks=range(len(names)), yticklabels=names, ylim=(-0.6, len(names) - 0.4), xlabel=xlabel)
    axis.grid(axis="x", alpha=0.25)
    return figure, axis
