"""What both panels are made of: their common ground, and readouts as HTML, strings in and strings out.

A table is drawn in a millisecond. Text takes the theme's colour, coloured cells bring their own, and no number is told
by colour alone. Source: this project.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
import numpy as np
from numpy.typing import NDArray

from transkd_lite.gradients import GramReading
from transkd_lite.plots import curves, to_svg

__all__ = ["Panel", "heat_table", "reading_summary", "reading_table", "result_chart", "result_table"]

FORWARD, BACKWARD = "#1f88c9", "#d55e00"
BAR_PX = 110
WRAP = ipywidgets.Layout(flex_flow="row wrap", width="100%")


class Panel(ipywidgets.VBox):
    """Widgets above and below a message: what a callback raises stands there until something succeeds."""

    title = "A panel"

    def __init__(self, css: str, above: Sequence[Any], below: Sequence[Any]) -> None:
        self.message = ipywidgets.HTML()
        layout = ipywidgets.Layout(width="100%", overflow="hidden")
        super().__init__([*above, self.message, *below], layout=layout)
        self.add_class(css)

    def __repr__(self) -> str:
        return f"{self.title}: run this notebook in JupyterLab to move its sliders."

    def guarded(self, action: Callable[[], Any]) -> None:
        """Do it, and show what it raises."""
        self.message.value = ""
        try:
            action()
        except Exception as error:
            self.message.value = alarm(error)


def alarm(error: BaseException) -> str:
    """An error as a reader sees it, in the panel."""
    text = html.escape(f"{type(error).__name__}: {error}")
    return f"<div role='alert' style='background:#fff3f0;color:#8a1c00;padding:.4em .8em'>{text}</div>"


def labelled(kind: type[Any], description: str, **options: Any) -> Any:
    """A control with its description, as wide as there is room."""
    layout = ipywidgets.Layout(width="100%", max_width="480px")
    fixed = {"style": {"description_width": "150px"}, "layout": layout}
    return kind(description=description, **fixed | options)


def html_table(caption: str, kind: str, rows: Mapping[str, Mapping[str, str]]) -> str:
    """Rows of cells (HTML by heading), each found by the attribute data-`kind`, which holds its name."""
    style = "padding:1px 8px;border:none;background:transparent;text-align:"
    heads = (kind, *next(iter(rows.values())))
    head = "".join(f"<th scope='col' style='{style}right'>{html.escape(text)}</th>" for text in heads)
    body = ""
    for name, cells in rows.items():
        label = html.escape(name)
        shown = "".join(f"<td style='{style}right'>{cell}</td>" for cell in cells.values())
        body += f'<tr data-{kind}="{label}"><th scope="row" style="{style}left">{label}</th>{shown}</tr>'
    return (
        "<div style='overflow-x:auto;max-width:100%'><table style='border-collapse:collapse;line-height:1.5'>"
        f"<caption style='text-align:left;font-style:italic;caption-side:top'>{html.escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def signed(value: float, decimals: int, plus: str = "") -> str:
    """The number with a true minus sign, and no sign at all where it rounds to zero."""
    return f"{round(value, decimals) + 0.0:{plus}.{decimals}f}".replace("-", "−")


def bar(value: float, text: str) -> str:
    """A bar as long as |value| (1 fills it), its number beside it; a negative one has the other colour and a sign."""
    width, colour = round(BAR_PX * min(1.0, abs(value))), FORWARD if value >= 0 else BACKWARD
    drawn = f"<span style='display:inline-block;height:.8em;width:{width}px;background:{colour}'></span>"
    track = f"<span style='display:inline-block;width:{BAR_PX}px;text-align:left'>{drawn}</span>"
    return f"{track} <span data-number style='display:inline-block;min-width:3.6em'>{text}</span>"


def reading_summary(reading: GramReading) -> str:
    """The four numbers of the whole gradient in one paragraph."""
    alone, per_length = signed(-reading.supervised_norm, 3), signed(reading.change_per_length, 3)
    return (
        f"<p style='margin:.2em 0;line-height:1.5'>Size of the whole gradient "
        f"<b data-readout='norm'>{reading.norm:.3f}</b>, of the supervised one "
        f"{reading.supervised_norm:.3f}. Cosine between the two "
        f"<b data-readout='alignment'>{signed(reading.alignment, 3)}</b>.<br>Predicted change of the supervised loss: "
        f"<b data-readout='change'>{per_length}</b> per unit of length along the step (at best {alone}, with all "
        f"weights at 0), <b data-readout='rate'>{signed(reading.change_per_rate, 3)}</b> per unit of learning rate.</p>"
    )


def reading_table(reading: GramReading, losses: Sequence[float]) -> str:
    """A row a term: weight, loss, size of its gradient, share of the whole as a bar, cosine with ce as a bar."""
    rows = {}
    for k, name in enumerate(reading.names):
        share, cosine = float(reading.shares[k]), float(reading.cosines[k])
        rows[name] = {
            "weight": f"{reading.weights[k]:.2f}",
            "loss": f"{losses[k]:.3f}",
            "size of its gradient": f"{reading.norms[k]:.3f}",
            "share of the whole gradient": bar(share, signed(100 * share, 1) + "%"),
            "cosine with ce": bar(cosine, signed(cosine, 2)),
        }
    return html_table("Each term's part in the gradient, at the weights above", "term", rows)


def heat_table(names: Sequence[str], cosines: NDArray[np.float64]) -> str:
    """Cosines (T, T) as a coloured table: blue where two terms pull together, orange where they pull apart.

    White at 0; a colour's full strength is kept light enough for black text.
    """
    rows: dict[str, dict[str, str]] = {name: {} for name in names}
    for (y, x), value in np.ndenumerate(cosines):
        full = np.array((108, 178, 230) if value >= 0 else (240, 150, 80))
        red, green, blue = (255 + (full - 255) * abs(value)).astype(int)
        style = f"background:rgb({red},{green},{blue});color:#000;min-width:2.6em"
        rows[names[y]][names[x]] = f"<div style='{style}'>{signed(value, 2)}</div>"
    return html_table(
        "Cosines between the gradients of all terms: the Gram matrix without its sizes", "cosine", rows
    )


def result_chart(lines: Mapping[str, Sequence[float]]) -> str:
    """The cross entropy of named runs over their steps 1, 2, …, and a sentence for who does not see it."""
    points = {name: (range(1, len(line) + 1), line) for name, line in lines.items()}
    ends = (f"{name} from {line[0]:.2f} to {line[-1]:.2f}" for name, line in lines.items())
    words = f"cross entropy over step: {', '.join(ends)}"
    return to_svg(curves(points, x="step", y="cross entropy"), words)


def result_table(lines: Mapping[str, Sequence[float]], window: int = 5) -> str:
    """A row a run: the mean of its first and of its last `window` values (of half a short line's), and the change."""
    window, rows = max(1, min(window, *(len(line) // 2 for line in lines.values()))), {}
    for name, line in lines.items():
        first, last = float(np.mean(line[:window])), float(np.mean(line[-window:]))
        rows[name] = {
            "steps": str(len(line)),
            f"ce, first {window}": f"{first:.3f}",
            f"ce, last {window}": f"{last:.3f}",
            "change": signed(last - first, 3, "+"),
        }
    return html_table("Cross entropy of the same batches", "run", rows)
