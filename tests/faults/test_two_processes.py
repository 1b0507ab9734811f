"""Two processes (gloo) that share the batches of one: the same losses, weights and scores, and one writer."""

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from transkd_lite import runs
from transkd_lite.metrics import evaluate

if os.name == "nt":
    pytest.skip("forked processes are those of POSIX", allow_module_level=True)
sys.path.insert(0, str(Path(__file__).parent))  # the processes import run_fit by name
from run_fit import Process, Scenes, networks, start

pytestmark = pytest.mark.timeout(300)
OPTIONS = {
    "method": "transkd-base",
    "dropout": 0.0,
    "scored": True,
    "steps": 6,
    "batch_size": 4,
    "log_every": 1,
}
CLASS_WEIGHTS = {"class_weights": [1.0, 2.0, 0.5]}


def start_pair(folders: list[Path], weights: list[Path], **options: Any) -> list[Process]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        start(folders[rank], weights[rank], {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **options)
        for rank in range(2)
    ]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.pt" for name in ("one", "first", "second")]
    start(tmp_path / "one", files[0], **OPTIONS, **CLASS_WEIGHTS).finish()
    folders = [tmp_path / "pair", tmp_path / "second"]
    for process in start_pair(folders, files[1:], **OPTIONS, **CLASS_WEIGHTS):
        process.finish()
    one, first, second = (torch.load(file, weights_only=True) for file in files)
    for name, values in one["history"].items():
        assert first["history"][name] == pytest.approx(values, rel=1e-5), name
    assert first["metrics"] == second["metrics"]
    student = networks(None)[0]
    student.load_state_dict(first["student"])
    for protocol, scores in first["metrics"].items():  # each process scored a share; together they scored all
        assert scores == evaluate(student, Scenes(3), protocol=protocol).to_dict()
    assert all(torch.equal(tensor, second["student"][name]) for name, tensor in first["student"].items())
    assert runs.read_run(folders[0]).info["processes"] == 2
    assert not folders[1].exists()  # the second process writes nothing


def test_a_signal_to_one_stops_both_and_they_go_on(tmp_path: Path) -> None:
    files, folder = [tmp_path / "first.pt", tmp_path / "second.pt"], tmp_path / "pair"
    options = OPTIONS | {"checkpoint_every": None, "steps": 8, "scored": False}
    pair = start_pair([folder] * 2, files, **options, slow_s=0.3)
    pair[0].wait_for_step(2)
    pair[0].send(signal.SIGTERM)
    assert [process.end() for process in pair] == [143, 143]
    assert runs.read_run(folder).state == "interrupted"
    for process in start_pair([folder] * 2, files, **options):
        process.finish()
    first, second = (torch.load(file, weights_only=True) for file in files)
    assert first["resumed"] == second["resumed"] >= 2
    assert runs.is_finished(folder)
