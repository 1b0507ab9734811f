"""The README says what is so: its commands, links and tables exist, and its example runs."""

import re
from pathlib import Path

import pytest

from transkd_lite.distill import create_method, list_methods
from transkd_lite.distill.methods import METHODS, PAPER_STUDENT, PAPER_TEACHER
from transkd_lite.results import comparison, tables

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
    rows = ["| method | formula | terms (default weight) | source |", "|---|---|---|---|"]
    for name in list_methods():
        weights = create_method(name, PAPER_STUDENT, PAPER_TEACHER).weights
        terms = ", ".join(f"`{term}` ({weight:g})" for term, weight in weights.items())
        rows.append(f"| `{name}` | {METHODS[name].formula} | {terms} | {METHODS[name].source} |")
    assert "\n".join(rows) in README


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z]+)\b", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


def labelled(name):
    """The students of a shipped table, variants by their labels."""
    return tables.label_variants(tables.students(tables.load_batch(name).table))


def score(row):
    """A row of `summary` in percent, as the tables write it."""
    return f"{100 * row['mean']:.2f} ± {100 * row['sd']:.2f}"


def interval(gain):
    """A row of `paired_differences` in points, as the tables write it."""
    mean, low, high = (f"{100 * gain[key]:+.2f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


@pytest.mark.parametrize("name", ["demo", "streets-steady", "camvid-cpu", "camvid-long"])
def test_results_are_the_shipped_tables(name):
    table = labelled(name)
    differences = comparison.paired_differences(table).set_index("method")
    for method, row in comparison.summary(table).iterrows():
        told = f"| `{method}` | {int(row['runs'])} | {score(row)} | "
        (line,) = (line for line in README.splitlines() if line.startswith(told))
        if method != "none":
            assert f"| {interval(differences.loc[method])} |" in line, method


def test_the_table_of_methods_has_the_searched_rates_beside_it():
    table = tables.students(tables.load_batch("streets-grid").table)
    gains = comparison.paired_differences(table).set_index("method")
    for method, row in comparison.summary(table).iterrows():
        told = f"| {score(row)} | "
        if method != "none":
            told += f"{interval(gains.loc[method])} |"
        (line,) = (line for line in README.splitlines() if line.rstrip("| ").endswith(told.rstrip("| ")))
        assert line.startswith(f"| `{method}` | 5 |"), method


def test_the_table_of_budgets_is_the_shipped_one():
    table = tables.students(tables.load_batch("streets-budgets").table)
    for rows in tables.cells(table).values():
        means = comparison.summary(rows)
        order = ("none", "kd", "review", "transkd-base")
        scores = [score(means.loc[m]) for m in order]
        gain = comparison.paired_differences(rows).set_index("method").loc["transkd-base"]
        labels, steps = rows["train_images"].iloc[0], rows["steps"].iloc[0]
        told = f"| {labels}, {steps} | {' | '.join(scores)} | {interval(gain)} |"
        assert sum(line.startswith(told) for line in README.splitlines()) == 1, told


def test_the_table_of_parts_is_the_shipped_one():
    table = labelled("streets-ablation")
    to_whole = comparison.paired_differences(table, "transkd-base").set_index("method")
    for method, row in comparison.summary(table).iterrows():
        if method not in ("none", "kd"):
            told = f"| `{method}` | {score(row)} | "
            told += "|" if method == "transkd-base" else f"{interval(to_whole.loc[method])} |"
            assert sum(line.endswith(told) for line in README.splitlines()) == 1, told


def test_what_is_said_of_the_parts_is_what_the_shipped_runs_tell():
    table = labelled("streets-ablation")
    to_whole = comparison.paired_differences(table, "transkd-base").set_index("method")
    told_apart = {"csf", "pea", "transkd-base+kd", "transkd-gl", "transkd-gl (residual True)", "none", "kd"}
    assert set(to_whole.index[to_whole["p_holm"] < 0.05]) == told_apart
    curves = tables.label_history(tables.load_batch("streets-ablation").history, table)
    ends = curves[curves["step"] > curves["step"].max() - 20].groupby("method").mean(numeric_only=True)
    prose = " ".join(README.split())
    for term, digits in {"csf_1": 2, "pea_2": 2, "pea_3": 2, "ce": 3}.items():
        fused, alone = (ends.loc[f"transkd-base{end}", term] for end in ("", " (fusion none)"))
        assert f"{fused:.{digits}f} against {alone:.{digits}f}" in prose, term
    with_logits = ends.loc["transkd-base+kd"].drop(["loss", "kd", "step", "seed"]).dropna()
    assert (with_logits > ends.loc["transkd-base"][with_logits.index]).all()


def test_the_table_of_teachers_is_the_shipped_one():
    table = labelled("streets-teachers")
    means = comparison.summary(table)
    larger = " (teacher streets-segformer_b2)"
    methods = ("kd", "review", "transkd-base")
    for end in ("", larger):
        told = " | ".join(score(means.loc[f"{method}{end}"]) for method in methods)
        assert sum(line.endswith(f"| {told} |") for line in README.splitlines()) == 1, told
    gains = [comparison.paired_differences(table, m).set_index("method").loc[f"{m}{larger}"] for m in methods]
    assert f"| {' | '.join(map(interval, gains))} |" in README


@pytest.mark.slow
def test_the_example_runs(monkeypatch):
    (example,) = re.findall(r"```python\n(.+?)```", README, flags=re.S)
    monkeypatch.chdir(ROOT)
    example = example.replace("num=64", "num=4").replace("steps=100, batch_size=8", "steps=1, batch_size=2")
    scope = {}
    exec(example, scope)
    assert 0 <= scope["result"].metrics["full"]["miou"] <= 1
