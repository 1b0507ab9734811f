"""A batch that is asked to stop: real processes, real signals, as a terminal or a scheduler sends them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from transkd_lite.training.folder import list_runs

if os.name == "nt":
    pytest.skip("signals are those of POSIX", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.notebook, pytest.mark.timeout(900)]
FIXTURES = Path(__file__).parents[1] / "notebooks" / "fixtures"
PARAMETERS = {"height": 32, "width": 64, "train_images": 4, "val_images": 2, "batch_size": 2, "checkpoint_every": 4}


def start(profile: Path, jobs: int, log: Path) -> subprocess.Popen[bytes]:
    """`transkd reproduce` in a process group of its own, as a shell starts it."""
    command = [sys.executable, "-m", "transkd_lite.cli", "reproduce", str(profile), "--jobs", str(jobs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        return subprocess.Popen(
            [*command, "--runs", str(profile.parent / "runs")],
            stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip


@pytest.mark.parametrize(("jobs", "number", "code"), [(1, signal.SIGTERM, 143), (2, signal.SIGINT, 130)])
def test_a_stopped_batch_leaves_no_process_and_goes_on_later(tmp_path: Path, jobs: int, number: int, code: int) -> None:
    """A finished run stays; a long one under way saves; the same command ends it."""
    students = {"methods": ["none"], "notebook": "real_run", "steps": 1, "variants": {"long": {"steps": 8}}}
    content = {"notebooks": str(FIXTURES), "parameters": PARAMETERS, "students": students, "report": None}
    profile, log = tmp_path / "stop.yaml", tmp_path / "log"
    profile.write_text(yaml.safe_dump(content))
    process = start(profile, jobs, log)
    while not list(tmp_path.rglob("held")) or "finished" not in states(tmp_path, steps=1):
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    below = psutil.Process(process.pid).children(recursive=True)
    assert any("ipykernel_launcher" in child.cmdline() for child in below)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # a terminal's Ctrl-C goes to the whole group
    else:
        process.send_signal(number)
    assert process.wait() == code, log.read_text()
    assert log.read_text().splitlines()[-1].startswith("stopped: 1 of 2 runs are finished")
    assert not psutil.wait_procs(below, timeout=60)[1]
    assert states(tmp_path, steps=8) == ["interrupted"]
    assert list(tmp_path.rglob("step-*.pt"))
    assert not list(tmp_path.rglob("failed.ipynb"))
    (finished,) = tmp_path.rglob("metrics.json")
    written = finished.stat().st_mtime_ns
    if jobs == 1:
        assert start(profile, jobs, log).wait() == 0, log.read_text()
        assert "1 of 2 runs to do" in log.read_text()
        assert states(tmp_path, steps=8) == ["finished"]
        assert finished.stat().st_mtime_ns == written


def states(folder: Path, steps: int) -> list[str]:
    return [run.state for run in list_runs(folder) if run.info.get("num_steps") == steps]
