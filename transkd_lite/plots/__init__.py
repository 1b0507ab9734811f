"""Every figure of the course and of the report, drawn in one style.

Functions take arrays, tables and label spaces, return a matplotlib `Figure`, and never show it themselves: a
notebook calls `show(fig, alt)`, which stores the picture together with its alternative text. Scalars wear
cividis, lines in a colour-blind safe set (Okabe and Ito 2008) with a line style each, and label maps in the
data set's own palette with the class names beside them."""

from transkd_lite.plots.charts import (
    budget_gains,
    class_bars,
    class_gains,
    class_shares,
    critical_difference,
    curves,
    effects,
    heatmap,
    methods,
)
from transkd_lite.plots.pictures import error_map, label_legend, label_maps, maps, principal_colours, segmentations
from transkd_lite.plots.style import COLOURS, RC, STYLES, show, to_png, to_svg

__all__ = [
    "COLOURS",
    "RC",
    "STYLES",
    "budget_gains",
    "class_bars",
    "class_gains",
    "class_shares",
    "critical_difference",
    "curves",
    "effects",
    "error_map",
    "heatmap",
    "label_legend",
    "label_maps",
    "maps",
    "methods",
    "principal_colours",
    "segmentations",
    "show",
    "to_png",
    "to_svg",
]
