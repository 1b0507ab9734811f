"""The explorer's readouts as HTML: tables with bars, a heat map, a line chart. Strings in, strings out.

HTML is drawn in a millisecond, where a matplotlib figure takes a hundred. Text takes the theme's colour, coloured cells
bring their own, and no number is told by colour alone. Source: this project.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from transkd_lite.gradients import GramReading

__all__ = ["alarm", "heat_table", "line_chart", "reading_summary", "reading_table", "result_table"]

FORWARD, BACKWARD = "#1f88c9", "#d55e00"
BAR_PX = 110
CHART = (560, 210, 46, 10, 26)  # width, height, and the left, top and bottom margins, in pixels
STROKES = ((FORWARD, ""), (BACKWARD, "7 4"), ("#009e73", "2 3"))
CELL = "padding:1px 8px;text-align:right;border:none;background:transparent"


def reading_summary(reading: GramReading) -> str:
    """The four numbers of the whole gradient in one paragraph."""
    alone, per_length = _signed(-reading.supervised_norm, 3), _signed(reading.change_per_length, 3)
    alignment, per_rate = _signed(reading.alignment, 3), _signed(reading.change_per_rate, 3)
    return (
        f"<p style='margin:.2em 0;line-height:1.5'>Size of the whole gradient "
        f"<b data-readout='norm'>{reading.norm:.3f}</b>, of the supervised one "
        f"{reading.supervised_norm:.3f}. Cosine between the two "
        f"<b data-readout='alignment'>{alignment}</b>.<br>Predicted change of the supervised loss: "
        f"<b data-readout='change'>{per_length}</b> per unit of length along the step (at best {alone}, with all "
        f"weights at 0), <b data-readout='rate'>{per_rate}</b> per unit of learning rate.</p>"
    )


def reading_table(reading: GramReading, losses: Sequence[float]) -> str:
    """A row a term: weight, loss, size of its gradient, share of the whole as a bar, cosine with ce as a bar."""
    heads = (
        "term",
        "weight",
        "loss",
        "size of its gradient",
        "share of the whole gradient",
        "cosine with ce",
    )
    rows = []
    for k, name in enumerate(reading.names):
        share, cosine = float(reading.shares[k]), float(reading.cosines[k])
        numbers = (f"{reading.weights[k]:.2f}", f"{losses[k]:.3f}", f"{reading.norms[k]:.3f}")
        bars = _bar(share, _signed(100 * share, 1) + "%"), _bar(cosine, _signed(cosine, 2))
        rows.append(_row(name, _cells(*numbers, *bars), f" data-term='{html.escape(name)}'"))
    return _table("Each term's part in the gradient, at the weights above", heads, rows)


def _signed(value: float, decimals: int, plus: bool = False) -> str:
    """The number with a true minus sign, and no sign at all where it rounds to zero."""
    rounded = round(value, decimals) + 0.0
    return f"{rounded:{'+' if plus else ''}.{decimals}f}".replace("-", "−")


def _bar(value: float, text: str) -> str:
    """A bar as long as |value| (1 fills it), its number beside it; a negative one has the other colour and a sign."""
    width, colour = round(BAR_PX * min(1.0, abs(value))), FORWARD if value >= 0 else BACKWARD
    bar = f"<span style='display:inline-block;height:.8em;width:{width}px;background:{colour}'></span>"
    track = f"<span style='display:inline-block;width:{BAR_PX}px;text-align:left'>{bar}</span>"
    return f"{track} <span data-number style='display:inline-block;min-width:3.6em'>{text}</span>"


def _cells(*contents: str) -> str:
    return "".join(f"<td style='{CELL}'>{content}</td>" for content in contents)


def _row(name: str, cells: str, mark: str = "") -> str:
    """A row that is headed by a name; `mark` is an attribute by which it is found."""
    head = f"<th scope='row' style='{CELL};text-align:left'>{html.escape(name)}</th>"
    return f"<tr style='background:transparent'{mark}>{head}{cells}</tr>"


def _table(caption: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th scope='col' style='{CELL}'>{html.escape(h)}</th>" for h in heads)
    return (
        "<div style='overflow-x:auto;max-width:100%'>"
        "<table style='border-collapse:collapse;margin:.2em 0;line-height:1.5'>"
        f"<caption style='text-align:left;font-style:italic;caption-side:top'>{html.escape(caption)}</caption>"
        f"<thead><tr style='background:transparent'>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def heat_table(names: Sequence[str], cosines: NDArray[np.float64]) -> str:
    """Cosines (T, T) as a coloured table: blue where two terms pull together, orange where they pull apart."""
    rows = []
    for name, values in zip(names, cosines, strict=True):
        rows.append(_row(name, "".join(_heat_cell(float(value)) for value in values)))
    return _table(
        "Cosines between the gradients of all terms: the Gram matrix without its sizes", ("", *names), rows
    )


def _heat_cell(value: float) -> str:
    """White at 0; the colour's full strength is kept light enough for black text."""
    target = np.array([108, 178, 230]) if value >= 0 else np.array([240, 150, 80])
    red, green, blue = (255 + (target - 255) * min(1.0, abs(value))).astype(int)
    style = f"{CELL};background:rgb({red},{green},{blue});color:#000;min-width:2.6em"
    return f"<td style='{style}'>{_signed(value, 2)}</td>"


def line_chart(lines: Mapping[str, Sequence[float]], *, x: str, y: str) -> str:
    """Named lines over 1, 2, … as SVG with a legend; a sentence stands for it where it is not seen."""
    width, height, left, top, bottom = CHART
    values = [v for line in lines.values() for v in line]
    if not values:
        return ""
    low, high = min(values), max(values)
    span, length = (high - low) or 1.0, max(len(line) for line in lines.values())
    drawn, legend = [], []
    for (name, line), (colour, dash) in zip(lines.items(), STROKES, strict=False):
        points = " ".join(
            f"{left + (width - left - 8) * k / max(1, length - 1):.1f},"
            f"{top + (height - top - bottom) * (high - v) / span:.1f}"
            for k, v in enumerate(line)
        )
        stroke = f"stroke='{colour}' stroke-width='2' stroke-dasharray='{dash}' fill='none'"
        drawn.append(f"<polyline points='{points}' {stroke}/>")
        key = f"<svg width='30' height='8' aria-hidden='true'><line x1='0' y1='4' x2='30' y2='4' {stroke}/></svg>"
        legend.append(f"<span style='margin-right:1.5em'>{key} {html.escape(name)}</span>")
    base = height - bottom
    texts = [(left - 4, top + 9, "end", f"{high:.2f}"), (left - 4, base, "end", f"{low:.2f}")]
    texts += [(left, height - 8, "start", "1"), (width - 8, height - 8, "end", str(length))]
    texts += [((left + width) // 2, height - 8, "middle", x)]
    labels = "".join(
        f"<text x='{a}' y='{b}' text-anchor='{anchor}' font-size='11' fill='currentColor'>{html.escape(t)}</text>"
        for a, b, anchor, t in texts
    )
    frame = f"<path d='M{left} {top}V{base}H{width - 8}' stroke='currentColor' fill='none' opacity='.5'/>"
    ends = ", ".join(
        f"{name} from {line[0]:.2f} to {line[-1]:.2f}" for name, line in lines.items() if len(line)
    )
    sentence = html.escape(f"{y} over {x}: {ends}", quote=True)
    return (
        f"<div style='max-width:100%'>{html.escape(y)}<br><svg viewBox='0 0 {width} {height}' role='img' "
        f"aria-label='{sentence}' style='width:{width}px;max-width:100%'>{frame}{''.join(drawn)}{labels}</svg>"
        f"<br>{''.join(legend)}</div>"
    )


def result_table(lines: Mapping[str, Sequence[float]], window: int = 5) -> str:
    """A row a run: the mean of its first and of its last `window` values (of half a short line's), and the change."""
    window, rows = max(1, min(window, *(len(line) // 2 for line in lines.values()))), []
    for name, line in lines.items():
        first, last = float(np.mean(line[:window])), float(np.mean(line[-window:]))
        numbers = (str(len(line)), f"{first:.3f}", f"{last:.3f}", _signed(last - first, 3, plus=True))
        rows.append(_row(name, _cells(*numbers), f" data-run='{html.escape(name)}'"))
    heads = ("weights", "steps", f"ce, first {window}", f"ce, last {window}", "change")
    return _table("Cross entropy of the same batches", heads, rows)


def alarm(error: BaseException) -> str:
    """An error as a reader sees it, in the panel."""
    text = html.escape(f"{type(error).__name__}: {error}")
    return f"<div role='alert' style='background:#fff3f0;color:#8a1c00;padding:.4em .8em'>{text}</div>"
