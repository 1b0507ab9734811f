"""Damage files of runs, and count what their readers do: `python tests/faults/damage.py --count 300`.

A trial takes a small batch (a teacher, a student alone, a distilled one) and two runs that were stopped, hurts one file
in one way, and lets every reader look. What a reader does is one of

    same      its answer is that of the undamaged files (it does not read this one)
    refused   an error, or a row and a line of the listing, that names the file
    anew      the run is made again
    silent    another answer without a word: a fault
    bare      an error that does not name the file: a fault

Measured with --count 100, seeds 7 and 8, and --count 20, seeds 101 and 202: 240 damages, 1,279 readings, 315 same,
949 refused, 15 anew, 0 silent, 0 bare.
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
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

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
STOPPED = Experiment(**PARAMETERS | {"steps": 3, "checkpoint_every": 1, "precision": "fp32"})
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
    for seed in (0, 1):
        stops = mock.patch.object(RunFolder, "finish", side_effect=KeyboardInterrupt)
        with contextlib.suppress(KeyboardInterrupt), stops:
            run_experiment(replace(STOPPED, seed=seed), place / "stopped" / str(seed), progress="none")


def hurt(place: Path, rng: random.Random) -> tuple[Path, str]:
    """Damage one file: which, and how."""
    root = place / "runs" / PROFILE.name
    first, second = sorted(root.glob("student-*"))
    names = ("student.safetensors", "history.csv", "run.json", "metrics.json")
    pairs = [(one / name, other / name) for name in names for one, other in ((first, second), (second, first))]
    pairs.append((root / "batch.json", place / "other.json"))
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
    return path, how


# --- The readers: each returns what it makes of the place, or of one run folder there.


def command(*arguments: str) -> str:
    """What `transkd` prints; `ValueError` with its error."""
    done = CliRunner().invoke(cli.app, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if done.exit_code:
        raise ValueError(done.output)
    return done.output


def load(place: Path, folder: Path) -> Any:
    state = tk.load_model(folder / "student.safetensors").state_dict()
    return hashlib.sha256(b"".join(x.numpy().tobytes() for x in state.values())).hexdigest()


def evaluate(place: Path, folder: Path) -> Any:
    return command("evaluate", str(folder), "--json")


def tables(place: Path, folder: Path) -> Any:
    found = load_batch(place / "runs" / "quick")
    return found.table.to_csv(), found.history.to_csv()


def listing(place: Path, folder: Path) -> Any:
    said = command("runs", str(place / "runs"))
    if notes := [f"{run.folder}: {run.note}" for run in list_runs(place / "runs") if run.note]:
        assert [line[:6] for line in said.splitlines()].count("quick/") == 3  # the others are listed all the same
        assert "damaged" in said or ": without" in said
        raise ValueError("\n".join(notes))
    return said


def reproduce(place: Path, folder: Path) -> Any:
    outcome = batch.reproduce(PROFILE, runs=place / "runs", echo=lambda line: None)
    if outcome.errors:
        assert cli.run_table(outcome).count("FAILED") == len(outcome.errors) <= 2
        raise ValueError("\n".join(outcome.errors.values()))
    if outcome.executed:
        raise Anew
    return cli.run_table(outcome), cli.score_table(outcome)


def resume(place: Path, folder: Path, **changes: Any) -> Any:
    (run,) = (run for run in plan(PROFILE) if run.folder == folder.name)
    assert run.experiment is not None
    finished = (folder / "metrics.json").exists()
    scores = run_experiment(replace(run.experiment, **changes), folder, progress="none")["full"]
    if not finished:
        raise Anew
    return scores


def go_on(place: Path, folder: Path, **changes: Any) -> Any:
    return run_experiment(replace(STOPPED, seed=int(folder.name), **changes), folder, progress="none")["full"]


OF_A_BATCH: dict[str, Callable[..., Any]] = {"tables": tables, "runs": listing, "reproduce": reproduce}
OF_A_RUN = {"load": load, "evaluate": evaluate, "resume": resume, "resume, other lr": partial(resume, lr=0.5)}
OF_A_STOPPED = {"go on": go_on, "go on, other lr": partial(go_on, lr=0.5)}
READERS = OF_A_BATCH | OF_A_RUN | OF_A_STOPPED


def look(reader: str, place: Path, folder: Path) -> tuple[str, Any]:
    """("answer", what the reader says), ("refused", why), ("bare", the error) or ("anew", "")."""
    try:
        return "answer", READERS[reader](place, folder)
    except Anew:
        return "anew", ""
    except Exception as error:
        kind = isinstance(error, ValueError | OSError | RuntimeError) and str(place) in str(error)
        return "refused" if kind else "bare", f"{type(error).__name__}: {error}"


def main(count: int, seed: int = 0, show: Callable[[str], None] = print) -> Counter[tuple[str, str]]:
    """Do `count` trials: how often each reader did what, by (reader, what); every fault is shown."""
    rng, counts = random.Random(seed), Counter[tuple[str, str]]()
    nothing_runs = mock.patch.multiple(batch, preflight=lambda *given: ("", 0.0), execute=lambda run, root, *more: "")
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings(action="ignore"), nothing_runs:
        whole, damaged, place = (Path(home) / name for name in ("whole", "damaged", "place"))
        make(whole)
        truths: dict[tuple[str, Path], Any] = {}
        for trial in range(count):
            shutil.copytree(whole, damaged)
            path, how = hurt(damaged, rng)
            file = path.relative_to(damaged)
            folder = file.parent.parent if "checkpoint" in file.parts else file.parent
            readers = OF_A_STOPPED if "stopped" in file.parts else OF_A_BATCH
            for name in readers | (OF_A_RUN if folder.name.startswith("student-") else {}):
                answers = []
                for source in (damaged,) if (name, folder) in truths else (damaged, whole):
                    shutil.copytree(source, place)
                    answers.append(look(name, place, place / folder))
                    shutil.rmtree(place)
                truths.setdefault((name, folder), answers[-1])
                (did, said), truth = answers[0], truths[name, folder]
                did = did if did != "answer" else "same" if (did, said) == truth else "silent"
                counts[name, did] += 1
                if did in ("silent", "bare"):
                    show(f"trial {trial}, {file}, {how}: {name} is {did}: {said}"[:600])
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
