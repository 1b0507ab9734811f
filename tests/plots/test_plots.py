"""Figures say what they should: alternative text in every form, errors in two tones, one colour scale for two maps."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib import cbook
from matplotlib.text import Text
from PIL import Image

import transkd_lite as tk
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
    assert (right.tolist(), wrong.tolist(), void.tolist()) == ([222] * 3, [178, 24, 43], [40] * 3)


@pytest.mark.parametrize("width", [64, 390, 4000])
def test_an_overlay_is_the_picture_in_the_colours_of_its_classes_over_a_legend_of_those(width):
    image = np.full((width // 2, width, 3), 100, np.uint8)
    label = np.zeros((width // 2, width), np.uint8)
    label[:, width // 2 :], label[0] = 2, 255
    sheet = plots.overlay(image, label, SPACE)
    assert (sheet.getpixel((0, 0)), sheet.getpixel((0, 1))) == ((100, 100, 100), (114, 82, 114))
    assert sheet.getpixel((width - 1, 1)) == (103, 121, 67)
    assert (image == 100).all()
    legend = np.asarray(sheet)[width // 2 :]
    shown = {k for k, colour in enumerate(SPACE.palette) if (legend == colour).all(-1).any()}
    assert shown == {0, 2}, "what does not occur is not in the legend"
    dark = np.flatnonzero((legend < 60).all(-1).any(1))  # the rows of the letters, which are black
    assert len(dark) > sheet.width / 60, "a line of letters is at least 6 pixels high on a telephone of 390"


def test_a_legend_holds_long_names_and_many_classes():
    names = [f"class number {k} of the ones with very long names" for k in range(19)]
    space = LabelSpace(tuple(names), tuple((250 - k, 10 * k, 60) for k in range(19)))
    label = np.arange(19, dtype=np.uint8).repeat(20)[None].repeat(200, 0)
    sheet = np.asarray(plots.overlay(np.zeros((200, 380, 3)), label, space))
    found = [np.argwhere((sheet[200:] == colour).all(-1)) for colour in space.palette]
    assert min(map(len, found)) >= 81, "each class has its field"
    assert (sheet[200:, -2:] == 255).all(), "no name is cut off at the edge"
    assert (sheet[-2:] == 255).all()


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


def test_runs_are_dots_in_percent_and_references_are_lines():
    table = pd.DataFrame({"method": ["none", "none", "kd"], "miou": [0.2, 0.4, 0.5]})
    axis = plots.methods(table, reference={"teacher": 0.6}).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["none", "kd"]
    assert sorted(x for line in axis.lines if line.get_marker() == "o" for x in line.get_xdata()) == [20, 40, 50]
    assert "teacher 60.0" in [text.get_text() for text in axis.texts]


def test_classes_and_tables_keep_their_order():
    table = pd.DataFrame({"none": [0.1, 0.5]}, index=["car", "road"])
    assert [t.get_text() for t in plots.class_bars(table).axes[0].get_yticklabels()] == ["car", "road"]
    axis = plots.heatmap(-0.1 * table, unit="IoU", decimals=1).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["car", "road"]
    assert [text.get_text() for text in axis.texts] == ["0.0", "-0.1"]  # no "-0.0"


@pytest.mark.parametrize(("pixels", "width", "least"), [(300, 240, 240), (1050, 840, 560)])
def test_letters_are_as_large_in_figures_of_any_width(pixels, width, least):
    content = io.BytesIO()
    Image.new("L", (pixels, 20)).save(content, "png")
    assert f"max-width:100%; width:{width}px; min-width:{least}px" in plots.to_html(content.getvalue(), "words")
    drawn = (plots.maps({"a": np.ones((4, 8, 3))}), plots.curves(dict.fromkeys("abcdef", ([0], [1.0])), x="", y=""))
    assert {axis.title.get_fontsize() for figure in drawn for axis in figure.axes if axis.get_title()} == {10}


def test_maps_have_a_bar_each_unless_they_are_pictures():
    figure = plots.maps({"a": np.ones((4, 4)), "b": np.ones((4, 4, 3)), "c": np.ones((4, 4))}, columns=2)
    assert [len(axis.child_axes) for axis in figure.axes] == [1, 0, 1, 0]


def test_long_names_do_not_squeeze_the_curves():
    name = "transkd-base (pretrained streets-segformer_b0)"
    figure = plots.curves({name: ([0, 1], [1.0, 2.0])}, x="step", y="loss")
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().width > 0.7
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [name]


def test_many_lines_get_a_panel_each_and_stay_in_sight_in_the_others():
    names = ["none", "kd", "cwd", "review", "transkd-base", "transkd-gl", "transkd-ea"]
    figure = plots.curves({name: ([0, 1], [1.0, k]) for k, name in enumerate(names)}, x="step", y="loss")
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in panels] == names
    assert [axis.get_xlabel() for axis in panels] == [""] * 3 + ["step"] * 4
    for axis, name in zip(panels, names, strict=True):
        assert [line.get_label() for line in axis.lines if line.get_color() != "0.87"] == [name]
        assert len(axis.lines) == 7
    assert not figure.legends
    five = plots.curves({name: ([0, 1], [1.0, 2.0]) for name in names[:5]}, x="step", y="loss")
    assert len(five.axes) == 1
    assert len({line.get_color() for line in five.axes[0].lines}) == 5


def test_a_line_in_a_panel_of_its_own_has_its_methods_colour_or_the_one_of_all_others():
    figure = plots.curves({name: ([0, 1], [1.0, 2.0]) for name in ("a", "b", "kd", *"cdef")}, x="step", y="loss")
    own = [line for axis in figure.axes for line in axis.lines if line.get_color() != "0.87"]
    shades = [plots.COLOURS[0]] * 2 + plots.colours(["kd"]) + [plots.COLOURS[0]] * 4
    assert [(line.get_color(), line.get_linestyle()) for line in own] == [(shade, "-") for shade in shades]


def test_a_method_has_one_colour_wherever_it_stands():
    alone, many = plots.colours(["kd"]), plots.colours(["x", "none", "kd", "kd, lr 0.004", "kd (csf)", "teacher"])
    assert many == [plots.COLOURS[0], "#767676", *alone * 3, "#000000"]
    assert len(set(plots.colours(["csf", "csf_1", "CSF, stage 2"]))) == 1
    assert not {*plots.COLOURS} & {*plots.style.METHOD_COLOURS.values()}
    assert len({*plots.colours(tk.list_methods()), *plots.colours(["none", "teacher"])}) == len(tk.list_methods()) + 2
    runs = pd.DataFrame({"method": ["cwd", "kd"], "miou": [0.2, 0.4]})
    dots = [line.get_color() for line in plots.methods(runs).axes[0].lines if line.get_marker() == "o"]
    assert dots == plots.colours(["cwd", "kd"])


def test_maps_keep_their_proportions_and_so_does_the_figure():
    wide, tall = np.ones((16, 64)), np.ones((64, 16, 3))
    figure = plots.maps({"wide": wide, "tall": tall}, columns=2)
    figure.draw_without_rendering()
    for axis, panel in zip(figure.axes, (wide, tall), strict=False):
        box = axis.get_window_extent()
        assert box.height / box.width == pytest.approx(panel.shape[0] / panel.shape[1], rel=0.01)
    assert plots.maps({"a": wide}).get_figheight() < plots.maps({"a": tall}).get_figheight()


@pytest.fixture
def differences():
    table = pd.DataFrame({"method": ["kd", "csf", "at"], "baseline": "none", "mean": [0.01, 0.03, -0.02]})
    low, high = ({"low": [-0.01, 0.01, np.nan], "boot_low": [0.0, 0.02, np.nan]}, {"high": [0.03, 0.05, np.nan]})
    return table.assign(**low, **high, boot_high=[0.02, 0.04, np.nan], superiority=[0.64, 1.0, 0.0])


def test_effects_are_sorted_and_filled_where_students_interval_leaves_out_zero(differences):
    axis = plots.effects(differences).axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["csf", "kd", "at"]
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == pytest.approx([3, 1, -2])
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, True, True]
    assert [text.get_text() for text in axis.texts][:3] == ["1.00", "0.64", "0.00"]
    student, bootstrap = axis.collections
    assert student.get_segments()[0][:, 0].tolist() == pytest.approx([1, 5])
    assert bootstrap.get_segments()[0][:, 0].tolist() == pytest.approx([2, 4])


def test_effects_against_several_baselines_name_them(differences):
    axis = plots.effects(differences.assign(baseline=["none", "kd", "none"])).axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["csf − kd", "kd − none", "at − none"]
    assert axis.get_xlabel() == "difference of mIoU in percentage points"


def test_ranks_are_placed_and_groups_joined():
    ranks = pd.Series({"none": 3.0, "kd": 1.5, "csf": 1.5})
    axis = plots.critical_difference(ranks, 1.0, [("kd", "csf")], blocks="2 seeds").axes[0]
    texts = [text.get_text().strip() for text in axis.texts]
    assert texts == ["1.50", "1.50", "3.00", "critical difference 1.00"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["kd", "csf", "none"]
    joined = [line for line in axis.lines if line.get_linewidth() == 4]
    assert [line.get_ydata() for line in joined] == [pytest.approx([-0.2, 1.2])]
    assert "2 seeds" in axis.get_xlabel()


def test_gains_of_classes_have_a_star_where_sure_and_a_gap_where_unknown():
    gains = pd.DataFrame({"class": ["road", "car"] * 2, "method": ["kd"] * 2 + ["at"] * 2})
    gains = gains.assign(mean=[0.02, -0.01, np.nan, 0.0], low=[0.01, -0.02, np.nan, np.nan])
    axis = plots.class_gains(gains.assign(high=[0.03, 0.01, np.nan, np.nan])).axes[0]
    assert [text.get_text() for text in axis.texts] == ["+2.0*", "-1.0", "+0.0"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["road", "car"]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["kd", "at"]


def test_budgets_have_a_panel_for_each_number_of_labels_and_a_line_a_method():
    rows = [("streets", n, s, m) for n in (128, 512) for s in (300, 900) for m in ("kd", "csf")]
    gains = pd.DataFrame(rows, columns=["dataset", "train_images", "steps", "method"])
    gains = gains.assign(baseline="none", mean=gains["train_images"] / 10_000)  # 1.28 and 5.12 points
    gains = gains.assign(low=gains["mean"] - 0.01, high=gains["mean"] + 0.01)
    figure = plots.budget_gains(gains)
    (low, high), other = (axis.get_ylim() for axis in figure.axes)
    assert (low, high) == other
    assert low < 0.28 < 6.12 < high
    assert [axis.get_title() for axis in figure.axes] == [
        "streets, 128 labelled images",
        "streets, 512 labelled images",
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["kd", "csf"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["300", "900"]


ODD = ["a$b$", "_x", "^", r"$\frac$", "{%s}"]
TABLE = pd.DataFrame([[0.1] * len(ODD)] * len(ODD), ODD, ODD)
RUNS = pd.DataFrame({"method": ODD, "miou": 0.5})
GAINS = pd.DataFrame(
    [(c, m, 0.1, -0.1, 0.3) for c in ODD for m in ODD], columns=["class", "method", "mean", "low", "high"]
)
EFFECTS = RUNS.assign(baseline=ODD[3], mean=0.1, low=-0.1, high=0.3, boot_low=0.0, boot_high=0.2, superiority=0.7)
BUDGETS = EFFECTS.assign(dataset=ODD[3], train_images=8, steps=10)
MAP = np.arange(len(ODD))[:, None].repeat(4, 1)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.curves({name: ([1, 2], [1, 10]) for name in ODD}, x="step", y="loss", log=True),
        lambda: plots.heatmap(TABLE, unit=""),
        lambda: plots.class_bars(TABLE),
        lambda: plots.methods(RUNS, reference={ODD[3]: 0.6}),
        lambda: plots.effects(EFFECTS),
        lambda: plots.critical_difference(pd.Series(range(1, 6), ODD), 2.0, [ODD[:3]]),
        lambda: plots.class_gains(GAINS),
        lambda: plots.budget_gains(BUDGETS),
        lambda: plots.maps(dict.fromkeys(ODD, MAP)),
        lambda: plots.segmentations(
            [np.zeros((5, 4, 3), np.uint8)], {"a": [MAP]}, LabelSpace(tuple(ODD), ((0, 0, 0),) * 5)
        ),
    ],
)
def test_names_that_look_like_mathematics_are_shown_as_they_are(draw):
    figure = draw()
    plots.to_png(figure)
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert set(ODD) <= {text.replace(r"\$", "$").strip() for text in texts}
    assert not [text for text in texts if cbook.is_math_text(text) and "mathdefault" not in text]
