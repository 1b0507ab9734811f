"""Charts of one table: curves, heat maps, shares and scores of classes."""

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from transkd_lite.data.labels import LabelSpace
from transkd_lite.plots.style import COLOURS, MARKERS, STYLES, new_axes

__all__ = ["class_bars", "class_shares", "curves", "heatmap"]

_BESIDE = 25  # letters of a name: longer ones beside the axes would squeeze them


def curves(
    lines: Mapping[str, tuple[ArrayLike, ArrayLike]], *, x: str, y: str, log: bool = False, title: str = ""
) -> Figure:
    """Draw named lines, each with its own colour and line style; `log` makes the y axis logarithmic."""
    fig, axes = new_axes(1, 1, 7, 3.4)
    axis = axes[0, 0]
    for (name, (xs, ys)), colour, style in zip(lines.items(), cycle(COLOURS), cycle(STYLES), strict=False):
        axis.plot(xs, ys, label=name, color=colour, linestyle=style, linewidth=1.6)
    axis.set(xlabel=x, ylabel=y, title=title, yscale="log" if log else "linear")
    axis.grid(alpha=0.25)
    _legend(fig, axis)
    return fig


def _legend(fig: Figure, axis: Axes) -> None:
    """Name the axes' lines beside them, or below where a name is long."""
    if max((len(name) for name in axis.get_legend_handles_labels()[1]), default=0) > _BESIDE:
        fig.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    else:
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def heatmap(
    table: pd.DataFrame, *, unit: str, title: str = "", decimals: int = 2, diverging: bool = False
) -> Figure:
    """A table as an annotated heat map; `diverging` centres a blue to red scale on zero."""
    fig, axes = new_axes(1, 1, 1.6 + 0.8 * table.shape[1], 1.2 + 0.42 * len(table))
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
    fig, axes = new_axes(1, 1, 7.5, 0.24 * len(space.names) + 0.9)
    axis = axes[0, 0]
    order = np.argsort(np.asarray(next(iter(shares.values()))))
    for (name, share), colour, marker in zip(shares.items(), cycle(COLOURS), cycle(MARKERS), strict=False):
        axis.plot(
            100 * np.asarray(share)[order], range(len(order)), marker, color=colour, label=name, markersize=5
        )
    axis.set(yticks=range(len(order)), yticklabels=[space.names[k] for k in order], xscale="log")
    axis.set_xlabel("share of the labelled pixels in % (logarithmic)")
    axis.grid(alpha=0.25)
    axis.legend(loc="lower right")
    return fig


def class_bars(table: pd.DataFrame) -> Figure:
    """IoU of every class (rows) for several methods (columns), values in [0, 1], as grouped dots."""
    fig, axes = new_axes(1, 1, 7.5, 0.27 * len(table) + 1.0)
    axis = axes[0, 0]
    for name, colour, marker in zip(table.columns, cycle(COLOURS), cycle(MARKERS), strict=False):
        axis.plot(
            100 * table[name], range(len(table)), marker, color=colour, label=name, markersize=5, alpha=0.85
        )
    low, high = 100 * table.min(axis=1), 100 * table.max(axis=1)
    axis.hlines(range(len(table)), low, high, color="0.8", zorder=0)
    axis.set(yticks=range(len(table)), yticklabels=table.index, xlabel="IoU in %")
    axis.grid(axis="x", alpha=0.25)
    _legend(fig, axis)
    return fig
