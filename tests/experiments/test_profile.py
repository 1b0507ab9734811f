"""Protects: every committed profile plans, and a profile's mistakes are found before anything runs."""

import json
import re

import pytest
import yaml
from quick import PROFILE, weight_multiple

from transkd_lite.experiments.profile import NOTEBOOKS, list_profiles, load_profile, parse_settings, plan, shrink
from transkd_lite.results.tables import read_table, students
from transkd_lite.training.config import ParameterError

WEIGHTS = "data/weights/streets128-segformer_b1.safetensors"


@pytest.fixture
def write(tmp_path):
    """Write a profile that differs from PROFILE and return its path."""

    def _write(**changes):
        path = tmp_path / "quick.yaml"
        path.write_text(yaml.safe_dump({**PROFILE, **changes}))
        return str(path)

    return _write


def test_the_plan_lists_lessons_teacher_and_the_grid_of_students(write):
    runs = plan(load_profile(write()))
    assert [run.kind for run in runs] == ["lesson", "teacher", *["student"] * 4]
    assert all(re.fullmatch(r"(lesson|teacher|student)-[\w-]+-s\d+-[0-9a-f]{8}", run.folder) for run in runs)
    teacher, alone, distilled = runs[1].folder, runs[2], runs[3]
    assert (alone.needs, alone.parameters["teacher"]) == (None, None)
    assert (distilled.needs, distilled.parameters["teacher"]) == (teacher, f"run:{teacher}")


def test_a_lesson_gets_the_data_parameters_that_its_notebook_has(write):
    assert plan(load_profile(write()))[0].parameters == {"height": 32, "width": 64}


def test_methods_and_seeds_can_be_chosen(write):
    runs = plan(load_profile(write()), methods=["none"], seeds=[7])
    assert [run.folder[:16] for run in runs[2:]] == ["student-none-s7-"]


def test_a_method_named_twice_runs_once_and_a_single_training_is_no_batch(write):
    assert len(plan(load_profile(write()), methods=["none", "none"], seeds=[0, 0])) == 3
    with pytest.raises(ParameterError, match="transkd train streets-teacher"):
        plan(load_profile("streets-teacher"))


def test_another_teacher_makes_other_students_but_not_another_student_alone(write):
    one, two = (plan(load_profile(write(), {"teacher.seed": seed})) for seed in (0, 1))
    assert one[2].folder == two[2].folder
    assert one[3].folder != two[3].folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paramters": {}}, "did you mean parameters"),
        ({"parameters": {"setps": 3}}, "'setps': did you mean steps"),
        ({"parameters": {"lr": "6e-5"}}, "write 6.0e-5"),
        ({"students": {"methods": "none"}}, "methods must be a list; got methods='none'"),
        ({"students": {"methods": ["kd"], "by_method": {"kd": {"stps": 1}}}}, "did you mean steps"),
        ({"students": {"methods": ["kd"], "variants": {"a": {"stps": 1}}}}, "variants.a 'stps': did you mean steps"),
        ({"students": {"methods": ["kd"], "variants": {"a": {"seed": 1}}}}, "unknown parameter .*variants.a 'seed'"),
        ({"students": {"methods": ["kd"], "by_method": {"kd": {"method": "at"}}}}, "by_method.kd 'method'"),
        ({"students": {"methods": ["kd"], "seed": 1}}, "seed would be ignored: students have seeds"),
        ({"students": {"methods": ["kd"], "method": "at"}}, "method would be ignored: students have methods"),
        ({"lessons": ["leson"]}, "no notebook .*leson.ipynb; that folder has .*lesson.ipynb"),
        ({"lessons": [{"lesson": {"wrds": "x"}}]}, "parameter of lesson.ipynb 'wrds': did you mean words"),
        ({"lessons": [{"lesson": {"words": 1}}]}, "lesson.ipynb: words must be a valid string; got words=1"),
        ({"parameters": {"augment": "flip"}}, "parameter of quick_run.ipynb 'augment'"),
        ({"parameters": {"steps": -3}}, "profile quick.yaml: steps must be greater than or equal to 0; got steps=-3"),
        ({"teacher": None}, "teacher must be a mapping"),
        ({"teacher": {"setps": 1}}, "did you mean steps"),
        ({"name": "../outside"}, "is a plain name, .* got '../outside': rename it"),
        ({"name": ""}, "got ''"),
        ({"name": "a/b"}, "got 'a/b'"),
        ({"lessons": ["../fixtures/lesson"]}, "got '../fixtures/lesson'"),
        ({"report": "../report"}, "got '../report'"),
        ({"teacher": {"notebook": "/tmp/quick_run"}}, "got '/tmp/quick_run'"),
        ({"students": {"methods": ["none"], "notebook": "..\\quick_run"}}, "got '..*quick_run'"),
    ],
)
def test_mistakes_in_a_profile_are_named(write, changes, message):
    with pytest.raises(ParameterError, match=message):
        plan(load_profile(write(**changes)))


def test_no_name_of_a_run_leads_out_of_its_folder(write):
    profile = load_profile(write(kind="../../outside"))
    with pytest.raises(ParameterError, match=r"a run folder is a plain name, .* got '../../outside-none-s0-"):
        profile.experiment("students").folder_name(profile.kind)
    teacher = profile.experiment("students", method="kd", teacher="run:../../outside", out_dir="runs/quick/a")
    with pytest.raises(ParameterError, match=r"got '\.\./\.\./outside'"):
        teacher.teacher_file()


def test_settings_replace_what_sections_and_methods_say(write):
    students = {**PROFILE["students"], "steps": 5, "by_method": {"kd": {"steps": 9}}}
    profile = load_profile(write(students=students), parse_settings(["steps=3", "teacher.lr=0.5"]))
    assert profile.experiment("students", method="kd", teacher="run:x").steps == 3
    assert (profile.experiment("teacher").steps, profile.experiment("teacher").lr) == (3, 0.5)


def test_a_variant_runs_for_its_own_methods_or_all_with_its_parameters_over_the_others(write):
    variants = {"long": {"steps": 7}, "other": {"methods": ["kd"], "teacher": WEIGHTS}}
    students = {**PROFILE["students"], "by_method": {"kd": {"steps": 5}}, "variants": variants}
    profile = load_profile(write(students=students))
    runs = [run for run in plan(profile, methods=["none", "kd"], seeds=[0]) if run.kind == "student"]
    assert [(r.experiment.method, r.experiment.steps) for r in runs] == [
        ("none", 1), ("kd", 5), ("none", 7), ("kd", 7), ("kd", 5),
    ]  # fmt: skip
    assert (runs[-1].needs, runs[-1].experiment.teacher) == (None, WEIGHTS)
    assert [run.variant for run in runs] == ["", "", "long", "long", "other"]
    assert len(plan(load_profile(write(students=students), {"steps": 3}), seeds=[0])) == 2 + 3  # long is gone
    assert not shrink(profile).variants


def test_a_variant_that_changes_nothing_is_no_run_of_its_own(write):
    students = {**PROFILE["students"], "variants": {"same": {"steps": 1}}}
    runs = plan(load_profile(write(students=students)), seeds=[0])
    assert [run.variant for run in runs] == [""] * len(runs)


def test_epochs_of_a_section_replace_the_shared_steps(write):
    profile = load_profile(write(teacher={"epochs": 2.0}))
    assert (profile.experiment("teacher").steps, profile.experiment("teacher").epochs) == (None, 2.0)
    assert profile.experiment("students").steps == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["steps"], "write --set key=value"),
        (["crop=[64"], "write --set key=value"),
        (["stes=3"], "did you mean steps"),
        (["lr=6e-5"], "write 6.0e-5"),
        (["techer.lr=0.5"], "did you mean teacher"),
    ],
)
def test_mistakes_in_settings_are_named(write, settings, message):
    with pytest.raises(ParameterError, match=message):
        load_profile(write(), parse_settings(settings))


@pytest.mark.parametrize("name", list_profiles())
def test_every_committed_profile_is_valid_and_can_be_shrunk(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for trained in re.findall(r"runs/[\w.-]+", (NOTEBOOKS / "profiles" / f"{name}.yaml").read_text()):
        (tmp_path / trained).write_bytes(b"weights that another profile trains")
    for profile in (load_profile(name), shrink(load_profile(name))):
        assert profile.about
        if profile.methods or profile.lessons:  # a batch
            assert plan(profile)
        weights = {"pretrained": None, "steps": 1000}  # weights may not be there yet
        assert profile.teacher is None or profile.experiment("teacher", **weights)
        for method in profile.methods:
            assert profile.experiment("students", method=method, teacher="run:x").folder_name()


@pytest.mark.parametrize("name", [name for name in list_profiles() if load_profile(name).teacher])
def test_a_smoke_run_is_small_keeps_proportions_and_downloads_nothing(name):
    full, small = load_profile(name), shrink(load_profile(name))
    before = full.merged(full.students)
    after = small.merged(small.students)
    assert after["steps"] <= 6
    assert after["train_images"] <= 8
    assert after["crop"] == (before.get("crop") if before["height"] is None else None)
    if before["height"] is None:
        assert after["height"] is None  # the files' own size
    else:
        assert after["height"] == 64
        assert after["width"] / 64 == pytest.approx(before["width"] / before["height"], rel=0.15)
    assert not str(small.merged(small.teacher).get("pretrained")).startswith("hub:")
    assert small.seeds == full.seeds[:1]
    assert small.name == f"{name}-smoke"


def test_paper_profiles_carry_the_paper_settings():
    cityscapes = load_profile("cityscapes")
    distilled = cityscapes.experiment("students", method="transkd-base", teacher="run:x")
    assert (distilled.epochs, distilled.batch_size, distilled.lr, distilled.weight_decay) == (1000, 2, 6e-5, 0.01)
    assert (distilled.height, distilled.width, distilled.supervise, distilled.normalize) == (
        512,
        1024,
        "quarter",
        False,
    )
    assert (distilled.schedule_unit, distilled.schedule_horizon) == ("epoch", 1.5)
    alone = cityscapes.experiment("students", method="none")
    assert (alone.epochs, alone.batch_size) == (500, 4)
    teacher = cityscapes.experiment("teacher")
    assert (teacher.epochs, teacher.batch_size, teacher.network) == (1000, 8, "segformer_b2")
    assert len(distilled.config().class_weights) == 19


def test_the_demo_takes_for_every_method_the_rate_that_its_search_found_best():
    search, demo = students(read_table("results/searches/demo")), load_profile("demo")
    scores = search.groupby(["method", "lr"])["miou"].mean().unstack()
    assert set(scores.notna().sum(axis=1)) == {5}  # a search of equal size for each
    chosen = {m: demo.experiment("students", method=m, teacher="run:x").lr for m in demo.methods}
    assert chosen == pytest.approx(scores.idxmax(axis=1).to_dict())
    assert {*chosen.values()} <= {*scores.columns[1:-1]}, "the best rate is at the edge of the search"
    assert set(search["steps"]) == {demo.experiment("students").steps}


@pytest.mark.parametrize(("name", "shorter"), [("course", 3), ("streets-methods", 1)])
def test_a_table_has_for_every_method_the_rate_and_the_weights_that_its_search_found_best(name, shorter):
    search = students(read_table(f"results/searches/{name}"))
    scores = search.groupby(["method", "options", "lr"])["miou"].agg(["mean", "count"])
    assert set(scores["count"]) == {2}
    profile = load_profile(name)
    assert {*search["steps"] * shorter} == {profile.experiment("students").steps}
    assert {*search["method"]} == {*profile.methods}
    for method, own in scores["mean"].groupby(level="method"):
        # mgd gets better with every smaller weight, towards the student alone: its row has not the last one tried.
        _, options, lr = (own.drop(own.idxmax()) if method == "mgd" else own).idxmax()
        chosen = profile.experiment("students", method=method, teacher="run:x")
        assert (chosen.lr, chosen.options) == (lr, json.loads(options)), method
        rates = own[method, "{}"]
        assert rates.index[0] < rates.idxmax() < rates.index[-1], f"the best rate of {method} is at the edge"
        if method != "none":
            tried = map(json.loads, own.xs(lr, level="lr").index.get_level_values("options"))
            multiples = sorted(weight_multiple(method, options) for options in tried)
            best = weight_multiple(method, chosen.options)
            assert multiples[0] < best < multiples[-1], f"the best weight of {method} is at the edge"


def test_camvid_long_takes_for_every_start_and_method_what_its_search_found_best():
    """The student alone was searched at full length as well, and takes its rate from there."""
    search = students(read_table("results/searches/camvid-long"))
    start = search["settings"].map(lambda text: json.loads(text)["pretrained"]).fillna("new")
    points = search.groupby([start, "method", "steps", "options", "lr"])["miou"].agg(["mean", "count"])
    assert set(points["count"]) == {2}
    profile = load_profile("camvid-long")
    starts = [each for each in profile.variants.values() if "pretrained" in each]
    for (start, method), own in points["mean"].groupby(level=[0, 1]):
        own = own.loc[start, method]
        own = own.loc[own.index.get_level_values("steps").max()]
        options, lr = own.idxmax()
        changes = [each for each in starts if each["pretrained"] == start and method in each["methods"]] or [{}]
        changes = {name: value for name, value in changes[0].items() if name not in ("methods", "pretrained")}
        chosen = profile.experiment("students", method=method, teacher="run:x", **changes)
        assert (chosen.lr, chosen.options) == (lr, json.loads(options)), (start, method)
        rates = own[options]
        assert rates.index[0] < lr < rates.index[-1], f"the best rate of {method} is at the edge"
