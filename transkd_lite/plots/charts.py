"""Charts of one table: curves, heat maps, shares and scores of classes, and what a comparison of methods says."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from transkd_lite.plots.style import MARKERS, STYLES, colours, in_style, legend_below, literal, new_axes, row_axes
from transkd_lite.results.statistics import excludes_zero

__all__ = [
    "budget_gains", "class_bars", "class_gains", "critical_difference", "curves", "effects", "heatmap", "methods",
]  # fmt: skip


@in_style
def curves(lines: Mapping[str, tuple[ArrayLike, ArrayLike]], *, x: str, y: str, log: bool = False) -> Figure:
    """Draw named lines, each with its own colour and line style; `log` makes the y axis logarithmic.

    More than five lines get a panel each, in which the others are grey.
    """
    panels = list(lines) if len(lines) > 5 else [""]
    columns = min(len(panels), 3 if len(panels) % 3 == 0 else 4)
    rows = -(-len(panels) // columns)
    height = 1.7 * rows + 0.4 if rows > 1 else 3.2 + 0.09 * len(lines)
    fig, axes = new_axes(rows, columns, 7, height, sharex=True, sharey=True)
    # In a panel of its own a line needs no look that tells it from others.
    shades = colours(lines) if len(panels) == 1 else [colours([name])[0] for name in lines]
    looks = list(zip(lines, shades, cycle(STYLES if len(panels) == 1 else "-"), strict=False))
    for number, (panel, axis) in enumerate(zip(panels, axes.flat, strict=False)):
        for name, colour, style in looks:
            own = {"color": colour, "linestyle": style, "linewidth": 1.6, "label": literal(name)}
            axis.plot(*lines[name], **(own if panel in ("", name) else {"color": "0.87", "zorder": 1}))
        axis.set(title=literal(panel), ylabel="" if number % columns else y, yscale="log" if log else "linear")
        axis.grid(alpha=0.25)
        if x == "step":
            axis.locator_params(axis="x", integer=True)
        if number >= len(panels) - columns:  # the lowest of its column
            axis.set_xlabel(x)
            axis.tick_params(labelbottom=True)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    if len(panels) == 1:
        legend_below(fig)
    return fig


@in_style
def heatmap(
    table: pd.DataFrame, *, unit: str, decimals: int = 2, diverging: bool = False, words: pd.DataFrame | None = None
) -> Figure:
    """A table as an annotated heat map; `diverging` centres a blue to red scale on zero.

    words: what the cells say instead of their values.
    """
    column = max([0.7, *(0.085 * len(str(name)) for name in table)])  # inches, so that names stand side by side
    fig, ((axis,),) = new_axes(1, 1, 1.6 + column * table.shape[1], 1.2 + 0.32 * len(table))
    reach = float(table.abs().max(axis=None)) or 1.0
    scale = {"cmap": "vlag", "vmin": -reach, "vmax": reach} if diverging else {"cmap": "cividis"}
    annot, fmt = (True, f"z.{decimals}f") if words is None else (words, "")
    named = table.rename(index=literal, columns=literal)
    sns.heatmap(named, annot=annot, fmt=fmt, ax=axis, cbar_kws={"label": unit}, annot_kws={"size": 8}, **scale)
    cells = axis.collections[0]
    shades = cells.get_facecolors()[~np.ma.getmaskarray(cells.get_array()).ravel()]
    for text, shade in zip(axis.texts, shades, strict=True):  # seaborn writes in white on shades that are too light
        text.set_color("black" if sns.utils.relative_luminance(shade) > 0.18 else "white")
    axis.tick_params(axis="y", rotation=0)
    axis.set(xlabel=table.columns.name or "", ylabel=table.index.name or "")
    return fig


def class_bars(table: pd.DataFrame) -> Figure:
    """IoU of every class (rows, the first at the bottom) for several methods (columns), in [0, 1], as grouped dots."""
    fig, axis = row_axes(table.index, "IoU in %", 0.27)
    for name, colour, marker in zip(table.columns, colours(table.columns), cycle(MARKERS), strict=False):
        axis.plot(100 * table[name], range(len(table)), marker, color=colour, ms=5, alpha=0.85, label=literal(name))
    axis.hlines(range(len(table)), 100 * table.min(axis=1), 100 * table.max(axis=1), color="0.8", zorder=0)
    legend_below(fig)
    return fig


# --- Figures that compare methods: runs, differences with intervals, ranks, gains by class and by budget.


def methods(table: pd.DataFrame, *, reference: Mapping[str, float] | None = None) -> Figure:
    """One dot a run and one bar a mean: the scores of every method, side by side.

    table: one row a run, columns `method` and `miou` (in [0, 1]); methods in order of first appearance.
    reference: name -> mIoU in [0, 1], drawn as labelled dashed lines (for instance the teacher's) beside up to eight
        methods: it lies far away, and its line would squeeze more of them.
    """
    names = table["method"].unique()
    fig, axis = row_axes(names, "mIoU in %", 0.55)
    for position, (name, colour) in enumerate(zip(names, colours(names), strict=True)):
        scores = 100 * table.loc[table["method"] == name, "miou"]
        axis.plot(scores, [position] * len(scores), "o", color=colour, alpha=0.65, markersize=6)
        axis.plot([scores.mean()] * 2, [position - 0.3, position + 0.3], color=colour, linewidth=2.5)
        axis.text(scores.mean(), position - 0.33, f"{scores.mean():.1f}", ha="center", va="bottom", fontsize=8)
    for name, value in (reference or {}).items() if len(names) <= 8 else ():
        axis.axvline(100 * value, color="0.35", linestyle="--", linewidth=1)
        place = (100 * value, len(names) - 0.5)  # away from the best, which is often the first and the nearest
        axis.annotate(f"{literal(name)} {100 * value:.1f}", place, rotation=90, ha="right", va="bottom", fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.7)
    return fig


def effects(differences: pd.DataFrame) -> Figure:
    """Mean paired differences with both intervals, the largest first: Student's thin, the bootstrap's thick.

    A filled dot: Student's interval leaves out zero. At the right the probability of superiority. Rows name their
    baseline where they have several.

    differences: the table of `comparison.paired_differences`, scores in [-1, 1].
    """
    rows = differences.sort_values("mean", ascending=False, kind="stable")
    names, where, to = rows["method"], range(len(rows)), f"to {literal(' '.join(rows['baseline'].unique()))} "
    if rows["baseline"].nunique() > 1:
        names, to = rows["method"] + " − " + rows["baseline"], ""
    fig, axis = row_axes(names, f"difference of mIoU {to}in percentage points", 0.32)
    axis.hlines(where, 100 * rows["low"], 100 * rows["high"], "black", linewidth=1, label="Student's t, 95%")
    axis.hlines(where, 100 * rows["boot_low"], 100 * rows["boot_high"], "0.8", lw=6, label="bootstrap over seeds, 95%")
    for position, row in enumerate(rows.itertuples()):
        (colour,) = colours([row.method])
        fill = colour if excludes_zero(row.low, row.high) else "white"
        axis.plot(100 * row.mean, position, "o", color=colour, markerfacecolor=fill, markersize=6)
        beside = axis.get_yaxis_transform()  # x in shares of the axis
        axis.text(1.02, position, f"{row.superiority:.2f}", transform=beside, fontsize=8, va="center")
    axis.annotate("P(better)", (1.0, 1.01), xycoords="axes fraction", fontsize=8, va="bottom")
    axis.axvline(0, color="0.3", linewidth=1)
    axis.invert_yaxis()
    legend_below(fig)
    return fig


def critical_difference(
    ranks: pd.Series, difference: float, groups: Sequence[Sequence[str]], *, blocks: str = "blocks"
) -> Figure:
    """Average ranks, best at the top; a bar joins methods that the critical difference does not tell apart.

    ranks: method -> average rank (`statistics.average_ranks`).
    difference: the critical difference.
    groups: the sets to join (`statistics.indistinct_groups`).
    blocks: what the ranks are averaged over, for the axis, such as "5 seeds".
    """
    ranks = ranks.sort_values(kind="stable")
    fig, axis = row_axes(ranks.index, f"average rank over {blocks}: 1 is best", 0.28)
    axis.scatter(ranks, range(len(ranks)), c=colours(ranks.index))
    for position, rank in enumerate(ranks):
        axis.text(rank, position, f"   {rank:.2f}", va="center", fontsize=8)
    for level, group in enumerate(groups):
        ends = [ranks.index.get_loc(group[0]) - 0.2, ranks.index.get_loc(group[-1]) + 0.2]
        axis.plot([len(ranks) + 0.6 + 0.25 * level] * 2, ends, color="0.6", linewidth=4, solid_capstyle="butt")
    axis.plot([1, 1 + difference], [-0.8] * 2, color="black", linewidth=2, marker="|", markersize=8)
    axis.text(1, -0.95, f"critical difference {difference:.2f}", va="bottom", fontsize=8)
    axis.set(xticks=range(1, len(ranks) + 1), ylim=(len(ranks) - 0.4, -1.8))
    return fig


def class_gains(gains: pd.DataFrame) -> Figure:
    """Heat map of what each method (column) gains on each class (row), in points; a star: the interval excludes zero.

    gains: the table of `comparison.class_gains`, or of `gains_by` another column.
    """
    group = gains.columns[0]
    wide = 100 * gains.pivot(index=group, columns="method", values=["mean", "low", "high"])
    wide = wide.loc[gains[group].unique()].reindex(columns=gains["method"].unique(), level="method")
    words = wide["mean"].map("{:+.1f}".format) + np.where(excludes_zero(wide["low"], wide["high"]), "*", "")
    return heatmap(wide["mean"], unit="gain in percentage points", diverging=True, words=words)


@in_style
def budget_gains(gains: pd.DataFrame) -> Figure:
    """Difference to the baseline against steps, one panel a number of labelled images, a line a method.

    gains: the table of `comparison.budget_gains`.
    """
    panels = list(gains.groupby(["dataset", "train_images"], sort=True, dropna=False))
    fig, axes = new_axes(1, len(panels), min(3.4 * len(panels) + 1.6, 9), 3.6, sharey=True)
    names = gains["method"].unique()
    looks = list(zip(names, colours(names), cycle(STYLES), cycle(MARKERS), strict=False))
    for axis, ((dataset, images), rows) in zip(axes[0], panels, strict=True):
        for number, (name, colour, style, marker) in enumerate(looks):
            look = {"color": colour, "linestyle": style, "marker": marker, "markersize": 5, "label": literal(name)}
            line = rows[rows["method"] == name].sort_values("steps")
            steps = line["steps"] * (1 + 0.012 * number)  # so that bars stay apart
            reach = 100 * (line["high"] - line["mean"])
            axis.errorbar(steps, 100 * line["mean"], reach, capsize=2, elinewidth=0.8, **look)
        axis.set(xscale="log", xlabel="optimiser steps", title=f"{literal(dataset)}, {images} labelled images")
        axis.set_xticks(rows["steps"].unique(), rows["steps"].unique())
        axis.minorticks_off()
        axis.axhline(0, color="0.3", linewidth=1)
        axis.grid(alpha=0.25)
    axes[0, 0].set_ylabel(f"difference of mIoU to {literal(gains['baseline'].iloc[0])} in points")
    legend_below(fig, 4, axes[0, 0].get_legend_handles_labels()[0])
    return fig
