"""The loss-weight explorer without a browser: its controls move, and its readouts say what the pure functions say."""

import json
import re
import threading
import time

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import yaml
from IPython.core.formatters import DisplayFormatter
from trial_bench import TERMS, TINY

from transkd_lite.distill.methods import PAPER_STUDENT, PAPER_TEACHER, create_method
from transkd_lite.experiments.experiment import Experiment
from transkd_lite.experiments.profile import load_profile
from transkd_lite.explore import panels
from transkd_lite.explore.gradients import GradientMoment, GradientRecord, TrialBench
from transkd_lite.explore.panels import PRESETS, LossWeightsPanel, WeightChoice

TEACHER = "data/weights/streets128-segformer_b1.safetensors"


def made_up(terms=TERMS, steps=(0, 300)):
    draw = np.random.default_rng(0)
    moments = []
    for step in steps:
        vectors = draw.normal(size=(len(terms), 12)) + 0.5
        moments.append(
            GradientMoment(step=step, names=terms, losses=draw.uniform(0.1, 3, len(terms)), gram=vectors @ vectors.T)
        )
    return GradientRecord(moments=moments, about={})


@pytest.fixture
def panel():
    return LossWeightsPanel(made_up(), teacher=TEACHER)


@pytest.fixture(scope="module")
def bench():
    return TrialBench(TINY)


def walk(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


def expected(panel, choice, step=300):
    return panel.record.at(step).read(choice.term_weights(panel.record.names))


def shown(panel, choice, step=300):
    reading = expected(panel, choice, step)
    sentence = panels.reading_sentence(step, reading)
    return f"<p class='tk-said'>{sentence}</p>", panels.reading_table(reading)


# -- sliders, presets, moments


def test_it_starts_with_the_papers_weights_after_300_steps_or_nearly_so(panel):
    assert panel.moment.value == 300
    assert LossWeightsPanel(made_up(steps=(0, 12))).moment.value == 12
    assert panel.choice == WeightChoice(1.0, (0.1, 0.1, 0.5, 1.0), 0.0)
    assert (panel.summary.value, panel.table.value) == shown(panel, WeightChoice())
    assert panel.message.value == ""


def test_every_slider_moves_its_own_terms(panel):
    panel.sliders["csf_1"].value = 2.0
    assert (panel.summary.value, panel.table.value) == shown(panel, WeightChoice(feature=2.0))
    for stage in (1, 2, 3, 4):
        panel.sliders[f"pea_{stage}"].value = stage * 0.15
    panel.sliders["kd"].value = 0.35
    choice = WeightChoice(2.0, (0.15, 0.3, 0.45, 0.6), 0.35)
    assert panel.choice == choice
    assert (panel.summary.value, panel.table.value) == shown(panel, choice)
    weights = panel.reading.terms["weight"]
    assert [weights[f"csf_{i}"] for i in (1, 2, 3, 4)] == [2.0] * 4
    assert [weights[n] for n in ("ce", "pea_1", "pea_4", "kd")] == [1.0, 0.15, 0.6, 0.35]


def test_a_moment_has_its_own_numbers(panel):
    late = panel.table.value
    panel.moment.value = 0
    assert (panel.summary.value, panel.table.value) == shown(panel, WeightChoice(), step=0)
    assert panel.table.value != late


def test_the_sentence_is_right_for_any_weights(panel):
    reading = panel.reading
    change = f"{reading.change_per_length / 100:z.4f} nats (at best {-reading.terms['norm']['ce'] / 100:z.4f})"
    assert change in panel.summary.value
    assert "above all" in panel.summary.value
    panel.presets["Off"].click()
    assert "(ce) make up 100% of the gradient and distillation 0%. To first order" in panel.summary.value


def test_sliders_and_table_use_the_same_names(panel):
    rows = re.findall(r"row_heading[^>]*>([^<]*)</th>", panel.table.value)
    assert rows == [*TERMS, "weighted sum"]
    for term, slider in panel.sliders.items():
        assert slider.description in (term, "csf_1 to csf_4")


def test_a_page_without_a_kernel_has_the_sentence_the_table_and_the_data(panel, monkeypatch):
    bundles = []
    monkeypatch.setattr(panels, "display", lambda data, raw: bundles.append(data))
    DisplayFormatter().format(panel)
    still, living = bundles
    assert "application/vnd.jupyter.widget-view+json" not in still
    assert living["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.model_id
    assert panel.summary.value + panel.table.value in still["text/html"]
    assert "onload" not in still["text/html"]  # what names the living sliders
    (data,) = re.findall(r'<script type="application/json" class="tk-gradients">(.*?)</script>', still["text/html"])
    found = json.loads(data)
    assert GradientRecord(moments=found["moments"], about={}).at(300).read(found["presets"]["Paper"]).norm == (
        pytest.approx(panel.reading.norm)
    )
    assert found["start"] == 300


def test_the_courses_weights_are_those_of_its_profile():
    own = load_profile("course").by_method["transkd-base"]["options"]
    assert PRESETS["Course"].parameters() == {"method": "transkd-base", "options": own}


def test_a_choice_trains_the_method_of_what_has_weight_and_no_other():
    nothing = (0.0, 0.0, 0.0, 0.0)
    assert WeightChoice(0.0, nothing, 0.5).parameters() == {"method": "kd", "options": {"kd.weight": 0.5}}
    assert WeightChoice(0.0, nothing).parameters() == {"method": "none", "options": {}}
    assert WeightChoice(1.0, nothing, 0.5).parameters() == {
        "method": "transkd-base+kd",
        "options": {"feature_weight": 1.0, "embedding_weights": [0.0] * 4, "kd.weight": 0.5},
    }


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_sets_all_sliders(panel, name):
    panel.sliders["csf_1"].value = panel.sliders["kd"].value = 2.9
    panel.presets[name].click()
    assert panel.choice == PRESETS[name]
    assert (panel.summary.value, panel.table.value) == shown(panel, PRESETS[name])


def test_off_leaves_the_supervised_gradient_alone(panel):
    panel.presets["Off"].click()
    reading = panel.reading
    assert reading.terms["share"].tolist() == [1.0] + [0.0] * 9
    assert reading.alignment == pytest.approx(1)
    assert reading.change_per_length == pytest.approx(-reading.terms["norm"]["ce"])


def test_sliders_exist_for_the_terms_that_there_are():
    panel = LossWeightsPanel(made_up(tuple(name for name in TERMS if name != "kd")))
    assert "kd" not in panel.sliders
    assert len(panel.sliders) == 5
    panel.presets["Equal"].click()
    assert panel.message.value == ""
    assert yaml.safe_load(panel.yaml.value)["method"] == "transkd-base"
    with pytest.raises(KeyError, match="cwd_1"):
        LossWeightsPanel(made_up(("ce", "cwd_1")))


def test_a_stage_without_a_term_has_no_slider_and_no_weight():
    panel = LossWeightsPanel(made_up(("ce", "csf_1", "pea_4")))
    assert [slider.description for slider in panel.sliders.values()] == ["csf_1 to csf_4", "pea_4"]
    panel.presets["Equal"].click()
    assert panel.choice == WeightChoice(1.0, (0.0, 0.0, 0.0, 1.0), 0.0)
    assert panel.message.value == ""


def test_controls_are_named_and_nothing_is_wider_than_its_place(panel):
    controls = [w for w in walk(panel) if isinstance(w, ipywidgets.ValueWidget | ipywidgets.Button)]
    controls = [w for w in controls if not isinstance(w, ipywidgets.HTML | ipywidgets.Label)]
    assert len(controls) == 6 + len(PRESETS) + 1 + 2 + 2
    assert all(control.description for control in controls)
    assert len(repr(panel)) < 110
    widths = [w.layout.max_width or w.layout.width for w in walk(panel)]
    assert not [width for width in widths if width and width.endswith("px") and int(width[:-2]) > 640]


def test_an_error_in_a_callback_is_seen_and_goes_when_it_is_over(panel, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(panels, "reading_table", lambda *_: 1 / 0)
        panel.sliders["csf_1"].value = 0.5
        assert "ZeroDivisionError: division by zero" in panel.message.value
        assert "role='alert'" in panel.message.value
    panel.sliders["csf_1"].value = 0.6
    assert panel.message.value == ""
    assert panel.train.disabled  # there is nothing to train


def test_two_controls_that_move_at_the_same_time_are_shown_as_both_stand_in_the_end(panel, monkeypatch):
    table, begun, moved = panels.reading_table, threading.Event(), threading.Event()

    def slow_at_first(reading):
        if not begun.is_set():
            begun.set()
            moved.wait(1)  # in vain, where the other control has to wait
        return table(reading)

    monkeypatch.setattr(panels, "reading_table", slow_at_first)
    first = threading.Thread(target=lambda: panel.moment.set_trait("value", 0))  # as JupyterLab calls it
    first.start()
    assert begun.wait(60)
    panel.sliders["csf_1"].value = 2.0
    moved.set()
    first.join()
    assert (panel.summary.value, panel.table.value) == shown(panel, WeightChoice(feature=2.0), 0)


# -- the choice as a file


@pytest.mark.parametrize("choice", [*PRESETS.values(), WeightChoice(0.0, (0.0, 0.3, 0.0, 2.95), 0.05)])
def test_yaml_is_an_experiment_with_these_weights(panel, choice):
    panel.choose(choice)
    experiment = Experiment.from_dict(yaml.safe_load(panel.yaml.value))
    assert experiment.teacher == TEACHER
    if experiment.method == "none":
        assert not any(choice.term_weights(TERMS).values())
        return
    weights = create_method(experiment.method, PAPER_STUDENT, PAPER_TEACHER, **experiment.options).weights
    wanted = {name: w for name, w in choice.term_weights(TERMS).items() if name in weights}
    assert weights == pytest.approx(wanted)
    assert set(wanted) >= {name for name, w in choice.term_weights(TERMS).items() if w}


# -- the trial


def test_a_trial_trains_both_students_and_shows_their_curves(bench):
    panel = LossWeightsPanel(made_up(), bench, num_steps=3)
    panel.sliders["csf_1"].value = 3.0
    panel.train.click()
    panel.thread.join()
    assert panel.message.value == ""
    assert panel.progress.description == "finished after 3 of 3 steps"
    assert panel.progress.value == panel.progress.max == 3
    assert (panel.train.disabled, panel.cancel.disabled) == (False, True)
    choices = {"paper": WeightChoice(), "chosen": WeightChoice(feature=3.0)}
    weightings = {name: choice.term_weights(TERMS) for name, choice in choices.items()}
    rows = list(bench.compare(weightings, 3))
    lines = pd.DataFrame([{name: run["ce"] for name, run in row.items()} for row in rows])
    shown = panel.result.value
    assert re.search(r"One seed, from step 0, \d+ s\. Weights of paper: csf_1: 1\.0.*chosen: csf_1: 3\.0", shown)
    assert panels.result(lines, "").partition("base64,")[2][:2000] in shown
    paper, chosen = lines.to_numpy().T
    assert paper[0] == chosen[0]
    assert paper[2] != chosen[2]


def test_cancel_ends_a_trial_after_a_whole_step_and_it_can_be_started_again(bench):
    panel = LossWeightsPanel(made_up(), bench, num_steps=1000)
    panel.train.click()
    assert panel.train.disabled
    while panel.progress.value < 1 and not panel.cancel.disabled:
        time.sleep(0.02)
    panel.sliders["csf_1"].value = 0.5  # sliders answer while it trains
    assert (panel.summary.value, panel.table.value) == shown(panel, WeightChoice(feature=0.5))
    panel.cancel.click()
    panel.thread.join()
    done = panel.progress.value
    assert 1 <= done < 1000
    assert panel.progress.description == f"cancelled after {done} of 1000 steps"
    assert "Cross entropy of the same mini-batches" in panel.result.value
    assert "not from the moment above" in "".join(w.value for w in walk(panel) if isinstance(w, ipywidgets.HTML))
    panel.num_steps = 1
    panel.train.click()
    panel.thread.join()
    assert panel.progress.description == "finished after 1 of 1 steps"


def test_a_second_click_starts_no_second_trial(bench, monkeypatch):
    started, go = [], threading.Event()

    def slow(*_):
        started.append(threading.current_thread())
        go.wait(60)
        yield {name: {"ce": 1.0} for name in ("paper", "chosen")}

    monkeypatch.setattr(bench, "compare", slow)
    panel = LossWeightsPanel(made_up(), bench, num_steps=1)
    panel.train.click()
    first = panel.thread
    panel.train.click()
    assert panel.thread is first
    go.set()
    first.join()
    assert started == [first]


def test_an_error_while_training_is_seen(bench, monkeypatch):
    def breaks(*_):
        yield {name: {"ce": 1.0} for name in ("paper", "chosen")}
        raise RuntimeError("the disk <is> gone")

    monkeypatch.setattr(bench, "compare", breaks)
    panel = LossWeightsPanel(made_up(), bench, num_steps=3)
    panel.train.click()
    panel.thread.join()
    assert "RuntimeError: the disk &lt;is&gt; gone" in panel.message.value
    assert not panel.train.disabled
    assert threading.active_count() < 50


# -- the drawing


def test_bars_tell_the_sign_in_words_and_nothing_has_a_signed_zero():
    gram = np.array([[4.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1e-12]])
    moment = GradientMoment(step=0, names=("ce", "pea_1", "kd"), losses=np.ones(3), gram=gram)
    table = panels.reading_table(moment.read({"pea_1": 0.5, "kd": 0.0}))
    assert ">-7.7%<" in table
    assert not re.search(r">-0\.0*%?<", table)


def test_a_result_has_words_and_one_step_is_enough():
    shown = panels.result(pd.DataFrame({"a <b>": [2.0], "c": [1.0]}), "One seed.")
    assert 'steps: a &lt;b&gt; from 2.000 to 2.000, c from 1.000 to 1.000. One seed."' in shown
