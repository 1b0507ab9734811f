"""The panels of the course, for loss weights, attention and segmentations: thin ipywidgets over pure functions.

A panel is controls, pure functions of what they choose, and one method that draws; what a callback raises is shown.
Nothing else in the package imports ipywidgets. Source: this project.
"""

import base64
import html
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from ipyevents import Event
from IPython.display import display
from ipywidgets import HTML, Button, Dropdown, FloatSlider, HBox, IntProgress, IntSlider, Layout, Textarea, VBox
from numpy.typing import NDArray
from PIL import Image

from transkd_lite.distill.embedding import PAPER_WEIGHTS
from transkd_lite.explore.attention import EVERY, Choice, Looks, overlays
from transkd_lite.explore.gradients import GradientReading, GradientRecord
from transkd_lite.plots import curves, to_html, to_png

__all__ = ["PRESETS", "AttentionPanel", "LossWeightsPanel", "SwipePanel", "WeightChoice", "readout"]

# --- One choice of TransKD's loss weights (arXiv 2202.13393, section III): as weights of terms, as parameters of an
# experiment, as YAML for papermill. The sliders and their static twin in the notebook both speak through it.


class WeightChoice(NamedTuple):
    """The weights that the explorer offers: one for all four fused features, one an embedding stage, one for kd.

    >>> WeightChoice(kd=0.5).term_weights(["ce", "csf_1", "pea_4", "kd"])
    {'csf_1': 1.0, 'pea_4': 1.0, 'kd': 0.5}
    """

    feature: float = 1.0
    embedding: tuple[float, ...] = PAPER_WEIGHTS
    kd: float = 0.0

    def term_weights(self, names: Iterable[str]) -> dict[str, float]:
        """The weight of every term but ce, whose weight is always 1; KeyError for one that is not csf, pea or kd."""
        known = {f"csf_{i}": self.feature for i in (1, 2, 3, 4)} | {"kd": self.kd}
        known |= {f"pea_{i}": weight for i, weight in enumerate(self.embedding, start=1)}
        return {name: float(known[name]) for name in names if name != "ce"}

    def parameters(self) -> dict[str, Any]:
        """method and options of an `Experiment` with these weights, the method without what has no weight."""
        weighs = self.feature or any(self.embedding)
        base = {"feature_weight": self.feature, "embedding_weights": list(self.embedding)} if weighs else {}
        kd = {"kd.weight": self.kd} if self.kd else {}
        return {"method": "+".join(["transkd-base"] * bool(base) + ["kd"] * bool(kd)) or "none", "options": base | kd}

    def to_yaml(self, teacher: str = "") -> str:
        """`parameters`, with the teacher where one is given, as a file for `papermill -f`.

        >>> print(WeightChoice().to_yaml(), end="")
        method: transkd-base
        options:
          feature_weight: 1.0
          embedding_weights: [0.1, 0.1, 0.5, 1.0]
        """
        values = ({"teacher": teacher} if teacher else {}) | self.parameters()
        return yaml.safe_dump(values, default_flow_style=None, sort_keys=False, width=1000)


PRESETS = {
    "Paper": WeightChoice(),
    "Course": WeightChoice(4.0, (0.4, 0.4, 2.0, 4.0)),  # what a search chose, data/results/searches/course.csv
    "Equal": WeightChoice(1.0, (1.0, 1.0, 1.0, 1.0), 1.0),
    "Last stage only": WeightChoice(0.0, (0.0, 0.0, 0.0, 1.0), 0.0),
    "Off": WeightChoice(0.0, (0.0, 0.0, 0.0, 0.0), 0.0),
}

# --- What all panels are made of. Text takes the theme's colour, coloured cells bring their own, and no number is told
# by colour alone.

WRAP = Layout(flex_flow="row wrap", width="100%")
FRAMED = Layout(width="100%", max_width="768px", margin="0", overflow="auto")

# Beside the living panel the page hides what stands for it; elsewhere it hides the panel that no kernel moves.
STANDING = """<style>.jp-OutputArea-child:has(.tk-still):has(+ * .tk-alive:not(.jupyter-widgets-disconnected)), \
.jp-OutputArea-child:has(.tk-still) + :not(:has(.tk-alive:not(.jupyter-widgets-disconnected))) {display:none}</style>"""

# ipywidgets gives a slider no name that a screen reader finds, and has no live region. When this style sheet loads, its
# view gets both, as do views that come later.
NAMES = """<style onload="const box = this.closest('.widget-vbox'); new MutationObserver(() => {
box.querySelectorAll('.widget-slider').forEach(e => e.querySelector('[role=slider]')?.setAttribute('aria-label',
e.querySelector('label').textContent)); box.querySelector('.tk-said')?.parentElement.setAttribute('aria-live', 'polite')
}).observe(box, {childList: true, subtree: true}); this.remove()">.tk-said {}</style>"""


class Panel(VBox):
    """Widgets above and below a message: what a callback raises stands there until something succeeds.

    Its own HTML (not that of boxes in it), as it is at first, also stands where no kernel runs. JupyterLab runs the
    callbacks of two controls at the same time, each in a thread: `guarded` lets one wait for the other.
    """

    def __init__(self, css: str, controls: Iterable[Any], above: Sequence[Any], below: Sequence[Any]) -> None:
        self.message, self.turn = HTML(), threading.RLock()
        children = [*above, self.message, *below, HBox([HTML(NAMES)], layout={"height": "0"})]
        super().__init__(children, layout={"width": "100%", "overflow": "hidden"})
        self.add_class(css)
        for control in controls:
            control.observe(lambda _: self.guarded(self.show), names="value")
        self.show()

    def __repr__(self) -> str:
        name = re.sub("(?=[A-Z])", " ", type(self).__name__).lower()
        return f"The{name}: run this notebook in JupyterLab to move its sliders."

    def _ipython_display_(self) -> None:
        """Called by IPython in place of `_repr_mimebundle_`: an output without widgets, then the panel."""
        said = "".join(part.value for part in self.children if isinstance(part, HTML))
        still = f'{STANDING}<div class="tk-still" style="max-width:768px">{said}</div>'
        display({"text/html": still, "text/plain": "The panel as it is at first."}, raw=True)
        display(self.add_class("tk-alive")._repr_mimebundle_(), raw=True)

    def show(self) -> None:
        """Draw as the controls stand."""

    def guarded(self, action: Callable[[], Any], in_turn: bool = True) -> None:
        """Do it, where `in_turn` after what another callback is doing, and show what it raises."""
        with self.turn if in_turn else nullcontext():
            self.message.value = ""
            try:
                action()
            except Exception as error:
                text = html.escape(f"{type(error).__name__}: {error}")
                look = "background:#fff3f0;color:#8a1c00;padding:.4em .8em"
                self.message.value = f"<div role='alert' style='{look}'>{text}</div>"


def labelled(kind: type[Any], description: str, **options: Any) -> Any:
    """A control with its description, as wide as there is room."""
    layout = {"width": "100%", "max_width": "480px"}
    return kind(description=description, style={"description_width": "150px"}, layout=layout, **options)


def as_table(styled: Any, name: str, caption: str) -> str:
    """A pandas `Styler` as HTML, the caption and the names of rows escaped; the element has the id T_<name>."""
    shown = styled.set_caption(html.escape(caption)).format_index(escape="html")
    return shown.to_html(table_uuid=name, table_attributes='cellpadding="4" style="text-align: right"')


def reading_sentence(step: int, reading: GradientReading) -> str:
    """What the weights do after so many steps, in words; the book's script says the same."""
    shares = reading.terms["share"]
    rest = shares.drop("ce")
    most = f", above all {rest.idxmax()} ({rest.max():z.0%})" if rest.any() else ""
    best, slope, rate = -reading.terms["norm"]["ce"], reading.change_per_length, reading.change_per_rate
    return (
        f"After {step} steps the labels (ce) make up {shares['ce']:z.0%} of the gradient and distillation "
        f"{rest.sum():z.0%}{most}. To first order, a step of length 0.01 against it changes ce by {slope / 100:z.4f} "
        f"nats (at best {best / 100:z.4f}), plain gradient descent at learning rate 0.001 by {rate / 1000:z.4f} nats."
    )


def reading_table(reading: GradientReading) -> str:
    """A row a term and one for their weighted sum: weight, loss, size of its gradient, and as bars share and cosine."""
    names = {"loss": "loss (ce, kd: nats)", "norm": "size of its gradient (loss per length)"}
    names |= {"share": "share of the gradient (%)", "cosine": "cosine with ce (-1 to 1)"}
    terms, columns = reading.terms.copy(), [names["share"], names["cosine"]]
    whole = [terms["weight"] @ terms["loss"], reading.norm, terms["share"].sum(), reading.alignment]
    terms.loc["weighted sum"] = [np.nan, *whole]
    styled = terms.rename(columns=names).style.format("{:z.3f}", na_rep="").format("{:z.1%}", columns[0])
    # The colours are half transparent: the number on a bar reads in both themes.
    bars = styled.bar(columns, align="zero", vmin=-1, vmax=1, color=["#d55e0080", "#1f88c980"])
    what = "ce: labels; csf: features of a stage; pea: embedding of a stage; kd: logits"
    return as_table(bars, "terms", f"Each term's part in the gradient, at the weights above. {what}")


def result(table: pd.DataFrame, words: str) -> str:
    """The cross entropy of runs (columns) over their steps as curves, and in words its means at both ends."""
    points = {name: (range(1, len(table) + 1), table[name]) for name in table}
    chart = to_png(curves(points, x="step", y="cross entropy (nats)"))
    window = max(1, min(5, len(table) // 2))
    ends = zip(table, table.head(window).mean(), table.tail(window).mean(), strict=True)
    means = ", ".join(f"{name} from {first:.3f} to {last:.3f}" for name, first, last in ends)
    return to_html(chart, f"Cross entropy of the same mini-batches, first and last {window} steps: {means}. {words}")


# --- The loss-weight explorer: move a weight and see at once what it does to the student's gradient.
#
# Every readout is a pure function of the sliders and of one Gram matrix. Training is slow, so it runs in a thread.

# Each slider by a term that it weighs.
SLIDERS = {"csf_1": "csf_1 to csf_4", **{f"pea_{i}": f"pea_{i}" for i in (1, 2, 3, 4)}, "kd": "kd"}


class LossWeightsPanel(Panel):
    """Sliders for the weights, readouts of the gradient, a trial training, and the choice as YAML.

    record: the gradients to read, one Gram matrix for each moment of training.
    bench: what a trial trains, a `TrialBench`; without it there is no trial.
    num_steps: length of a trial, for each of its two students.
    teacher: file of the teacher, written into the YAML.
    Raises `KeyError`: the record has terms that the explorer has no slider for.

    It opens after 300 steps, or at the nearest moment. sliders holds the sliders by term, so that a program can move
    them, too. Where no kernel runs the book's script finds its data, and moves sliders of its own.
    """

    def __init__(self, record: GradientRecord, bench: Any = None, *, num_steps: int = 24, teacher: str = "") -> None:
        self.record, self.bench, self.num_steps, self.teacher = record, bench, num_steps, teacher
        self.stop, self.thread = threading.Event(), threading.Thread()
        moments = [(f"after {step} steps", step) for step in record.steps]
        self.moment = labelled(Dropdown, "Moment of training", options=moments)
        self.moment.value = min(record.steps, key=lambda step: abs(step - 300))
        paper = PRESETS["Paper"].term_weights(record.names)
        at = {term: paper[term] for term in SLIDERS if term in paper}
        self.sliders = {t: labelled(FloatSlider, SLIDERS[t], value=w, max=5.0, step=0.05) for t, w in at.items()}
        self.presets = {name: Button(description=name) for name in PRESETS}
        for name, button in self.presets.items():
            button.on_click(lambda _, name=name: self.guarded(lambda: self.choose(PRESETS[name])))
        self.summary, self.table, self.result = (HTML(layout={"overflow": "auto"}) for _ in range(3))
        self.yaml = labelled(Textarea, "As papermill YAML", rows=8)
        self.train = Button(description="Train", disabled=bench is None, tooltip="Train with both choices of weights")
        self.train.on_click(lambda _: self.guarded(self.start_trial))
        self.cancel = Button(description="Cancel", disabled=True, tooltip="Stop the trial after its current step")
        self.cancel.on_click(lambda _: self.stop.set())
        self.progress = IntProgress(description="not started", max=num_steps, style={"description_width": "initial"})
        controls = [self.moment, *self.sliders.values()]
        above = [HBox([*self.presets.values()], layout=WRAP), VBox(controls)]
        plan = bench and (
            f"Train: {num_steps} steps of two new students, the paper's weights and those above, from step 0 (not from "
            f"the moment above). It is one seed, {bench.experiment.seed}. The first step shows how long it takes."
        )
        told = HTML(plan or "", layout={"width": "100%"})
        trial = HBox([told, self.train, self.cancel, self.progress], layout=WRAP)
        presets = {name: choice.term_weights(record.names) for name, choice in PRESETS.items()}
        data = {"start": self.moment.value, "presets": presets} | record.model_dump(mode="json", include={"moments"})
        block = HTML(f'<script type="application/json" class="tk-gradients">{json.dumps(data)}</script>')
        below = [self.summary, self.table, trial, self.result, self.yaml, block]
        super().__init__("tk-explorer", controls, above, below)

    @property
    def choice(self) -> WeightChoice:
        """The weights as the sliders stand; what the record has no term for has none."""
        at = dict.fromkeys(SLIDERS, 0.0) | {term: round(slider.value, 4) for term, slider in self.sliders.items()}
        feature, *embedding, kd = at.values()
        return WeightChoice(feature, tuple(embedding), kd)

    @property
    def reading(self) -> GradientReading:
        """What the chosen moment says about the chosen weights."""
        return self.record.at(self.moment.value).read(self.choice.term_weights(self.record.names))

    def choose(self, choice: WeightChoice) -> None:
        """Put the sliders where a choice says."""
        for term, weight in choice.term_weights(self.sliders).items():
            self.sliders[term].value = weight

    def show(self) -> None:
        """Draw all readouts as the controls stand."""
        self.summary.value = f"<p class='tk-said'>{reading_sentence(self.moment.value, self.reading)}</p>"
        self.table.value = reading_table(self.reading)
        self.yaml.value = self.choice.to_yaml(self.teacher)

    def start_trial(self) -> None:
        """Train in the background: the paper's weights and the chosen ones, same seed, same mini-batches."""
        if self.thread.is_alive():  # a second click, sent before the button was disabled
            return
        choices = {"paper": PRESETS["Paper"], "chosen": self.choice}
        weights = {name: choice.term_weights(self.record.names) for name, choice in choices.items()}
        self.stop.clear()
        self.train.disabled, self.cancel.disabled = True, False
        self.thread = threading.Thread(target=self.guarded, args=[lambda: self.run_trial(weights), False], daemon=True)
        self.thread.start()

    def run_trial(self, weightings: Mapping[str, Mapping[str, float]]) -> None:
        """Train to the end, or until `stop` is set, and show every step, with what is trained and for how long."""
        rows: list[dict[str, float]] = []
        begun, trained = time.perf_counter(), re.sub("[{}']", "", str(weightings))
        try:
            for done, row in enumerate(self.bench.compare(weightings, self.num_steps), start=1):
                rows.append({name: run["ce"] for name, run in row.items()})
                took, of = time.perf_counter() - begun, f"{done} of {self.num_steps}"
                left = f"step {of}, {took * (self.num_steps / done - 1):.0f} s left"
                self.progress.value, self.progress.description = done, left
                words = f"One seed, from step 0, {took:.0f} s. Weights of {trained}."
                self.result.value = result(pd.DataFrame(rows), words)
                if self.stop.is_set():
                    break
            self.progress.description = f"{'finished' if done == self.num_steps else 'cancelled'} after {of} steps"
        finally:
            self.train.disabled, self.cancel.disabled = False, True


# --- Panels of pictures: where blocks of several networks look from one pixel, and two pictures under one divider.
#
# A click, a typed number, a key or a slider chooses. An ipywidgets image has no alternative text: pictures are HTML.


def picture_html(picture: NDArray[np.uint8], alt: str) -> str:
    """A picture (H, W, 3), as wide as there is room, with words for who does not see it; its place never jumps."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="webp", quality=75)
    data, look = base64.b64encode(buffer.getvalue()).decode(), "display:block; width:100%; height:auto"
    size = 'width="{1}" height="{0}"'.format(*picture.shape)
    return f'<img alt="{html.escape(alt)}" {size} style="{look}" src="data:image/webp;base64,{data}">'


def spoken(sentence: str) -> str:
    """A sentence that a screen reader reads when it changes, as HTML."""
    return f'<p role="status" aria-live="polite">{html.escape(sentence)}</p>'


class AttentionPanel(Panel):
    """Controls for network, image, stage, block, head and pixel; pictures of attention; the same in words.

    looks: what the networks saw, from `explore.attention`.
    start: what is shown first; None for the middle pixel of the first image.
    Raises `LookupError`: `start` is not among the looks.

    controls holds the controls by field of `Choice`, so that a program can move them, too.
    """

    def __init__(self, looks: Looks, start: Choice | None = None) -> None:
        self.looks, (num, height, width) = looks, looks.labels.shape
        start = start or Choice(row=height // 2, column=width // 2)
        looks.chosen(start)
        seen = {key: block for blocks in looks.attention.values() for key, block in blocks.items()}
        offers: dict[str, Sequence[Any]] = {"network": [EVERY, *looks.attention], "image": range(num)}
        offers |= {"stage": range(1, max(seen)[0] + 1), "block": range(1, max(block for _, block in seen) + 1)}
        offers["head"] = range(1, max(block.num_heads for block in seen.values()) + 1)
        self.controls = {
            field: labelled(Dropdown, field.capitalize(), options=[*offer], value=getattr(start, field))
            for field, offer in offers.items()
        }
        rows, columns = seen[1, 1].size  # the finest grid that there is
        for field, size, count in (("row", height, rows), ("column", width, columns)):
            bounds = {"max": size - 1, "step": size // count}
            self.controls[field] = labelled(IntSlider, f"Pixel {field}", value=getattr(start, field), **bounds)
        self.picture, self.maps, self.words = below = [HTML(layout=FRAMED) for _ in range(3)]
        clicks = Event(source=self.picture, watched_events=["click"])
        clicks.on_dom_event(lambda event: self.guarded(lambda: self.point(event)))
        shown = [*self.controls.values(), HTML("Click the picture to move the query, which is the frame.")]
        super().__init__("tk-attention", self.controls.values(), [HBox(shown, layout=WRAP)], below)

    @property
    def choice(self) -> Choice:
        """What the controls ask for."""
        return Choice(**{name: control.value for name, control in self.controls.items()})

    def point(self, event: Mapping[str, Any]) -> None:
        """Move the query to where the picture was clicked."""
        _, height, width = self.looks.labels.shape
        self.controls["row"].value = int(height * event["relativeY"] / event["boundingRectHeight"])
        self.controls["column"].value = int(width * event["relativeX"] / event["boundingRectWidth"])

    def show(self) -> None:
        """Draw as the controls stand."""
        drawn = overlays(self.looks, self.choice)
        self.picture.value = picture_html(drawn.pop("image"), f"image {self.choice.image}, the query framed")
        grid, cells = "display:grid; gap:8px; grid-template-columns:repeat(auto-fit, minmax(240px, 1fr))", ""
        for name, picture in drawn.items():
            figure = picture_html(picture, f"attention of {name} from the query")
            cells += f'<figure style="margin:0">{figure}<figcaption>{html.escape(name)}</figcaption></figure>'
        self.maps.value = f'<div style="{grid}; margin-top:8px">{cells}</div>'
        self.words.value = readout(self.looks, self.choice)


def readout(looks: Looks, choice: Choice) -> str:
    """The same in words, as HTML: sentences, then a row of numbers, each with its unit, for every network."""
    views = looks.chosen(choice)
    seen, label = next(iter(views.values())), looks.class_at(choice.image, choice.row, choice.column)
    at, rows = "row {}, column {} of its {} × {} grid".format(*seen.position, *seen.weights.shape), {}
    said = f"Query: pixel row {choice.row}, column {choice.column}, labelled {label}; in stage {choice.stage} {at}."
    for name, seen in views.items():
        said += f" {name}: {100 * seen.share:.1f}% of the attention goes to the strongest key, over {seen.there}."
        rows[name] = {
            "Block": seen.block, "Head": seen.head, "predicted class": seen.predicted,
            "strongest key": "pixel row {}, column {}".format(*seen.peak), "class there": seen.there,
            "its attention in %": f"{100 * seen.share:.1f}", "effective keys": f"{seen.effective:.1f} of {seen.keys}",
            "mean distance in pixels": f"{seen.distance:.0f}",
            "on its own class in %": label if label == "void" else f"{100 * seen.own_class:.1f}",
        }  # fmt: skip
    styled = pd.DataFrame(rows).T.rename_axis(columns="Network").style.format(escape="html")
    return spoken(said) + as_table(styled, "networks", f"Attention from the query in stage {choice.stage}")


class SwipePanel(Panel):
    """Two pictures under one divider, to compare what several networks make of a scene.

    pictures: two or more of one size, name -> uint8 (H, W, 3). The first two are shown first.
    """

    def __init__(self, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        self.pictures, self.left = pictures, labelled(Dropdown, "Left picture", options=[*pictures])
        self.right = labelled(Dropdown, "Right picture", options=[*pictures], index=1)
        self.divider = labelled(IntSlider, "Divider in % of width", value=50, max=100, step=5)
        self.picture, self.words = below = [HTML(layout=FRAMED) for _ in range(2)]
        controls = [self.left, self.right, self.divider]
        super().__init__("tk-swipe", controls, [HBox(controls, layout=WRAP)], below)

    def show(self) -> None:
        """Draw as the controls stand."""
        left, right = self.pictures[self.left.value], self.pictures[self.right.value]
        column = left.shape[1] * self.divider.value // 100
        drawn = np.concatenate([left[:, :column], np.full_like(left[:, :2], 255), right[:, column:]], axis=1)
        said = f"Left of the divider, at {self.divider.value}% of the width: {self.left.value}. Right of it: "
        said += f"{self.right.value}. They differ at {100 * (left != right).any(2).mean():.1f}% of the pixels."
        self.picture.value, self.words.value = picture_html(drawn, said), spoken(said)
