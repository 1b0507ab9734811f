"""Run folders: files whole or absent, one process at a time, and a state that tells the truth."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from transkd_lite.data.whole import DamagedRunError, seal, write_json
from transkd_lite.training.folder import (
    RunLockedError,
    caveats,
    is_finished,
    list_runs,
    lock_run,
    provenance,
    read_run,
    run_name,
)

HOLD = """
import signal, sys
from transkd_lite.data.whole import write_json
from transkd_lite.training.folder import lock_run
with lock_run(sys.argv[1]):
    write_json(sys.argv[1] + "/run.json", {"state": "running", "pid": 4242})
    print("held", flush=True)
    signal.pause()
"""


def test_the_hash_sees_values_and_nothing_else() -> None:
    base = {"lr": 0.1, "size": (64, 128), "options": {"a": 1, "b": None}}
    same = {"options": {"b": None, "a": 1}, "size": [64, 128], "lr": 0.1}
    names = [run_name("student", "kd", 3, parameters) for parameters in (base, same, {**base, "lr": 0.2})]
    assert names[0] == names[1] != names[2]
    assert re.fullmatch("student-kd-s3-[0-9a-f]{8}", names[0])


def test_importing_folders_does_not_import_torch() -> None:
    code = "import sys, transkd_lite.training.folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


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
        write_json(folder / "run.json", {"state": "failed"})
    assert read_run(folder).state == "failed"
    write_json(folder / "metrics.json", {"loss": 1.0})
    assert read_run(folder).state == "finished"
    assert [run.name for run in list_runs(tmp_path)] == [folder.name]


def test_a_damaged_record_is_neither_an_unfinished_run_nor_another_one(tmp_path: Path) -> None:
    for name in ("whole", "cut", "zeroed", "gone", "swapped"):
        write_json(tmp_path / name / "run.json", {"parameters": {"method": "transkd-base"}, "name": name})
        (tmp_path / name / "student.safetensors").touch()
        seal(tmp_path / name, {"steps": 3, "full": {"miou": 0.5}})
    (tmp_path / "cut" / "metrics.json").write_text('{"full": {"miou"')
    (tmp_path / "zeroed" / "run.json").write_bytes(b"\0" * 512)
    (tmp_path / "gone" / "run.json").unlink()
    (tmp_path / "swapped" / "run.json").write_bytes((tmp_path / "whole" / "run.json").read_bytes())
    (tmp_path / "whole" / "student.safetensors").unlink()
    assert all(is_finished(folder) for folder in tmp_path.iterdir())
    notes = {run.name: run.note.replace(f"{run.folder}{os.sep}", "").split(":")[0] for run in list_runs(tmp_path)}
    changed = "run.json is not what its run left (another size or SHA-256 than metrics.json says)"
    assert notes == {
        "whole": "without student.safetensors",
        "cut": "metrics.json cannot be read (Expecting '",
        "zeroed": changed,
        "gone": "run.json is missing",
        "swapped": changed,
    }
    assert [run.state for run in list_runs(tmp_path)] == ["damaged"] * 3 + ["finished", "damaged"]
    with pytest.raises(DamagedRunError, match=r"delete the run folder .*swapped and give the command"):
        read_run(tmp_path / "swapped")
    with pytest.raises(FileNotFoundError, match=r"run\.json or metrics\.json"):
        read_run(tmp_path)


def test_a_run_whose_notebook_failed_after_it_has_failed_and_its_record_is_left_alone(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"state": "finished"})
    with pytest.raises(DamagedRunError, match=r"metrics\.json is missing, though run\.json .*: give the command"):
        read_run(tmp_path)
    (tmp_path / "checkpoint").mkdir()
    assert read_run(tmp_path).state == "interrupted"  # killed before its metrics were written
    (tmp_path / "failed.ipynb").touch()
    assert read_run(tmp_path).state == "failed"


def test_provenance_names_versions_and_commit() -> None:
    found = json.loads(json.dumps(provenance()))
    assert {"versions", "python", "commit", "dirty", "pid", "started"} <= set(found)
    assert "torch" in found["versions"]


def test_unlike_precision_or_threads_are_said() -> None:
    new = {"precision": "fp32", "threads": "2"}
    assert caveats([new, new]) == []
    (unlike,) = caveats([new, {**new, "precision": "bf16"}, {"threads": 2}])
    assert unlike.startswith("The runs differ in precision (fp32 in 1 runs, bf16 in 1 runs)")
