"""The main job, small: a whole batch through papermill, done again, repaired, and on photographs."""

import json
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from transkd_lite.results import tables

pytestmark = [pytest.mark.notebook, pytest.mark.timeout(900)]


def transkd(*arguments, cwd, python=()):
    command = [sys.executable, *python, "-m", "transkd_lite.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=800)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with a space in its name, and the finished smoke batch in it."""
    folder = tmp_path_factory.mktemp("a place")
    done = transkd("reproduce", "smoke", "--runs", folder / "runs", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def folders(batch):
    return {path.name: path for path in batch.iterdir() if path.is_dir()}


def test_a_batch_ends_with_finished_folders_a_table_and_a_report(place):
    folder, printed = place
    batch = folder / "runs" / "smoke"
    table = tables.results_table(batch)
    assert set(tables.students(table)["method"]) == {"none", "transkd-base"}
    assert table["miou"].between(0, 1).all()
    for name in ("transkd-base", "mIoU", "report.html"):
        assert name in printed
    for path in folders(batch).values():
        assert json.loads((path / "metrics.json").read_text())
        assert not (path / "checkpoint").exists()
        if not path.name.startswith("lesson"):
            assert {"run.json", "history.csv", "student.safetensors"} <= {file.name for file in path.iterdir()}


def test_the_report_is_whole_and_asks_nothing_of_the_network(place):
    page = (place[0] / "runs" / "smoke" / "report.html").read_text()
    for words in ("is the student alone", "Which classes gain", "published, 68.58", "measured, "):
        assert words in page
    assert page.count("<img") >= 4  # one seed has no intervals to draw
    for fetched in ('src="http', 'link rel="stylesheet" href="http', "cdnjs"):
        assert fetched not in page


def test_curves_and_scores_are_those_of_the_runs(place):
    batch = tables.load_batch(place[0] / "runs" / "smoke")
    last = batch.history[batch.history["step"] == batch.history["step"].max()]
    assert set(last["method"]) == {"none", "transkd-base"}
    for row in batch.table.itertuples():
        stored = json.loads((batch.root / row.run / "metrics.json").read_text())
        assert stored[row.protocol]["miou"] == row.miou


def test_a_finished_batch_does_nothing_says_so_and_never_waits_for_torch(place):
    folder, _ = place
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*") if path.is_file()}
    again = transkd("reproduce", "smoke", "--runs", folder / "runs", cwd=folder, python=["-X", "importtime"])
    assert again.returncode == 0
    assert "nothing" in again.stdout.lower()
    imported = {line.split()[-1] for line in again.stderr.splitlines()}
    assert "transkd_lite.experiments.profile" in imported
    assert not imported & {"torch", "papermill", "datasets", "dask"}
    after = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*") if path.is_file()}
    assert {path for path in before if after.get(path) != before[path]} <= {folder / "runs" / "smoke" / ".lock"}


def test_a_deleted_run_is_redone_alone_and_comes_out_the_same(place):
    folder, _ = place
    batch = folder / "runs" / "smoke"
    (name,) = [name for name in folders(batch) if name.startswith("student-none")]
    scores = json.loads((batch / name / "metrics.json").read_text())["full"]
    others = {n: (p / "metrics.json").stat().st_mtime_ns for n, p in folders(batch).items() if n != name}
    shutil.rmtree(batch / name)
    assert transkd("reproduce", "smoke", "--runs", folder / "runs", cwd=folder).returncode == 0
    assert {n: (batch / n / "metrics.json").stat().st_mtime_ns for n in others} == others
    assert json.loads((batch / name / "metrics.json").read_text())["full"] == scores


def test_the_same_batch_runs_on_photographs(tmp_path):
    root = os.environ.get("TRANSKD_CAMVID_ROOT")
    if not root:
        pytest.skip("TRANSKD_CAMVID_ROOT is not set: point it at the CamVid folder that holds train and trainannot")
    done = transkd("reproduce", "camvid", "--data-root", root, "--smoke", "--runs", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    table = tables.results_table(tmp_path / "camvid-smoke")
    assert set(table["dataset"]) == {"camvid"}
    assert pd.notna(table["iou_bicyclist"]).any()
    assert (tmp_path / "camvid-smoke" / "report.html").is_file()
