"""Files written whole, and damage that is noticed when they are read."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from transkd_lite.data import whole
from transkd_lite.data.whole import DamagedRunError, read_json, seal, verified, write_json

FILL = """
import resource, signal, sys
from transkd_lite.data.whole import atomic_write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
atomic_write(sys.argv[1], b"y" * 5000)
"""


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_beside(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.txt"
    whole.atomic_write(target, "old")
    whole.atomic_write(target, "new")
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["file.txt"]


@pytest.mark.skipif(os.name == "nt", reason="the limit of a file's size is that of POSIX")
def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", FILL, str(target)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "could not write 0.0 MB (File too large)" in done.stderr
    assert "file.bin" in done.stderr
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_what_a_killed_writer_left_is_swept_from_the_named_folders_alone(tmp_path: Path) -> None:
    own, of_another = tmp_path / "checkpoint", tmp_path / "student-none-s0-0a"
    for folder in (tmp_path, own, of_another):
        folder.mkdir(exist_ok=True)
        (folder / ".tmp-abc").write_bytes(b"half")
    (tmp_path / "history.csv").write_text("kept")
    whole.sweep_temporary(tmp_path, own, tmp_path / "not there")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [".tmp-abc", "history.csv"]
    assert (of_another / ".tmp-abc").exists()


def test_a_record_ends_with_the_digest_of_its_text_and_is_read_without(tmp_path: Path) -> None:
    text = write_json(tmp_path / "a.json", {"miou": 0.5, "run": {"seed": 1}}).read_text()
    assert text.startswith('{\n  "miou": 0.5,\n')
    before, _, after = text.rpartition('"sha256": "')
    assert after == hashlib.sha256(f'{before}"sha256": "'.encode()).hexdigest() + '"\n}\n'
    assert read_json(tmp_path / "a.json") == {"miou": 0.5, "run": {"seed": 1}}
    assert read_json(tmp_path / "missing.json") == {}


def test_no_damage_of_one_byte_and_no_cut_changes_a_record_without_a_word(tmp_path: Path) -> None:
    value = {"miou": 0.25, "name": "straße", "files": {"a": 1}}
    path = write_json(tmp_path / "a.json", value)
    content, noticed, tried = path.read_bytes(), 0, 0
    hurt = [content[:k] + bytes([byte]) + content[k + 1 :] for k in range(len(content)) for byte in b'\0 "0\\}a\xff']
    for damaged in hurt + [content[:k] for k in range(len(content))]:
        path.write_bytes(damaged)
        tried += damaged != content
        try:
            found = read_json(path)
        except DamagedRunError:
            noticed += 1
        else:
            assert found == value
    assert tried - noticed == 3  # of the white space behind the digest: two blanks, and the cut of the last


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "cannot be read"),
        (b'{"miou": 0.2', "cannot be read"),
        (b"\0" * 600, "cannot be read"),
        (b"[1]", "is not what was written"),
    ],
)
def test_what_is_no_json_object_is_no_empty_one(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(DamagedRunError, match=rf"run\.json {found}.*: delete it and give the command"):
        read_json(tmp_path / "run.json")


def test_what_an_earlier_version_wrote_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"commit": "0" * 40, "error": None}))
    assert read_json(tmp_path / "run.json") == {"commit": "0" * 40, "error": None}
    (tmp_path / "metrics.json").write_text('{"full": {}}')
    assert verified(tmp_path / "student.safetensors") == tmp_path / "student.safetensors"


def test_missing_unreadable_and_changed_files_of_a_finished_run_are_told_apart(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("student.safetensors", "history.csv", "run.json")}
    for name, path in files.items():
        path.write_text(name)
    seal(tmp_path, {"steps": 3})
    kept = json.loads((tmp_path / "metrics.json").read_text())
    assert set(kept) == {"steps", "files", "sha256"}
    assert kept["files"]["run.json"] == {"bytes": 8, "sha256": hashlib.sha256(b"run.json").hexdigest()}
    assert [verified(path) for path in files.values()] == list(files.values())
    files["history.csv"].write_text("history.CSV")
    files["student.safetensors"].unlink()
    files["run.json"].unlink()
    files["run.json"].mkdir()
    remedy = rf": delete the run folder {tmp_path} and give the command that made it again"
    for name, found in (
        ("history.csv", r"is not what its run left \(another size or SHA-256 than metrics\.json says\)"),
        ("student.safetensors", "is missing"),
        ("run.json", r"cannot be read \(.*directory.*\)"),
    ):
        with pytest.raises(DamagedRunError, match=f"{name} {found}{remedy}"):
            verified(files[name])


def test_only_the_names_of_a_run_are_looked_up(tmp_path: Path) -> None:
    """Other projects have files called metrics.json, too."""
    (tmp_path / "metrics.json").write_text("[1, 2]")
    assert verified(tmp_path / "model.safetensors") == tmp_path / "model.safetensors"
