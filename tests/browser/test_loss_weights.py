"""The loss-weight explorer as a student uses it: in JupyterLab, from the keyboard, in both themes."""

import os
import re
from pathlib import Path

import pytest

from transkd_lite.gradient_record import load_gradients
from transkd_lite.widgets.weight_choice import PRESETS, WeightChoice

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
NOTEBOOK = "09_explore_loss_weights.ipynb"
OPEN_MS, RUN_MS, TRAIN_MS = 120_000, 600_000, 300_000
RECORD = load_gradients()
SLIDERS = ("Features, all stages", *(f"Embedding, stage {i}" for i in (1, 2, 3, 4)), "Logits (kd)")
TO_PANEL = """
async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  const cells = panel.content.widgets;
  const k = cells.findIndex(c => c.model.sharedModel.getSource().includes('LossWeightsPanel(record'));
  await panel.content.scrollToItem(k, 'start');
  return k;
}"""
READY = """() => {
  const panel = window.jupyterapp?.shell.currentWidget;
  return panel?.content?.widgets?.length > 0 && panel.sessionContext.session?.kernel?.status === 'idle';
}"""
FINISHED = """() => window.jupyterapp.shell.currentWidget.content.widgets
  .filter(c => c.model.type === 'code').every(c => c.model.executionCount > 0)"""
TOO_WIDE = """() => [...document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea *')]
  .filter(e => e.getBoundingClientRect().right > window.innerWidth).map(e => e.outerHTML.slice(0, 120))"""
SCROLLS = "() => [...document.querySelectorAll('.jp-OutputArea-output')].some(e => e.scrollWidth > e.clientWidth + 1)"
CONTRAST = """
() => [...document.querySelectorAll('.tk-explorer b, .tk-explorer td, .tk-explorer th, .tk-explorer label, '
    + '.tk-explorer caption, .tk-explorer .widget-readout')].filter(e => e.textContent.trim()).map(e => {
  const light = c => c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  let behind = e;
  const clear = c => c === 'transparent' || /, 0\\)$/.test(c);
  while (behind && clear(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
  const ground = behind ? getComputedStyle(behind).backgroundColor : 'rgb(255, 255, 255)';
  const [a, b] = [light(getComputedStyle(e).color), light(ground)].sort((x, y) => y - x);
  return {text: e.textContent.trim().slice(0, 30), ratio: (a + 0.05) / (b + 0.05)};
})"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Where screenshots go: TRANSKD_SCREENSHOTS, or pytest's temporary folder."""
    folder = Path(os.environ.get("TRANSKD_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def explorer(lab, browser):
    """The notebook, run from its defaults, scrolled to the panel."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(lab.notebook(NOTEBOOK))
    page.wait_for_function(READY, timeout=OPEN_MS)
    page.set_default_timeout(60_000)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_function(FINISHED, timeout=RUN_MS)
    assert page.evaluate(TO_PANEL) > 0
    page.locator(".tk-explorer").wait_for()
    page.get_by_role("button", name="Paper", exact=True).wait_for()
    yield page
    context.close()


def keep(page, path):
    """A picture of the whole panel: Lab draws only what is in view, so the window is made tall for it."""
    page.set_viewport_size({"width": 1280, "height": 1900})
    page.evaluate(TO_PANEL)
    page.wait_for_timeout(500)
    page.screenshot(path=path)
    page.set_viewport_size({"width": 1280, "height": 900})
    page.evaluate(TO_PANEL)


def slider(page, name):
    row = page.locator(".tk-explorer .widget-slider").filter(has_text=name)
    return row.get_by_role("slider")


def press(page, name, key, times=1):
    slider(page, name).focus()
    for _ in range(times):
        page.keyboard.press(key)


def numbers(page):
    """The readouts as they are on the screen."""
    names = ("norm", "alignment", "change", "rate")
    whole = {n: page.locator(f".tk-explorer [data-readout={n}]").inner_text() for n in names}
    rows = page.locator(".tk-explorer tr[data-term]")
    shares = [rows.nth(k).locator("[data-number]").first.inner_text() for k in range(rows.count())]
    return {n: float(text.replace("−", "-")) for n, text in whole.items()}, [
        float(text.replace("−", "-").rstrip("%")) for text in shares
    ]


def expect(page, choice, step=0):
    """Wait until the screen shows what the pure functions say, then compare every number."""
    reading = RECORD.at(step).read(choice.term_weights(RECORD.names))
    norm = page.locator(".tk-explorer [data-readout=norm]", has_text=re.compile(rf"^{reading.norm:.3f}$"))
    norm.wait_for(timeout=20_000)
    whole, shares = numbers(page)
    wanted = (reading.norm, reading.alignment, reading.change_per_length, reading.change_per_rate)
    assert list(whole.values()) == pytest.approx(wanted, abs=6e-4)
    assert shares == pytest.approx((100 * reading.shares).tolist(), abs=0.06)


def go_home(page):
    page.get_by_role("button", name="Paper", exact=True).click()
    page.get_by_label("Moment of training").select_option("after 0 steps")
    expect(page, PRESETS["Paper"])


def test_every_cell_ran_without_an_error(explorer):
    assert explorer.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert explorer.locator(".jp-OutputArea-output[data-mime-type*='stderr']").count() == 0


def test_sliders_move_from_the_keyboard_and_readouts_follow(explorer, pictures):
    go_home(explorer)
    explorer.get_by_label("Moment of training").select_option("after 300 steps")
    expect(explorer, PRESETS["Paper"], 300)
    press(explorer, SLIDERS[0], "ArrowRight", 4)
    expect(explorer, WeightChoice(feature=1.2), 300)
    press(explorer, SLIDERS[4], "ArrowLeft", 2)
    expect(explorer, WeightChoice(1.2, (0.1, 0.1, 0.5, 0.9), 0.0), 300)
    press(explorer, SLIDERS[5], "ArrowRight")
    press(explorer, SLIDERS[1], "Home")
    expect(explorer, WeightChoice(1.2, (0.0, 0.1, 0.5, 0.9), 0.05), 300)
    assert "kd.weight: 0.05" in explorer.get_by_label("As papermill YAML").input_value()
    explorer.evaluate(TO_PANEL)
    explorer.screenshot(path=pictures / "09-sliders.png")


def test_the_tab_key_leads_to_every_slider(explorer):
    go_home(explorer)
    explorer.get_by_label("Moment of training").focus()
    reached = []
    for _ in range(2 * len(SLIDERS)):  # a slider, then its number, which can be typed
        explorer.keyboard.press("Tab")
        reached += [n for n in SLIDERS if slider(explorer, n).evaluate("e => e === document.activeElement")]
    assert tuple(reached) == SLIDERS


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_work_from_the_keyboard(explorer, name):
    explorer.get_by_label("Moment of training").select_option("after 150 steps")
    explorer.get_by_role("button", name=name, exact=True).focus()
    explorer.keyboard.press("Enter")
    expect(explorer, PRESETS[name], 150)


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_it_fits_and_is_readable_in_both_themes(explorer, pictures, theme):
    change = "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"
    explorer.evaluate(change, theme)
    explorer.wait_for_function(
        "theme => document.body.dataset.jpThemeName === theme", arg=theme, timeout=30_000
    )
    go_home(explorer)
    explorer.evaluate(TO_PANEL)
    assert explorer.evaluate(TOO_WIDE) == []
    assert not explorer.evaluate(SCROLLS)
    faint = [found for found in explorer.evaluate(CONTRAST) if found["ratio"] < 4.5]
    assert faint == []
    shade = theme.split()[-1].lower()
    explorer.screenshot(path=pictures / f"09-{shade}.png")
    keep(explorer, pictures / f"09-{shade}-panel.png")


def test_a_trial_is_started_watched_and_cancelled(explorer, pictures):
    go_home(explorer)
    press(explorer, SLIDERS[0], "End")
    expect(explorer, WeightChoice(feature=3.0))
    train = explorer.get_by_role("button", name="Train", exact=True)
    cancel = explorer.get_by_role("button", name="Cancel", exact=True)
    assert cancel.is_disabled()
    train.press("Enter")
    explorer.get_by_text(re.compile(r"^step [1-9]\d* of 24$")).wait_for(timeout=TRAIN_MS)
    assert train.is_disabled()
    keep(explorer, pictures / "09-training.png")
    cancel.press("Enter")
    explorer.get_by_text(re.compile(r"^cancelled after \d+ of 24 steps$")).wait_for(timeout=TRAIN_MS)
    assert (
        explorer.locator(".tk-explorer svg[role=img]").get_attribute("aria-label").startswith("cross entropy")
    )
    rows = explorer.locator(".tk-explorer tr[data-run]")
    assert [rows.nth(k).locator("th").inner_text() for k in (0, 1)] == [
        "the paper's weights",
        "the chosen weights",
    ]
    assert train.is_enabled()
    keep(explorer, pictures / "09-cancelled.png")
