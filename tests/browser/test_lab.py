"""The course in JupyterLab, as a student sees it: every notebook opens whole; those with a panel run, too."""

from pathlib import Path

import pytest
from lab_page import open_idle

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]
NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
RENDER_ALL = """
async () => {
  // Lab draws cells as they come into view, so each is brought there once.
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.context.ready;
  for (let k = 0; k < panel.content.widgets.length; k++) {
    await panel.content.scrollToItem(k);
    await panel.content.widgets[k].ready;
  }
  const images = [...document.querySelectorAll('.jp-OutputArea-output img')];
  await Promise.all(images.map(image => image.decode().catch(() => {})));  // a broken one is told below
  return panel.content.widgets.length;
}"""
PICTURES = """() => [...document.querySelectorAll('.jp-OutputArea-output img')].map(
  image => ({alt: image.alt, drawn: image.naturalWidth > 0, right: image.getBoundingClientRect().right}))"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_opens_without_errors_and_with_words_for_every_picture(page, lab, path):
    open_idle(page, lab.notebook(path.name))
    assert page.evaluate(RENDER_ALL) > 15
    pictures = page.evaluate(PICTURES)
    assert all(picture["drawn"] and len(picture["alt"]) > 20 for picture in pictures)
    assert all(picture["right"] <= 1280 for picture in pictures)
    assert pictures or path.stem.startswith("00")
    assert page.locator(".jp-OutputArea-output[data-mime-type*='stderr']").count() == 0
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0
