"""Protects: the table at the end of a batch says of every variant what its own runs scored."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from transkd_lite.cli import app, run_table, score_table
from transkd_lite.data.whole import METRICS_FILE, seal, write_json
from transkd_lite.experiments.batch import Outcome, progress_line
from transkd_lite.experiments.experiment import Experiment
from transkd_lite.experiments.profile import PlannedRun


@pytest.fixture
def outcome(tmp_path):
    scores = {
        ("none", ""): (0.10, 0.12),
        ("kd", ""): (0.11, 0.15),
        ("none", "long"): (0.20, 0.22),
        ("kd", "long"): (0.25, 0.26),
        ("kd", "cold"): (0.13, 0.13),
    }
    runs = []
    for (method, variant), values in scores.items():
        for seed, miou in enumerate(values):
            folder = f"student-{method}-s{seed}-{len(runs):08d}"
            write_json(tmp_path / folder / METRICS_FILE, {"full": {"miou": miou}, "wall_s": 3.0})
            experiment = Experiment(method=method, seed=seed, teacher=None if method == "none" else "run:t")
            runs.append(PlannedRun("student", folder, Path("x.ipynb"), {}, None, experiment, variant))
    return Outcome(tmp_path, runs)


def test_variants_are_lines_of_their_own_beside_their_own_student_alone(outcome):
    lines = [line.rsplit(maxsplit=4) for line in score_table(outcome).splitlines()[1:]]
    assert {name.strip(): (seeds, mean, gain) for name, seeds, mean, _, gain in lines} == {
        "none": ("2", "11.00", "-"),
        "kd": ("2", "13.00", "+2.00"),
        "none (long)": ("2", "21.00", "+10.00"),
        "kd (long)": ("2", "25.50", "+4.50"),
        "kd (cold)": ("2", "13.00", "+2.00"),
    }


def test_a_listing_says_which_run_is_damaged_and_goes_on(tmp_path):
    for name in ("a", "b", "c"):
        write_json(tmp_path / name / "run.json", {"parameters": {}})
        seal(tmp_path / name, {"full": {"miou": 0.25}, "wall_s": 3.0})
    (tmp_path / "b" / "run.json").write_bytes(b"\0")
    (tmp_path / "c" / "metrics.json").write_text('{"full": {"miou": 0.5}}')  # as earlier versions wrote it
    done = CliRunner().invoke(app, ["runs", str(tmp_path)])
    assert done.exit_code == 0
    rows = [line.split() for line in done.output.splitlines()]
    assert [row[:4] for row in rows[1:4]] == [
        ["a", "finished", "25.0", "3.0"],
        ["b", "damaged", "-", "-"],
        ["c", "finished", "50.0", "-"],
    ]
    told, old = done.output.splitlines()[4:]
    assert told.startswith(f"b (damaged): {tmp_path / 'b' / 'run.json'} is not what its run left")
    assert old == "c (finished): of an earlier version, without digests"
    listed = json.loads(CliRunner().invoke(app, ["runs", str(tmp_path), "--json"]).output)
    assert [(run["state"], bool(run["note"])) for run in listed] == [
        ("finished", False),
        ("damaged", True),
        ("finished", True),
    ]


def test_a_line_of_a_run_names_its_variant(outcome):
    assert "student-kd-s0-00000006 (long) " in run_table(outcome)
    told = progress_line(7, 10, outcome.root, outcome.runs[6], "")
    assert told == "[ 7/10] student-kd-s0-00000006 (long) finished, 3.0 s, mIoU 25.0 %"
    (outcome.root / outcome.runs[6].folder / METRICS_FILE).write_bytes(b"damaged")
    told = progress_line(7, 10, outcome.root, outcome.runs[6], "it is damaged")
    assert told == "[ 7/10] student-kd-s0-00000006 (long) FAILED: it is damaged"
