"""The book is built from every page without a warning, its links lead somewhere, and it needs no network."""

import html
import inspect
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

import transkd_lite as tk
from transkd_lite.explore.gradients import load_gradients
from transkd_lite.explore.panels import PRESETS, WeightChoice, reading_sentence

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README", "data/README", "data/results/README", "CONTRIBUTING", "notebooks/book/api",
    *(f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")),
    *(f"notebooks/solutions/{path.stem}" for path in (ROOT / "notebooks/solutions").glob("[0-9]*.ipynb")),
]  # fmt: skip


class Links(HTMLParser):
    """Where a page's links and resources lead, and the anchors that it has."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.resources, self.anchors = [], [], {""}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors.add(attrs.get("id"))
        if tag == "a" and attrs.get("href"):
            self.targets.append(attrs["href"])
        if tag in ("script", "img", "iframe"):
            self.resources.append(attrs.get("src") or "")
        if tag == "link" and attrs.get("rel") == "stylesheet":
            self.resources.append(attrs.get("href") or "")


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-c", "notebooks/book", "."]
    built = subprocess.run([*command, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(book):
    return {
        path: Links(path.read_text(encoding="utf-8")) for path in book.rglob("*.html") if "_static" not in path.parts
    }


def test_every_page_is_in_the_book_and_in_its_navigation(book, pages):
    front = {urlsplit(target).path for target in pages[book / "README.html"].targets}
    for page in PAGES:
        assert book / f"{page}.html" in pages
        assert page == "README" or f"{page}.html" in front, f"{page} is not in the navigation"


def test_links_inside_the_book_lead_somewhere(pages):
    for page, links in pages.items():
        for target in links.targets + links.resources:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            file = (page.parent / unquote(url.path)).resolve() if url.path else page
            assert file.is_file(), f"{page.name}: {target}"
            if url.fragment and file in pages:
                assert unquote(url.fragment) in pages[file].anchors, f"{page.name}: {target}"


def test_the_book_loads_nothing_from_elsewhere(pages):
    for page, links in pages.items():
        assert not [r for r in links.resources if re.match(r"(https?:)?//", r)], page.name


def test_what_cells_say_is_shown_as_text_with_its_mathematics(book):
    for page in PAGES:
        text = (book / f"{page}.html").read_text(encoding="utf-8")
        raw = [words for words in re.findall(r"<p>(.*?)</p>", text, flags=re.S) if re.search(r"\$[^$]+\$", words)]
        assert not raw, page
        assert "<span></span>&lt;IPython.core.display" not in text, page


def test_the_results_come_with_their_charts(book):
    text = (book / "data/results/README.html").read_text(encoding="utf-8")
    assert re.search(r'<img alt="[^"]{20,}"[^>]* src="[^"]*_images/streets-methods.png"', text)
    assert 'id="the-papers-claims"' in text


def test_the_address_of_the_folder_opens_the_first_page(book):
    assert 'url=README.html"' in (book / "index.html").read_text(encoding="utf-8")


def test_every_public_name_is_explained(book):
    text = (book / "notebooks/book/api.html").read_text(encoding="utf-8")
    assert [name for name in tk.__all__ if name != "__version__" and f"<h2>tk.{name}<" not in text] == []
    assert html.escape(inspect.getdoc(tk.fit).splitlines()[0], quote=False) in text


def test_answers_stand_behind_their_lesson(book):
    text = (book / "README.html").read_text(encoding="utf-8")
    found = re.findall(r'internal" href="(notebooks/[^"#]*)"', text)
    order = list(dict.fromkeys(found))
    lesson = order.index("notebooks/04_cross_selective_fusion.html")
    assert order[lesson + 1] == "notebooks/solutions/04_cross_selective_fusion.html"


def test_formulas_and_stored_pictures_are_there(book):
    text = (book / "notebooks/04_cross_selective_fusion.html").read_text(encoding="utf-8")
    assert 'class="math' in text
    assert re.search(r'<img alt="[^"]{20,}"[^>]* src="data:image/png', text)


# -- the sliders of notebook 09, which work without a kernel


@pytest.fixture(scope="module")
def explorer(book):
    """The page of notebook 09 in Chromium; whatever its scripts say on the console fails the test."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here: install it (Debian: apt-get install chromium) to test the book's sliders")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page, said = browser.new_page(viewport={"width": 390, "height": 900}), []
        page.on("pageerror", lambda error: said.append(error))
        page.set_default_timeout(120_000)
        page.goto((book / "notebooks/09_explore_loss_weights.html").as_uri(), wait_until="domcontentloaded")
        yield page
        browser.close()
        assert said == []


def expect(page, choice, step):
    """The page says of these weights what the library says."""
    record = load_gradients()
    reading = record.at(step).read(choice.term_weights(record.names))
    assert page.locator(".tk-said").inner_text() == reading_sentence(step, reading)
    cells = page.locator(".tk-explorer tbody tr td").all_inner_texts()
    numbers = [[float(text.rstrip("%") or "nan") for text in cells[at : at + 5]] for at in range(0, len(cells), 5)]
    wanted = reading.terms.to_numpy() * [1, 1, 1, 100, 1]
    assert numbers[:-1] == pytest.approx(wanted, abs=0.051)
    assert np.array(numbers[:-1])[:, [0, 1, 2, 4]] == pytest.approx(wanted[:, [0, 1, 2, 4]], abs=0.00051)
    assert numbers[-1][2:] == pytest.approx([reading.norm, 100, reading.alignment], abs=0.051)


@pytest.mark.parametrize("name", list(PRESETS))
def test_the_books_sliders_say_what_the_library_says_of_every_preset(explorer, name):
    explorer.get_by_role("button", name=name, exact=True).click()
    for step in load_gradients().steps:
        explorer.get_by_label("Moment of training").select_option(f"after {step} steps")
        expect(explorer, PRESETS[name], step)


def test_the_books_sliders_move_from_the_keyboard_and_are_named(explorer):
    explorer.get_by_role("button", name="Paper", exact=True).click()
    explorer.get_by_label("Moment of training").select_option("after 300 steps")
    for name, key in {"csf_1 to csf_4": "End", "pea_2": "ArrowRight", "pea_4": "ArrowLeft", "kd": "ArrowRight"}.items():
        explorer.get_by_role("slider", name=name, exact=True).press(key)
    expect(explorer, WeightChoice(5.0, (0.1, 0.15, 0.5, 0.95), 0.05), 300)
    assert explorer.locator(".tk-said").get_attribute("aria-live") == "polite"


def test_the_books_sliders_read_in_both_themes(explorer):
    colours = {}
    for theme in ("light", "dark"):
        explorer.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        colours[theme] = explorer.locator(".tk-explorer caption").evaluate("e => getComputedStyle(e).color")
    assert colours["light"] != colours["dark"]
    assert explorer.locator(".tk-explorer").evaluate("e => e.getBoundingClientRect().right <= window.innerWidth")
