"""Profiles: a YAML file says what a batch runs, read and checked here.

A profile names the course notebooks to run once (`lessons`), the teacher, and the students as a grid of
methods and seeds, with `variants` that change other parameters; `parameters` are shared by all. `plan`
makes the list of runs of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from transkd_lite.experiments.experiment import Experiment, ParameterError, check_name, check_parameters, read_signature
from transkd_lite.training.folder import hash_parameters

__all__ = [
    "ROOT",
    "PlannedRun",
    "Profile",
    "list_profiles",
    "load_profile",
    "parse_settings",
    "plan",
    "shrink",
    "with_variant",
]

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
_SECTIONS: dict[str, Any] = {
    "name": str, "about": str, "kind": str, "notebooks": str, "lessons": list, "parameters": dict, "teacher": dict,
    "students": dict, "report": str | None,
}  # fmt: skip
_GRID: dict[str, Any] = {
    "methods": list[str], "seeds": list[int], "by_method": dict, "variants": dict, "notebook": str
}  # fmt: skip
_SMOKE = {"steps": 6, "batch_size": 2, "train_images": 8, "val_images": 4}
_SMOKE_HEIGHT = 64


@dataclass(frozen=True)
class Profile:
    """One checked profile; `teacher` and `students` hold the parameters that differ from the shared ones."""

    name: str
    about: str
    kind: str = "student"
    notebooks: Path = NOTEBOOKS
    lessons: tuple[tuple[str, dict[str, Any]], ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] | None = None
    students: dict[str, Any] | None = None
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    by_method: dict[str, dict[str, Any]] = field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    teacher_notebook: str = "02_build_the_teacher"
    student_notebook: str = "08_train_transkd"
    report: str | None = "12_reproduction_report"
    smoke: bool = False

    def merged(self, *layers: Mapping[str, Any]) -> dict[str, Any]:
        """The shared parameters with layers over them; `epochs` in a layer replaces `steps` below, and vice versa."""
        values: dict[str, Any] = {}
        for layer in (self.parameters, *layers):
            for given, other in (("steps", "epochs"), ("epochs", "steps")):
                if layer.get(given) is not None:
                    values[other] = None
            values |= layer
        if values.get("data_root"):  # notebooks run in a folder of their own
            values["data_root"] = str(Path(values["data_root"]).resolve())
        return _small(values) if self.smoke else values

    def experiment(self, kind: str, **overrides: Any) -> Experiment:
        """The experiment of the shared parameters, those of the section and the method, and the overrides."""
        section = (self.teacher if kind == "teacher" else self.students) or {}
        own = self.by_method.get(overrides.get("method", ""), {})
        try:
            return Experiment.from_parameters(self.merged(section, own, overrides))
        except ParameterError as error:
            raise ParameterError(f"profile {self.name}, {kind}: {error}") from error


def list_profiles() -> list[str]:
    """Names of the profiles that come with the course."""
    return sorted(path.stem for path in (NOTEBOOKS / "profiles").glob("*.yaml"))


def load_profile(source: str, settings: Mapping[str, Any] | None = None) -> Profile:
    """Read a profile by name, or from a path that ends in .yaml, with shared parameters replaced by `settings`.

    Raises:
        ParameterError: unknown profile, section, parameter or a wrong type, named with what would be valid.
    """
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        path = NOTEBOOKS / "profiles" / f"{check_name(source, list_profiles(), 'profile')}.yaml"
    if not path.is_file():
        raise ParameterError(f"no profile {path}; the course has {', '.join(list_profiles())}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ParameterError(f"{path} must hold sections ({', '.join(_SECTIONS)}), not {type(raw).__name__}")
    check_parameters(raw, _SECTIONS, f"profile {path.name}")
    return with_settings(_parse(raw, path), settings or {})


def with_settings(profile: Profile, settings: Mapping[str, Any]) -> Profile:
    """Replace parameters: `steps` everywhere, `teacher.steps` or `students.steps` in that section alone."""
    sections = {"": {**profile.parameters}, "teacher": profile.teacher, "students": profile.students}
    by_method, variants = profile.by_method, profile.variants
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        check_name(section, [name for name, content in sections.items() if content is not None], "section of --set")
        check_parameters({name: value}, Experiment.hints(), "--set")
        for below in (section, *([] if section else ("teacher", "students"))):
            sections[below] = sections[below] and _without(sections[below] or {}, name)
        if section != "teacher":
            by_method, variants = (
                {title: _without(own, name) for title, own in owns.items()} for owns in (by_method, variants)
            )
        sections[section] = {**(sections[section] or {}), name: value}
    shared, teacher, students = sections[""] or {}, sections["teacher"], sections["students"]
    return replace(
        profile, parameters=shared, teacher=teacher, students=students, by_method=by_method, variants=variants
    )


def _without(parameters: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The mapping without a name; a length goes in whichever unit it is given."""
    names = ("steps", "epochs") if name in ("steps", "epochs") else (name,)
    return {key: value for key, value in parameters.items() if key not in names}


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Turn `["steps=20", "teacher.lr=1.0e-4"]` into a mapping; values are YAML.

    >>> parse_settings(["steps=20", "crop=[64, 64]"])
    {'steps': 20, 'crop': [64, 64]}
    """
    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"--set {text}: write --set key=value, such as --set steps=20")
        settings[key.strip()] = yaml.safe_load(value)
    return settings


def _parse(raw: dict[str, Any], path: Path) -> Profile:
    """Check the sections of a raw profile and take the grid and the notebook names out of them."""
    where, teacher, students = f"profile {path.name}", raw.get("teacher"), raw.get("students")
    for section in filter(None, (raw.get("parameters"), teacher, students)):
        extra = _GRID if section is students else {"notebook": str} if section is teacher else {}
        check_parameters(section, Experiment.hints() | extra, where)
    values: dict[str, Any] = {key: raw[key] for key in ("kind", "parameters", "report") if key in raw}
    values |= {"name": raw.get("name", path.stem), "about": raw.get("about", ""), "teacher": teacher}
    lessons = [{entry: {}} if isinstance(entry, str) else entry for entry in raw.get("lessons", [])]
    for entry in lessons:
        if not (isinstance(entry, dict) and len(entry) == 1 and isinstance(next(iter(entry.values())), dict)):
            raise ParameterError(f"{where}: lesson {entry!r} must be a name or {{name: {{parameter: value}}}}")
    values["lessons"] = tuple(item for entry in lessons for item in entry.items())
    if "notebooks" in raw:
        values["notebooks"] = (path.parent / raw["notebooks"]).resolve()
    if teacher and "notebook" in teacher:
        values["teacher_notebook"] = teacher.pop("notebook")
    if students is not None:
        values |= {key: tuple(students.pop(key)) for key in ("methods", "seeds") if key in students}
        for section, extra in (("by_method", {}), ("variants", {"methods": list[str]})):
            values[section] = students.pop(section, {})
            for name, own in values[section].items():
                check_parameters(own, Experiment.hints() | extra, f"{where}, {section}.{name}")
        if "notebook" in students:
            values["student_notebook"] = students.pop("notebook")
    return Profile(**values, students=students)


def shrink(profile: Profile) -> Profile:
    """The same batch in a minute or two: few steps, few small images, one seed, no method but TransKD-Base, no variant.

    Weights that would have to be downloaded are left out, and all lessons but the first.
    """
    methods = tuple(m for m in profile.methods if m in ("none", "transkd-base")) or profile.methods[:2]
    name, lessons, seeds = f"{profile.name}-smoke", profile.lessons[:1], profile.seeds[:1]
    return replace(profile, name=name, smoke=True, lessons=lessons, methods=methods, seeds=seeds, variants={})


def _small(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Few steps and few small images, which keep their proportions."""
    values = dict(parameters)
    if str(values.get("pretrained")).startswith(("hub:", "timm")):
        values["pretrained"] = None
    for name, most in _SMOKE.items():
        value = values.get(name)
        values[name] = most if value is None else min(value, most)
    if values.get("height") and values.get("width"):
        width = _SMOKE_HEIGHT * values["width"] / values["height"]
        values |= {"height": _SMOKE_HEIGHT, "width": max(32, round(width / 32) * 32)}
    return values | {"epochs": None, "warmup_steps": 0, "crop": None, "num_workers": 0}


# --- The plan of a batch: the runs of a profile in order, every name and value checked before anything starts.
#
# Every value ends up in the `parameters` cell of a notebook, so every value is checked against that cell. No
# torch, papermill or dask here: a finished batch is recognised by the names of its run folders alone.

_DATA = ("dataset", "data_root", "train_images", "val_images", "data_seed", "height", "width")


@dataclass(frozen=True)
class PlannedRun:
    """One notebook to execute into one run folder.

    `needs` names the run folder that must be finished before; `variant` is the profile's name for what differs.
    """

    kind: str
    folder: str
    notebook: Path
    parameters: dict[str, Any]
    needs: str | None = None
    experiment: Experiment | None = None
    variant: str = ""

    @property
    def title(self) -> str:
        """The run folder, with the variant that its name does not tell."""
        return with_variant(self.folder, self.variant)


def with_variant(name: str, variant: str) -> str:
    """`transkd-base (no-fusion)`, or the name alone where it is no variant."""
    return f"{name} ({variant})" if variant else name


def plan(profile: Profile, methods: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[PlannedRun]:
    """List the runs of a profile in order: lessons, teacher, students; everything that has a name is checked.

    Args:
        profile: what to run.
        methods: these instead of the profile's.
        seeds: these instead of the profile's.
    """
    runs = [_plan_lesson(profile, name, own) for name, own in profile.lessons]
    teacher = None
    if profile.teacher is not None:
        teacher = _plan_experiment(profile, "teacher", profile.experiment("teacher"), profile.teacher_notebook)
        runs.append(teacher)
    if profile.students is not None:
        for seed in dict.fromkeys(seeds or profile.seeds):
            for method in dict.fromkeys(methods or profile.methods):
                runs.append(_plan_student(profile, method, seed, teacher))
            for name, variant in profile.variants.items():
                chosen = variant.get("methods", profile.methods)
                for method in dict.fromkeys(m for m in chosen if not methods or m in methods):
                    student = _plan_student(profile, method, seed, teacher, variant)
                    runs.append(replace(student, variant=name))
    if not runs:
        raise ParameterError(f"profile {profile.name} is one training, not a batch: transkd train {profile.name}")
    first = {run.folder: run for run in reversed(runs)}  # variants can come to the same
    return [run for run in runs if run is first[run.folder]]


def _plan_student(
    profile: Profile,
    method: str,
    seed: int,
    teacher: PlannedRun | None,
    variant: Mapping[str, Any] = MappingProxyType({}),
) -> PlannedRun:
    """A student alone needs no teacher; the others wait for it and name it by its run folder."""
    own = {name: value for name, value in variant.items() if name != "methods"}
    overrides: dict[str, Any] = own | {"method": method, "seed": seed}
    needs = None
    if method != "none" and teacher is not None and "teacher" not in own:
        needs = teacher.folder
        overrides["teacher"] = f"run:{needs}"
    experiment = profile.experiment("students", **overrides)
    return _plan_experiment(profile, "student", experiment, profile.student_notebook, needs)


def _plan_experiment(
    profile: Profile, kind: str, experiment: Experiment, notebook: str, needs: str | None = None
) -> PlannedRun:
    """Pass a notebook the experiment's parameters that it has; one that it lacks must be at its default."""
    path = profile.notebooks / f"{notebook.removesuffix('.ipynb')}.ipynb"
    signature = read_signature(path)
    check_parameters({"out_dir": ""}, signature.hints, path.name)
    defaults = Experiment().parameters()
    given = experiment.parameters()
    for name, value in given.items():
        if name not in signature.hints and value != defaults[name]:
            check_name(name, signature.hints, f"parameter of {path.name}")
    passed = {name: value for name, value in given.items() if name in signature.hints and name != "out_dir"}
    check_parameters(passed, signature.hints, path.name)
    return PlannedRun(kind, experiment.folder_name(kind), path, passed, needs, experiment)


def _plan_lesson(profile: Profile, name: str, own: dict[str, Any]) -> PlannedRun:
    """A lesson gets the profile's data parameters that its notebook has, and its own from the profile."""
    path = profile.notebooks / f"{name.removesuffix('.ipynb')}.ipynb"
    signature = read_signature(path)
    shared = {k: v for k, v in profile.merged().items() if k in _DATA and v is not None}
    passed = {k: v for k, v in shared.items() if k in signature.hints} | own
    check_parameters(passed, signature.hints, path.name)
    identity = {k: v for k, v in passed.items() if k != "data_root"} | {"notebook": name}
    return PlannedRun("lesson", f"lesson-{Path(name).stem}-s0-{hash_parameters(identity)}", path, passed)
