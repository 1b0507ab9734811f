"""The attention panel as a student uses it: in JupyterLab, from the keyboard, in both themes."""

import html
import re

import pytest
from lab_page import TOO_WIDE, expect_soon, faint, press, running, scroll_to_cell, slider

import transkd_lite as tk
from transkd_lite.experiments.experiment import find_file
from transkd_lite.explore.attention import Choice, Looks
from transkd_lite.explore.panels import readout

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]
NOTEBOOK = "10_attention_and_features.ipynb"
TEACHER = "data/weights/streets-segformer_b1.safetensors"
PANEL, CELL = ".tk-attention", "AttentionPanel("
PARTS = ("td", "th", "caption", "label", "figcaption", ".widget-readout")
START = {"image": 0, "stage": 4, "block": 2, "head": 1, "row": 36, "column": 68}
PICTURES = """
async () => {
  const images = [...document.querySelectorAll('.tk-attention img')];
  await Promise.all(images.map(i => i.decode().catch(() => {})));  // drawn, or not to be drawn
  return images.map(
    i => ({alt: i.alt, drawn: i.naturalWidth > 0, right: i.getBoundingClientRect().right, width: i.width}));
}"""


@pytest.fixture(scope="module")
def looks():
    """What the shipped teacher sees on the notebook's pictures, without the notebook."""
    data = tk.open_dataset("streets", "val", num=24, seed=0, size=(64, 128))
    model = tk.load_model(find_file(TEACHER))
    return Looks({"teacher": model}, [s["image"] for s in data], [s["label"] for s in data], tk.label_space(data))


@pytest.fixture(scope="module")
def panel(lab, browser):
    """The notebook, run with a training of two steps (the panel needs no good students), scrolled to the panel."""
    path = lab.folder / NOTEBOOK
    text, replaced = re.subn(r"steps: int = \d+ ", "steps: int = 2 ", path.read_text())
    assert replaced == 1
    path.write_text(text)
    with running(browser, lab.notebook(NOTEBOOK), CELL) as page:
        page.locator("#T_networks tbody tr").first.wait_for()
        yield page


def read_all(cells):
    """Of each cell its words, and of all cells the numbers."""
    words = [re.sub(r"\d[\d.]*", "#", cell) for cell in cells]
    return words, [float(number) for cell in cells for number in re.findall(r"\d[\d.]*", cell)]


def expect(page, looks, choice):
    """Wait until the screen tells of this query, then compare the teacher's row with the pure function's."""
    text = readout(looks, choice)
    query = html.unescape(re.search("<caption>(.*?)</caption>", text, re.DOTALL).group(1))
    page.locator("#T_networks caption", has_text=query).wait_for()
    (row,) = (row for row in text.split("<tr>") if ">teacher</th>" in row)
    wanted = [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
    cells = page.locator("#T_networks tbody tr", has_text="teacher").locator("td")
    words, numbers = read_all(wanted)
    equal = (words, pytest.approx(numbers, rel=0.02, abs=0.002))
    expect_soon(page, lambda: read_all(cells.all_inner_texts()), equal)


def go_home(page, looks):
    """Every slider by the keyboard to where the panel starts, by a detour, so that no old screen passes for it."""
    page.get_by_label("Network").select_option("all")
    for name, count in {"Stage": 3, "Image": 0, "Block": 1, "Head": 0, "Pixel column": 17}.items():
        press(page, PANEL, name, "Home")
        press(page, PANEL, name, "ArrowRight", count)
    press(page, PANEL, "Pixel row", "End")
    expect(page, looks, Choice(**START | {"row": 60}))
    press(page, PANEL, "Pixel row", "Home")
    press(page, PANEL, "Pixel row", "ArrowRight", 9)
    expect(page, looks, Choice(**START))


def test_every_cell_ran_without_an_error(panel):
    assert panel.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert panel.locator(".jp-OutputArea-output[data-mime-type*='stderr']").count() == 0


def test_sliders_move_from_the_keyboard_and_the_readout_follows(panel, looks, pictures):
    go_home(panel, looks)
    press(panel, PANEL, "Pixel row", "ArrowLeft", 5)
    expect(panel, looks, Choice(**START | {"row": 16}))
    press(panel, PANEL, "Pixel column", "ArrowRight", 3)
    press(panel, PANEL, "Stage", "ArrowLeft", 2)
    expect(panel, looks, Choice(**START | {"row": 16, "column": 80, "stage": 2}))
    press(panel, PANEL, "Image", "ArrowRight", 2)
    press(panel, PANEL, "Block", "Home")
    # Last, as the words show it: nothing is still on its way when they do.
    press(panel, PANEL, "Head", "ArrowRight")
    expect(panel, looks, Choice(image=2, stage=2, block=1, head=2, row=16, column=80))
    assert panel.locator(".tk-attention [role=alert]").count() == 0
    panel.locator(".tk-attention").screenshot(path=pictures / "10-moved.png")


def test_pictures_follow_too_and_have_words(panel, looks):
    go_home(panel, looks)
    before = panel.locator(".tk-attention img").evaluate_all("images => images.map(i => i.src)")
    press(panel, PANEL, "Stage", "ArrowLeft", 2)
    expect(panel, looks, Choice(**START | {"stage": 2}))
    after = panel.locator(".tk-attention img").evaluate_all("images => images.map(i => i.src)")
    assert len(before) == len(after) == 4
    assert all(a != b for a, b in zip(before, after, strict=True))
    shown = panel.evaluate(PICTURES)
    assert all(p["drawn"] and len(p["alt"]) > 20 for p in shown)


def test_the_tab_key_leads_to_every_control(panel):
    panel.get_by_label("Network").focus()
    for name in ("Image", "Stage", "Block", "Head", "Pixel row", "Pixel column"):
        for _ in range(2):  # the number beside a slider can have the focus, too
            if not slider(panel, PANEL, name).evaluate("e => e === document.activeElement"):
                panel.keyboard.press("Tab")
        assert slider(panel, PANEL, name).evaluate("e => e === document.activeElement"), name


def test_one_network_can_be_chosen(panel, looks):
    go_home(panel, looks)
    panel.get_by_label("Network").select_option("teacher")
    panel.wait_for_function("() => document.querySelectorAll('#T_networks tbody tr').length === 1")
    expect(panel, looks, Choice(**START))
    assert [p["alt"][:8] for p in panel.evaluate(PICTURES)] == ["image wi", "attentio"]


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_it_fits_and_is_readable_in_both_themes(panel, looks, pictures, theme):
    change = "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"
    panel.evaluate(change, theme)
    panel.wait_for_function("theme => document.body.dataset.jpThemeName === theme", arg=theme)
    go_home(panel, looks)
    scroll_to_cell(panel, CELL)
    assert panel.evaluate(TOO_WIDE) == []
    assert faint(panel, PANEL, PARTS) == []
    shown = panel.evaluate(PICTURES)
    assert all(p["right"] <= 1280 and p["width"] >= 150 for p in shown)
    shade = theme.split()[-1].lower()
    panel.screenshot(path=pictures / f"10-{shade}.png")
    panel.locator(".tk-attention").screenshot(path=pictures / f"10-{shade}-panel.png")
