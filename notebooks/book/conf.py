"""Sphinx settings of the book: README, results and notebooks, as they are stored, as one static site (`make book`).

The sources stay where they are; the order of the pages is written here and nowhere else. MathJax is copied into the
site, so that it needs no network.
"""

import inspect
from pathlib import Path

import jupyter_server_mathjax

import transkd_lite as tk

ROOT = Path(__file__).resolve().parents[2]
PARTS = {
    "Getting ready": range(0, 2),
    "Distillation, piece by piece": range(2, 8),
    "Training and looking": range(8, 11),
    "Results": range(11, 100),
}
API = "notebooks/book/api"
BEHIND = [API, "data/README", "notebooks/profiles/README", "CONTRIBUTING", "CHANGELOG"]

project = "transkd_lite"
author = "The transkd_lite authors"
root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "data/README.md",
    "data/results/README.md",
    "notebooks/**",
]
exclude_patterns = ["notebooks/.*", "notebooks/**/.ipynb_checkpoints"]

extensions = ["myst_nb", "sphinx.ext.mathjax"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
nb_execution_mode = "off"  # what is shown is what was stored
nb_render_markdown_format = "myst"  # with its mathematics
nb_mime_priority_overrides = [("html", "text/html", 0)]  # figures as stored, with their alternative text
nb_ipywidgets_js = {}  # sliders need a kernel; their stored text says so
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]

html_theme = "sphinx_book_theme"
html_title = "transkd_lite"
html_theme_options = {"show_navbar_depth": 1, "home_page_in_toc": True, "navbar_persistent": []}
html_extra_path = ["index"]
html_static_path = [str(Path(jupyter_server_mathjax.__file__).parent / "static"), "static"]
html_css_files = ["book.css"]
html_js_files = [("loss-weights.js", {"defer": "defer"})]  # sliders of notebook 09 without a kernel
mathjax_path = "MathJax.js?config=TeX-AMS-MML_HTMLorMML-full"
mathjax2_config = {
    "tex2jax": {
        "inlineMath": [["\\(", "\\)"]],
        "displayMath": [["\\[", "\\]"]],
        "processClass": "math|tex2jax_process|output_area",
    },
    "HTML-CSS": {"availableFonts": [], "imageFont": None, "preferredFont": None, "webFont": "STIX-Web"},
}


def _contents() -> str:
    """The tables of contents of the book, one a part."""
    course = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    parts = {
        title: [f"notebooks/{place}{n}" for n in course if int(n[:2]) in numbers for place in ("", "solutions/")]
        for title, numbers in PARTS.items()
    } | {"Behind the course": BEHIND}
    parts["Results"].insert(0, "data/results/README")
    tree = "```{{toctree}}\n:hidden:\n:caption: {}\n\n{}\n```"
    return "\n\n".join(tree.format(title, "\n".join(pages)) for title, pages in parts.items())


def _interface() -> str:
    """The public names with their signatures and docstrings, as they are written."""
    entries = []
    for name in tk.__all__[:-1]:  # the last is the version
        thing = getattr(tk, name)
        parameters = str(inspect.signature(thing)).replace("transkd_lite.", "")
        call = f"class {name}" if inspect.isclass(thing) else name
        words = inspect.getdoc(thing)
        entries.append(f"## tk.{name}\n\n```python\n{call}{parameters}\n```\n\n```text\n{words}\n```")
    return "\n\n".join(entries)


def _complete(app, docname, source):
    if docname == root_doc:
        source[0] += f"\n\n{_contents()}\n"
    if docname == API:
        source[0] += f"\n\n{_interface()}\n"


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", _complete)
