"""Protects: a batch is strict where papermill is lenient, goes on after a failure, and never runs a finished run."""

import json
import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
from quick import FIXTURES, PARAMETERS

from transkd_lite.cli import run_table, score_table
from transkd_lite.distill.methods import list_methods
from transkd_lite.experiments import batch, notebook
from transkd_lite.experiments.batch import reproduce
from transkd_lite.experiments.notebook import NotebookFailed, execute_notebook
from transkd_lite.experiments.profile import PlannedRun, Profile
from transkd_lite.training.config import ParameterError
from transkd_lite.training.folder import lock_run, read_run
from transkd_lite.training.interrupts import StopRequest

pytestmark = pytest.mark.notebook


def quick(notebook: str = "quick_run", **changes) -> Profile:
    profile = Profile(
        name="quick",
        about="fixture",
        notebooks=FIXTURES,
        parameters=PARAMETERS,
        teacher={},
        students={},
        methods=("none", "kd"),
        teacher_notebook="quick_run",
        student_notebook=notebook,
        report=None,
    )
    return replace(profile, **changes)


@pytest.fixture(autouse=True)
def _names_are_checked_elsewhere(request, monkeypatch):
    """Keep torch out of the tests that are about notebooks."""
    if "preflight" not in request.node.name:
        monkeypatch.setattr(batch, "preflight", lambda *given: ("", 0.0))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished batch with a report, in a folder with a space in its name, and its outcome."""
    patch = pytest.MonkeyPatch()
    patch.setattr(batch, "preflight", lambda *given: ("", 0.0))
    runs = tmp_path_factory.mktemp("some runs")
    outcome = reproduce(quick(lessons=(("lesson", {}),), report="report"), runs=runs, echo=lambda line: None)
    patch.undo()
    return runs, outcome


def test_every_run_gets_a_finished_folder_with_its_executed_notebook(finished):
    _, outcome = finished
    assert not outcome.errors
    assert [run.kind for run in outcome.runs] == ["lesson", "teacher", "student", "student"]
    for run in outcome.runs:
        assert read_run(outcome.root / run.folder).state == "finished"
        executed = json.loads((outcome.root / run.folder / run.notebook.name).read_text())
        assert all(cell.get("execution_count") for cell in executed["cells"] if cell["cell_type"] == "code")
    given = json.loads((outcome.root / outcome.runs[3].folder / "run.json").read_text())["parameters"]
    assert given["method"] == "kd"


def test_the_report_is_one_file_without_code_that_asks_nothing_of_the_network(finished):
    _, outcome = finished
    page = outcome.report.read_text()
    assert all(run.folder in page for run in outcome.runs)
    assert "glob(" not in page
    assert "<script" not in page
    assert "cdnjs" not in page
    assert json.loads((outcome.root / "batch.json").read_text())["runs"] == [r.folder for r in outcome.runs[1:]]


def test_the_tables_show_states_scores_and_paired_differences(finished):
    _, outcome = finished
    assert run_table(outcome).count("finished") == 4
    lines = {line.split()[0]: line.split()[1:] for line in score_table(outcome).splitlines()}
    assert lines["none"] == ["1", "10.00", "-", "-"]
    assert lines["kd"] == ["1", "15.00", "-", "+5.00"]


def test_a_finished_batch_runs_nothing_and_a_deleted_folder_is_made_again_alone(finished):
    runs, before = finished
    profile = quick(lessons=(("lesson", {}),), report="report")
    again = reproduce(profile, runs=runs, echo=lambda line: None)
    assert (again.executed, again.report_rendered) == ([], False)
    gone = before.runs[3].folder
    shutil.rmtree(before.root / gone)
    third = reproduce(profile, runs=runs, echo=lambda line: None)
    assert third.executed == [gone]
    assert not third.report_rendered  # the run came out the same, so the report still says the truth
    metrics = before.root / gone / "metrics.json"
    metrics.write_text(metrics.read_text().replace("0.15", "0.25"))
    assert reproduce(profile, runs=runs, echo=lambda line: None).report_rendered


def test_a_damaged_run_is_named_and_left_and_the_others_go_on(tmp_path):
    profile = quick(lessons=(("lesson", {}),), methods=("none",), teacher=None)
    first = reproduce(profile, runs=tmp_path, echo=lambda line: None)
    lesson, student = (first.root / run.folder for run in first.runs)
    content = (lesson / "run.json").read_bytes()
    (lesson / "run.json").write_bytes(content[:-90])
    (student / "metrics.json").unlink()
    again = reproduce(profile, runs=tmp_path, echo=lambda line: None)
    assert again.executed == [student.name]
    assert list(again.errors) == [lesson.name]
    assert again.errors[lesson.name].startswith(f"{lesson / 'run.json'} is not what its run left")
    assert (lesson / "run.json").read_bytes() == content[:-90]
    states = {line.split()[0]: line.split()[1] for line in run_table(again).splitlines()}
    assert (states[lesson.name], states[student.name]) == ("FAILED", "finished")
    shutil.rmtree(lesson)  # as the error says
    last = reproduce(profile, runs=tmp_path, echo=lambda line: None)
    assert (last.executed, last.errors) == ([lesson.name], {})


def test_a_damaged_list_of_runs_is_made_anew_with_the_report(tmp_path):
    profile = quick(methods=("none",), teacher=None, report="report")
    root = reproduce(profile, runs=tmp_path, echo=lambda line: None).root
    content = (root / "batch.json").read_bytes()
    for name in ("batch.json", "report.json"):
        (root / name).write_bytes(b"\0" * 99)
        assert reproduce(profile, runs=tmp_path, echo=lambda line: None).report_rendered
        assert not reproduce(profile, runs=tmp_path, echo=lambda line: None).report_rendered
    assert (root / "batch.json").read_bytes() == content


def test_a_batch_sweeps_only_where_it_holds_the_lock(finished):
    runs, before = finished
    own, of_a_live_run = before.root / ".tmp-0a", before.root / before.runs[3].folder / ".tmp-0b"
    own.write_bytes(b"half"), of_a_live_run.write_bytes(b"half")
    reproduce(quick(lessons=(("lesson", {}),), report="report"), runs=runs, echo=lambda line: None)
    assert (own.exists(), of_a_live_run.exists()) == (False, True)
    of_a_live_run.unlink()


def test_a_failure_is_kept_and_named_and_the_others_go_on(tmp_path):
    lines: list[str] = []
    outcome = reproduce(
        quick("raises_for_kd", teacher=None, students={"teacher": "run:x"}, methods=("kd", "none")),
        runs=tmp_path,
        echo=lines.append,
    )
    distilled, alone = outcome.runs
    assert outcome.executed == [distilled.folder, alone.folder]
    assert list(outcome.errors) == [distilled.folder]
    assert "ValueError: the loss of kd is not finite" in outcome.errors[distilled.folder]
    assert str(outcome.root / distilled.folder / "failed.ipynb") in outcome.errors[distilled.folder]
    assert (outcome.root / distilled.folder / "failed.ipynb").is_file()
    assert read_run(outcome.root / distilled.folder).state == "failed"
    assert ["FAILED" in line for line in lines] == [False, True, False]
    assert run_table(outcome).count("FAILED") == 1


def test_what_needs_a_failed_run_is_not_started(tmp_path):
    outcome = reproduce(quick(teacher_notebook="exits_early"), runs=tmp_path, echo=lambda line: None)
    teacher, alone, distilled = outcome.runs
    assert set(outcome.errors) == {teacher.folder, distilled.folder}
    assert "code cell 3 of 4 left the notebook by sys.exit()" in outcome.errors[teacher.folder]
    assert outcome.errors[distilled.folder] == f"not started: it needs {teacher.folder}, which failed"
    assert read_run(outcome.root / alone.folder).state == "finished"


def test_a_run_whose_notebook_fails_after_training_is_not_finished_but_not_trained_again(tmp_path):
    profile = quick("raises_after_training", teacher=None, methods=("none",))
    first = reproduce(profile, runs=tmp_path, echo=lambda line: None)
    folder = first.root / first.runs[0].folder
    assert "the figure could not be drawn" in first.errors[folder.name]
    assert not (folder / "metrics.json").exists()
    assert (folder / "metrics.withheld.json").exists()
    kept = (folder / "metrics.withheld.json").read_text()
    assert read_run(folder).state == "failed"
    os.replace(folder / "metrics.withheld.json", folder / "metrics.json")
    assert read_run(folder).state == "finished"  # its record is what the metrics vouch for
    os.replace(folder / "metrics.json", folder / "metrics.withheld.json")
    mended = quick(teacher=None, methods=("none",))
    assert not reproduce(mended, runs=tmp_path, echo=lambda line: None).errors
    assert json.loads((folder / "metrics.json").read_text())["full"] == json.loads(kept)["full"]
    assert not (folder / "failed.ipynb").exists()


def test_a_notebook_that_writes_no_metrics_has_failed(tmp_path):
    outcome = reproduce(
        quick("forgets_metrics", teacher=None, methods=("none",)), runs=tmp_path, echo=lambda line: None
    )
    assert "ended without writing metrics.json" in outcome.errors[outcome.runs[0].folder]


def test_a_kernel_that_cannot_start_is_started_again(tmp_path, monkeypatch):
    import papermill

    starts = []

    def start(notebook, target, **options):
        starts.append(target)
        if len(starts) == 1:
            raise RuntimeError("Kernel died before replying to kernel_info")
        Path(target).write_text(json.dumps({"cells": []}))

    monkeypatch.setattr(papermill, "execute_notebook", start)
    monkeypatch.setattr(notebook.time, "sleep", lambda seconds: None)
    execute_notebook(FIXTURES / "lesson.ipynb", tmp_path / "out.ipynb", {})
    assert len(starts) == 2
    monkeypatch.setattr(
        papermill, "execute_notebook", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("Kernel died"))
    )
    with pytest.raises(NotebookFailed, match=r"lesson\.ipynb: Kernel died"):
        execute_notebook(FIXTURES / "lesson.ipynb", tmp_path / "out.ipynb", {})


def test_two_batches_in_one_folder_are_refused(tmp_path):
    from transkd_lite.training.folder import RunLockedError

    with lock_run(tmp_path / "quick"), pytest.raises(RunLockedError, match="quick"):
        reproduce(quick(), runs=tmp_path, echo=lambda line: None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("none", "trankd-base")}, "did you mean transkd-base"),
        ({"students": {"network": "segformer_b00"}}, "did you mean segformer_b0"),
        ({"parameters": {"dataset": "camvid"}}, "pass --data-root"),
    ],
)
def test_preflight_refuses_wrong_names_and_missing_data_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(ParameterError, match=message):
        reproduce(quick(**changes), runs=tmp_path)
    assert not list(tmp_path.iterdir())


def test_kernels_get_their_threads_and_keep_freed_memory_and_this_process_stays_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")  # what a Dask worker sets
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_"]
    cell = nbformat.v4.new_code_cell(f"import os; print([os.environ[name] for name in {names}])")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "told.ipynb")
    assert not batch.execute(PlannedRun("lesson", "told", tmp_path / "told.ipynb", {}), tmp_path, threads=2)
    told = nbformat.read(tmp_path / "told" / "told.ipynb", 4).cells[0].outputs[0].text
    assert told == f"{['2', '2', str(2**30)]}\n"
    assert (os.environ["OMP_NUM_THREADS"], os.environ["MALLOC_TRIM_THRESHOLD_"]) == ("5", "65536")
    given = []
    monkeypatch.setattr(batch, "execute_notebook", lambda *all: given.append(all[3]) or all[1].write_text("{}"))
    batch.execute(PlannedRun("lesson", "told", tmp_path / "told.ipynb", {}), tmp_path)
    assert given == [{"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}]


@pytest.mark.slow
def test_two_jobs_run_side_by_side_with_their_order_kept(tmp_path):
    outcome = reproduce(quick(seeds=(0, 1)), runs=tmp_path / "with space", jobs=2, echo=lambda line: None)
    assert not outcome.errors
    assert sorted(outcome.executed) == sorted(run.folder for run in outcome.runs)
    teacher = outcome.runs[0].folder
    for run in outcome.runs:
        if run.needs:
            assert outcome.executed.index(teacher) < outcome.executed.index(run.folder)


@pytest.mark.slow
def test_jobs_take_the_runs_about_in_the_plans_order(monkeypatch, tmp_path):
    """A batch that is stopped half way has whole seeds, not some methods of each."""
    import time

    def nap(run, root, threads, needed):
        time.sleep(0.1)
        return ""

    monkeypatch.setattr(batch, "execute", nap)
    folders = [f"student-{m}-s{seed}-0a{k}f" for seed in range(3) for k, m in enumerate(list_methods()[:7])]
    runs = [PlannedRun("student", folder, tmp_path, {}) for folder in folders]
    with StopRequest() as stop:
        done = [runs.index(run) for run, _ in batch.execute_all(runs, tmp_path, 2, None, stop)]
    # A median: a worker that the machine lets wait puts two runs far behind and the others two places forward.
    assert np.median(np.abs(np.subtract(done, range(len(runs))))) <= 3
    assert sorted(done) == list(range(len(runs)))


@pytest.mark.slow
def test_a_worker_killed_in_mid_notebook_costs_nothing_but_time(tmp_path, monkeypatch):
    import threading
    import time

    from distributed import LocalCluster

    monkeypatch.delenv("PYTHONPATH", raising=False)  # a cold kernel is a child of its worker, which is to be killed
    profile = quick("slow_run", teacher=None, methods=("none",), seeds=(0, 1))
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as cluster:

        def kill_a_worker():
            while not (pids := "".join(path.read_text() for path in tmp_path.rglob("started"))).endswith("\n"):
                time.sleep(0.05)
            os.kill(int(pids.split()[0]), signal.SIGKILL)  # the process that started the notebook
            (tmp_path / "quick" / "go").touch()  # until then the notebooks wait

        threading.Thread(target=kill_a_worker, daemon=True).start()
        outcome = reproduce(profile, runs=tmp_path, scheduler=cluster.scheduler_address, echo=lambda line: None)
    assert not outcome.errors
    assert all(read_run(outcome.root / run.folder).state == "finished" for run in outcome.runs)
    attempts = [len((outcome.root / run.folder / "started").read_text().split()) for run in outcome.runs]
    assert sorted(attempts) == [1, 2]


def test_outputs_are_stored_in_place_only_when_every_cell_has_run(tmp_path):
    from store_outputs import store_outputs

    good, bad = (Path(shutil.copy(FIXTURES / f"{name}.ipynb", tmp_path)) for name in ("lesson", "exits_early"))
    store_outputs(good)
    stored = json.loads(good.read_text())
    assert stored["cells"][-1]["outputs"][0]["text"] == ["streets 32 64 plain\n"]
    assert [cell.get("execution_count") for cell in stored["cells"]] == [None, 1, 2]
    assert stored["cells"][1]["metadata"] == {"tags": ["parameters"]}
    assert "papermill" not in json.dumps(stored)
    before = bad.read_bytes()
    with pytest.raises(NotebookFailed):
        store_outputs(bad)
    assert bad.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exits_early.ipynb", "lesson.ipynb"]


def test_a_run_that_is_running_gives_signs_of_life(tmp_path):
    runs = [PlannedRun("student", name, Path("08.ipynb"), {}) for name in ("one", "two")]
    for name in ("one", "two"):
        (tmp_path / name / "checkpoint").mkdir(parents=True)
        (tmp_path / name / "checkpoint" / "progress.json").write_text(
            '{"step": 5, "steps": 90, "left_s": 150, "loss": 2}'
        )
    os.utime(tmp_path / "two" / "checkpoint" / "progress.json", (0, 0))  # it was stopped long ago
    told, heard = [], threading.Event()
    with batch.signs_of_life(tmp_path, runs, lambda line: (told.append(line), heard.set()), wait_s=0.01):
        assert heard.wait(20)
    assert set(told) == {"  one: step 5 of 90, loss 2, 2 min left"}
