"""The loss-weight explorer as a student uses it: in JupyterLab, from the keyboard, in both themes."""

import re

import pytest
from lab_page import TOO_WIDE, expect_soon, faint, press, running, scroll_to_cell, slider

from transkd_lite.explore.gradients import load_gradients
from transkd_lite.explore.panels import PRESETS, WeightChoice, reading_sentence, reading_table

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
NOTEBOOK = "09_explore_loss_weights.ipynb"
TRIAL_STEPS = 100_000
RECORD = load_gradients()
SLIDERS = ("csf_1 to csf_4", *(f"pea_{i}" for i in (1, 2, 3, 4)), "kd")
PANEL, CELL = ".tk-explorer", "LossWeightsPanel(record"
PARTS = ("td", "th", "label", "caption", ".tk-said", ".widget-readout")
SCROLLS = "() => [...document.querySelectorAll('.jp-OutputArea-output')].some(e => e.scrollWidth > e.clientWidth + 1)"


@pytest.fixture(scope="module")
def explorer(lab, browser):
    """The notebook, run with a trial that no machine ends before it is cancelled, scrolled to the panel."""
    path = lab.folder / NOTEBOOK
    text, replaced = re.subn(r"bench, num_steps=steps", f"bench, num_steps={TRIAL_STEPS}", path.read_text())
    assert replaced == 1
    path.write_text(text)
    with running(browser, lab.notebook(NOTEBOOK), CELL) as page:
        page.locator(".tk-explorer").wait_for()
        page.get_by_role("button", name="Paper", exact=True).wait_for()
        yield page


def keep(page, path):
    """A picture of the whole panel: Lab draws only what is in view, so the window is made tall for it."""
    page.set_viewport_size({"width": 1280, "height": 1900})
    scroll_to_cell(page, CELL)
    page.wait_for_timeout(500)
    page.screenshot(path=path)
    page.set_viewport_size({"width": 1280, "height": 900})
    scroll_to_cell(page, CELL)


def shown(page):
    """The sentence and the cells of the table as they are on the screen."""
    rows = page.locator(f"{PANEL} #T_terms tbody tr")
    cells = rows.evaluate_all("rows => rows.map(r => [...r.querySelectorAll('td')].map(c => c.textContent.trim()))")
    return page.locator(f"{PANEL} .tk-said").inner_text(), cells


def expect(page, choice, step=300):
    """Wait until the screen shows what the pure functions say."""
    reading = RECORD.at(step).read(choice.term_weights(RECORD.names))
    rows = re.findall(r"<tr>(.*?)</tr>", reading_table(reading).partition("<tbody>")[2], re.DOTALL)
    cells = [[text.strip() for text in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)] for row in rows]
    expect_soon(page, lambda: shown(page), (reading_sentence(step, reading), cells))


def go_home(page):
    page.get_by_role("button", name="Paper", exact=True).click()
    page.get_by_label("Moment of training").select_option("after 300 steps")
    expect(page, PRESETS["Paper"])


def test_every_cell_ran_without_an_error(explorer):
    assert explorer.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert explorer.locator(".jp-OutputArea-output[data-mime-type*='stderr']").count() == 0


def test_sliders_move_from_the_keyboard_and_readouts_follow(explorer, pictures):
    go_home(explorer)
    explorer.get_by_label("Moment of training").select_option("after 0 steps")
    expect(explorer, PRESETS["Paper"], 0)
    explorer.get_by_label("Moment of training").select_option("after 300 steps")
    press(explorer, PANEL, SLIDERS[0], "ArrowRight", 4)
    expect(explorer, WeightChoice(feature=1.2), 300)
    press(explorer, PANEL, SLIDERS[4], "ArrowLeft", 2)
    expect(explorer, WeightChoice(1.2, (0.1, 0.1, 0.5, 0.9), 0.0), 300)
    press(explorer, PANEL, SLIDERS[5], "ArrowRight")
    press(explorer, PANEL, SLIDERS[1], "Home")
    expect(explorer, WeightChoice(1.2, (0.0, 0.1, 0.5, 0.9), 0.05), 300)
    assert "kd.weight: 0.05" in explorer.get_by_label("As papermill YAML").input_value()
    scroll_to_cell(explorer, CELL)
    explorer.screenshot(path=pictures / "09-sliders.png")


def test_the_tab_key_leads_to_every_slider(explorer):
    go_home(explorer)
    explorer.get_by_label("Moment of training").focus()
    reached = []
    for _ in range(2 * len(SLIDERS)):  # a slider, then its number, which can be typed
        explorer.keyboard.press("Tab")
        reached += [n for n in SLIDERS if slider(explorer, PANEL, n).evaluate("e => e === document.activeElement")]
    assert tuple(reached) == SLIDERS


def test_a_screen_reader_finds_every_control_and_hears_the_sentence(explorer):
    for name in SLIDERS:
        assert explorer.locator(PANEL).get_by_role("slider", name=name, exact=True).count() == 1
    go_home(explorer)
    region = explorer.locator(f"{PANEL} [aria-live=polite]")
    region.evaluate("e => { e.dataset.kept = 'yes' }")
    press(explorer, PANEL, SLIDERS[0], "End")
    expect(explorer, WeightChoice(feature=5.0))
    assert region.get_attribute("data-kept") == "yes"  # the same region says another sentence


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_work_from_the_keyboard(explorer, name):
    explorer.get_by_label("Moment of training").select_option("after 0 steps")
    explorer.get_by_role("button", name=name, exact=True).focus()
    explorer.keyboard.press("Enter")
    expect(explorer, PRESETS[name], 0)


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_it_fits_and_is_readable_in_both_themes(explorer, pictures, theme):
    change = "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"
    explorer.evaluate(change, theme)
    explorer.wait_for_function("theme => document.body.dataset.jpThemeName === theme", arg=theme)
    go_home(explorer)
    scroll_to_cell(explorer, CELL)
    assert explorer.evaluate(TOO_WIDE) == []
    assert not explorer.evaluate(SCROLLS)
    assert faint(explorer, PANEL, PARTS) == []
    shade = theme.split()[-1].lower()
    explorer.screenshot(path=pictures / f"09-{shade}.png")
    keep(explorer, pictures / f"09-{shade}-panel.png")


def test_a_trial_is_started_watched_and_cancelled(explorer, pictures):
    go_home(explorer)
    press(explorer, PANEL, SLIDERS[0], "End")
    expect(explorer, WeightChoice(feature=5.0))
    train = explorer.get_by_role("button", name="Train", exact=True)
    cancel = explorer.get_by_role("button", name="Cancel", exact=True)
    assert cancel.is_disabled()
    train.press("Enter")
    explorer.get_by_text(re.compile(rf"^step [1-9]\d* of {TRIAL_STEPS}, \d+ s left$")).wait_for()
    assert train.is_disabled()
    keep(explorer, pictures / "09-training.png")
    cancel.press("Enter")
    explorer.get_by_text(re.compile(rf"^cancelled after \d+ of {TRIAL_STEPS} steps$")).wait_for()
    assert explorer.locator(".tk-explorer img").get_attribute("alt").startswith("Cross entropy")
    words = explorer.locator(f"{PANEL} figcaption").inner_text()
    assert re.search(r"One seed, from step 0, \d+ s\. Weights of paper: csf_1: 1\.0.*chosen: csf_1: 5\.0", words)
    assert train.is_enabled()
    keep(explorer, pictures / "09-cancelled.png")
