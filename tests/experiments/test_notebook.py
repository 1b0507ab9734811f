"""Protects: a report is a page of its own, without code, without the course's text, and without empty sections."""

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from transkd_lite.experiments.notebook import to_html


def shown(text: str):
    return new_code_cell("1 + secret_code", outputs=[new_output("display_data", {"text/markdown": text})])


def test_a_report_folds_its_details_and_leaves_out_what_is_empty(tmp_path):
    cells = [
        new_markdown_cell("A word about the course", metadata={"tags": ["notebook-only"]}),
        new_code_cell("import secret_code"),
        shown("The finding"),
        new_markdown_cell("**All the rest**", metadata={"tags": ["details"]}),
        new_markdown_cell("Text of a silent section"),
        new_code_cell("pass"),
        new_markdown_cell("Text of a full section"),
        shown("A table"),
        new_markdown_cell("Text alone"),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "report.ipynb")
    page = to_html(tmp_path / "report.ipynb", "mine: <four> classes")
    assert "<title>mine: &lt;four&gt; classes</title>" in page
    assert "<h1>mine: &lt;four&gt; classes</h1>" in page
    order = ["The finding", "<details>", "<summary>All the rest</summary>", "full section", "A table", "Text alone"]
    assert [page.index(text) for text in order] == sorted(page.index(text) for text in order)
    assert page.index("Text alone") < page.index("</details>")
    for absent in ("about the course", "secret_code", "silent section", "<script", "http"):
        assert absent not in page
