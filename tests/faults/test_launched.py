"""A script and the command, launched on two processes as a user does it: one process's losses, and one writer."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from transkd_lite.training.folder import list_runs, read_run

sys.path.insert(0, str(Path(__file__).parent))
import launched

if os.name == "nt":
    pytest.skip("the launcher's rendezvous is that of POSIX here", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SCRIPT = launched.__file__
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# transkd-base has no mean over valid pixels; kd and dkd are such means.
METHOD = "transkd-base+kd+dkd"


def python(*arguments: str) -> str:
    """Run Python with arguments, on one thread; what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_launched_processes_have_the_losses_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    launched.main(one, METHOD)
    alone = capsys.readouterr().out
    both = python(*LAUNCH, SCRIPT, str(two), METHOD)
    expected, found = (pd.read_csv(folder / "history.csv") for folder in (one, two))
    assert {"loss", "ce", "kd", "dkd", "csf_1", "pea_4"} <= set(found)
    for name in expected.drop(columns="images_per_s"):
        # Absolute, too: a divergence of nearly equal logits is a small difference of terms of size 1.
        assert found[name].tolist() == pytest.approx(expected[name].tolist(), rel=1e-5, abs=1e-6), name
    assert read_run(two).info["processes"] == 2
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
    assert both.count("mIoU") == 2
    assert len({line for line in both.splitlines() if "mIoU" in line}) == 1  # reduced over both
    assert alone.count("mIoU") == 1


def test_the_command_runs_on_two_processes(tmp_path: Path) -> None:
    profile = tmp_path / "pair.yaml"
    profile.write_text(
        "parameters: {dataset: streets, train_images: 4, val_images: 2, height: 32, width: 64, steps: 2, "
        "batch_size: 2, precision: fp32, device: cpu}\n"
    )
    said = python(*LAUNCH, "-m", "transkd_lite.cli", "train", str(profile), "--runs", str(tmp_path / "runs"))
    assert said.count("segformer_b0, method none") == 1  # one process speaks
    (run,) = list_runs(tmp_path / "runs")
    assert (run.state, run.info["processes"], run.metrics["steps"]) == ("finished", 2, 2)
    assert pd.read_csv(run.folder / "history.csv")["step"].tolist() == [2]
    assert not list((tmp_path / "runs").rglob(".tmp-*"))
