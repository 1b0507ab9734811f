"""README and the page of results say what is so: commands, links and examples work, every number is its table's."""

import json
import os
import re
import tomllib
from pathlib import Path

import pytest
import typer
import yaml
from quick import weight_multiple

from transkd_lite.cli import app
from transkd_lite.data.datasets import open_dataset
from transkd_lite.distill.methods import METHODS, PAPER_STUDENT, PAPER_TEACHER, create_method, list_methods
from transkd_lite.experiments.profile import list_profiles, load_profile
from transkd_lite.models.weights import create_model
from transkd_lite.profiling import count_parameters
from transkd_lite.results import comparison, statistics, tables

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "data/README.md", "data/results/README.md", "notebooks/profiles/README.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "data/results/README.md").read_text(encoding="utf-8")

# --- The pages themselves.


def anchors(text):
    """What headings are called in links, as GitHub and MyST do."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


def test_the_readme_is_short_and_its_lines_are_too():
    lines = README.splitlines()
    assert len(lines) <= 200
    assert [line for line in [*lines, *RESULTS.splitlines()] if len(line) > 130 and not line.startswith("|")] == []


def test_every_notebook_is_listed_with_its_question():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        assert f"(notebooks/{path.name})" in README


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z]+)\b", README.partition("## Troubleshooting")[0])):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


@pytest.mark.parametrize("page", [README, RESULTS], ids=["README", "results"])
def test_commands_options_and_profiles_exist(page):
    commands = typer.main.get_command(app).commands
    blocks = [line.partition(" #")[0] for line in page.splitlines() if line.startswith("    ")]
    calls = re.findall(r"\btranskd ([a-z].*)", "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", page)]))
    assert calls
    for name, *words in map(str.split, calls):
        command = commands["data"].commands[words.pop(0)] if name == "data" else commands[name]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, (name, words)
        if name in ("reproduce", "train") and words and words[0].islower() and not words[0].endswith(".yaml"):
            assert words[0] in list_profiles()


def test_the_citation_is_the_projects_and_the_papers():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cff["version"], cff["license"]) == (project["version"], project["license"])
    paper = cff["preferred-citation"]
    prose = " ".join(README.split())
    names = " and ".join(f"{name['family-names']}, {name['given-names']}" for name in paper["authors"])
    assert f"author = {{{names}}}" in prose
    assert f"year = {{{paper['year']}}}" in prose
    assert f"journal = {{{paper['journal']}}}" in prose
    assert paper["title"] in prose.replace("{TransKD}", "TransKD")


def test_methods_are_the_librarys():
    rows = ["| method | formula | terms (default weight) | source |", "|---|---|---|---|"]
    for name in list_methods():
        weights = create_method(name, PAPER_STUDENT, PAPER_TEACHER).weights
        terms = ", ".join(f"`{term}` ({weight:g})" for term, weight in weights.items())
        rows.append(f"| `{name}` | {METHODS[name].formula} | {terms} | {METHODS[name].source} |")
    assert "\n".join(rows) in RESULTS


@pytest.mark.slow
def test_the_examples_run(monkeypatch):
    use, own_method = re.findall(r"```python\n(.+?)```", README, flags=re.S)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("transkd_lite.distill.methods.METHODS", METHODS)
    use = use.replace("num=64", "num=4").replace("steps=100, batch_size=8", "steps=1, batch_size=2")
    scope = {}
    exec(use, scope)
    assert 0 <= scope["result"].metrics["full"]["miou"] <= 1
    try:
        exec(own_method, scope)
        assert create_method("mean-logits", PAPER_STUDENT, PAPER_TEACHER).weights == {"mean-logits": 1.0}
    finally:
        METHODS.pop("mean-logits", None)


# --- Numbers: how the pages write them.


def labelled(name):
    """The students of a shipped table, variants by their labels."""
    return tables.label_variants(tables.students(tables.load_batch(name).table))


def teacher(name):
    """The mIoU of a table's teacher in [0, 1]."""
    return tables.teachers(tables.load_batch(name).table)["miou"].iloc[0]


def gains(table, baseline="none"):
    """The rows of `paired_differences` by method."""
    return comparison.paired_differences(table, baseline).set_index("method")


def means(table):
    """The mean mIoU of each method, in percent."""
    return 100 * comparison.summary(table)["mean"]


def budgets():
    """The budgets of streets-budgets by labelled scenes and steps."""
    parts = tables.cells(tables.students(tables.load_batch("streets-budgets").table)).values()
    return {(rows["train_images"].iloc[0], rows["steps"].iloc[0]): rows for rows in parts}


def share(table, best):
    """The rows of `claims` about shares of the gap to the teacher, by method."""
    found = comparison.claims(table, best).query("unit == '%'")
    return found.set_index(found["claim"].str.partition(" ")[0])


def significant(differences):
    """The methods whose corrected p value is below 0.05."""
    return set(differences.index[differences["p_holm"] < 0.05])


def score(row):
    """A row of `summary` in percent, as the tables write it."""
    return f"{100 * row['mean']:.2f} ± {100 * row['sd']:.2f}"


def interval(gain):
    """A row of `paired_differences` in points, as the tables write it."""
    mean, low, high = (f"{100 * gain[key]:+.2f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def change(after, before):
    """The mean difference of two columns of seeds with its interval, as the tables write it."""
    return interval(statistics.student_interval((after - before).dropna())._asdict())


def says(page, *sentences):
    """Each text stands on the page, wherever its lines are broken."""
    prose = " ".join(page.split())
    assert not [sentence for sentence in sentences if sentence not in prose]


def has_line(page, told, *, end=False):
    """Exactly one line of the page begins, or ends, with the text."""
    assert sum(line.endswith(told) if end else line.startswith(told) for line in page.splitlines()) == 1, told


EVERY, ABLATION = labelled("streets-methods"), labelled("streets-ablation")
COURSE, LONG = labelled("course"), labelled("camvid-long")
BY_RATE = tables.students(tables.load_batch("camvid-rates").table)
RATES = BY_RATE.set_index(["seed", "lr"])["miou"].unstack()
BEHIND = EVERY[EVERY["miou"] < EVERY.groupby("method")["miou"].transform("median") - 0.025]
PRETRAINED = " (pretrained streets-segformer_b0)"
SEARCH, EVERY_SEARCH = (
    tables.students(tables.read_table(f"results/searches/{name}")) for name in ("course", "streets-methods")
)
CLOSED = share(COURSE, teacher("course")).loc["transkd-base"]
BEST_OTHER = means(COURSE).filter(regex="^(?!transkd)").idxmax()

# --- The README.


def test_the_findings_of_the_readme():
    found, photographs = 100 * gains(COURSE)["mean"], 100 * gains(LONG, f"none{PRETRAINED}")["mean"]
    variants = found[["transkd-base", "transkd-gl", "transkd-ea"]]
    assert "transkd-base" not in significant(gains(LONG, f"none{PRETRAINED}"))
    assert all(means(table)["review"] > means(table)["transkd-base"] for table in (EVERY, LONG))
    for search, best in ((SEARCH, 4.0), (EVERY_SEARCH, 1.0)):
        tried = search.query("method == 'transkd-base'").groupby(["options", "lr"])["miou"].mean()
        assert json.loads(tried.idxmax()[0]).get("feature_weight", 1.0) == best
    says(
        README,
        f"TransKD-Base gains {found['transkd-base']:.2f} points of mIoU over five seeds. This is "
        f"{CLOSED['mean']:.0f}% of the gap to the teacher (published for Cityscapes: {CLOSED['cityscapes']:.0f}%).",
        f"gain {variants.min():.2f} to {variants.max():.2f} points, the best of the others, `{BEST_OTHER}`, "
        f"{found[BEST_OTHER]:.2f}, logit distillation (`kd`) {found['kd']:.2f}.",
        f"TransKD-Base from new weights is {-photographs['transkd-base']:.2f} points below a student pre-trained on "
        f"street scenes, which is not significant. Both together are {photographs['transkd-base' + PRETRAINED]:.2f} "
        "points above pre-training alone.",
    )


def test_the_demo_of_the_readme_and_what_it_prints():
    table, paper = labelled("demo"), tables.students(tables.load_batch("demo").table, "paper")
    differences, by_paper = gains(table), means(paper)
    block = README.partition("<!-- result -->")[2].partition("<!-- end of result -->")[0]
    for method, row in comparison.summary(table).iterrows():
        gain = "" if method == "none" else interval(differences.loc[method])
        has_line(block, f"| `{method}` | {int(row['runs'])} | {score(row)} | {by_paper[method]:.2f} | {gain} |")
        mean = "-" if method == "none" else f"{100 * differences.loc[method, 'mean']:+.2f}"
        has_line(
            README, f"    {method:12}{int(row['runs']):>7}{100 * row['mean']:8.2f}{100 * row['sd']:6.2f}{mean:>20}"
        )
    best, best_by_paper = teacher("demo"), tables.teachers(tables.load_batch("demo").table, "paper")["miou"].iloc[0]
    has_line(block, f"| teacher (SegFormer-B1, long training) | 1 | {100 * best:.2f} | {100 * best_by_paper:.2f} |")
    has_line(README, f"    teacher{1:>12}{100 * best:8.2f}{'-':>6}{'-':>20}")
    assert means(table).idxmax() == "transkd-base"
    assert differences.loc["kd", "low"] < 0 < differences.loc["transkd-base", "low"]
    ends = comparison.load_references(tables.load_batch("demo"))
    has_line(block, f"| blind: one map for all images | | {100 * ends['blind']:.2f} | | |")
    has_line(block, f"| oracle: the label at a quarter of its size | | {100 * ends['oracle']:.2f} | | |")
    closed = share(table, best).loc["transkd-base", "mean"]
    says(
        block,
        f"TransKD-Base closes {closed:.0f}% of the gap to the teacher.",
        f"the p value of TransKD-Base is {differences.loc['transkd-base', 'p_holm']:.2f}",
    )
    says(RESULTS, *(f"{interval(differences.loc[method])} points" for method in ("kd", "transkd-base")))


def test_the_courses_networks():
    """Of every table this is the one whose networks ship, and what the first figure shows."""
    batch, board = tables.load_batch("course"), comparison.scoreboard(tables.load_batch("course"))
    at, closed, to_none = board["mIoU in %"], board["gap closed in %"], gains(COURSE)
    paper, summary = means(tables.students(batch.table, "paper")), comparison.summary(COURSE)
    assert set(summary["runs"]) == {5}
    for method, row in summary.iterrows():
        end = " |  |  |" if method == "none" else f" | {interval(to_none.loc[method])} | {closed[method]:.0f} |"
        has_line(RESULTS, f"| `{method}` | 5 | {score(row)} | {paper[method]:.2f}{end}")
    curves = comparison.score_curves(tables.label_history(batch.history, COURSE), COURSE)
    late = 100 * curves.pivot(index="method", columns="step", values="mean")[[2160, 2400]].diff(axis=1)[2400]
    classes = 100 * comparison.per_class(COURSE)
    more = classes["transkd-base"] - classes["none"]
    vehicles, large = more[["truck", "bus", "train"]], more[["road", "sky", "vegetation"]]
    published = comparison.published().set_index("method").loc[["transkd-base", "transkd-gl", "transkd-ea"]]
    apart = published[["cityscapes_miou", "acdc_miou"]].agg(lambda scores: scores.max() - scores.min()).max()
    assert CLOSED["low"] > CLOSED["cityscapes"] > 50
    assert to_none["mean"].idxmin() == "kd"
    says(
        README,
        f"on 200 scenes is {at['none']:.2f}, {at['kd']:.2f}, {at['transkd-base']:.2f} (means of five seeds) and "
        f"{at['teacher']:.2f}% (one run).",
    )
    says(
        RESULTS,
        f"TransKD-Base closes {closed['transkd-base']:.0f}% of it, TransKD-GL {closed['transkd-gl']:.0f}% and "
        f"TransKD-EA {closed['transkd-ea']:.0f}%.",
        f"The 95% interval of TransKD-Base is {CLOSED['low']:.0f} to {CLOSED['high']:.0f}%, above half of the gap and "
        "above the published share.",
        f"they are up to {apart:.2f} points apart, with one run each.",
        f"Truck, bus and train gain {vehicles.min():.0f} to {vehicles.max():.0f} points.",
        f"which the student alone segments well, gain {large.min():.0f} to {large.max():.0f}.",
        f"**`{BEST_OTHER}` is the strongest of the others.** TransKD-Base is "
        f"{interval(gains(COURSE, BEST_OTHER).loc['transkd-base'])} points above it. "
        f"`kd` gains {interval(to_none.loc['kd'])}, the least of all methods.",
        f"From step 2,160 to the end they rise by at most {late.max():.1f} points.",
    )


def test_the_search_of_the_courses_weights():
    scores = 100 * SEARCH.groupby(["method", "options", "lr"])["miou"].mean()
    for method in means(COURSE).index.drop("none"):
        rate, usual = scores[method].idxmax()[1], METHODS[method].options
        name = "weight" if "weight" in usual else "feature_weight"
        tried = {
            (usual | json.loads(options))[name] / usual[name]: f"{score:.2f}"
            for options, score in scores[method].xs(rate, level="lr").items()
        }
        cells = [tried.get(multiple, "") for multiple in (0.25, 0.5, 1, 2, 4, 8, 16)]
        has_line(RESULTS, f"| `{method}` | {rate:.0e} | ".replace("e-0", "e-") + " | ".join(cells) + " |")
    kd = scores["kd"].xs(2e-3, level="lr")
    says(RESULTS, f"`kd` stays within {kd.max() - kd.min():.2f} points from half to four times its weight.")


def test_tests_end_as_the_readme_says():
    import run_layers

    says(README, f"`{len(run_layers.LAYERS)} passed, 0 failed`")


# --- The page of results.


def test_the_findings_of_the_results():
    to_none, to_base, whole = gains(COURSE), gains(COURSE, "transkd-base"), gains(ABLATION, "transkd-base")
    pretrained, at = gains(LONG, f"none{PRETRAINED}"), means(COURSE)
    assert significant(pretrained).isdisjoint({"transkd-base", "review", "transkd-ea"})
    scores = 100 * SEARCH.query("method == 'transkd-base'").groupby(["options", "lr"])["miou"].mean()
    says(
        RESULTS,
        f"TransKD-Base reaches {at['transkd-base']:.2f}% and the student alone {at['none']:.2f}%. The gain is "
        f"{interval(to_none.loc['transkd-base'])} points over five seeds, {CLOSED['mean']:.0f}% ({CLOSED['low']:.0f} "
        f"to {CLOSED['high']:.0f}%) of the gap to the teacher.",
        f"TransKD-EA differs from TransKD-Base by {interval(to_base.loc['transkd-ea'])} points, "
        f"TransKD-GL by {interval(to_base.loc['transkd-gl'])}.",
        f"**Of the other methods `{BEST_OTHER}` comes closest.** It gains {interval(to_none.loc[BEST_OTHER])} points, "
        f"`cwd` {interval(to_none.loc['cwd'])}, `kd` {interval(to_none.loc['kd'])}.",
        f"TransKD-Base scores {scores['{}'].max():.2f}% at its published weights and {scores.max():.2f}% at four times",
        f"differs by {interval(pretrained.loc['transkd-base'])} points from a student that was pre-trained on street "
        f"scenes, `review` by {interval(pretrained.loc['review'])}, TransKD-EA by "
        f"{interval(pretrained.loc['transkd-ea'])}, none of them significantly. Both together are "
        f"{interval(pretrained.loc['transkd-base' + PRETRAINED])} points above pre-training",
        f"TransKD-Base loses {-100 * whole.loc['pea', 'mean']:.2f} points without them. Without the patch embeddings "
        f"it changes by {interval(whole.loc['csf'])}, without fusing the stages by "
        f"{interval(whole.loc['transkd-base (fusion none)'])}.",
        f"the student alone has {100 * RATES[2e-3].mean():.2f}% after 1,000 steps with the rate that was best in 300 "
        f"steps, and {100 * RATES[5e-4].mean():.2f}% with the rate that was best in 1,000: a difference of "
        f"{change(RATES[5e-4], RATES[2e-3])} points. TransKD-Base gains {interval(gains(LONG).loc['transkd-base'])}.",
    )


def test_the_papers_claims_are_judged_by_the_tables():
    sources = {"course": COURSE, "camvid-long": LONG}
    judged = {name: comparison.claims(table, teacher(name)).set_index("claim") for name, table in sources.items()}
    rows = [line for line in RESULTS.splitlines() if line.startswith("| `transkd-") and line.count("|") == 6]
    assert len(rows) == 15
    seen = set()
    for line in rows:
        claim, published, here, source, verdict = (cell.strip() for cell in line.strip("|").split("|"))
        claim, source = claim.partition(",")[0].replace("`", ""), source.strip("`")
        if published == "not seen":
            continue
        row = judged[source].loc[claim]
        sign = "+.2f" if row["unit"] == "points" else ".1f"
        mean, low, high = (format(row[key], sign) for key in ("mean", "low", "high"))
        there = f"{row['cityscapes']:{sign}}, {row['acdc']:{sign}} {row['unit']}"
        assert (published, here, verdict) == (there, f"{mean} ({low} to {high})", row["verdict"]), line
        seen.add((claim, source))
    pairs = {claim for claim in judged["course"].index if "closes" not in claim}
    pairs.add("transkd-base closes more of the gap than published")
    assert seen == {(claim, source) for claim in pairs for source in sources}
    others = {
        f"above the best other method of the table, `{BEST_OTHER}`": (COURSE, "course", "transkd-base", BEST_OTHER),
        "the same on photographs": (LONG, "camvid-long", "transkd-base", "review"),
        "the same in 300 steps": (EVERY, "streets-methods", "transkd-base", "review"),
        "feature maps contribute": (ABLATION, "streets-ablation", "transkd-base", "pea"),
        "patch embeddings contribute": (ABLATION, "streets-ablation", "transkd-base", "csf"),
        "fusing the stages contributes": (ABLATION, "streets-ablation", "transkd-base", "transkd-base (fusion none)"),
        "distillation rivals pre-training (here on synthetic scenes)": (
            LONG,
            "camvid-long",
            "transkd-base",
            f"none{PRETRAINED}",
        ),
    }
    for claim, (table, name, method, baseline) in others.items():
        gain = gains(table, baseline).loc[method]
        verdict = "holds" if gain["low"] > 0 else "does not hold" if gain["high"] < 0 else "not decided"
        (line,) = (line for line in RESULTS.splitlines() if line.startswith("|") and claim in line)
        assert line.endswith(f"| not seen | {interval(gain)} | `{name}` | {verdict} |"), line


def test_the_published_sizes_hold():
    student, best = (create_model(f"segformer_b{size}", 20) for size in (0, 2))
    variants = (create_method(f"transkd-{name}", student, best, bare_squeeze=True) for name in ("base", "gl", "ea"))
    sizes = [count_parameters(*modules) / 1e6 for modules in ((student,), (best,), *((student, m) for m in variants))]
    told = "{:.2f}, {:.2f}; {:.2f}, {:.2f}, {:.2f}"
    paper = comparison.published().set_index("method")["params_m"]
    there = told.format(*paper[["none", "teacher", "transkd-base", "transkd-gl", "transkd-ea"]])
    says(RESULTS, f"| {there} | {told.format(*sizes)} | `python -m transkd_lite.profiling` | holds |")


def test_the_tables_have_the_published_initial_values_one_precision_and_all_seeds():
    for name in tables.shipped_tables()["table"]:
        table = tables.load_batch(name).table
        assert set(table["initial_values"]) == {"published"}, name
        assert (table["precision"].nunique(), table["threads"].nunique()) == (1, 1), name
        seeds = labelled(name).groupby("method")["seed"].apply(set)
        assert all(found == seeds.iloc[0] for found in seeds), name


@pytest.mark.slow
def test_the_blind_guess_scores_what_is_said():
    scenes = [open_dataset("streets", split, size=(96, 192), num=num) for split, num in (("train", 128), ("val", 100))]
    ends = comparison.reference_scores(*scenes)
    assert ends == pytest.approx(comparison.load_references(tables.load_batch("demo")), abs=1e-4)
    says(RESULTS, f"It scores {100 * ends['blind']:.1f}% on the demo's street scenes")


@pytest.mark.slow
@pytest.mark.skipif("TRANSKD_CAMVID_ROOT" not in os.environ, reason="TRANSKD_CAMVID_ROOT is not set: no photographs")
def test_the_blind_guess_on_photographs_scores_what_is_said():
    root = {"root": os.environ["TRANSKD_CAMVID_ROOT"]}
    ends = comparison.reference_scores(*(open_dataset("camvid", split, **root) for split in ("train", "val")))
    says(RESULTS, f"and {100 * ends['blind']:.1f}% on CamVid.")


def told(differences, method):
    """The interval of a row of `gains`, nothing for the baseline itself."""
    return interval(differences.loc[method]) if method in differences.index else ""


def test_the_table_of_every_method_is_the_shipped_one():
    batch, settings = tables.load_batch("streets-methods"), EVERY.groupby("method").first()
    paper, to_none, to_kd = means(tables.students(batch.table, "paper")), gains(EVERY), gains(EVERY, "kd")
    for method, row in comparison.summary(EVERY).iterrows():
        rate = f"{settings.loc[method, 'lr']:.1e}".replace("e-0", "e-")
        options = json.loads(settings.loc[method, "options"])
        weights = "" if method == "none" else f"{weight_multiple(method, options):g}x"
        cells = [f"`{method}`", "5", score(row), f"{paper[method]:.2f}", told(to_none, method), told(to_kd, method)]
        has_line(RESULTS, f"| {' | '.join([*cells, rate, weights])} |")
    full, quarter = (100 * tables.teachers(batch.table, protocol)["miou"].iloc[0] for protocol in ("full", "paper"))
    teacher_of = "teacher (SegFormer-B1, 300 further steps at this size; on 200 other scenes)"
    has_line(RESULTS, f"| {teacher_of} | 1 | {full:.2f} | {quarter:.2f} | | | | |")
    ends = comparison.load_references(batch)
    has_line(RESULTS, f"| blind: one map for all images, 128 scenes | | {100 * ends['blind']:.2f} | | | | | |")
    has_line(
        RESULTS, f"| oracle: the label at a quarter of its size, 64 x 128 | | {100 * ends['oracle']:.2f} | | | | | |"
    )


def test_what_is_said_of_the_methods():
    to_none, base = gains(EVERY), gains(EVERY, "transkd-base")
    clear = to_none[to_none["p_holm"] < 0.05].sort_values("mean", ascending=False)
    assert (len(clear), len(to_none), set(clear.index[clear["mean"] < 0])) == (7, 17, {"mgd"})
    above = [f"`{method}`" for method in clear.index[:-1]]
    mgd = 100 * EVERY_SEARCH.query("method == 'mgd'").groupby(["options", "lr"])["miou"].mean().max()
    below = [m for m in means(EVERY).index if means(EVERY)[m] < means(EVERY)["none"]]
    assert BEHIND["method"].value_counts().to_dict() == {"kd": 2, **dict.fromkeys(["cirkd", "dist", "dkd", "ifvd"], 1)}
    assert (base.loc[["csf", "review", "transkd-gl", "transkd-ea", "cwd"], "p_holm"] > 0.05).all()
    scores = 100 * EVERY_SEARCH.groupby(["method", "options", "lr"])["miou"].mean()
    four = json.dumps({"feature_weight": 4.0})
    at_8, at_16 = (scores["transkd-base", "{}", rate] for rate in (8e-3, 1.6e-2))
    double = json.dumps({"embedding_weights": [0.2, 0.2, 1.0, 2.0], "feature_weight": 2.0})
    best = {method: scores[method].idxmax()[1] for method in ("transkd-base", "transkd-gl", "transkd-ea")}
    apart = max(abs(scores[method, "{}", rate] - scores[method, double, rate]) for method, rate in best.items())
    says(
        RESULTS,
        f"{', '.join(above[:-1])} and {above[-1]} are significantly above the student alone",
        f"{len(below)} of seventeen means lie below the student alone",
        f"the published weights and twice these differ by at most {apart:.1f} points.",
        f"they have {scores['review', '{}', 8e-3]:.2f}% and {scores['csf', '{}', 8e-3]:.2f}% in the search, at four "
        f"times these {scores['review', four, 8e-3]:.2f}% and {scores['csf', four, 8e-3]:.2f}%.",
        f"TransKD-Base has {at_16:.2f}% at 1.6e-2 and {at_8:.2f}% at 8e-3, the rate of its variants",
        f"At 8e-3 and four times its weights, which the search did not try, it reaches "
        f"{means(ABLATION)['transkd-base']:.2f}% [below](#what-the-parts-are-worth), against "
        f"{means(EVERY)['transkd-base']:.2f}% in this table.",
        f"({mgd:.2f}% at a quarter, the edge of its search); its row has half of the published weight.",
        f"{len(BEHIND)} of {len(EVERY)} runs do: two of `kd`, and one each of `cirkd`, `dist`, `dkd` and `ifvd`.",
    )


def test_the_table_of_budgets_is_the_shipped_one():
    for (labels, steps), rows in budgets().items():
        summary, closed = comparison.summary(rows), share(rows, teacher("streets-budgets")).loc["transkd-base"]
        told = " | ".join([*(score(summary.loc[m]) for m in ("none", "transkd-base")), interval(gains(rows).iloc[0])])
        has_line(
            RESULTS,
            f"| {labels}, {steps} | {told} | {closed['mean']:.0f}% ({closed['low']:.0f}% to {closed['high']:.0f}%) |",
        )


def test_what_is_said_of_the_budgets():
    by_budget = budgets()
    gain = {budget: 100 * gains(rows)["mean"].iloc[0] for budget, rows in by_budget.items()}
    blocks = {budget: comparison.score_blocks(rows) for budget, rows in by_budget.items()}
    more = {
        (method, steps): change(blocks[512, steps][method], blocks[128, steps][method])
        for method in ("none", "transkd-base")
        for steps in (300, 900)
    }
    sooner = change(blocks[128, 300]["transkd-base"], blocks[128, 900]["none"])
    seconds = {budget: rows.groupby("method")["wall_s"].median() for budget, rows in by_budget.items()}
    short, long, both = (
        share(by_budget[budget], teacher("streets-budgets")).loc["transkd-base"]
        for budget in ((128, 300), (128, 900), (512, 900))
    )
    ends, on_own = comparison.load_references(tables.load_batch("streets-budgets")), teacher("streets-budgets")
    on_theirs = [share(rows, 0.5326).loc["transkd-base", "mean"] for rows in by_budget.values()]
    on_others = [share(rows, on_own).loc["transkd-base", "mean"] for rows in by_budget.values()]
    assert round(max(b - a for a, b in zip(on_others, on_theirs, strict=True)), 1) == 1.5
    says(
        RESULTS,
        f"The blind guess has {100 * ends['blind']:.2f}%, the oracle {100 * ends['oracle']:.2f}%. The teacher's "
        f"{100 * on_own:.2f}% are from 200 scenes of its own seed",
        f"from {gain[128, 300]:.2f} to {gain[128, 900]:.2f} points.",
        f"grows from {short['mean']:.0f}% to {long['mean']:.0f}%. With 512 scenes as well it is {both['mean']:.0f}%. "
        f"The published share on Cityscapes is {short['cityscapes']:.0f}%.",
        f"change the student alone by {more['none', 900]} points and TransKD-Base by {more['transkd-base', 900]}, in "
        f"300 steps by {more['none', 300]} and {more['transkd-base', 300]}.",
        f"The difference of {sooner} points is not significant.",
        f"Its 300 steps take {seconds[128, 300]['transkd-base']:.0f} seconds "
        f"and reach {means(by_budget[128, 300])['transkd-base']:.2f}%.",
        f"takes {seconds[128, 900]['none']:.0f} seconds for 900 steps "
        f"and reaches {means(by_budget[128, 900])['none']:.2f}%.",
    )


def test_the_table_of_parts_is_the_shipped_one():
    to_whole = gains(ABLATION, "transkd-base")
    for method, row in comparison.summary(ABLATION).iterrows():
        told = f"| `{method}` | {score(row)} | "
        told += "|" if method == "transkd-base" else f"{interval(to_whole.loc[method])} |"
        has_line(RESULTS, told, end=True)
    ends = comparison.load_references(tables.load_batch("streets-ablation"))
    has_line(RESULTS, f"| blind: one map for all images, for the parts | | {100 * ends['blind']:.2f} | |")
    has_line(RESULTS, f"| oracle: the label at a quarter of its size, for the parts | | {100 * ends['oracle']:.2f} | |")


def test_what_is_said_of_the_parts_is_what_the_shipped_runs_tell():
    to_whole = gains(ABLATION, "transkd-base")
    for kind, methods in (
        (r"Significant after Holm's correction for (\d+) comparisons:", significant(to_whole)),
        ("Not significant:", {*to_whole.index} - significant(to_whole)),
    ):
        (found,) = re.finditer(rf"\*\*{kind}\*\* (.+?)\. ?", " ".join(RESULTS.split()))
        assert {*re.findall("`(.+?)`", found[found.re.groups])} == methods
    assert f"correction for {len(to_whole)} comparisons" in " ".join(RESULTS.split())
    low, high = (f"{100 * to_whole.loc['csf', end]:+.2f}" for end in ("low", "high"))
    first = tables.label_variants(tables.students(tables.read_table("results/searches/streets-ablation")))
    assert set(first["lr"]) == {1.6e-2}
    says(
        RESULTS,
        f"have a standard deviation of up to {100 * first.groupby('method')['miou'].std().max():.1f} points",
        f"without them {-100 * to_whole.loc['pea', 'mean']:.2f} of {-100 * to_whole.loc['none', 'mean']:.2f} points",
        f"The interval of the patch embeddings reaches from {low} to {high} points",
    )


def test_the_table_of_teachers_is_the_shipped_one():
    table, larger = labelled("streets-teachers"), " (teacher streets-segformer_b2)"
    summary, methods, b1 = comparison.summary(table), ("kd", "transkd-base"), 100 * teacher("streets-teachers")
    b2 = 100 * tables.teachers(tables.read_table("results/searches/streets-teacher-b2"))["miou"].iloc[0]
    for network, own, end in (("B1", b1, ""), ("B2", b2, larger)):
        told = " | ".join(score(summary.loc[f"{method}{end}"]) for method in methods)
        has_line(RESULTS, f"| SegFormer-{network} | {own:.2f} | {told} |")
    ends = comparison.load_references(tables.load_batch("streets-teachers"))
    says(
        RESULTS,
        f"it scores {b1 - b2:.2f} points lower than the B1.",
        f"the student alone {score(summary.loc['none'])}%, the blind guess {100 * ends['blind']:.2f}% and the oracle "
        f"{100 * ends['oracle']:.2f}%.",
    )
    pairs = [gains(table, method).loc[f"{method}{larger}"] for method in methods]
    assert all(pair["low"] < 0 < pair["high"] for pair in pairs)
    has_line(RESULTS, f"| difference, 95% interval | {b2 - b1:.2f} | {' | '.join(map(interval, pairs))} |")


def test_what_is_said_of_photographs():
    batch, start, both = tables.load_batch("camvid-long"), f"none{PRETRAINED}", f"transkd-base{PRETRAINED}"
    paper, summary = means(tables.label_variants(tables.students(batch.table, "paper"))), comparison.summary(LONG)
    to_none, to_start, ends = gains(LONG), gains(LONG, start), comparison.load_references(batch)

    def told_of(method):
        return interval(to_start.loc[method])

    for method, row in summary.iterrows():
        cells = [f"`{method}`", "5", score(row), f"{paper[method]:.2f}", told(to_none, method), told(to_start, method)]
        has_line(RESULTS, f"| {' | '.join(cells)} |")
    full, quarter = (100 * tables.teachers(batch.table, protocol)["miou"].iloc[0] for protocol in ("full", "paper"))
    has_line(RESULTS, f"| teacher (SegFormer-B1, from the street scenes) | 1 | {full:.2f} | {quarter:.2f} | | |")
    has_line(RESULTS, f"| blind: one map for all images, photographs | | {100 * ends['blind']:.2f} | | | |")
    has_line(
        RESULTS, f"| oracle: the label at a quarter of its size, photographs | | {100 * ends['oracle']:.2f} | | | |"
    )
    alone = tables.students(tables.load_batch("streets-student").table).iloc[0]
    assert (alone["train_images"], alone["steps"], alone["height"], alone["device"]) == (6000, 3000, 128, "cpu")
    classes, search = 100 * comparison.per_class(LONG), tables.read_table("results/searches/camvid-long")
    thin = classes.loc[["pole", "sign"], [method for method in classes if PRETRAINED not in method]]
    rates = 100 * tables.students(search).query("steps == 1000").groupby("lr")["miou"].mean()
    closed, on_cpu = share(LONG, teacher("camvid-long")).loc["transkd-base"], LONG["device"] == "cpu"
    assert LONG[on_cpu].groupby("method")["seed"].apply(list).to_dict() == {"none": [0, 1, 2, 3, 4]}
    ends_at = {rate: f"{100 * RATES[rate].mean():.2f} ± {100 * RATES[rate].std():.2f}" for rate in RATES}
    beside = BY_RATE[BY_RATE["lr"] == 2e-3]["wall_s"].median()
    seconds = LONG[~on_cpu].groupby("method")["wall_s"].median()
    distilled = LONG[LONG["method"] == "transkd-base"].set_index("seed")["miou"]
    fair = change(distilled, RATES[1e-3])
    says(
        RESULTS,
        f"TransKD-Base gains {100 * to_none.loc['transkd-base', 'mean']:.2f} points and pre-training on street scenes "
        f"{100 * to_none.loc[start, 'mean']:.2f}; both together gain {100 * to_none.loc[both, 'mean']:.2f}",
        f"(`streets-student`, {100 * alone['miou']:.2f}% there)",
        f"from new weights it is {interval(to_start.loc['transkd-base'])} points from the student that was pre-trained "
        f"and then trained alone. Neither is it for TransKD-GL, {told_of('transkd-gl')}, and `review`, "
        f"{told_of('review')}. TransKD-EA differs by {told_of('transkd-ea')}, which is not significant after Holm's "
        f"correction; `cwd`, {told_of('cwd')}, is significantly below it.",
        f"On the pre-trained student TransKD-Base gains {interval(to_start.loc[both])} points and ends "
        f"{full - 100 * summary.loc[both, 'mean']:.2f} points below the teacher.",
        f"TransKD-Base gains {interval(to_none.loc['transkd-base'])} points, {closed['mean']:.0f}% "
        f"({closed['low']:.0f} to {closed['high']:.0f}%) of the gap. `review` is the best; TransKD-Base is "
        f"{interval(gains(LONG, 'review').loc['transkd-base'])} points from it.",
        f"this rate ends at {ends_at[2e-3]}%, 1e-3 at {ends_at[1e-3]}% and 5e-4 at {ends_at[5e-4]}%",
        f"{rates[2.5e-4]:.2f}% at 2.5e-4, {rates[5e-4]:.2f}% at 5e-4, {rates[1e-3]:.2f}% at 1e-3, {rates[2e-3]:.2f}%",
        f"compared with that, TransKD-Base gains {fair} points.",
        f"hardly find poles and signs, at most {thin.max(axis=None):.1f}%. The pre-trained student has an IoU "
        f"of {classes.loc['pedestrian', start]:.1f}% on pedestrians and none on bicyclists; with TransKD-Base it has "
        f"{classes.loc['pedestrian', both]:.1f}% and {classes.loc['bicyclist', both]:.1f}%.",
        f"took {alone['wall_s'] / 60:.0f} minutes and the 1,000 steps of the student alone "
        f"{LONG[on_cpu]['wall_s'].median() / 60:.0f}. A step with TransKD-Base takes "
        f"{seconds['transkd-base'] / beside:.1f} times as long",
    )
    assert round(classes.loc["bicyclist", start], 1) == 0
    assert significant(to_start) & {"cwd", "transkd-ea"} == {"cwd"}


def test_what_is_said_of_choices_in_a_script():
    table = tables.students(tables.load_batch("oddities").table)
    settings = table["settings"].map(json.loads)
    usual = {"class_weights": None, "normalize": True, "schedule_horizon": 1.0, "schedule_unit": "step"}
    usual |= {"supervise": "full", "warmup_steps": 16}
    plain, short = settings == usual, settings == usual | {"warmup_steps": 4}
    alone, flip = table["method"] == "none", table["augment"] == "flip"
    kinds = {
        "base": table[(table["method"] == "transkd-base") & plain],
        "equal": table[alone & plain & flip & (table["steps"] == table["steps"].max())],
        "published": table[alone & short],
        "drifting": table[alone & plain & (table["augment"] == "paper")],
        "following": table[alone & plain & (table["augment"] == "paper-fixed")],
    }
    by_seed = {name: rows.set_index("seed")["miou"] for name, rows in kinds.items()}
    assert all(len(scores) >= 3 and scores.index.is_unique for scores in by_seed.values())
    rows = {
        "the same budget": ("base", "equal"),
        "the published": ("base", "published"),
        "labels": ("drifting", "following"),
    }
    for name, (upper, lower) in rows.items():
        found = statistics.student_interval((by_seed[upper] - by_seed[lower]).dropna())._asdict()
        (line,) = (line for line in RESULTS.splitlines() if line.endswith(f"| {interval(found)} |"))
        assert name in line


def test_every_profile_is_listed_with_what_it_runs():
    page = (ROOT / "notebooks" / "profiles" / "README.md").read_text()
    for name in list_profiles():
        has_line(page, f"| `{name}` | {load_profile(name).about} | ")
