"""Figures that compare methods: runs, differences with intervals, ranks, gains by class and by budget."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from transkd_lite.comparison import excludes_zero
from transkd_lite.plots.style import COLOURS, MARKERS, STYLES, new_axes

__all__ = ["budget_gains", "class_gains", "critical_difference", "effects", "methods", "paired"]

_REFERENCED = 6  # rows of dots: a reference lies far away, and its line would squeeze more of them


def methods(table: pd.DataFrame, *, reference: Mapping[str, float] | None = None) -> Figure:
    """One dot a run and one bar a mean: the scores of every method, side by side.

    Args:
        table: one row a run, columns `method` and `miou` (in [0, 1]); methods in order of first appearance.
        reference: name -> mIoU in [0, 1], drawn as labelled dashed lines (for instance the teacher's) beside up to six
            methods.
    """
    names = list(dict.fromkeys(table["method"]))
    fig, axes = new_axes(1, 1, 7, 0.55 * len(names) + 1.2)
    axis = axes[0, 0]
    for position, (name, colour) in enumerate(zip(names, cycle(COLOURS), strict=False)):
        scores = 100 * table.loc[table["method"] == name, "miou"].to_numpy()
        axis.plot(scores, np.full(len(scores), position), "o", color=colour, alpha=0.65, markersize=6)
        axis.plot([scores.mean()] * 2, [position - 0.3, position + 0.3], color=colour, linewidth=2.5)
        axis.annotate(
            f"{scores.mean():.1f}", (scores.mean(), position - 0.33), ha="center", va="bottom", fontsize=8
        )
    bottom = len(names) - 0.5  # away from the best, which is often the first and the nearest
    for name, value in (reference or {}).items() if len(names) <= _REFERENCED else ():
        axis.axvline(100 * value, color="0.35", linestyle="--", linewidth=1)
        text = f"{name} {100 * value:.1f}"
        axis.annotate(text, (100 * value, bottom), rotation=90, ha="right", va="bottom", fontsize=8)
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel="mIoU in %", ylim=(len(names) - 0.4, -0.7))
    axis.grid(axis="x", alpha=0.25)
    return fig


def paired(differences: pd.DataFrame) -> Figure:
    """Mean paired differences with their intervals; one that leaves zero out is drawn filled.

    Args:
        differences: the table of `report.paired_differences`: columns `method`, `baseline`, `mean`, `low` and
            `high`, in [-1, 1].
    """
    fig, axes = new_axes(1, 1, 7, 0.5 * len(differences) + 1.1)
    axis = axes[0, 0]
    for position, row in enumerate(differences.itertuples()):
        sure = excludes_zero(row.low, row.high)
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


def effects(differences: pd.DataFrame) -> Figure:
    """Mean paired differences with both intervals, the largest first: Student's thin, the bootstrap's thick.

    A filled dot: Student's interval leaves out zero. At the right the probability of superiority.

    Args:
        differences: the table of `report.paired_differences`, scores in [-1, 1].
    """
    rows = differences.sort_values("mean", ascending=False, kind="stable")
    fig, axes = new_axes(1, 1, 7, 0.32 * len(rows) + 1.3)
    axis = axes[0, 0]
    where = range(len(rows))
    axis.hlines(
        where, 100 * rows["low"], 100 * rows["high"], color=COLOURS[6], linewidth=1, label="Student, 95%"
    )
    thick = {"color": COLOURS[4], "linewidth": 6, "alpha": 0.9, "label": "bootstrap over seeds, 95%"}
    axis.hlines(where, 100 * rows["boot_low"], 100 * rows["boot_high"], **thick)
    for position, row in enumerate(rows.itertuples()):
        sure = excludes_zero(row.low, row.high)
        axis.plot(
            100 * row.mean, position, "o", color=COLOURS[0], mfc=COLOURS[0] if sure else "white", markersize=6
        )
        place = {"xycoords": ("axes fraction", "data"), "fontsize": 8, "va": "center"}
        axis.annotate(f"{row.superiority:.2f}", (1.02, position), annotation_clip=False, **place)
    axis.annotate("P(better)", (1.0, 1.01), xycoords="axes fraction", fontsize=8, va="bottom")
    axis.axvline(0, color="0.3", linewidth=1)
    axis.set(yticks=where, yticklabels=rows["method"], ylim=(len(rows) - 0.4, -0.6))
    axis.set_xlabel(
        f"difference of mIoU to {', '.join(dict.fromkeys(rows['baseline']))} in percentage points"
    )
    axis.grid(axis="x", alpha=0.25)
    fig.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return fig


def critical_difference(
    ranks: pd.Series, difference: float, groups: Sequence[Sequence[str]], *, blocks: str = "blocks"
) -> Figure:
    """Average ranks on a line, best at the left; a bar joins methods that the critical difference does not tell apart.

    Args:
        ranks: method -> average rank (`comparison.average_ranks`).
        difference: the critical difference.
        groups: the sets to join (`comparison.indistinct_groups`).
        blocks: what the ranks are averaged over, for the axis, such as "5 seeds".
    """
    ranks, step = ranks.sort_values(kind="stable"), 0.4
    count, half = len(ranks), -(-len(ranks) // 2)
    depth = 0.35 * len(groups) + 0.4
    lowest = depth + step * half
    fig, axes = new_axes(1, 1, 7.5, 1.0 + 0.55 * lowest)
    axis = axes[0, 0]
    for position, (name, rank) in enumerate(ranks.items()):
        left = position < half
        y = depth + step * (position if left else count - 1 - position)
        edge, side = (0.7, "right") if left else (count + 0.3, "left")
        axis.plot([rank, rank, edge], [0, y, y], color="0.4", linewidth=0.9)
        text = f"{name}  {rank:.2f}" if left else f"{rank:.2f}  {name}"
        axis.annotate(
            text,
            (edge, y),
            xytext=(-3 if left else 3, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=8,
        )
    for level, group in enumerate(groups):
        ends = [ranks[list(group)].min() - 0.06, ranks[list(group)].max() + 0.06]
        axis.plot(ends, [0.3 + 0.35 * level] * 2, color=COLOURS[0], linewidth=4, solid_capstyle="butt")
    reach = min(difference, count - 1)
    axis.plot([1, 1 + reach], [-0.75] * 2, color=COLOURS[1], linewidth=2, marker="|", markersize=8)
    axis.annotate(f"critical difference {difference:.2f}", (1, -0.85), ha="left", va="bottom", fontsize=8)
    axis.set(ylim=(lowest, -1.3), xlim=(0.6, count + 0.4), yticks=[], xticks=range(1, count + 1))
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.spines["top"].set(visible=True, position=("data", 0))
    axis.xaxis.set_ticks_position("top")
    axis.set_title(f"average rank over {blocks}: 1 is best", loc="left")
    return fig


def class_gains(gains: pd.DataFrame) -> Figure:
    """Heat map of what each method (column) gains on each class (row), in points; a star: the interval excludes zero.

    Args:
        gains: the table of `report.class_gains`.
    """
    mean = _wide(gains, "mean")
    sure = excludes_zero(_wide(gains, "low"), _wide(gains, "high"))
    reach = max(float(mean.abs().max(axis=None)), 0.1)
    fig, axes = new_axes(1, 1, 2.2 + 0.5 * mean.shape[1], 1.4 + 0.25 * len(mean))
    axis = axes[0, 0]
    drawn = axis.imshow(mean, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
    for (y, x), value in np.ndenumerate(mean.to_numpy()):
        if not np.isnan(value):
            star = "*" if sure.iat[y, x] else ""
            colour = "white" if abs(value) > 0.6 * reach else "black"
            axis.annotate(f"{value:+.1f}{star}", (x, y), ha="center", va="center", fontsize=7, color=colour)
    axis.set(yticks=range(len(mean)), yticklabels=mean.index)
    turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if mean.shape[1] > 4 else {}
    axis.set_xticks(range(mean.shape[1]), list(mean.columns), **turned)
    axis.spines[:].set_visible(False)
    fig.colorbar(drawn, ax=axis, shrink=0.8, label="gain in percentage points")
    return fig


def _wide(gains: pd.DataFrame, column: str) -> pd.DataFrame:
    """Classes x methods in points, in the order in which both first appear."""
    wide = 100 * gains.pivot(index="class", columns="method", values=column)
    return wide.loc[list(dict.fromkeys(gains["class"])), list(dict.fromkeys(gains["method"]))]


def budget_gains(gains: pd.DataFrame) -> Figure:
    """Difference to the baseline against steps, one panel a number of labelled images, a line a method.

    Args:
        gains: the table of `report.budget_gains`.
    """
    panels = list(gains.groupby(["dataset", "train_images"], sort=True, dropna=False))
    fig, axes = new_axes(1, len(panels), min(3.4 * len(panels) + 1.6, 9), 3.2)
    names = list(dict.fromkeys(gains["method"]))
    looks = dict(zip(names, zip(cycle(COLOURS), cycle(STYLES), cycle(MARKERS), strict=False), strict=False))
    for axis, ((dataset, images), rows) in zip(axes[0], panels, strict=True):
        for name, line in rows.sort_values("steps").groupby("method", sort=False):
            colour, style, marker = looks[str(name)]
            shift = 1 + 0.012 * (names.index(str(name)) - (len(names) - 1) / 2)  # so that bars stay apart
            reach = 100 * (line["high"] - line["mean"])
            look = {"color": colour, "linestyle": style, "marker": marker, "markersize": 5, "label": name}
            axis.errorbar(line["steps"] * shift, 100 * line["mean"], reach, capsize=2, elinewidth=0.8, **look)
        ticks = sorted(set(rows["steps"]))
        axis.set(xscale="log", xlabel="optimiser steps", title=f"{dataset}, {images} labelled images")
        axis.set_xticks(ticks, [str(step) for step in ticks])
        axis.minorticks_off()
        axis.axhline(0, color="0.3", linewidth=1)
        axis.grid(alpha=0.25)
    ends = [axis.get_ylim() for axis in axes[0]]
    for axis in axes[0]:  # one scale for all panels
        axis.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
    axes[0, 0].set_ylabel(f"difference of mIoU to {gains['baseline'].iloc[0]} in points")
    handles = {
        label: handle
        for axis in axes[0]
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    fig.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=8, frameon=False)
    return fig
