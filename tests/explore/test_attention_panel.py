"""Guards: the attention panel shows what the pure functions give, says what is wrong, and follows its controls."""

import math
import re

import ipywidgets
import matplotlib
import numpy as np
import pytest
import torch

from transkd_lite.data.labels import LabelSpace
from transkd_lite.explore import attention
from transkd_lite.explore.attention import BlockAttention, Choice, Looks, overlays
from transkd_lite.explore.panels import AttentionPanel, readout
from transkd_lite.models import create_model

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
    assert "labelled void" in readout(looks, Choice(stage=1, row=62, column=1))


def test_words_are_those_of_the_numbers_and_escaped(looks):
    choice = Choice(stage=2, row=36, column=68)
    text = readout(looks, choice)
    assert "pixel row 36, column 68, labelled car &amp; &lt;b&gt;." in text
    assert "row 4, column 8 of its 8 × 16 grid" in text
    for name in ("teacher", "student"):
        seen = looks.view(name, choice)
        (line,) = (row for row in text.split("<tr>") if f">{name}</th>" in row)
        assert f"{seen.share:.3f}" in line
        assert f"{seen.own_class:.3f}" in line
        assert f">{seen.effective:.1f}<" in line
        assert f"{seen.distance:.0f} pixels" in line


def ramp(levels):
    """Attention of a query over so many keys on a black picture, one pixel a key, from the least to the most."""
    weights = torch.tensor(levels).expand(1, 1, len(levels), -1)
    looks = made_up(BlockAttention(weights / weights[0, 0, 0].sum(), (1, len(levels)), 1))
    shown = overlays(looks, Choice(stage=1, column=len(levels) - 1))["network"]
    return shown[0, 1 :: attention.ENLARGE][:-2].astype(float)  # less what the frame covers


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


def test_colours_are_those_of_cividis():
    levels = np.linspace(0, 1, 256)
    ours = ramp(levels.tolist()) / (1 - 0.35)  # the share of the picture
    theirs = 255 * matplotlib.colormaps["cividis"](levels)[: len(ours), :3]
    assert np.abs(ours - theirs).max() < 32


def test_controls_are_described_and_reach_everything(panel):
    assert all(control.description for control in panel.controls.values())
    limits = {name: (c.min, c.max, c.step) for name, c in panel.controls.items() if name != "network"}
    assert limits == {
        "image": (0, 1, 1),
        "stage": (1, 4, 1),
        "block": (1, 6, 1),
        "head": (1, 8, 1),
        "row": (0, 60, 4),
        "column": (0, 124, 4),
    }


def test_a_moved_slider_redraws(panel, looks):
    before = panel.pictures.value
    panel.controls["row"].value = 8
    expected = Choice(stage=3, row=8, column=68)
    assert panel.choice == expected
    assert panel.words.value == readout(looks, expected)
    assert panel.pictures.value != before
    assert len(re.findall(r'<img alt="[^"]{20,}"', panel.pictures.value)) == 3


def test_a_stage_with_fewer_heads_shows_its_last(panel, looks):
    panel.controls["head"].value = 5
    panel.controls["stage"].value = 1
    assert panel.choice.head == 5
    assert looks.view("student", panel.choice).head == 1
    assert panel.message.value == ""


def test_one_network_can_be_shown_alone(panel):
    panel.controls["network"].value = "student"
    assert ">teacher<" not in panel.words.value
    assert panel.pictures.value.count("<img") == 2


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
