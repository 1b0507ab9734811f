"""Two processes (gloo) that share the batches of one: the same losses, weights and scores, and one writer."""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from transkd_lite.metrics import SegMetrics, evaluate
from transkd_lite.training.folder import is_finished, read_run

if os.name == "nt":
    pytest.skip("forked processes are those of POSIX", allow_module_level=True)
sys.path.insert(0, str(Path(__file__).parent))  # the processes import run_fit by name
from run_fit import Process, Scenes, networks, start

pytestmark = pytest.mark.timeout(900)
OPTIONS = {
    "method": "transkd-base",
    "dropout": 0.0,
    "scored": True,
    "steps": 6,
    "batch_size": 4,
    "log_every": 1,
    # Steps in proportion to the gradient. With Adam's own eps they have one length whatever the gradient: a wrong
    # factor is not seen, and where the gradient is nothing but rounding they go anywhere.
    "eps": 0.1,
}
CLASS_WEIGHTS = {"class_weights": [1.0, 2.0, 0.5]}


def start_pair(
    folders: list[Path], weights: list[Path], at: dict[int, Any] | None = None, **options: Any
) -> list[Process]:
    """Two processes with these options; `at` is for the first alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    own = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return [
        start(folders[0], weights[0], own[0], at=at or {}, **options),
        start(folders[1], weights[1], own[1], **options),
    ]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the processes: the same sums in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_two_processes_equal_one(tmp_path: Path, one_thread: None) -> None:
    files = [tmp_path / f"{name}.pt" for name in ("one", "first", "second")]
    start(tmp_path / "one", files[0], **OPTIONS, **CLASS_WEIGHTS).finish()
    folders = [tmp_path / "pair", tmp_path / "second"]
    for process in start_pair(folders, files[1:], **OPTIONS, **CLASS_WEIGHTS):
        process.finish()
    one, first, second = (torch.load(file, weights_only=True) for file in files)
    for name, values in one["history"].items():
        assert first["history"][name] == pytest.approx(values, rel=1e-5), name
    torch.testing.assert_close(first["student"], one["student"], rtol=1e-5, atol=2e-6)
    assert first["metrics"] == second["metrics"]
    student = networks(None)[0]
    student.load_state_dict(first["student"])
    scenes = Scenes(3)
    for protocol, scores in first["metrics"].items():  # each process scored a share; together they scored all
        shares = [evaluate(student, [scenes[i] for i in share], protocol=protocol) for share in ([0, 2], [1])]
        whole = SegMetrics(*(sum(getattr(s, name) for s in shares) for name in ("confusion", "missed")))
        assert scores == whole.to_dict()
    assert all(torch.equal(tensor, second["student"][name]) for name, tensor in first["student"].items())
    assert read_run(folders[0]).info["processes"] == 2
    assert not folders[1].exists()  # the second process writes nothing


def test_a_signal_to_one_stops_both_and_they_go_on(tmp_path: Path) -> None:
    files, folder = [tmp_path / "first.pt", tmp_path / "second.pt"], tmp_path / "pair"
    options = OPTIONS | {"checkpoint_every": None, "steps": 8, "scored": False}
    pair = start_pair([folder] * 2, files, {2: partial(signal.raise_signal, signal.SIGTERM)}, **options)
    assert [process.end() for process in pair] == [143, 143]
    assert read_run(folder).state == "interrupted"
    for process in start_pair([folder] * 2, files, **options):
        process.finish()
    first, second = (torch.load(file, weights_only=True) for file in files)
    assert first["resumed"] == second["resumed"] == 2
    assert is_finished(folder)
