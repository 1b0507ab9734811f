"""Every figure of the course and of the report, drawn in one style.

Functions take arrays, tables and label spaces, return a matplotlib `Figure`, and never show it themselves: a
notebook calls `show(fig, alt)`, which stores the picture together with its alternative text. Scalars wear
cividis, lines in a colour-blind safe set (Okabe and Ito 2008) with a line style each, and label maps in the
data set's own palette with the class names beside them.
"""

from transkd_lite.plots.charts import *  # noqa: F403
from transkd_lite.plots.pictures import *  # noqa: F403
from transkd_lite.plots.style import *  # noqa: F403
