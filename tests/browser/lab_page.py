"""A notebook in JupyterLab, for the tests: open it, run it, bring a panel into view, ask what a reader would mind."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Limits, not pauses: what is waited for is a state, however long the machine takes.
STATE_MS, RUN_MS = 300_000, 900_000
IDLE = """() => {
  const panel = window.jupyterapp?.shell.currentWidget;
  return panel?.content?.widgets?.length > 0 && panel.sessionContext.session?.kernel?.status === 'idle';
}"""
FINISHED = """() => window.jupyterapp.shell.currentWidget.content.widgets
  .filter(c => c.model.type === 'code').every(c => c.model.executionCount > 0)"""
TO_CELL = """
async (text) => {
  const content = window.jupyterapp.shell.currentWidget.content;
  const k = content.widgets.findIndex(c => c.model.type === 'code' && c.model.sharedModel.getSource().includes(text));
  await content.scrollToItem(k, 'start');
  return k;
}"""
TOO_WIDE = """() => [...document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea *')]
  .filter(e => e.getBoundingClientRect().right > window.innerWidth).map(e => e.outerHTML.slice(0, 120))"""
CONTRASTS = """
(selector) => [...document.querySelectorAll(selector)].filter(e => e.textContent.trim()).map(e => {
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


def open_idle(page, url):
    """Open a notebook and wait until its kernel listens: a run asked for before is lost."""
    page.goto(url)
    page.wait_for_function(IDLE, timeout=STATE_MS)


def run_all(page):
    """Run all cells from a clean page and wait until the last has run."""
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_function(FINISHED, timeout=RUN_MS)


def scroll_to_cell(page, text):
    """Bring the code cell that holds `text` to the top: Lab draws what is in view."""
    assert page.evaluate(TO_CELL, text) > 0, f"no code cell with {text!r}"


@contextmanager
def running(browser, url, cell) -> Iterator[Any]:
    """A page of its own on a notebook that has run from top to bottom, with the cell that holds `cell` in view."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    open_idle(page, url)
    page.set_default_timeout(STATE_MS)
    run_all(page)
    scroll_to_cell(page, cell)
    yield page
    context.close()


def expect_soon(page, read: Callable[[], Any], wanted: Any) -> None:
    """Read the screen until it says what is wanted: every readout comes by a message of its own."""
    until = time.monotonic() + STATE_MS / 1000
    while (found := read()) != wanted and time.monotonic() < until:
        page.wait_for_timeout(100)
    assert found == wanted, found


def faint(page, panel, parts):
    """The texts of a panel's parts that stand out from their ground by less than 4.5 to 1 (WCAG 2.2, AA)."""
    measured = page.evaluate(CONTRASTS, ", ".join(f"{panel} {part}" for part in parts))
    assert measured, f"nothing to read in {panel}"
    return [entry for entry in measured if entry["ratio"] < 4.5]


def slider(page, panel, name):
    """The slider that is described by `name`."""
    return page.locator(f"{panel} .widget-slider").filter(has_text=name).get_by_role("slider")


def press(page, panel, name, key, times=1):
    """Focus a slider and press a key."""
    slider(page, panel, name).focus()
    for _ in range(times):
        page.keyboard.press(key)
