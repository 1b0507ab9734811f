"""Every figure of the course and of the report, drawn in one style.

Functions take arrays, tables and label spaces, return a matplotlib `Figure`, and never show it themselves: a
notebook calls `show(fig, alt)`, which stores the picture together with its alternative text. Scalars wear
cividis, lines in a colour-blind safe set (Okabe and Ito 2008) with a line style each, and label maps in the
data set's own palette with the class names beside them.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from transkd_lite.data.labels import VOID, LabelSpace

__all__ = [
    "class_bars",
    "class_shares",
    "curves",
    "error_map",
    "heatmap",
    "label_legend",
    "label_maps",
    "maps",
    "methods",
    "paired",
    "principal_colours",
    "segmentations",
    "show",
    "to_png",
]

SHEET_WIDTH = 7.5  # inches; 1,125 pixels at 150 dpi
RIGHT_COLOUR, WRONG_COLOUR, VOID_COLOUR = np.array([(222,) * 3, (178, 24, 43), (40,) * 3], np.uint8)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)))  # one fewer: no pair repeats soon
RC: Any = {
    "figure.dpi": 100,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
}


def show(fig: Figure, alt: str) -> None:
    """Display `fig` once, as a PNG of 150 dpi, with `alt` as alternative text and as the sentence below.

    JupyterLab and nbconvert drop the alternative text of a bare PNG, so it travels in three forms: an HTML
    figure for front ends, a PNG with metadata for tools, and the plain sentence for terminals.

    Args:
        fig: the figure; it is closed afterwards, so that a notebook does not show it twice.
        alt: one or two sentences that tell what the figure shows and what to read in it.

    Raises:
        ValueError: if `alt` is blank: a picture without words is lost on those who do not see it.
    """
    if not alt.strip():
        raise ValueError("show(fig, alt): alt is blank; say in a sentence what the figure shows")
    png = to_png(fig)
    plt.close(fig)
    encoded, text = base64.b64encode(png).decode(), html.escape(alt, quote=True)
    figure = (
        '<figure style="margin:0 0 1em 0; max-width:100%">'
        f'<img alt="{text}" style="max-width:100%; height:auto" src="data:image/png;base64,{encoded}">'
        f'<figcaption style="max-width:56em; margin-top:.3em"><em>{text}</em></figcaption></figure>'
    )
    bundle = {"text/html": figure, "image/png": encoded, "text/plain": alt}
    display(bundle, raw=True, metadata={"image/png": {"alt": alt}})


def to_png(fig: Figure) -> bytes:
    """The figure as an opaque PNG of 150 dpi and at most 256 colours: a third of the size, the same look."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=150, bbox_inches="tight", facecolor="white")
    # An octree keeps the colours of rare classes; the default median cut moves them by up to 50 levels.
    octree, plain = Image.Quantize.FASTOCTREE, Image.Dither.NONE
    picture = Image.open(buffer).convert("RGB").quantize(256, method=octree, dither=plain)
    out = io.BytesIO()
    picture.save(out, format="png", optimize=True)
    return out.getvalue()


def error_map(prediction: ArrayLike, label: ArrayLike) -> NDArray[np.uint8]:
    """Two tones, uint8 (H, W, 3): light where `prediction` is right, red where wrong, dark where void."""
    prediction, label = np.asarray(prediction), np.asarray(label)
    out = np.where((prediction == label)[..., None], RIGHT_COLOUR, WRONG_COLOUR)
    return np.where((label == VOID)[..., None], VOID_COLOUR, out)


def principal_colours(feature: ArrayLike, basis: ArrayLike | None = None) -> NDArray[np.uint8]:
    """Show a feature map (C, H, W) by its three main components as red, green and blue: uint8 (H, W, 3).

    Args:
        feature: one feature map.
        basis: another map (C, H', W') whose components and range to use, so that the colours of two maps compare.
    """
    feature = np.asarray(feature, np.float32)
    flat = feature.reshape(len(feature), -1).T
    reference = flat if basis is None else np.asarray(basis, np.float32).reshape(len(feature), -1).T
    centre = reference.mean(0)
    _, _, components = np.linalg.svd(reference - centre, full_matrices=False)
    scores = (flat - centre) @ components[:3].T
    low, high = np.percentile((reference - centre) @ components[:3].T, [2, 98], axis=0)
    unit = np.clip((scores - low) / np.maximum(high - low, 1e-6), 0, 1)
    unit = np.pad(unit, ((0, 0), (0, 3 - unit.shape[1])))
    return np.uint8(255 * unit).reshape(*feature.shape[1:], 3)


def _axes(rows: int, columns: int, width: float, height: float) -> tuple[Figure, NDArray[Any]]:
    with plt.rc_context(RC):
        return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")


def label_legend(fig: Figure, space: LabelSpace, present: Sequence[int], columns: int = 6) -> None:
    """Put names and colours of the classes `present` (train ids) below the panels of `fig`."""
    handles = [
        Patch(
            facecolor="#{:02x}{:02x}{:02x}".format(*space.palette[k]), edgecolor="0.6", label=space.names[k]
        )
        for k in present
    ]
    if handles:
        fig.legend(handles=handles, ncols=columns, loc="outside lower center", fontsize=8, frameon=False)


def label_maps(images: Sequence[ArrayLike], labels: Sequence[ArrayLike], space: LabelSpace) -> Figure:
    """Pictures in the first row, their label maps in the second, with a legend of the classes that occur."""
    return segmentations(images, {"label": labels}, space)


def segmentations(
    images: Sequence[ArrayLike],
    rows: Mapping[str, Sequence[ArrayLike]],
    space: LabelSpace,
    *,
    errors_against: str | None = None,
) -> Figure:
    """A sheet of pictures: one column an image, one row a set of label maps.

    Args:
        images: N pictures, uint8 (H, W, 3).
        rows: name of the row -> N label maps (H, W) of train ids.
        space: names and palette.
        errors_against: the row that holds the truth; each other row is then followed by its error map.
    """
    sheet: list[tuple[str, list[NDArray[np.uint8]]]] = [("image", [np.asarray(image) for image in images])]
    for name, maps_ in rows.items():
        sheet.append((name, [space.colorize(np.asarray(label)) for label in maps_]))
        if errors_against is not None and name != errors_against:
            pairs = zip(maps_, rows[errors_against], strict=True)
            sheet.append(("its errors", [error_map(prediction, truth) for prediction, truth in pairs]))
    height, width = np.asarray(images[0]).shape[:2]
    cell = SHEET_WIDTH / len(images)
    fig, axes = _axes(len(sheet), len(images), SHEET_WIDTH, len(sheet) * cell * height / width + 0.8)
    for axis_row, (name, pictures) in zip(axes, sheet, strict=True):
        for axis, picture in zip(axis_row, pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axis_row[0].set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
    seen = np.unique(np.concatenate([np.unique(m) for maps_ in rows.values() for m in maps_]))
    label_legend(fig, space, [int(k) for k in seen if k < len(space.names)])
    return fig


def maps(panels: Mapping[str, ArrayLike], *, columns: int = 4, bar: bool = True, unit: str = "") -> Figure:
    """Draw named maps side by side: (H, W) scalars in cividis with a colour bar, (H, W, 3) as they are."""
    rows = -(-len(panels) // columns)
    columns = min(columns, len(panels))
    fig, axes = _axes(rows, columns, 2.2 * columns, 1.5 * rows + 0.3)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (name, panel) in zip(axes.flat, panels.items(), strict=False):
        panel = np.asarray(panel)
        drawn = axis.imshow(
            panel, cmap="cividis", interpolation="nearest", aspect="auto" if panel.ndim == 2 else "equal"
        )
        axis.set(xticks=[], yticks=[], title=name)
        if panel.ndim == 2 and bar:
            fig.colorbar(drawn, ax=axis, shrink=0.8, label=unit)
    return fig


def curves(
    lines: Mapping[str, tuple[ArrayLike, ArrayLike]], *, x: str, y: str, log: bool = False, title: str = ""
) -> Figure:
    """Draw named lines, each with its own colour and line style; `log` makes the y axis logarithmic."""
    fig, axes = _axes(1, 1, 7, 3.4)
    axis = axes[0, 0]
    for (name, (xs, ys)), colour, style in zip(lines.items(), cycle(COLOURS), cycle(STYLES), strict=False):
        axis.plot(xs, ys, label=name, color=colour, linestyle=style, linewidth=1.6)
    axis.set(xlabel=x, ylabel=y, title=title, yscale="log" if log else "linear")
    axis.grid(alpha=0.25)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return fig


def heatmap(
    table: pd.DataFrame, *, unit: str, title: str = "", decimals: int = 2, diverging: bool = False
) -> Figure:
    """A table as an annotated heat map; `diverging` centres a blue to red scale on zero."""
    fig, axes = _axes(1, 1, 1.6 + 0.8 * table.shape[1], 1.2 + 0.42 * len(table))
    scale = {"cmap": "vlag", "center": 0} if diverging else {"cmap": "cividis"}
    sns.heatmap(
        table,
        annot=True,
        fmt=f".{decimals}f",
        ax=axes[0, 0],
        cbar_kws={"label": unit},
        annot_kws={"size": 8},
        **scale,
    )
    axes[0, 0].set(title=title, xlabel=table.columns.name or "", ylabel=table.index.name or "")
    return fig


def class_shares(shares: Mapping[str, ArrayLike], space: LabelSpace) -> Figure:
    """How much of the pixels each class covers, on a logarithmic axis, one marker a data set or split.

    Args:
        shares: name -> (K,) shares that sum to at most 1.
        space: names in the same order.
    """
    fig, axes = _axes(1, 1, 7.5, 0.24 * len(space.names) + 0.9)
    axis = axes[0, 0]
    order = np.argsort(np.asarray(next(iter(shares.values()))))
    for (name, share), colour, marker in zip(shares.items(), cycle(COLOURS), cycle("os^Dv"), strict=False):
        axis.plot(
            100 * np.asarray(share)[order], range(len(order)), marker, color=colour, label=name, markersize=5
        )
    axis.set(yticks=range(len(order)), yticklabels=[space.names[k] for k in order], xscale="log")
    axis.set_xlabel("share of the labelled pixels in % (logarithmic)")
    axis.grid(alpha=0.25)
    axis.legend(loc="lower right")
    return fig


def methods(table: pd.DataFrame, *, reference: Mapping[str, float] | None = None) -> Figure:
    """One dot a run and one bar a mean: the scores of every method, side by side.

    Args:
        table: one row a run, columns `method` and `miou` (in [0, 1]); methods in order of first appearance.
        reference: name -> mIoU in [0, 1], drawn as labelled dashed lines (for instance the teacher's).
    """
    names = list(dict.fromkeys(table["method"]))
    fig, axes = _axes(1, 1, 7, 0.55 * len(names) + 1.2)
    axis = axes[0, 0]
    for position, (name, colour) in enumerate(zip(names, cycle(COLOURS), strict=False)):
        scores = 100 * table.loc[table["method"] == name, "miou"].to_numpy()
        axis.plot(scores, np.full(len(scores), position), "o", color=colour, alpha=0.65, markersize=6)
        axis.plot([scores.mean()] * 2, [position - 0.3, position + 0.3], color=colour, linewidth=2.5)
        axis.annotate(
            f"{scores.mean():.1f}", (scores.mean(), position - 0.33), ha="center", va="bottom", fontsize=8
        )
    for name, value in (reference or {}).items():
        axis.axvline(100 * value, color="0.35", linestyle="--", linewidth=1)
        axis.annotate(
            f"{name} {100 * value:.1f}", (100 * value, -0.6), rotation=90, ha="right", va="top", fontsize=8
        )
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel="mIoU in %", ylim=(len(names) - 0.4, -0.7))
    axis.grid(axis="x", alpha=0.25)
    return fig


def paired(differences: pd.DataFrame) -> Figure:
    """Mean paired differences with their intervals; one that leaves zero out is drawn filled.

    Args:
        differences: the table of `report.paired_differences`: columns `method`, `baseline`, `mean`, `low` and
            `high`, in [-1, 1].
    """
    fig, axes = _axes(1, 1, 7, 0.5 * len(differences) + 1.1)
    axis = axes[0, 0]
    for position, row in enumerate(differences.itertuples()):
        sure = row.low > 0 or row.high < 0
        colour = COLOURS[position % len(COLOURS)]
        axis.plot([100 * row.low, 100 * row.high], [position] * 2, color=colour, linewidth=2)
        axis.plot(
            100 * row.mean,
            position,
            "o",
            color=colour,
            markerfacecolor=colour if sure else "white",
            markersize=8,
        )
    labels = [f"{row.method} − {row.baseline}" for row in differences.itertuples()]
    axis.axvline(0, color="0.3", linewidth=1)
    axis.set(yticks=range(len(labels)), yticklabels=labels, ylim=(-0.6, len(labels) - 0.4))
    axis.set_xlabel("difference of mIoU in percentage points, 95% interval")
    axis.grid(axis="x", alpha=0.25)
    return fig


def class_bars(table: pd.DataFrame) -> Figure:
    """IoU of every class (rows) for several methods (columns), values in [0, 1], as grouped dots."""
    fig, axes = _axes(1, 1, 7.5, 0.27 * len(table) + 1.0)
    axis = axes[0, 0]
    for name, colour, marker in zip(table.columns, cycle(COLOURS), cycle("os^Dv"), strict=False):
        axis.plot(
            100 * table[name], range(len(table)), marker, color=colour, label=name, markersize=5, alpha=0.85
        )
    low, high = 100 * table.min(axis=1), 100 * table.max(axis=1)
    axis.hlines(range(len(table)), low, high, color="0.8", zorder=0)
    axis.set(yticks=range(len(table)), yticklabels=table.index, xlabel="IoU in %")
    axis.grid(axis="x", alpha=0.25)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return fig
