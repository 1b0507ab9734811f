"""Run folders: files whole or absent, one process at a time, and a state that tells the truth."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from transkd_lite.data import files
from transkd_lite.training.folder import (
    RunLockedError,
    caveats,
    hash_parameters,
    is_finished,
    list_runs,
    lock_run,
    provenance,
    read_run,
    update_run,
    write_json,
)

HOLD = """
import signal, sys
from transkd_lite.training.folder import lock_run, write_json
with lock_run(sys.argv[1]):
    write_json(sys.argv[1] + "/run.json", {"state": "running", "pid": 4242})
    print("held", flush=True)
    signal.pause()
"""
FILL = """
import resource, signal, sys
from transkd_lite.data.files import atomic_write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
atomic_write(sys.argv[1], b"y" * 5000)
"""


def test_the_hash_sees_values_and_nothing_else() -> None:
    base = {"lr": 0.1, "size": (64, 128), "options": {"a": 1, "b": None}}
    same = {"options": {"b": None, "a": 1}, "size": [64, 128], "lr": 0.1}
    assert hash_parameters(base) == hash_parameters(same)
    assert len(hash_parameters(base)) == 8
    assert hash_parameters(base) != hash_parameters({**base, "lr": 0.2})


def test_importing_folders_does_not_import_torch() -> None:
    code = "import sys, transkd_lite.training.folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_beside(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.txt"
    files.atomic_write(target, "old")
    files.atomic_write(target, "new")
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["file.txt"]


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", FILL, str(target)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "could not write 0.0 MB (File too large)" in done.stderr
    assert "file.bin" in done.stderr
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / ".tmp-abc").write_bytes(b"half")
    (tmp_path / "history.csv").write_text("kept")
    files.sweep_temporary(tmp_path)
    assert not any((tmp_path / "checkpoint").iterdir())
    assert (tmp_path / "history.csv").exists()


def test_one_process_at_a_time_and_the_state_follows(tmp_path: Path) -> None:
    folder = tmp_path / "student-none-s0-00000000"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunLockedError, match=r"is held by process 4242"), lock_run(folder):
            pass
        assert read_run(folder).state == "running"
    finally:
        holder.kill()
        holder.wait()
    assert read_run(folder).state == "interrupted"  # run.json still says running, but nobody is there
    with lock_run(folder):
        update_run(folder, state="failed")
    assert read_run(folder).state == "failed"
    write_json(folder / "metrics.json", {"loss": 1.0})
    assert read_run(folder).state == "finished"
    assert [run.name for run in list_runs(tmp_path)] == [folder.name]


def test_half_a_metrics_file_is_not_a_finished_run(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"full": {"miou"')
    assert not is_finished(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"run\.json or metrics\.json"):
        read_run(tmp_path)


def test_provenance_names_versions_and_commit() -> None:
    found = json.loads(json.dumps(provenance()))
    assert {"versions", "python", "commit", "dirty", "pid", "started"} <= set(found)
    assert "torch" in found["versions"]


def test_old_heads_and_unlike_precision_or_threads_are_said() -> None:
    new = {"precision": "fp32", "threads": "2", "initial_values": "published"}
    assert caveats([new, new]) == []
    old, unlike = caveats([new, {**new, "precision": "bf16"}, {"threads": 2}])
    assert old.startswith("Measured with heads whose initial values were too large")
    assert unlike.startswith("The runs differ in precision (fp32 in 1 runs, bf16 in 1 runs)")
