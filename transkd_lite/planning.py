"""The plan of a batch: the runs of a profile in order, every name and value checked before anything starts.

Every value ends up in the `parameters` cell of a notebook, so every value is checked against that cell. No
torch, papermill or dask here: a finished batch is recognised by the names of its run folders alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transkd_lite.experiment import Experiment
from transkd_lite.parameters import ParameterError, check_name, check_parameters, read_signature
from transkd_lite.profiles import Profile
from transkd_lite.runs import hash_parameters

__all__ = ["PlannedRun", "plan", "with_variant"]

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
        teacher = _plan_experiment(
            profile, "teacher", profile.experiment("teacher"), profile.teacher_notebook
        )
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
        raise ParameterError(
            f"profile {profile.name} is one training, not a batch: transkd train {profile.name}"
        )
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
