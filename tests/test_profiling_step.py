"""The bench times what it says it times; the seconds themselves are nobody's promise."""

import json
import math
import subprocess
import sys

import pytest
import torch

from transkd_lite.models.head import folded_heads
from transkd_lite.models.weights import create_model
from transkd_lite.profiling import _parts, count_flops


@pytest.mark.slow
def test_the_command_prints_times_ratios_and_memory():
    arguments = ["--teacher", "segformer_b0", "--batch", "1", "--size", "32", "32", "--rounds", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "transkd_lite.profiling", "step", *arguments, "--precision", "fp32"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)["fp32"]
    assert all(math.isfinite(value) and value > 0 for value in found.values())
    assert found["overhead"] == pytest.approx(found["step_s"] / (found["teacher_s"] + found["student_s"]))
    assert found["speedup"] == pytest.approx(found["naive_s"] / found["step_s"])
    assert found["cached_overhead"] == pytest.approx(found["cached_s"] / found["student_s"])
    assert found["cached_speedup"] == pytest.approx(found["naive_s"] / found["cached_s"])
    assert {"peak_mb", "naive_peak_mb"} <= set(found)


def test_the_work_counted_is_the_work_done():
    model = create_model("segformer_b0", 19)
    with folded_heads(model):
        folded = count_flops(model)
    assert folded == pytest.approx(9.20e9, rel=0.001)
    assert count_flops(model) == pytest.approx(17.757e9, rel=0.001)


def test_the_naive_step_computes_the_same_loss():
    parts = _parts(torch.device("cpu"), "segformer_b0", "segformer_b0", "transkd-base", 2, (64, 64), "fp32")
    first = {}
    for name in ("step_s", "naive_s"):
        torch.manual_seed(1)  # of dropout
        first[name] = {term: torch.as_tensor(value).item() for term, value in parts[name]().items()}
    assert first["naive_s"] == pytest.approx(first["step_s"], rel=1e-4, abs=1e-5)
    assert list(first["step_s"]) == list(parts["cached_s"]())
