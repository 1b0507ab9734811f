"""Figures say what they should: alternative text in every form, errors in two tones, one colour scale for two maps."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from transkd_lite import plots
from transkd_lite.data.labels import LabelSpace

SPACE = LabelSpace(("road", "car", "tree"), ((128, 64, 128), (0, 0, 142), (107, 142, 35)))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    calls = []
    monkeypatch.setattr(plots.style, "display", lambda bundle, **options: calls.append((bundle, options)))
    return calls


def test_alternative_text_travels_in_every_form(shown):
    plots.show(plots.curves({"ce": ([0, 1], [2.0, 1.0])}, x="step", y="loss"), 'A line & "one" fall.')
    ((bundle, options),) = shown
    assert 'alt="A line &amp; &quot;one&quot; fall."' in bundle["text/html"]
    assert bundle["text/plain"] == options["metadata"]["image/png"]["alt"] == 'A line & "one" fall.'
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert picture.width > 600
    assert not plt.get_fignums()


def test_a_figure_without_words_is_refused():
    with pytest.raises(ValueError, match="alt is blank"):
        plots.show(plots.curves({"ce": ([0], [1.0])}, x="", y=""), "  ")


def test_errors_have_two_tones_and_void_a_third():
    picture = plots.error_map([[0, 1, 1]], [[0, 0, 255]])
    right, wrong, void = picture[0]
    assert right.tolist() == plots.RIGHT_COLOUR.tolist()
    assert wrong.tolist() == plots.WRONG_COLOUR.tolist()
    assert void.tolist() == plots.VOID_COLOUR.tolist()


def test_principal_colours_of_two_maps_share_a_basis():
    rng = np.random.default_rng(0)
    feature = rng.standard_normal((8, 6, 10))
    assert plots.principal_colours(feature).shape == (6, 10, 3)
    assert (plots.principal_colours(feature, feature) == plots.principal_colours(feature)).all()
    shifted = plots.principal_colours(feature + 5, feature)
    assert (shifted != plots.principal_colours(feature)).any()


def test_principal_colours_of_few_channels_and_of_a_constant_map():
    assert plots.principal_colours(np.ones((2, 4, 4))).max() == 0
    assert plots.principal_colours(np.random.default_rng(1).random((1, 4, 4)))[..., 1:].max() == 0


def test_a_sheet_has_a_row_of_errors_for_each_prediction_and_a_legend_of_what_occurs():
    image, label = np.zeros((8, 16, 3), np.uint8), np.zeros((8, 16), np.uint8)
    rows = {"label": [label], "student": [label + 2]}
    figure = plots.segmentations([image], rows, SPACE, errors_against="label")
    assert [axis.get_ylabel() for axis in figure.axes] == ["image", "label", "student", "its errors"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["road", "tree"]


def test_an_interval_that_leaves_out_zero_is_filled():
    table = pd.DataFrame(
        {"method": ["kd", "csf"], "baseline": "none", "mean": [0.02, 0.01], "low": [0.01, -0.01]}
    )
    axis = plots.paired(table.assign(high=0.03)).axes[0]
    filled, hollow = (line for line in axis.lines if line.get_marker() == "o")
    assert filled.get_markerfacecolor() != "white"
    assert hollow.get_markerfacecolor() == "white"


def test_runs_are_dots_in_percent_and_references_are_lines():
    table = pd.DataFrame({"method": ["none", "none", "kd"], "miou": [0.2, 0.4, 0.5]})
    axis = plots.methods(table, reference={"teacher": 0.6}).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["none", "kd"]
    assert sorted(x for line in axis.lines if line.get_marker() == "o" for x in line.get_xdata()) == [
        20,
        40,
        50,
    ]
    assert "teacher 60.0" in [text.get_text() for text in axis.texts]


def test_classes_and_tables_keep_their_order():
    table = pd.DataFrame({"none": [0.1, 0.5]}, index=["car", "road"])
    assert [t.get_text() for t in plots.class_bars(table).axes[0].get_yticklabels()] == ["car", "road"]
    assert [t.get_text() for t in plots.heatmap(table, unit="IoU").axes[0].get_yticklabels()] == [
        "car",
        "road",
    ]
    shares = plots.class_shares({"train": [0.5, 0.1, 0.4]}, SPACE).axes[0]
    assert [t.get_text() for t in shares.get_yticklabels()] == ["car", "tree", "road"]


def test_maps_have_a_bar_each_unless_they_are_pictures():
    figure = plots.maps({"a": np.ones((4, 4)), "b": np.ones((4, 4, 3)), "c": np.ones((4, 4))}, columns=2)
    assert len(figure.axes) == 4 + 2


def test_many_lines_stay_apart():
    figure = plots.curves({str(k): ([0, 1], [1.0, 2.0]) for k in range(20)}, x="step", y="loss")
    looks = {
        (line.get_color(), str(line.get_linestyle()), str(line._dash_pattern))
        for line in figure.axes[0].lines
    }
    assert len(looks) == 20
