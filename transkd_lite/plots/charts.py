"""Charts of one table: curves, heat maps, shares and scores of classes."""

from collections.abc import Mapping
from itertools import cycle

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from transkd_lite.data.labels import LabelSpace
from transkd_lite.plots.style import COLOURS, MARKERS, STYLES, new_axes, row_axes

__all__ = ["class_bars", "class_shares", "curves", "heatmap"]


def curves(lines: Mapping[str, tuple[ArrayLike, ArrayLike]], *, x: str, y: str, log: bool = False) -> Figure:
    """Draw named lines, each with its own colour and line style; `log` makes the y axis logarithmic."""
    fig, ((axis,),) = new_axes(1, 1, 7, 3.4)
    for (name, (xs, ys)), colour, style in zip(lines.items(), cycle(COLOURS), cycle(STYLES), strict=False):
        axis.plot(xs, ys, label=name, color=colour, linestyle=style, linewidth=1.6)
    axis.set(xlabel=x, ylabel=y, yscale="log" if log else "linear")
    axis.grid(alpha=0.25)
    _legend(fig, axis)
    return fig


def _legend(fig: Figure, axis: Axes) -> None:
    """Name the axes' lines beside them, or below where a name is so long that it would squeeze them."""
    if any(len(name) > 25 for name in axis.get_legend_handles_labels()[1]):
        fig.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    else:
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def heatmap(
    table: pd.DataFrame,
    *,
    unit: str,
    decimals: int = 2,
    diverging: bool = False,
    words: pd.DataFrame | None = None,
    cell: tuple[float, float] = (0.8, 0.42),
) -> Figure:
    """A table as an annotated heat map; `diverging` centres a blue to red scale on zero.

    words: what the cells say instead of their values. cell: width and height of one, in inches.
    """
    fig, ((axis,),) = new_axes(1, 1, 1.6 + cell[0] * table.shape[1], 1.2 + cell[1] * len(table))
    reach = float(table.abs().max(axis=None)) or 1.0
    scale = {"cmap": "vlag", "vmin": -reach, "vmax": reach} if diverging else {"cmap": "cividis"}
    annot, fmt = (True, f".{decimals}f") if words is None else (words, "")
    bar, size = {"label": unit}, {"size": 8}
    sns.heatmap(table, annot=annot, fmt=fmt, ax=axis, cbar_kws=bar, annot_kws=size, **scale)
    axis.tick_params(axis="y", rotation=0)
    axis.set(xlabel=table.columns.name or "", ylabel=table.index.name or "")
    return fig


def class_shares(shares: Mapping[str, ArrayLike], space: LabelSpace) -> Figure:
    """How much of the pixels each class covers, on a logarithmic axis, one marker a data set or split.

    Args:
        shares: name -> (K,) shares that sum to at most 1.
        space: names in the same order.
    """
    table = pd.DataFrame(dict(shares), index=list(space.names))
    fig = class_bars(table.sort_values(table.columns[0]))
    fig.axes[0].set(xscale="log", xlabel="share of the labelled pixels in % (logarithmic)")
    return fig


def class_bars(table: pd.DataFrame) -> Figure:
    """IoU of every class (rows, the first at the bottom) for several methods (columns), in [0, 1], as grouped dots."""
    fig, axis = row_axes(table.index, "IoU in %", 0.27)
    for name, colour, marker in zip(table.columns, cycle(COLOURS), cycle(MARKERS), strict=False):
        look = {"color": colour, "markersize": 5, "alpha": 0.85, "label": name}
        axis.plot(100 * table[name], range(len(table)), marker, **look)
    low, high = 100 * table.min(axis=1), 100 * table.max(axis=1)
    axis.hlines(range(len(table)), low, high, color="0.8", zorder=0)
    _legend(fig, axis)
    return fig
