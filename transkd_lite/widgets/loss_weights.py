"""The loss-weight explorer: move a weight and see at once what it does to the student's gradient.

Every readout is a pure function (`gradients`, `weight_choice`, `weight_tables`) of the sliders and of one Gram
matrix; a callback calls it and puts the string into its place. Training is slow, so it runs in a thread, step by step,
and a button stops it after a whole step. Source: this project; weights: TransKD, arXiv 2202.13393, section III.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ipywidgets

from transkd_lite.gradients import GradientRecord, GramReading, cosine_matrix
from transkd_lite.trials import TrialBench
from transkd_lite.widgets.weight_choice import PRESETS, WeightChoice
from transkd_lite.widgets.weight_tables import (
    alarm,
    heat_table,
    line_chart,
    reading_summary,
    reading_table,
    result_table,
)

__all__ = ["LossWeightsPanel"]

PAPER, CHOSEN = "the paper's weights", "the chosen weights"
WIDE = ipywidgets.Layout(width="100%", max_width="480px")
WRAP = ipywidgets.Layout(flex_flow="row wrap", width="100%")
LABEL = {"description_width": "150px"}


class LossWeightsPanel(ipywidgets.VBox):
    """Sliders for the weights, readouts of the gradient, a trial training, and the choice as YAML.

    Args:
        record: the gradients to read, one Gram matrix for each moment of training.
        bench: what a trial trains; without it there is no trial.
        num_steps: length of a trial, for each of its two students.
        teacher: file of the teacher, written into the YAML.

    Raises:
        ValueError: the record has terms that the explorer has no slider for.
    """

    def __init__(
        self,
        record: GradientRecord,
        bench: TrialBench | None = None,
        *,
        num_steps: int = 24,
        teacher: str | None = None,
    ) -> None:
        self.record, self.bench, self.num_steps, self.teacher = record, bench, num_steps, teacher
        WeightChoice().term_weights(record.names)
        self._stop, self._quiet = threading.Event(), False
        self._thread: threading.Thread | None = None
        self._make_controls()
        self._make_readouts()
        self._make_trial()
        super().__init__(self._arrange(), layout=ipywidgets.Layout(width="100%", overflow="hidden"))
        self.add_class("tk-explorer")
        self._connect()
        self.show()

    def __repr__(self) -> str:
        return "The loss-weight explorer: run this notebook in JupyterLab to move its sliders."

    # -- parts

    def _make_controls(self) -> None:
        families = {name.partition("_")[0] for name in self.record.names}
        start = PRESETS["Paper"]
        self.feature = _slider("Features, all stages", start.feature)
        self.embedding = [_slider(f"Embedding, stage {i}", w) for i, w in enumerate(start.embedding, start=1)]
        self.kd = _slider("Logits (kd)", start.kd)
        shown = {"csf": [self.feature], "pea": self.embedding, "kd": [self.kd]}
        self.sliders = [slider for family, group in shown.items() if family in families for slider in group]
        self.presets = {name: _button(name, f"Set all weights: {name.lower()}") for name in PRESETS}
        moments = [(f"after {step} steps", step) for step in self.record.steps]
        self.moment = ipywidgets.Dropdown(options=moments, description="Moment of training", style=LABEL)
        self.moment.layout = WIDE

    def _make_readouts(self) -> None:
        self.summary, self.table, self.heat, self.message = (ipywidgets.HTML() for _ in range(4))
        layout = ipywidgets.Layout(width="100%", max_width="640px", height="11em")
        self.yaml = ipywidgets.Textarea(description="As papermill YAML", style=LABEL, layout=layout)

    def _make_trial(self) -> None:
        hint = f"Train {self.num_steps} steps with the paper's and with the chosen weights"
        self.train = _button("Train", hint)
        self.cancel = _button("Cancel", "Stop the trial after its current step")
        self.train.disabled, self.cancel.disabled = self.bench is None, True
        self.progress = ipywidgets.IntProgress(
            max=self.num_steps, description="Trial", style=LABEL, layout=WIDE
        )
        self.status, self.result = ipywidgets.Label("not started"), ipywidgets.HTML()

    def _arrange(self) -> list[ipywidgets.Widget]:
        controls = ipywidgets.VBox([self.moment, *self.sliders], layout=WIDE)
        presets = ipywidgets.HBox([*self.presets.values()], layout=WRAP)
        run = ipywidgets.HBox([self.train, self.cancel, self.progress, self.status], layout=WRAP)
        return [
            presets,
            controls,
            self.message,
            self.summary,
            self.table,
            self.heat,
            run,
            self.result,
            self.yaml,
        ]

    def _connect(self) -> None:
        for control in (self.moment, *self.sliders):
            control.observe(lambda _: self.show(), names="value")
        for name, button in self.presets.items():
            button.on_click(lambda _, name=name: self._guarded(lambda: self.choose(PRESETS[name])))
        self.train.on_click(lambda _: self._guarded(self.start_trial))
        self.cancel.on_click(lambda _: self._stop.set())

    # -- what it shows

    @property
    def choice(self) -> WeightChoice:
        """The weights as the sliders stand; what the record has no term for has none."""
        feature, *embedding, kd = (round(s.value, 4) for s in (self.feature, *self.embedding, self.kd))
        return WeightChoice(feature, tuple(embedding), kd).limited_to(self.record.names)

    @property
    def reading(self) -> GramReading:
        """What the chosen moment says about the chosen weights."""
        return self.record.at(self.moment.value).read(self.choice.term_weights(self.record.names))

    def choose(self, choice: WeightChoice) -> None:
        """Put the sliders where a choice says, and draw once."""
        self._quiet = True
        try:
            values = (choice.feature, *choice.embedding, choice.kd)
            for slider, value in zip((self.feature, *self.embedding, self.kd), values, strict=True):
                slider.value = value
        finally:
            self._quiet = False
        self.show()

    def show(self) -> None:
        """Draw all readouts as the controls stand; an error appears in the panel."""
        if not self._quiet:
            self._guarded(self._draw)

    def _draw(self) -> None:
        moment, reading = self.record.at(self.moment.value), self.reading
        self.summary.value = reading_summary(reading)
        self.table.value = reading_table(reading, moment.losses.tolist())
        self.heat.value = heat_table(moment.names, cosine_matrix(moment.gram))
        self.yaml.value = self.choice.to_yaml(**({} if self.teacher is None else {"teacher": self.teacher}))

    def _guarded(self, action: Callable[[], Any]) -> None:
        """Do it; what it raises is shown until the next thing is done."""
        self.message.value = ""
        try:
            action()
        except Exception as error:
            self.message.value = alarm(error)

    # -- the trial

    def start_trial(self) -> None:
        """Train in the background: the paper's weights and the chosen ones, same seed, same batches."""
        if self.bench is None:
            raise ValueError(
                "a trial needs something to train: LossWeightsPanel(record, bench=TrialBench(experiment))"
            )
        self._stop.clear()
        self.train.disabled, self.cancel.disabled = True, False
        self.status.value, self.result.value, self.progress.value = "preparing", "", 0
        choices = {PAPER: PRESETS["Paper"], CHOSEN: self.choice}
        weightings = {name: choice.term_weights(self.record.names) for name, choice in choices.items()}
        self._thread = threading.Thread(target=self._try, args=(weightings,), daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the trial to end; returns whether it has."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _try(self, weightings: dict[str, dict[str, float]]) -> None:
        assert self.bench is not None
        lines: dict[str, list[float]] = {name: [] for name in weightings}
        try:
            for row in self.bench.compare(weightings, self.num_steps):
                for name, line in lines.items():
                    line.append(row[name]["ce"])
                self._show_trial(lines)
                if self._stop.is_set():
                    break
            self._close_trial(lines)
        except Exception as error:
            self.status.value, self.result.value = "failed", alarm(error)
        finally:
            self.train.disabled, self.cancel.disabled = False, True

    def _show_trial(self, lines: dict[str, list[float]]) -> None:
        done = len(lines[CHOSEN])
        self.progress.value, self.status.value = done, f"step {done} of {self.num_steps}"
        self.result.value = line_chart(lines, x="step", y="cross entropy")

    def _close_trial(self, lines: dict[str, list[float]]) -> None:
        done = len(lines[CHOSEN])
        state = "finished" if done == self.num_steps else "cancelled"
        self.status.value = f"{state} after {done} of {self.num_steps} steps"
        self.result.value = line_chart(lines, x="step", y="cross entropy") + result_table(lines)


def _slider(name: str, value: float) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        value=value,
        min=0.0,
        max=3.0,
        step=0.05,
        description=name,
        readout_format=".2f",
        style=LABEL,
        layout=WIDE,
    )


def _button(name: str, tooltip: str) -> ipywidgets.Button:
    return ipywidgets.Button(description=name, tooltip=tooltip)
