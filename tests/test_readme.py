"""The README says what is so: its commands, links and tables exist, and its example runs."""

import re
from pathlib import Path

import pytest

from transkd_lite import report
from transkd_lite.distill import method_table

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_links_lead_somewhere():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert targets
    assert not [target for target in targets if not (ROOT / target).exists()]


def test_every_notebook_is_listed_with_its_question():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        assert f"(notebooks/{path.name})" in README


def test_methods_are_the_librarys():
    assert method_table().strip() in README


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z]+)\b", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


def test_the_result_is_the_shipped_table():
    table = report.students(report.load_batch(None).table)
    for method, row in report.summary(table).iterrows():
        assert re.search(rf"\| `{method}` \| {int(row['runs'])} \| {100 * row['mean']:.2f} ", README), method


@pytest.mark.slow
def test_the_example_runs(monkeypatch):
    (example,) = re.findall(r"```python\n(.+?)```", README, flags=re.S)
    monkeypatch.chdir(ROOT)
    example = example.replace("num=64", "num=4").replace("steps=100, batch_size=8", "steps=1, batch_size=2")
    scope = {}
    exec(example, scope)
    assert 0 <= scope["result"].metrics["full"]["miou"] <= 1
