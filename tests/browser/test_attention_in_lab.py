"""Panels of pictures as a student uses them: in JupyterLab, by clicks and keys, in both themes, without a kernel."""

import html
import re

import pytest
from lab_page import TOO_WIDE, expect_soon, faint, running, scroll_to_cell

import transkd_lite as tk
from transkd_lite.explore.attention import Choice, Looks
from transkd_lite.explore.panels import readout

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]
NOTEBOOK = "10_attention_and_features.ipynb"
TEACHER = "data/weights/streets128-segformer_b1.safetensors"
PANEL, CELL = ".tk-attention", "AttentionPanel("
SWIPE, SWIPE_CELL = ".tk-swipe", "SwipePanel("
PARTS = ("td", "th", "caption", "label", "figcaption", "p")
START = {"image": 0, "stage": 2, "block": 2, "head": 1, "row": 36, "column": 68}
SMALL = {"height": 64, "width": 128, "train_images": 2, "val_images": 2, "row": 36, "column": 68}
PICTURES = """
async (panel) => {
  const images = [...document.querySelectorAll(panel + ' img')];
  await Promise.all(images.map(i => i.decode().catch(() => {})));  // drawn, or not to be drawn
  return images.map(
    i => ({alt: i.alt, drawn: i.naturalWidth > 0, right: i.getBoundingClientRect().right, width: i.width}));
}"""
RESTART = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"


@pytest.fixture(scope="module")
def looks():
    """What the shipped teacher computes on the notebook's pictures, without the notebook."""
    data = tk.open_dataset("streets", "val", num=2, seed=0, size=(64, 128))
    model = tk.load_model(TEACHER)
    return Looks({"teacher": model}, [s["image"] for s in data], [s["label"] for s in data], tk.label_space(data))


@pytest.fixture(scope="module")
def panel(lab, browser):
    """The notebook, run on two small pictures, scrolled to the panel."""
    path = lab.folder / NOTEBOOK
    text = path.read_text()
    for name, value in SMALL.items():
        text, replaced = re.subn(rf'"{name}: int = \d+ ', f'"{name}: int = {value} ', text)
        assert replaced == 1, name
    path.write_text(text)
    with running(browser, lab.notebook(NOTEBOOK), CELL) as page:
        page.locator(f"{PANEL} #T_networks tbody tr").first.wait_for()
        yield page


def control(page, name, panel=PANEL):
    """The control with this accessible name."""
    return page.locator(panel).get_by_label(name, exact=True)


def number(page, name, panel=PANEL):
    """The number beside a slider, which can be typed."""
    named = page.get_by_role("slider", name=name, exact=True)
    return page.locator(f"{panel} .widget-slider", has=named).locator(".widget-readout")


def read_all(cells):
    """Of each cell its words, and of all cells the numbers."""
    words = [re.sub(r"\d[\d.]*", "#", cell) for cell in cells]
    return words, [float(number) for cell in cells for number in re.findall(r"\d[\d.]*", cell)]


def expect(page, looks, choice):
    """Wait until the screen tells of this query, then compare the teacher's row with the pure function's."""
    text = readout(looks, choice)
    query = html.unescape(re.search(r"(Query: .*?) teacher:", text).group(1))
    page.locator(f"{PANEL} [aria-live=polite]", has_text=query).wait_for()
    (row,) = (row for row in text.split("<tr>") if ">teacher</th>" in row)
    wanted = [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
    cells = page.locator(f"{PANEL} #T_networks tbody tr", has_text="teacher").locator("td")
    words, numbers = read_all(wanted)
    equal = (words, pytest.approx(numbers, rel=0.02, abs=0.2))
    expect_soon(page, lambda: read_all(cells.all_inner_texts()), equal)


def go_home(page, looks):
    """Every control to where the panel starts, by a detour, so that no old screen passes for it."""
    control(page, "Network").select_option("all")
    for name in ("Image", "Stage", "Block", "Head"):
        control(page, name).select_option(str(START[name.lower()]))
    for row in (60, START["row"]):
        for name, value in {"Pixel column": START["column"], "Pixel row": row}.items():
            number(page, name).fill(str(value))
            number(page, name).press("Enter")
        expect(page, looks, Choice(**START | {"row": row}))


def test_every_cell_ran_without_an_error(panel):
    assert panel.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert panel.locator(".jp-OutputArea-output[data-mime-type*='stderr']").count() == 0


def test_a_click_on_the_picture_moves_the_query(panel, looks, pictures):
    go_home(panel, looks)
    picture = panel.locator(f"{PANEL} img").first
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    for down, right in ((0.25, 0.75), (0.8, 0.1)):
        panel.mouse.click(box["x"] + right * box["width"], box["y"] + down * box["height"])
        expect_soon(panel, lambda: int(number(panel, "Pixel column").inner_text()), pytest.approx(128 * right, abs=1))
        expect_soon(panel, lambda: int(number(panel, "Pixel row").inner_text()), pytest.approx(64 * down, abs=1))
        at = {name: int(number(panel, f"Pixel {name}").inner_text()) for name in ("row", "column")}
        expect(panel, looks, Choice(**START | at))
    assert panel.locator(f"{PANEL} [role=alert]").count() == 0
    panel.locator(PANEL).screenshot(path=pictures / "10-clicked.png")


def test_controls_have_names_move_from_the_keyboard_and_the_readout_follows(panel, looks):
    go_home(panel, looks)
    row = panel.locator(PANEL).get_by_role("slider", name="Pixel row")
    row.focus()
    for _ in range(5):
        panel.keyboard.press("ArrowDown")
    expect(panel, looks, Choice(**START | {"row": 16}))
    stage = panel.locator(PANEL).get_by_role("combobox", name="Stage")
    stage.focus()
    panel.keyboard.press("3")  # a list closed or open takes what is typed
    expect(panel, looks, Choice(**START | {"row": 16, "stage": 3}))
    row.focus()
    panel.keyboard.press("Home")
    expect(panel, looks, Choice(**START | {"row": 0, "stage": 3}))
    assert panel.locator(PANEL).get_by_role("slider", name="Pixel column").count() == 1
    for name in ("Network", "Image", "Block", "Head"):
        assert panel.locator(PANEL).get_by_role("combobox", name=name).count() == 1, name


def test_pictures_follow_too_and_have_words(panel, looks):
    go_home(panel, looks)
    sources = "images => images.map(i => i.src)"
    before = panel.locator(f"{PANEL} img").evaluate_all(sources)
    control(panel, "Stage").select_option("4")
    expect(panel, looks, Choice(**START | {"stage": 4}))
    after = panel.locator(f"{PANEL} img").evaluate_all(sources)
    assert len(before) == len(after) == 4
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert all(p["drawn"] and len(p["alt"]) > 20 for p in panel.evaluate(PICTURES, PANEL))


def test_one_network_can_be_chosen(panel, looks):
    go_home(panel, looks)
    control(panel, "Network").select_option("teacher")
    panel.wait_for_function(f"() => document.querySelectorAll('{PANEL} #T_networks tbody tr').length === 1")
    expect(panel, looks, Choice(**START))
    assert [p["alt"][:8] for p in panel.evaluate(PICTURES, PANEL)] == ["image 0,", "attentio"]


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_it_fits_and_is_readable_in_both_themes(panel, looks, pictures, theme):
    change = "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"
    panel.evaluate(change, theme)
    panel.wait_for_function("theme => document.body.dataset.jpThemeName === theme", arg=theme)
    go_home(panel, looks)
    scroll_to_cell(panel, CELL)
    assert panel.evaluate(TOO_WIDE) == []
    assert faint(panel, PANEL, PARTS) == []
    assert all(p["right"] <= 1280 and p["width"] >= 150 for p in panel.evaluate(PICTURES, PANEL))
    shade = theme.split()[-1].lower()
    panel.screenshot(path=pictures / f"10-{shade}.png")
    panel.locator(PANEL).screenshot(path=pictures / f"10-{shade}-panel.png")


def test_the_divider_swipes_between_two_chosen_pictures(panel, pictures):
    scroll_to_cell(panel, SWIPE_CELL)
    control(panel, "Right picture", SWIPE).select_option("label")
    number(panel, "Divider in % of width", SWIPE).fill("25")
    number(panel, "Divider in % of width", SWIPE).press("Enter")
    said = "Left of the divider, at 25% of the width: alone. Right of it: label."
    panel.locator(f"{SWIPE} [aria-live=polite]", has_text=said).wait_for()
    (picture,) = panel.evaluate(PICTURES, SWIPE)
    assert picture["drawn"]
    assert picture["alt"].startswith(said)
    panel.locator(SWIPE).screenshot(path=pictures / "10-swipe.png")


def test_what_stands_without_a_kernel_is_hidden_beside_the_panel_and_shown_without(panel, pictures):
    """Last: it ends the kernel under the panel."""
    scroll_to_cell(panel, CELL)
    still = panel.locator(".tk-still", has=panel.locator("#T_networks"))
    panel.locator(PANEL).wait_for(state="visible")
    assert not still.is_visible()
    panel.evaluate(RESTART)
    still.wait_for(state="visible")
    assert not panel.locator(PANEL).is_visible()
    assert still.locator("img").count() == 4
    assert "Query: pixel row 36" in still.inner_text()
    panel.screenshot(path=pictures / "10-without-a-kernel.png")
