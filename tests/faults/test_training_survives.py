"""Training that is killed, signalled, starved of disk or data, or started twice: real processes, real signals."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from transkd_lite.training.checkpoint import list_checkpoints
from transkd_lite.training.folder import is_finished, read_run

if os.name == "nt":
    pytest.skip("signals and forked processes are those of POSIX", allow_module_level=True)
sys.path.insert(0, str(Path(__file__).parent))  # the processes import run_fit by name
from run_fit import die_in_mid_write, start

pytestmark = pytest.mark.timeout(900)


def assert_same(first: Path, second: Path) -> None:
    a, b = (torch.load(path, weights_only=True) for path in (first, second))
    assert a["student"].keys() == b["student"].keys()
    assert all(torch.equal(a["student"][name], b["student"][name]) for name in a["student"])
    assert a["history"] == b["history"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights and history of a run that nobody touched (distilled, with dropout, saving every other step)."""
    root = tmp_path_factory.mktemp("undisturbed")
    start(root / "run", root / "weights.pt", method="transkd-base").finish()
    return root / "weights.pt"


def test_killed_damaged_and_resumed_ends_with_the_same_bits(undisturbed: Path, tmp_path: Path) -> None:
    folder, weights = tmp_path / "run", tmp_path / "weights.pt"
    process = start(folder, weights, method="transkd-base", at={5: partial(signal.raise_signal, signal.SIGKILL)})
    assert process.end() == -signal.SIGKILL
    assert read_run(folder).state == "interrupted"
    saved = list_checkpoints(folder / "checkpoint")
    assert [int(path.name[5:13]) for path in saved] == [2, 4]
    content = bytearray(saved[-1].read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    saved[-1].write_bytes(bytes(content))
    log = start(folder, weights, method="transkd-base").finish()
    assert "is damaged" in log
    assert saved[-1].name in log
    assert torch.load(weights, weights_only=True)["resumed"] == 2
    assert_same(weights, undisturbed)
    assert read_run(folder).state == "finished"
    assert not (folder / "checkpoint").exists()


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 2, 4, 6, 8])
def test_killed_at_any_moment_it_ends_with_the_same_bits(undisturbed: Path, tmp_path: Path, step: int) -> None:
    """Killed before every change of its folder after that step, it goes on from a whole checkpoint each time."""
    folder, weights = tmp_path / "run", tmp_path / "weights.pt"
    for change in range(1, 1 + torch.load(undisturbed, weights_only=True)["changes"][step]):
        process = start(folder, weights, method="transkd-base", strike=(step, change))
        assert process.end() == -signal.SIGKILL, change
        if is_finished(folder):
            break  # only the checkpoints that are no longer needed were left to remove
    start(folder, weights, method="transkd-base").finish()
    assert_same(weights, undisturbed)
    assert not list(folder.rglob(".tmp-*"))


def test_killed_in_the_middle_of_a_write_it_ends_with_the_same_bits(undisturbed: Path, tmp_path: Path) -> None:
    folder, weights = tmp_path / "run", tmp_path / "weights.pt"
    assert start(folder, weights, method="transkd-base", at={3: die_in_mid_write}).end() == -signal.SIGXFSZ
    assert [path.stat().st_size for path in folder.rglob(".tmp-*")] == [20_000_000]
    start(folder, weights, method="transkd-base").finish()
    assert torch.load(weights, weights_only=True)["resumed"] == 2
    assert_same(weights, undisturbed)
    assert not list(folder.rglob(".tmp-*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_a_signal_saves_first(undisturbed: Path, tmp_path: Path, number: int, code: int) -> None:
    folder, weights = tmp_path / "run", tmp_path / "weights.pt"
    at = {3: partial(signal.raise_signal, number)}
    process = start(folder, weights, method="transkd-base", at=at, checkpoint_every=100)
    assert process.end() == code
    assert read_run(folder).state == "interrupted"
    (saved,) = list_checkpoints(folder / "checkpoint")
    assert int(saved.name[5:13]) == 3
    start(folder, weights, method="transkd-base", checkpoint_every=100).finish()
    assert_same(weights, undisturbed)


def test_a_second_run_in_the_folder_is_refused_and_does_no_harm(tmp_path: Path) -> None:
    folder, weights = tmp_path / "run", tmp_path / "weights.pt"
    first = start(folder, weights, at={3: signal.pause})
    first.wait_for_step(3)
    second = start(folder, tmp_path / "other.pt")
    assert second.end() == 1
    assert f"is held by process {first.process.pid}" in second.log
    assert first.process.is_alive()
    first.process.kill()
    first.end()
    assert read_run(folder).info["pid"] == first.process.pid


def test_a_vanished_file_is_named_and_costs_no_step(tmp_path: Path) -> None:
    marker, folder, weights = tmp_path / "street 2.png", tmp_path / "run", tmp_path / "weights.pt"
    marker.touch()
    options = {"marker": str(marker), "cache_mb": 0, "checkpoint_every": None, "log_every": 1}
    # By step 3 sample 2 has been seen, since an epoch has three steps.
    process = start(folder, weights, at={3: marker.unlink}, **options)
    assert process.end() == 1
    assert "UnreadableSampleError: every sample must be readable; number 2 of 6 is not" in process.log
    assert str(marker) in process.log
    run = read_run(folder)
    assert (run.state, "street 2.png" in run.info["error"]) == ("failed", True)
    (saved,) = list_checkpoints(folder / "checkpoint")
    assert int(saved.name[5:13]) >= 3
    marker.touch()
    start(folder, weights, **options).finish()
    assert torch.load(weights, weights_only=True)["resumed"] == int(saved.name[5:13])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_a_clear_error_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    # A checkpoint of B0 with its two moments has about 45 MB: the second still fits, the third does not.
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=110m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"this machine cannot mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        (disk / "ballast").write_bytes(b"\0" * 10_000_000)
        process = start(disk / "run", tmp_path / "weights.pt")
        assert process.end() == 1
        assert "No space left on device" in process.log
        assert "free space or choose another folder" in process.log
        saved = [path.name[:13] for path in list_checkpoints(disk / "run" / "checkpoint")]
        assert saved == ["step-00000002", "step-00000004"]
        assert not list((disk / "run").rglob(".tmp-*"))
        (disk / "ballast").unlink()
        start(disk / "run", tmp_path / "weights.pt", checkpoint_every=None).finish()
        assert torch.load(tmp_path / "weights.pt", weights_only=True)["resumed"] == 4
    finally:
        subprocess.run(["umount", str(disk)], check=True)
