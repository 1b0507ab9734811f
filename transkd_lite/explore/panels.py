"""The panels of the course, the loss-weight explorer and the attention panel: thin ipywidgets over pure functions.

Nothing else in the package imports ipywidgets. Source: this project.
"""

from __future__ import annotations

import base64
import html
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets
import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from transkd_lite.distill.embedding import PAPER_WEIGHTS
from transkd_lite.explore.attention import EVERY, Choice, Looks, overlays, view
from transkd_lite.explore.gradients import GradientRecord, GramReading, TrialBench, cosine_matrix
from transkd_lite.plots.charts import curves
from transkd_lite.plots.style import to_svg

__all__ = [
    "PRESETS",
    "AttentionPanel",
    "LossWeightsPanel",
    "Panel",
    "WeightChoice",
    "heat_table",
    "reading_summary",
    "reading_table",
    "readout",
    "result_chart",
    "result_table",
]

# --- One choice of TransKD's loss weights: as weights of terms, as parameters of an experiment, as YAML for
# papermill.
#
# Pure values; the explorer's sliders and its static twin in the notebook both speak through this record. Weights and
# terms are those of TransKD, arXiv 2202.13393, section III.


@dataclass(frozen=True)
class WeightChoice:
    """The weights that the explorer offers: one for all four fused features, one an embedding stage, one for kd.

    >>> WeightChoice(kd=0.5).term_weights(["ce", "csf_1", "pea_4", "kd"])
    {'csf_1': 1.0, 'pea_4': 1.0, 'kd': 0.5}
    """

    feature: float = 1.0
    embedding: tuple[float, ...] = PAPER_WEIGHTS
    kd: float = 0.0

    def term_weights(self, names: Sequence[str]) -> dict[str, float]:
        """The weight of every term but ce, whose weight is always 1.

        Raises ValueError for a term that is none of csf_i, pea_i and kd.
        """
        known = {f"csf_{i}": self.feature for i in (1, 2, 3, 4)} | {"kd": self.kd}
        known |= {f"pea_{i}": weight for i, weight in enumerate(self.embedding, start=1)}
        for name in names:
            if name != "ce" and name not in known:
                raise ValueError(
                    f"the explorer knows ce, csf_1 … csf_4, pea_1 … pea_4 and kd; got the term {name}: use a method "
                    'of the transkd family, such as "transkd-base+kd"'
                )
        return {name: float(known[name]) for name in names if name != "ce"}

    def parameters(self) -> dict[str, Any]:
        """method and options of an `Experiment` with these weights, the method without what has no weight."""
        if not (self.feature or any(self.embedding) or self.kd):
            return {"method": "none", "options": {}}
        embedding = [float(weight) for weight in self.embedding]
        options = {"feature_weight": float(self.feature), "embedding_weights": embedding}
        if not self.kd:
            return {"method": "transkd-base", "options": options}
        return {"method": "transkd-base+kd", "options": options | {"kd.weight": float(self.kd)}}

    def to_yaml(self, teacher: str | None = None) -> str:
        """`parameters`, with the teacher where one is given, as a file for `papermill -f`.

        >>> print(WeightChoice().to_yaml(), end="")
        method: transkd-base
        options:
          feature_weight: 1.0
          embedding_weights: [0.1, 0.1, 0.5, 1.0]
        """
        values = ({} if teacher is None else {"teacher": teacher}) | self.parameters()
        return yaml.safe_dump(values, default_flow_style=None, sort_keys=False, width=1000)


PRESETS = {
    "Paper": WeightChoice(),
    "Equal": WeightChoice(1.0, (1.0, 1.0, 1.0, 1.0), 1.0),
    "Last stage only": WeightChoice(0.0, (0.0, 0.0, 0.0, 1.0), 0.0),
    "Off": WeightChoice(0.0, (0.0, 0.0, 0.0, 0.0), 0.0),
}

# --- What both panels are made of: their common ground, and readouts as HTML, strings in and strings out.
#
# A table is drawn in a millisecond. Text takes the theme's colour, coloured cells bring their own, and no
# number is told by colour alone. Source: this project.

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
    return html_table("Cosines between the gradients of all terms: the Gram matrix without its sizes", "cosine", rows)


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


# --- The loss-weight explorer: move a weight and see at once what it does to the student's gradient.
#
# Every readout is a pure function of the sliders and of one Gram matrix; a callback calls it and puts the
# string into its place. Training is slow, so it runs in a thread, step by step, and a button stops it after a
# whole step. Source: this project; weights: TransKD, arXiv 2202.13393, section III.

PAPER, CHOSEN = "the paper's weights", "the chosen weights"
SLIDERS = {f"Embedding, stage {i}": f"pea_{i}" for i in (1, 2, 3, 4)}  # each with a term that it weighs
SLIDERS = {"Features, all stages": "csf_1", **SLIDERS, "Logits (kd)": "kd"}


class LossWeightsPanel(Panel):
    """Sliders for the weights, readouts of the gradient, a trial training, and the choice as YAML.

    Args:
        record: the gradients to read, one Gram matrix for each moment of training.
        bench: what a trial trains; without it there is no trial.
        num_steps: length of a trial, for each of its two students.
        teacher: file of the teacher, written into the YAML.

    Raises:
        ValueError: the record has terms that the explorer has no slider for.
    """

    title = "The loss-weight explorer"

    def __init__(
        self,
        record: GradientRecord,
        bench: TrialBench | None = None,
        *,
        num_steps: int = 24,
        teacher: str | None = None,
    ) -> None:
        self.record, self.bench, self.num_steps, self.teacher = record, bench, num_steps, teacher
        PRESETS["Paper"].term_weights(record.names)
        moments = [(f"after {step} steps", step) for step in record.steps]
        self.moment = labelled(ipywidgets.Dropdown, "Moment of training", options=moments)
        look = {"max": 3.0, "step": 0.05, "readout_format": ".2f"}
        sliders = [labelled(ipywidgets.FloatSlider, name, **look) for name in SLIDERS]
        self.feature, *self.embedding, self.kd = sliders
        pairs = zip(sliders, SLIDERS.values(), strict=True)
        self.sliders = [slider for slider, term in pairs if term in record.names]
        self.presets = {name: ipywidgets.Button(description=name) for name in PRESETS}
        self.summary, self.table, self.heat, self.result = (ipywidgets.HTML() for _ in range(4))
        wide = ipywidgets.Layout(width="100%", max_width="640px", height="11em")
        self.yaml = labelled(ipywidgets.Textarea, "As papermill YAML", layout=wide)
        hint = f"Train {num_steps} steps with the paper's and with the chosen weights"
        self.train = ipywidgets.Button(description="Train", tooltip=hint, disabled=bench is None)
        hint = "Stop the trial after its current step"
        self.cancel = ipywidgets.Button(description="Cancel", tooltip=hint, disabled=True)
        self.progress = labelled(ipywidgets.IntProgress, "Trial", max=num_steps)
        self.status, self._stop = ipywidgets.Label("not started"), threading.Event()
        self._thread = threading.Thread()
        presets = ipywidgets.HBox([*self.presets.values()], layout=WRAP)
        trial = ipywidgets.HBox([self.train, self.cancel, self.progress, self.status], layout=WRAP)
        readouts = [self.summary, self.table, self.heat, trial, self.result, self.yaml]
        super().__init__("tk-explorer", [presets, ipywidgets.VBox([self.moment, *self.sliders])], readouts)
        self.choose(PRESETS["Paper"])
        for control in (self.moment, *sliders):
            control.observe(lambda _: self.guarded(self.show), names="value")
        for name, button in self.presets.items():
            button.tooltip = f"Set all weights: {name.lower()}"
            button.on_click(lambda _, name=name: self.guarded(lambda: self.choose(PRESETS[name])))
        self.train.on_click(lambda _: self.guarded(self.start_trial))
        self.cancel.on_click(lambda _: self._stop.set())

    @property
    def choice(self) -> WeightChoice:
        """The weights as the sliders stand; what the record has no term for has none."""
        sliders = (self.feature, *self.embedding, self.kd)
        feature, *embedding, kd = (round(s.value, 4) if s in self.sliders else 0.0 for s in sliders)
        return WeightChoice(feature, tuple(embedding), kd)

    @property
    def reading(self) -> GramReading:
        """What the chosen moment says about the chosen weights."""
        return self.record.at(self.moment.value).read(self.choice.term_weights(self.record.names))

    def choose(self, choice: WeightChoice) -> None:
        """Put the sliders where a choice says."""
        self.feature.value, self.kd.value = choice.feature, choice.kd
        for slider, value in zip(self.embedding, choice.embedding, strict=True):
            slider.value = value
        self.show()

    def show(self) -> None:
        """Draw all readouts as the controls stand."""
        moment, reading = self.record.at(self.moment.value), self.reading
        self.summary.value = reading_summary(reading)
        self.table.value = reading_table(reading, moment.losses.tolist())
        self.heat.value = heat_table(moment.names, cosine_matrix(moment.gram))
        self.yaml.value = self.choice.to_yaml(self.teacher)

    def start_trial(self) -> None:
        """Train in the background: the paper's weights and the chosen ones, same seed, same batches."""
        bench = self.bench
        if bench is None:
            raise ValueError("a trial needs something to train: LossWeightsPanel(record, bench=TrialBench(experiment))")
        self._stop.clear()
        self.train.disabled, self.cancel.disabled = True, False
        self.status.value, self.result.value, self.progress.value = "preparing", "", 0
        choices = {PAPER: PRESETS["Paper"], CHOSEN: self.choice}
        weightings = {name: choice.term_weights(self.record.names) for name, choice in choices.items()}

        def train() -> None:
            lines: dict[str, list[float]] = {name: [] for name in weightings}
            try:
                for row in bench.compare(weightings, self.num_steps):
                    for name, line in lines.items():
                        line.append(row[name]["ce"])
                    done = self.progress.value = len(line)
                    self.status.value = f"step {done} of {self.num_steps}"
                    self.result.value = result_chart(lines)
                    if self._stop.is_set():
                        break
                end = "finished" if done == self.num_steps else "cancelled"
                self.status.value = f"{end} after {done} of {self.num_steps} steps"
                self.result.value += result_table(lines)
            except Exception as error:
                self.status.value, self.result.value = "failed", alarm(error)
            finally:
                self.train.disabled, self.cancel.disabled = False, True

        self._thread = threading.Thread(target=train, daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the trial to end; returns whether it has."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()


# --- The attention panel: where blocks of several networks look from one pixel, side by side.
#
# All that it shows are pure functions of what the networks saw and of one `Choice`; a callback reads the controls and
# puts two strings into their places. Everything works from the keyboard: the arrow keys move a slider and a drop-down
# list. An `ipywidgets.Image` tells no click coordinates, so sliders choose the pixel. Source: this project.


class AttentionPanel(Panel):
    """Controls for network, image, stage, block, head and pixel; pictures of attention; the same in words.

    Args:
        looks: what the networks saw, from `explore.attention.look`.
        start: what is shown first; None for the middle pixel of the first image.

    Raises:
        ValueError: `start` is not among the looks.

    controls holds the controls by field of `Choice`, so that a program can move them, too.
    """

    title = "The attention panel"

    def __init__(self, looks: Looks, start: Choice | None = None) -> None:
        start = start or Choice(row=looks.size[0] // 2, column=looks.size[1] // 2)
        overlays(looks, start)
        self.looks = looks
        seen = next(iter(looks.attention.values()))
        (height, width), (rows, columns) = looks.size, seen[1, 1].size  # the finest grid that there is
        limits = {
            "image": ("Image", 0, len(looks.pictures) - 1, 1),
            "stage": ("Stage", 1, max(stage for stage, _ in seen), 1),
            "block": ("Block", 1, looks.depth(start.stage), 1),
            "head": ("Head", 1, looks.num_heads(start.stage), 1),
            "row": ("Pixel row", 0, height - height // rows, height // rows),
            "column": ("Pixel column", 0, width - width // columns, width // columns),
        }
        names = [EVERY, *looks.attention]
        self.controls: dict[str, Any] = {
            "network": labelled(ipywidgets.Dropdown, "Network", options=names, value=start.network)
        }
        for field, (name, low, high, step) in limits.items():
            at = min(getattr(start, field), high)
            self.controls[field] = labelled(ipywidgets.IntSlider, name, value=at, min=low, max=high, step=step)
        self.pictures, self.words = ipywidgets.HTML(), ipywidgets.HTML()
        controls = ipywidgets.HBox([*self.controls.values()], layout=WRAP)
        super().__init__("tk-attention", [controls], [self.pictures, self.words])
        for control in self.controls.values():
            control.observe(lambda _: self.guarded(self.show), names="value")
        self.guarded(self.show)

    @property
    def choice(self) -> Choice:
        """What the controls ask for."""
        return Choice(**{name: control.value for name, control in self.controls.items()})

    def show(self) -> None:
        """Draw as the controls stand."""
        stage = self.controls["stage"].value
        self.controls["block"].max = self.looks.depth(stage)
        self.controls["head"].max = self.looks.num_heads(stage)
        self.pictures.value = as_html(overlays(self.looks, self.choice), self.choice)
        self.words.value = readout(self.looks, self.choice)


def as_html(pictures: Mapping[str, NDArray[np.uint8]], choice: Choice) -> str:
    """The pictures side by side as far as there is room, each with its name and words for who cannot see it."""
    figures, place = "", f"pixel row {choice.row}, column {choice.column}"
    for name, picture in pictures.items():
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="png")
        encoded = base64.b64encode(buffer.getvalue()).decode()
        what = f"image with the query at {place}" if name == "image" else f"attention of {name} from {place}"
        figures += (
            '<figure style="flex:1 1 200px; max-width:420px; min-width:0; margin:0">'
            f'<img alt="{html.escape(what)}" src="data:image/png;base64,{encoded}" '
            'style="width:100%; image-rendering:pixelated">'
            f"<figcaption>{html.escape(name)}</figcaption></figure>"
        )
    return f'<div style="display:flex; flex-wrap:wrap; gap:8px">{figures}</div>'


def readout(looks: Looks, choice: Choice) -> str:
    """The same in words, as HTML: the query's pixel, class and position, then a row of numbers a network."""
    rows = {}
    for name in looks.chosen(choice):
        seen = view(looks, name, choice)
        grid_rows, grid_columns = seen.weights.shape
        sizes = zip(seen.peak, looks.size, seen.weights.shape, strict=True)
        row, column = ((2 * at + 1) * full // (2 * cells) for at, full, cells in sizes)
        predicted = int(looks.predictions[name][choice.image][choice.row, choice.column])
        cells = {
            "block, head": f"{seen.block}, {seen.head}",
            "predicts": looks.class_name(predicted),
            "looks most at": f"pixel ({row}, {column}), {looks.class_at(choice.image, row, column)}",
            "share": f"{seen.share:.3f}",
            "effective keys": f"{seen.effective:.1f} of {seen.keys}",
            "distance": f"{seen.distance * (looks.size[0] // grid_rows):.0f} pixels",
            "own class": "" if np.isnan(seen.own_class) else f"{seen.own_class:.3f}",
        }
        rows[name] = {head: html.escape(cell) for head, cell in cells.items()}
    label = html.escape(looks.class_at(choice.image, choice.row, choice.column))
    query = (
        f"Query: pixel row {choice.row}, column {choice.column}, labelled <b>{label}</b>. Stage {choice.stage} sees it "
        f"at row {seen.position[0]}, column {seen.position[1]} of its {grid_rows} × {grid_columns} grid."
    )
    table = html_table("What the chosen block and head attend to", "network", rows)
    return f"<p data-query>{query}</p>{table}"
