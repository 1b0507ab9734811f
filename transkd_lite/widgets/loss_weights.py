"""The loss-weight explorer: move a weight and see at once what it does to the student's gradient.

Every readout is a pure function (`gradients`, `weight_choice`, `weight_tables`) of the sliders and of one Gram
matrix; a callback calls it and puts the string into its place. Training is slow, so it runs in a thread, step by step,
and a button stops it after a whole step. Source: this project; weights: TransKD, arXiv 2202.13393, section III.
"""

from __future__ import annotations

import threading

import ipywidgets

from transkd_lite.gradients import GradientRecord, GramReading, cosine_matrix
from transkd_lite.trials import TrialBench
from transkd_lite.widgets.weight_choice import PRESETS, WeightChoice
from transkd_lite.widgets.weight_tables import (
    WRAP,
    Panel,
    alarm,
    heat_table,
    labelled,
    reading_summary,
    reading_table,
    result_chart,
    result_table,
)

__all__ = ["LossWeightsPanel"]

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
            raise ValueError(
                "a trial needs something to train: LossWeightsPanel(record, bench=TrialBench(experiment))"
            )
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
