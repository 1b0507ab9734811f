"""Guards: panels of pictures show what the pure functions give, say what is wrong, and follow clicks and controls."""

import base64
import io
import math
import re

import ipywidgets
import matplotlib
import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from transkd_lite.data.labels import LabelSpace
from transkd_lite.explore.attention import BlockAttention, Choice, Looks, overlays
from transkd_lite.explore.panels import AttentionPanel, SwipePanel, readout
from transkd_lite.models.weights import create_model

SPACE = LabelSpace(("road", "car & <b>"), ((128, 64, 128), (0, 0, 142)))


@pytest.fixture(scope="module")
def looks():
    torch.manual_seed(0)
    networks = {"teacher": create_model("segformer_b2", 2), "student": create_model("segformer_b0", 2)}
    draw = np.random.default_rng(0)
    pictures = [draw.integers(0, 256, (64, 128, 3), np.uint8) for _ in range(2)]
    labels = np.zeros((2, 64, 128), np.uint8)
    labels[:, :, 64:] = 1
    labels[:, 60:, :4] = 255
    return Looks(networks, pictures, list(labels), SPACE)


@pytest.fixture
def panel(looks):
    return AttentionPanel(looks, Choice(stage=3, row=36, column=68))


def test_a_pixel_becomes_a_position_of_the_stage(looks):
    choice = Choice(image=1, stage=3, block=1, head=2, row=36, column=68)
    seen = looks.view("student", choice)
    assert (seen.block, seen.head, seen.position) == (1, 2, (2, 4))
    assert torch.equal(seen.weights, looks.attention["student"][3, 1].query((2, 4), head=2, image=1))
    assert seen.own_class == pytest.approx(float(seen.weights[:, 4:].sum()))


def test_a_network_with_fewer_blocks_shows_its_last(looks):
    choice = Choice(stage=3, block=6, head=9)
    assert [looks.view(name, choice).block for name in ("teacher", "student")] == [6, 2]
    assert looks.view("student", choice).head == 5


def made_up(attention):
    """One network of one block that looks at a black picture, one pixel a position, of one class."""
    looks = Looks({}, [np.zeros((*attention.size, 3), np.uint8)], [np.zeros(attention.size)], SPACE)
    looks.attention["network"] = {(1, 1): attention}
    looks.predictions["network"] = [np.zeros(attention.size, np.uint8)]
    return looks


def numbers(attention, position):
    """The view of one query of a made-up block."""
    return made_up(attention).view("network", Choice(stage=1, row=position[0], column=position[1]))


def test_numbers_by_hand():
    """A grid of 2 x 4 positions, two keys of 2 x 2; query (1, 3), the last, gives 0.75 to the left key."""
    weights = torch.tensor([0.5, 0.5] * 7 + [0.75, 0.25]).reshape(1, 1, 8, 2)
    attention = BlockAttention(weights, (2, 4), 2)
    seen = numbers(attention, (1, 3))
    assert (seen.peak, seen.share, seen.keys, seen.own_class) == ((1, 1), 0.75, 2, 1.0)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert seen.effective == pytest.approx(math.exp(entropy))
    # Each key's weight is shared out over its four positions; the query is at (1, 3).
    left, right = 3 + 2 + math.hypot(1, 3) + math.hypot(1, 2), 0 + 1 + 1 + math.hypot(1, 1)
    assert seen.distance == pytest.approx(0.75 * left / 4 + 0.25 * right / 4)
    assert numbers(attention, (0, 0)).effective == pytest.approx(2)


def test_a_peak_lies_beneath_its_key():
    attention = BlockAttention(torch.eye(8).repeat(64, 1)[None, None], (16, 32), 8)
    assert [numbers(attention, (0, k)).peak for k in (0, 5)] == [(4, 4), (12, 12)]


def test_void_has_no_class_of_its_own(looks):
    seen = looks.view("student", Choice(stage=1, row=62, column=1))
    assert np.isnan(seen.own_class)
    text = readout(looks, Choice(stage=1, row=62, column=1))
    assert "labelled void" in text
    assert "nan" not in text.lower()


def test_words_are_those_of_the_numbers_and_escaped(looks):
    choice = Choice(stage=2, row=36, column=68)
    text = readout(looks, choice)
    assert (
        "pixel row 36, column 68, labelled car &amp; &lt;b&gt;; in stage 2 row 4, column 8 of its 8 × 16 grid." in text
    )
    assert "<b>" not in text
    for name in ("teacher", "student"):
        seen = looks.view(name, choice)
        (line,) = (row for row in text.split("<tr>") if f">{name}</th>" in row)
        for value in (f"{100 * seen.share:.1f}", f"{100 * seen.own_class:.1f}", f"{seen.effective:.1f} of 8"):
            assert f">{value}<" in line
        assert f">{seen.distance:.0f}<" in line
        assert f" {name}: {100 * seen.share:.1f}% of the attention" in text


def test_every_number_has_its_unit_and_the_sentences_are_a_polite_live_region(looks):
    text = readout(looks, Choice(stage=2, row=36, column=68))
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", text.split("<tbody>")[0])
    units = ("in %", "in pixels", "keys", "key", "class", "class there", "Block", "Head", "Network")
    assert all(head.endswith(units) for head in heads), heads
    assert re.search(r'<p role="status" aria-live="polite">Query: pixel row 36', text)


def ramp(levels):
    """Attention of a query over so many keys on a black picture, one pixel a key, from the least to the most."""
    weights = torch.tensor(levels).expand(1, 1, len(levels), -1)
    looks = made_up(BlockAttention(weights / weights[0, 0, 0].sum(), (1, len(levels)), 1))
    shown = overlays(looks, Choice(stage=1, column=len(levels) - 1))["network"]
    times = shown.shape[1] // len(levels)
    return shown[0, 1::times][:-2].astype(float)  # less what the frame covers


def test_the_strongest_key_is_yellow_and_nothing_is_dark_blue(looks):
    colours = ramp([0.0, 0.25, 0.49, 0.5, 0.5])
    blue, middle, yellow = colours
    assert blue[2] > blue[0] + 40
    assert yellow[0] > yellow[2] + 80
    assert blue.sum() < middle.sum() < yellow.sum()
    shown = overlays(looks, Choice(stage=1, network="student"))
    assert list(shown) == ["image", "student"]
    assert shown["student"].shape == (256, 512, 3)


def test_the_frame_is_the_query(looks):
    plain = overlays(looks, Choice(stage=4, row=0, column=0))["image"]
    moved = overlays(looks, Choice(stage=4, row=63, column=127))["image"]
    changed = np.argwhere((plain != moved).any(2))
    # Cells of 32 pixels, enlarged four times: the first ends at (127, 127), the last begins at (128, 384).
    assert {tuple(corner) for corner in (changed.min(0), changed.max(0))} == {(0, 0), (255, 511)}
    inside = (changed < 128).all(1) | ((changed[:, 0] >= 128) & (changed[:, 1] >= 384))
    assert inside.all()


def test_the_frame_is_the_query_where_the_grid_does_not_divide_the_picture():
    grid = BlockAttention(torch.ones(1, 1, 64, 64), (8, 8), 1)
    looks = Looks({}, [np.full((300, 300, 3), 99, np.uint8)], [np.zeros((300, 300))], SPACE)
    looks.attention["network"], looks.predictions["network"] = {(1, 1): grid}, [np.zeros((300, 300), np.uint8)]
    framed = np.argwhere((overlays(looks, Choice(stage=1, row=299, column=299))["image"] != 99).any(2))
    # The last cell of 37.5 pixels.
    assert [tuple(framed.min(0)), tuple(framed.max(0))] == [(262, 262), (299, 299)]


def test_colours_are_those_of_cividis():
    levels = np.linspace(0, 1, 256)
    ours = ramp(levels.tolist()) / (1 - 0.35)  # the share of the picture
    theirs = 255 * matplotlib.colormaps["cividis"](levels)[: len(ours), :3]
    assert np.abs(ours - theirs).max() < 32


def test_a_large_picture_is_shown_as_large_as_it_is():
    large = BlockAttention(torch.ones(1, 1, 1, 1), (1, 1), 1)
    looks = Looks({}, [np.zeros((256, 512, 3), np.uint8)], [np.zeros((256, 512))], SPACE)
    looks.attention["network"], looks.predictions["network"] = {(1, 1): large}, [np.zeros((256, 512), np.uint8)]
    assert overlays(looks, Choice(stage=1))["network"].shape == (256, 512, 3)


def test_controls_have_names_and_reach_everything(panel):
    assert [control.description for control in panel.controls.values()] == [
        "Network", "Image", "Stage", "Block", "Head", "Pixel row", "Pixel column",
    ]  # fmt: skip
    *lists, row, column = panel.controls.values()
    assert [control.options for control in lists] == [
        ("all", "teacher", "student"), (0, 1), (1, 2, 3, 4), (1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 6, 7, 8),
    ]  # fmt: skip
    assert [(c.min, c.max, c.step) for c in (row, column)] == [(0, 63, 4), (0, 127, 4)]


def test_a_moved_control_redraws(panel, looks):
    before = panel.picture.value, panel.maps.value
    panel.controls["row"].value = 8
    expected = Choice(stage=3, row=8, column=68)
    assert panel.choice == expected
    assert panel.words.value == readout(looks, expected)
    assert panel.picture.value != before[0]
    assert panel.maps.value != before[1]
    assert len(re.findall(r'<img alt="[^"]{20,}"', panel.picture.value + panel.maps.value)) == 3


def test_a_slider_moves_the_query_and_its_number_can_be_typed(panel):
    (row, _) = [part for part in panel.children[0].children if isinstance(part, ipywidgets.IntSlider)]
    row.value = 12
    assert panel.choice.row == 12
    assert row is panel.controls["row"]
    assert row.readout


def click(panel, x, y, width=400, height=200):
    """What the browser sends when the picture, of so many pixels on the screen, is clicked at (x, y)."""
    (event,) = (w for w in ipywidgets.Widget.widgets.values() if getattr(w, "source", None) is panel.picture)
    event._handle_mouse_msg(
        event, {"relativeX": x, "relativeY": y, "boundingRectWidth": width, "boundingRectHeight": height}, []
    )


@pytest.mark.filterwarnings("ignore:Widget.widgets is deprecated")
def test_a_click_on_the_picture_moves_the_query(panel, looks):
    click(panel, 0, 199)
    assert (panel.choice.row, panel.choice.column) == (63, 0)
    click(panel, 203, 50)
    assert (panel.choice.row, panel.choice.column) == (16, 64)
    assert panel.words.value == readout(looks, panel.choice)
    click(panel, 400, 200)  # the very corner, rounded up
    assert (panel.choice.row, panel.choice.column) == (63, 127)
    assert panel.message.value == ""
    click(panel, 1, 1, width=0)
    assert "ZeroDivisionError" in panel.message.value


def test_a_stage_with_fewer_heads_shows_its_last(panel, looks):
    panel.controls["head"].value = 5
    panel.controls["stage"].value = 1
    assert panel.choice.head == 5
    assert looks.view("student", panel.choice).head == 1
    assert panel.message.value == ""


def test_one_network_can_be_shown_alone(panel):
    panel.controls["network"].value = "student"
    assert ">teacher<" not in panel.words.value
    assert (panel.picture.value + panel.maps.value).count("<img") == 2


def test_errors_of_a_callback_are_seen_and_go_away(panel, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of <ink>")

    with monkeypatch.context() as patch:
        patch.setattr("transkd_lite.explore.panels.readout", broken)
        panel.controls["row"].value = 12
        assert "RuntimeError: out of &lt;ink&gt;" in panel.message.value
        assert "role='alert'" in panel.message.value
    panel.controls["row"].value = 16
    assert panel.message.value == ""


@pytest.mark.parametrize(
    "choice", [Choice(stage=5), Choice(network="nobody"), Choice(image=7), Choice(row=64), Choice(column=128)]
)
def test_what_is_not_there_is_refused(looks, choice):
    for call in (overlays, AttentionPanel):
        with pytest.raises(LookupError):
            call(looks, choice)


def test_without_a_front_end_it_says_what_it_is(panel):
    assert isinstance(panel, ipywidgets.VBox)
    assert "JupyterLab" in repr(panel)


def shown(panel):
    """The bundles that a notebook stores when the panel is the value of a cell."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transkd_lite.explore.panels.display", lambda data, raw: found.append(data))
        DisplayFormatter().format(panel)
    return found


def test_without_a_kernel_the_same_pictures_and_words_stand(panel):
    still, living = shown(panel)
    for part in (panel.picture, panel.maps, panel.words):
        assert part.value in still["text/html"]
    assert "application/vnd.jupyter.widget-view+json" not in still
    assert living["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.model_id
    # What hides one of the two needs these classes.
    assert "tk-still" in still["text/html"]
    assert "tk-alive" in panel._dom_classes
    assert len(still["text/html"]) < 300_000


LEFT, RIGHT = np.full((10, 20, 3), 40, np.uint8), np.full((10, 20, 3), 200, np.uint8)
HALF = np.concatenate([LEFT[:5], RIGHT[5:]])


@pytest.fixture
def swipe():
    return SwipePanel({"alone & <b>": LEFT, "teacher": RIGHT, "label": HALF})


def columns(swipe):
    """The grey level of every column of the drawn picture, in its first row."""
    data = re.search('base64,([^"]+)', swipe.picture.value).group(1)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"), int)[0]


def test_the_divider_parts_two_pictures(swipe):
    left, right = columns(swipe)[[0, -1]]
    assert abs(left - 40) < 12
    assert abs(right - 200) < 12
    for place, level in ((100, 40), (0, 200)):
        swipe.divider.value = place
        levels = columns(swipe)
        assert np.median(levels) == pytest.approx(level, abs=12)


def test_the_swipe_is_told_in_a_sentence_with_its_share_of_pixels(swipe):
    assert 'aria-live="polite">Left of the divider, at 50% of the width: alone &amp; &lt;b&gt;.' in swipe.words.value
    assert "Right of it: teacher. They differ at 100.0% of the pixels." in swipe.words.value
    swipe.right.value = "label"
    assert "Right of it: label. They differ at 50.0% of the pixels." in swipe.words.value
    assert re.search(r'<img alt="Left of the divider[^"]{20,}"', swipe.picture.value)
    assert "<b>" not in swipe.picture.value


def test_the_swipes_controls_have_names_and_its_picture_stands_without_a_kernel(swipe):
    named = [swipe.left, swipe.right, swipe.divider]
    assert [control.description for control in named] == ["Left picture", "Right picture", "Divider in % of width"]
    assert swipe.picture.value in shown(swipe)[0]["text/html"]
    assert swipe.words.value in shown(swipe)[0]["text/html"]


@pytest.mark.parametrize("other", [LEFT[:5], LEFT[:, :7]])
def test_pictures_of_several_sizes_are_not_swiped(other):
    with pytest.raises(ValueError, match=r"dimension|shape"):
        SwipePanel({"one": LEFT, "other": other})
