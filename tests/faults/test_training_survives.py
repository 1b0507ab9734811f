"""Training that is killed, signalled, starved of disk or data, or started twice: real processes, real signals."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from transkd_lite import runs
from transkd_lite.checkpoint import list_checkpoints

if os.name == "nt":
    pytest.skip("signals and forked processes are those of POSIX", allow_module_level=True)
sys.path.insert(0, str(Path(__file__).parent))  # the processes import run_fit by name
from run_fit import start

pytestmark = pytest.mark.timeout(300)


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
    process = start(folder, weights, method="transkd-base", slow_s=0.05)
    process.wait_for_step(5)
    process.send(signal.SIGKILL)
    assert process.end() == -signal.SIGKILL
    assert runs.read_run(folder).state == "interrupted"
    saved = list_checkpoints(folder / "checkpoint")
    assert 1 <= len(saved) <= 2  # the last two are kept
    content = bytearray(saved[-1].read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    saved[-1].write_bytes(bytes(content))
    log = start(folder, weights, method="transkd-base").finish()
    assert "is damaged" in log
    assert saved[-1].name in log
    assert torch.load(weights, weights_only=True)["resumed"] == int(saved[0].name[5:13])
    assert_same(weights, undisturbed)
    assert runs.read_run(folder).state == "finished"
    assert not (folder / "checkpoint").exists()


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bits(undisturbed: Path, tmp_path: Path) -> None:
    """Strikes at random times until a run gets through; each time it goes on from a whole checkpoint."""
    folder, weights = tmp_path / "run", tmp_path / "weights.pt"
    rng = random.Random(0)
    for _ in range(5):
        process = start(folder, weights, method="transkd-base", slow_s=0.02)
        time.sleep(rng.uniform(0.2, 1.5))
        process.send(signal.SIGKILL)
        process.end()
    start(folder, weights, method="transkd-base").finish()
    assert_same(weights, undisturbed)
    assert not list(folder.rglob(".tmp-*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_a_signal_saves_first(undisturbed: Path, tmp_path: Path, number: int, code: int) -> None:
    folder, weights = tmp_path / "run", tmp_path / "weights.pt"
    process = start(folder, weights, method="transkd-base", slow_s=0.3, checkpoint_every=100)
    process.wait_for_step(3)
    process.send(number)
    assert process.end() == code
    assert runs.read_run(folder).state == "interrupted"
    (saved,) = list_checkpoints(folder / "checkpoint")
    assert 3 <= int(saved.name[5:13]) <= 4
    start(folder, weights, method="transkd-base", checkpoint_every=100).finish()
    assert_same(weights, undisturbed)


def test_a_second_run_in_the_folder_is_refused_and_does_no_harm(tmp_path: Path) -> None:
    folder, weights = tmp_path / "run", tmp_path / "weights.pt"
    first = start(folder, weights, steps=40, slow_s=0.2)
    first.wait_for_step(3)
    second = start(folder, tmp_path / "other.pt", steps=40)
    assert second.end() == 1
    assert f"is held by process {first.process.pid}" in second.log
    assert first.process.is_alive()
    first.send(signal.SIGKILL)
    first.end()
    assert runs.read_run(folder).info["pid"] == first.process.pid


def test_a_vanished_file_is_named_and_costs_no_step(tmp_path: Path) -> None:
    marker, folder, weights = tmp_path / "street 2.png", tmp_path / "run", tmp_path / "weights.pt"
    marker.touch()
    options = {"marker": str(marker), "cache_mb": 0, "checkpoint_every": None, "log_every": 1}
    process = start(folder, weights, slow_s=0.3, **options)
    process.wait_for_step(3)  # by then sample 2 has been seen, since an epoch has three steps
    marker.unlink()
    assert process.end() == 1
    assert "UnreadableSampleError: every sample must be readable; number 2 of 6 is not" in process.log
    assert str(marker) in process.log
    run = runs.read_run(folder)
    assert (run.state, "street 2.png" in run.info["error"]) == ("failed", True)
    (saved,) = list_checkpoints(folder / "checkpoint")
    assert int(saved.name[5:13]) >= 3
    marker.touch()
    start(folder, weights, **options).finish()
    assert torch.load(weights, weights_only=True)["resumed"] == int(saved.name[5:13])


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root"
)
def test_a_full_disk_is_a_clear_error_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    # A checkpoint of B0 with its two moments has about 45 MB: the second still fits, the third does not.
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=110m", "tmpfs", str(disk)], capture_output=True
    )
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
