"""Profiles: a YAML file says what a batch runs, read and checked here.

A profile names the course notebooks to run once (`lessons`), the teacher, and the students as a grid of
methods and seeds, with `variants` that change other parameters; `parameters` are shared by all. `plan`
makes the list of runs of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from transkd_lite.data.whole import COURSE
from transkd_lite.experiments.experiment import Experiment, read_signature
from transkd_lite.training.config import ParameterError, check_name, check_parameters, check_plain
from transkd_lite.training.folder import run_name

__all__ = ["NOTEBOOKS", "PlannedRun", "Profile", "list_profiles", "load_profile", "parse_settings", "plan", "shrink"]

NOTEBOOKS = COURSE / "notebooks"
_SECTIONS: dict[str, Any] = {
    "name": str, "about": str, "kind": str, "notebooks": str, "lessons": list[str | dict[str, dict[str, Any]]],
    "parameters": dict, "teacher": dict, "students": dict, "import": str, "report": str | None,
}  # fmt: skip
_LAYERS = dict[str, dict[str, Any]]
_GRID = {"methods": list[str], "seeds": list[int], "by_method": _LAYERS, "variants": _LAYERS, "notebook": str}
_SMOKE = {"steps": 6, "batch_size": 2, "train_images": 8, "val_images": 4}
_SMOKE_HEIGHT = 64
_LENGTH = ("steps", "epochs")  # one replaces the other


@dataclass(frozen=True)
class Profile:
    """One checked profile; `teacher` and `students` hold the parameters that differ from the shared ones."""

    name: str
    about: str
    kind: str = "student"
    notebooks: Path = NOTEBOOKS
    lessons: Sequence[tuple[str, dict[str, Any]]] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] | None = None
    students: dict[str, Any] | None = None
    methods: Sequence[str] = ()
    seeds: Sequence[int] = (0,)
    by_method: _LAYERS = field(default_factory=dict)
    variants: _LAYERS = field(default_factory=dict)
    teacher_notebook: str = "02_build_the_teacher"
    student_notebook: str = "08_train_transkd"
    report: str | None = "12_reproduction_report"
    smoke: bool = False

    def __post_init__(self) -> None:
        notebooks = (self.teacher_notebook, self.student_notebook, self.report or "none", *dict(self.lessons))
        for name in (self.name, *notebooks):
            check_plain(name, "the name of a profile, a notebook or a report")

    def merged(self, *layers: Mapping[str, Any]) -> dict[str, Any]:
        """The shared parameters with layers over them; `epochs` in a layer replaces `steps` below, and vice versa.

        In a smoke run: few steps and few small images, which keep their proportions.
        """
        values: dict[str, Any] = {}
        for layer in (self.parameters, *layers):
            given = [name for name in _LENGTH if layer.get(name) is not None]
            values |= dict.fromkeys(_LENGTH if given else ()) | dict(layer)
        if values.get("data_root"):  # notebooks run in a folder of their own
            values["data_root"] = str(Path(values["data_root"]).resolve())
        if not self.smoke:
            return values
        if str(values.get("pretrained")).startswith(("hub:", "timm")):
            values["pretrained"] = None
        values |= {name: min(most, most if (v := values.get(name)) is None else v) for name, most in _SMOKE.items()}
        if values.get("height") and values.get("width"):
            width = _SMOKE_HEIGHT * values["width"] / values["height"]
            values |= {"height": _SMOKE_HEIGHT, "width": max(32, round(width / 32) * 32)}
        crop = None if values.get("height") else values.get("crop")  # images of unlike sizes need it
        return values | {"epochs": None, "warmup_steps": 0, "crop": crop, "workers": 0}

    def experiment(self, kind: str, **overrides: Any) -> Experiment:
        """The experiment of the shared parameters, those of the section and the method, and the overrides."""
        section = (self.teacher if kind == "teacher" else self.students) or {}
        own = self.by_method.get(self.merged(section, overrides).get("method", ""), {})
        try:
            return Experiment.from_dict(self.merged(section, own, overrides))
        except ParameterError as error:
            raise ParameterError(f"profile {self.name}, {kind}: {error}") from error


def list_profiles() -> list[str]:
    """Names of the profiles that come with the course."""
    return sorted(path.stem for path in (NOTEBOOKS / "profiles").glob("*.yaml"))


def load_profile(source: str, settings: Mapping[str, Any] | None = None) -> Profile:
    """Read a profile by name, or from a path that ends in .yaml, with parameters replaced by `settings`.

    settings: `steps` is replaced everywhere, `teacher.steps` or `students.steps` in that section alone.
    Paths of data and weights begin where the profile is or where the command runs, those of the course at its root.
    Raises `ParameterError`: unknown profile, section, parameter or a wrong type, named with what would be valid.
    """
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        path = NOTEBOOKS / "profiles" / f"{check_name(source, list_profiles(), 'profile')}.yaml"
    if not path.is_file():
        raise ParameterError(f"no profile {path}; the course has {', '.join(list_profiles())}")
    try:
        raw = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ParameterError(f"{path} must be YAML with sections ({', '.join(_SECTIONS)}): {error}") from error
    where, known = f"profile {path.name}", Experiment.hints()
    check_parameters(raw, _SECTIONS, where)
    if "import" in raw:
        raw.setdefault("students", {})["method_file"] = raw.pop("import")
    sections = {"": raw.setdefault("parameters", {})} | {k: raw[k] for k in ("teacher", "students") if k in raw}
    extras: dict[str, dict[str, Any]] = {"": {}, "teacher": {"notebook": str}, "students": _GRID}
    for kind, section in sections.items():
        check_parameters(section, known | extras[kind], where)
    grid = {name: sections["students"].pop(name) for name in _GRID if name in sections.get("students", {})}
    layers, varied = list(sections.items()), {k: hint for k, hint in known.items() if k not in ("method", "seed")}
    for name, extra in (("by_method", {}), ("variants", {"methods": list[str]})):
        for label, layer in grid.get(name, {}).items():
            check_parameters(layer, varied | extra, f"{where}, {name}.{label}")
            layers.append(("students", layer))
    listed = [method for part in (grid, *grid.get("variants", {}).values()) for method in part.get("methods", ())]
    for method in grid.get("by_method", {}):
        check_name(method, [*listed, sections["students"].get("method", "none")], "by_method")
    for _, layer in layers:
        layer.update(_located(layer, Path()) | _located(layer, path.parent))
    for key, value in (settings or {}).items():
        kind, _, name = key.rpartition(".")
        check_name(kind, sections, "section of --set")
        check_parameters({name: value}, known, "--set")
        for layer in [layer for section, layer in layers if kind in ("", section)]:
            for replaced in _LENGTH if name in _LENGTH else (name,):
                layer.pop(replaced, None)
        sections[kind] |= {name: value, **_located({name: value}, Path())}
    for kind, holder in (("teacher", sections.get("teacher", {})), ("student", grid)):
        if "notebook" in holder:
            raw[f"{kind}_notebook"] = holder.pop("notebook")
    raw["notebooks"] = (path.parent / raw.get("notebooks", NOTEBOOKS)).resolve()
    lessons = [{entry: {}} if isinstance(entry, str) else entry for entry in raw.get("lessons", [])]
    raw["lessons"] = [item for entry in lessons for item in entry.items()]
    return Profile(**{"name": path.stem, "about": "", **raw, **grid})


def _located(layer: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The paths in a layer that begin at a folder, absolute, since notebooks run elsewhere; not those of the course."""
    names = ("data_root", "pretrained", "teacher", "method_file")
    given = {name: str(layer[name]) for name in names if layer.get(name)}
    paths = {name: (folder / Path(text).expanduser()).resolve() for name, text in given.items() if text != "timm"}
    return {name: str(p) for name, p in paths.items() if p.exists() and p != (COURSE / given[name]).resolve()}


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Turn `["steps=20", "teacher.lr=1.0e-4"]` into a mapping; values are YAML.

    >>> parse_settings(["steps=20", "crop=[64, 64]"])
    {'steps': 20, 'crop': [64, 64]}
    """
    settings = {}
    for text in texts:
        try:
            key, value = text.split("=", 1)
            settings[key.strip()] = yaml.safe_load(value)
        except (ValueError, yaml.YAMLError) as error:
            raise ParameterError(f"--set {text}: write --set key=value, such as --set steps=20 ({error})") from error
    return settings


def shrink(profile: Profile) -> Profile:
    """The same batch in a minute or two: few steps, few small images, one seed, no method but TransKD-Base, no variant.

    Weights that would have to be downloaded are left out, and all lessons but the first.
    """
    methods = [m for m in profile.methods if m in ("none", "transkd-base")] or profile.methods[:2]
    name, lessons, seeds = f"{profile.name}-smoke", profile.lessons[:1], profile.seeds[:1]
    return replace(profile, name=name, smoke=True, lessons=lessons, methods=methods, seeds=seeds, variants={})


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
        return f"{self.folder} ({self.variant})" if self.variant else self.folder


def plan(profile: Profile, methods: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[PlannedRun]:
    """List the runs of a profile in order: lessons, teacher, students; everything that has a name is checked.

    methods, seeds: these instead of the profile's.
    """
    runs, teacher = [], None
    for name, own in profile.lessons:  # gets the profile's data parameters that its notebook has
        path = profile.notebooks / Path(name).with_suffix(".ipynb")
        hints = read_signature(path)
        shared = profile.merged()
        passed = {k: shared[k] for k in _DATA if k in hints and shared.get(k) is not None} | own
        check_parameters(passed, hints, path.name)
        identity = {k: v for k, v in passed.items() if k != "data_root"} | {"notebook": name}
        runs.append(PlannedRun("lesson", run_name("lesson", path.stem, 0, identity), path, passed))
    if profile.teacher is not None:
        teacher = _plan_experiment(profile, "teacher", profile.experiment("teacher"))
        runs.append(teacher)
    variants: _LAYERS = {"": {}, **profile.variants}
    if profile.students is None and (methods or seeds):
        raise ParameterError(f"methods and seeds are those of students, but profile {profile.name} has none")
    if profile.teacher is not None and profile.merged(profile.students or {}).get("teacher"):
        raise ParameterError(f"profile {profile.name} gives the students' teacher and a section teacher: keep one")
    for name in ("method", "seed") if methods or profile.methods else ():
        if name in profile.parameters or name in (profile.students or {}):
            rule = f"{name} would be ignored: students have {name}s, a teacher its teacher.{name}"
            raise ParameterError(f"profile {profile.name}: {rule}")
    for seed in dict.fromkeys(seeds or profile.seeds) if profile.students is not None else ():
        for variant, changes in variants.items():
            own = {name: value for name, value in changes.items() if name != "methods"}
            among = changes.get("methods", profile.methods) if variant else methods or profile.methods
            for method in dict.fromkeys(m for m in among if not methods or m in methods):
                taught = method == "none" or "teacher" in own | profile.by_method.get(method, {})
                needs = None if teacher is None or taught else teacher.folder
                linked = {"teacher": f"run:{needs}"} if needs else {}  # a student alone needs no teacher
                experiment = profile.experiment("students", **own, **linked, method=method, seed=seed)
                runs.append(_plan_experiment(profile, "student", experiment, needs, variant))
    if not runs:
        raise ParameterError(f"profile {profile.name} is one training, not a batch: transkd train {profile.name}")
    first = {run.folder: run for run in reversed(runs)}  # variants can come to the same
    return [run for run in runs if run is first[run.folder]]


def _plan_experiment(
    profile: Profile, kind: str, experiment: Experiment, needs: str | None = None, variant: str = ""
) -> PlannedRun:
    """Pass a notebook the experiment's parameters that it has; one that it lacks must be at its default."""
    notebook = profile.teacher_notebook if kind == "teacher" else profile.student_notebook
    path = profile.notebooks / Path(notebook).with_suffix(".ipynb")
    hints = read_signature(path)
    given = experiment.to_dict() | {"out_dir": "where the run is"}
    usual = Experiment(dataset=experiment.dataset).to_dict() | {"dataset": "streets"}
    passed = {name: value for name, value in given.items() if name in hints or value != usual[name]}
    check_parameters(passed, hints, path.name)
    del passed["out_dir"]
    return PlannedRun(kind, experiment.folder_name(kind), path, passed, needs, experiment, variant)
