"""Damage files of runs, and count what their readers do: `python tests/faults/damage.py --count 300`.

A trial takes a small batch (a teacher, a student alone, a distilled one) and two runs that were stopped, hurts one file
in one way, and lets every reader look. What a reader does is one of

    same      its answer is that of the undamaged files
    refused   an error, or a row and a line of the listing, that names the file
    anew      the run is made again
    silent    another answer without a word: a fault
    bare      an error that does not name the file: a fault
"""

import argparse
import contextlib
import hashlib
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

import transkd_lite as tk
from transkd_lite import cli
from transkd_lite.data.whole import write_json
from transkd_lite.experiments import batch
from transkd_lite.experiments.experiment import Experiment, run_experiment
from transkd_lite.experiments.profile import Profile, plan
from transkd_lite.results.tables import load_batch
from transkd_lite.training.checkpoint import RunFolder
from transkd_lite.training.folder import list_runs

sys.path.insert(0, str(Path(__file__).parents[1]))
from quick import FIXTURES, PARAMETERS

PROFILE = Profile(
    name="quick",
    about="fixture",
    notebooks=FIXTURES,
    parameters={**PARAMETERS, "steps": 2},
    teacher={},
    students={},
    methods=("none", "kd"),
    teacher_notebook="quick_run",
    student_notebook="quick_run",
    report=None,
)
STOPPED = Experiment(**PARAMETERS | {"steps": 2, "checkpoint_every": 1, "precision": "fp32"})
WAYS = ("a byte", "512 zeros", "400000 zeros", "cut", "deleted", "swapped")


class Anew(Exception):
    """The run is made again."""


def make(place: Path) -> None:
    """The undamaged files: `runs/quick` is finished, `stopped/0` and `stopped/1` have two checkpoints each."""
    root = place / "runs" / PROFILE.name
    runs = plan(PROFILE)
    for run in runs:
        assert run.experiment is not None
        run_experiment(run.experiment, root / run.folder, progress="none")
        shutil.copy(run.notebook, root / run.folder)
    for file, names in ((root / "batch.json", [run.folder for run in runs]), (place / "other.json", ["another"])):
        write_json(file, {"profile": "quick", "about": "fixture", "runs": names})
    finish = RunFolder.finish

    def stop(folder: RunFolder, student: Any, trainer: Any, metrics: Any) -> None:
        raise KeyboardInterrupt

    RunFolder.finish = stop  # type: ignore[method-assign]
    for seed in (0, 1):
        with contextlib.suppress(KeyboardInterrupt):
            run_experiment(replace(STOPPED, seed=seed), place / "stopped" / str(seed), progress="none")
    RunFolder.finish = finish  # type: ignore[method-assign]


def hurt(place: Path, rng: random.Random) -> tuple[str, str]:
    """Damage one file: its name, and how."""
    first, second = sorted((place / "runs" / "quick").glob("student-*"))
    names = ("student.safetensors", "history.csv", "run.json", "metrics.json")
    pairs = [(first / name, second / name) for name in names] + [(second / name, first / name) for name in names]
    pairs.append((place / "runs" / "quick" / "batch.json", place / "other.json"))
    stopped = [sorted((place / "stopped" / seed).rglob("*.*")) for seed in "01"]
    pairs += [pair for pair in zip(*stopped, strict=True) if pair[0].suffix in (".pt", ".json")]
    path, other = rng.choice(pairs)
    how = rng.choice(WAYS)
    content = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "swapped":
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif how == "cut":
        path.write_bytes(content[: rng.randrange(len(content))])
    else:
        start = rng.randrange(len(content))
        length = int(how.split()[0]) if how.endswith("zeros") else 1
        part = content[start : start + length]
        content[start : start + length] = bytes(len(part)) if length > 1 else bytes([part[0] ^ rng.randrange(1, 256)])
        path.write_bytes(content)
    return path.relative_to(place).name if path.suffix != ".pt" else "checkpoint", how


# --- The readers: each returns what it makes of the folder.


def load(place: Path) -> Any:
    folders = sorted(place.glob("runs/quick/*-*"))
    states = [tk.load_model(folder / "student.safetensors").state_dict() for folder in folders]
    return [hashlib.sha256(b"".join(x.numpy().tobytes() for x in state.values())).hexdigest() for state in states]


def evaluate(place: Path) -> Any:
    return [command("evaluate", str(folder), "--json") for folder in sorted(place.glob("runs/quick/*-*"))]


def command(*arguments: str) -> str:
    done = CliRunner().invoke(cli.app, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if done.exit_code:
        raise ValueError(done.output)
    return done.output


def tables(place: Path) -> Any:
    found = load_batch(place / "runs" / "quick")
    return found.table.to_csv(), found.history.to_csv()


def listing(place: Path) -> Any:
    said = command("runs", str(place / "runs"))
    if notes := [run.note for run in list_runs(place / "runs") if run.note]:
        assert all(note in said for note in notes)
        assert said.count("student-") + said.count("teacher-") >= 3  # the others are listed all the same
        raise ValueError("\n".join(notes) if str(place) in notes[0] else f"{place}: {notes}")
    return said


def reproduce(place: Path) -> Any:
    outcome = batch.reproduce(PROFILE, runs=place / "runs", echo=lambda line: None)
    if outcome.errors:
        assert len(outcome.errors) <= 2
        assert cli.run_table(outcome).count("FAILED") == len(outcome.errors)
        raise ValueError("\n".join(outcome.errors.values()))
    if outcome.executed:
        raise Anew
    return cli.run_table(outcome), cli.score_table(outcome)


def resume(place: Path, **changes: Any) -> Any:
    """Both kinds of runs; with changes, every one must be refused or begin anew."""
    found = []
    for run in plan(PROFILE):
        assert run.experiment is not None
        folder = place / "runs" / "quick" / run.folder
        anew = not (folder / "metrics.json").exists()
        found.append(again(replace(run.experiment, **changes), folder))
        if anew:
            raise Anew
    return found


def go_on(place: Path, **changes: Any) -> Any:
    for seed in (0, 1):
        again(replace(STOPPED, seed=seed, **changes), place / "stopped" / str(seed))
    return [command("evaluate", str(place / "stopped" / seed), "--json") for seed in "01"]


def again(experiment: Experiment, folder: Path) -> Any:
    return run_experiment(experiment, folder, progress="none")["full"]


READERS: dict[str, Callable[[Path], Any]] = {
    "load": load,
    "evaluate": evaluate,
    "tables": tables,
    "runs": listing,
    "reproduce": reproduce,
    "resume": resume,
    "resume, other lr": lambda place: resume(place, lr=0.5),
    "go on": go_on,
    "go on, other lr": lambda place: go_on(place, lr=0.5),
}


def look(reader: str, place: Path) -> Any:
    """("answer", what the reader says), ("refused", why), ("bare", the error) or ("anew", "")."""
    try:
        return "answer", READERS[reader](place)
    except Anew:
        return "anew", ""
    except Exception as error:
        kind = isinstance(error, ValueError | OSError | RuntimeError) and str(place) in str(error)
        return "refused" if kind else "bare", f"{type(error).__name__}: {error}"


def main(count: int, seed: int = 0, show: Callable[[str], None] = print) -> Counter[tuple[str, str]]:
    """Do `count` trials: how often each reader did what, by (reader, what); every fault is shown."""
    rng, counts = random.Random(seed), Counter[tuple[str, str]]()
    batch.preflight = lambda pending: None  # type: ignore[assignment]
    batch.execute = lambda run, root, *more: ""  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings(action="ignore"):
        whole, place = Path(home) / "whole", Path(home) / "place"
        make(whole)
        truth = {}
        for name in READERS:
            shutil.copytree(whole, place)
            truth[name] = look(name, place)
            shutil.rmtree(place)
        for trial in range(count):
            shutil.copytree(whole, place)
            file, how = hurt(place, rng)
            damaged = shutil.copytree(place, Path(home) / "damaged")
            for name, (kind, answer) in truth.items():
                if "resume" in name or "go on" in name:  # they write
                    shutil.rmtree(place)
                    shutil.copytree(damaged, place)
                found = look(name, place)
                did = found[0] if found[0] != "answer" else "same" if found == (kind, answer) else "silent"
                counts[name, did] += 1
                if did in ("silent", "bare"):
                    show(f"trial {trial}, {file}, {how}: {name} is {did}: {found[1]}"[:600])
            shutil.rmtree(place)
            shutil.rmtree(damaged)
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = main(given.count, given.seed)
    kinds = ("same", "refused", "anew", "silent", "bare")
    print("reader".ljust(18) + "".join(kind.rjust(9) for kind in kinds))
    for reader in READERS:
        print(reader.ljust(18) + "".join(str(found[reader, kind]).rjust(9) for kind in kinds))
