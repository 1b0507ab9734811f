"""What a distillation step costs: `python -m transkd_lite.profiling step` times four things in turn.

a. the teacher's forward pass without gradient
b. the student's forward and backward pass and AdamW, alone
c. the whole distillation step, as `fit` does it
d. the same step as the authors' scripts write it: fp32 throughout, the teacher's graph recorded, the head as
   published, AdamW without fusion, `.item()` on every term in every step

overhead = c / (a + b): what distilling adds to the two networks. speedup = d / c. Machines are noisy, so the four are
timed in interleaved rounds and the medians are given. The peak memory of c and of d is that of a process of its own,
since a process keeps what it has freed.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor, nn

from .distill import create_method
from .folded_head import folded_heads
from .models import SegModel, create_model
from .profiling import count_flops
from .train_step import TrainStep, autocast

__all__ = ["main", "matrix_rate", "time_step"]

NUM_CLASSES = 19
WARM_UP_ROUNDS = 3


class _Bench:
    """Two networks, a method, one batch, and the four things to time."""

    def __init__(
        self,
        teacher: str,
        student: str,
        method: str,
        batch: int,
        size: tuple[int, int],
        precision: str,
        device: str,
    ) -> None:
        torch.manual_seed(0)
        self.device, self.precision = torch.device(device), precision
        self.images = torch.randn(batch, 3, *size, device=device)
        self.labels = torch.randint(0, NUM_CLASSES, (batch, *size), device=device)
        self.teacher: SegModel = create_model(teacher, NUM_CLASSES).to(device).eval()
        self.student: SegModel = create_model(student, NUM_CLASSES).to(device).train()
        self.method = create_method(method, self.student, self.teacher).to(device).train()
        frozen = copy.deepcopy(self.teacher).requires_grad_(False)
        self.alone = TrainStep(copy.deepcopy(self.student), precision=precision)
        self.whole = TrainStep(
            copy.deepcopy(self.student), frozen, copy.deepcopy(self.method), precision=precision
        )
        self.naive = TrainStep(self.student, None, self.method, precision="fp32")
        self.optimizers = {
            id(step): torch.optim.AdamW(
                step.parameters(), lr=6e-5, weight_decay=0.01, fused=fused, foreach=False
            )
            for step, fused in ((self.alone, True), (self.whole, True), (self.naive, False))
        }
        self.frozen = frozen

    def teacher_forward(self) -> None:
        """Part a."""
        with folded_heads(self.frozen), torch.no_grad(), autocast(self.device, self.precision):
            self.frozen(self.images)

    def student_step(self) -> None:
        """Part b."""
        with folded_heads(self.alone):
            self._update(self.alone, self.alone(self.images, self.labels)["total"])

    def distillation_step(self) -> None:
        """Part c."""
        with folded_heads(self.whole, self.frozen):
            self._update(self.whole, self.whole(self.images, self.labels)["total"])

    def naive_step(self) -> None:
        """Part d."""
        target = self.teacher(self.images)  # its graph is recorded and thrown away
        output = self.student(self.images)
        terms = self.method(self.images, output, target, self.labels)
        ce = self.naive.supervised(output.logits, self.labels)
        self._update(self.naive, ce + self.method.combine(terms))
        for term in (ce, *terms.values()):
            term.item()

    def _update(self, step: nn.Module, loss: Tensor) -> None:
        optimizer = self.optimizers[id(step)]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def time_step(
    teacher: str = "segformer_b2",
    student: str = "segformer_b0",
    *,
    method: str = "transkd-base",
    batch: int = 4,
    size: tuple[int, int] = (128, 256),
    precision: str = "fp32",
    rounds: int = 15,
    device: str | None = None,
) -> dict[str, float]:
    """Median seconds of a to d over interleaved rounds, their ratios, and the peak memory of one step of c in MB.

    Keys: teacher_s, student_s, step_s, naive_s, overhead, speedup, peak_mb, naive_peak_mb, tflops (what c achieves,
    counting the multiply-accumulates it really does, with the heads folded, a backward pass as two forward ones),
    matrix_tflops (what the device reaches on a large matrix product in that precision) and matrix_share, their ratio.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    given = (teacher, student, method, batch, size, precision, device)
    peaks = {
        f"{kind}peak_mb": _peak_aside(f"{kind or 'distillation_'}step", given) for kind in ("", "naive_")
    }
    bench = _Bench(*given)
    parts = {
        "teacher_s": bench.teacher_forward,
        "student_s": bench.student_step,
        "step_s": bench.distillation_step,
        "naive_s": bench.naive_step,
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(WARM_UP_ROUNDS + rounds):
        for name, part in parts.items():
            taken = _seconds(part, device)
            if turn >= WARM_UP_ROUNDS:
                seconds[name].append(taken)
    found = {name: statistics.median(values) for name, values in seconds.items()}
    found["overhead"] = found["step_s"] / (found["teacher_s"] + found["student_s"])
    found["speedup"] = found["naive_s"] / found["step_s"]
    found |= peaks
    found["tflops"] = _step_flops(bench, batch, size) / found["step_s"] / 1e12
    found["matrix_tflops"] = matrix_rate(precision, device)
    found["matrix_share"] = found["tflops"] / found["matrix_tflops"]
    return found


def _seconds(part: Callable[[], None], device: str) -> float:
    _wait(device)
    begun = time.perf_counter()
    part()
    _wait(device)
    return time.perf_counter() - begun


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _step_flops(bench: _Bench, batch: int, size: tuple[int, int]) -> float:
    """Floating-point operations of c: two a multiply-accumulate; forward once, and backward as two more."""
    with folded_heads(bench.student, bench.teacher):
        trained = count_flops(bench.student, size, distiller=bench.method)
        return 2.0 * batch * (count_flops(bench.teacher, size) + 3.0 * trained)


def matrix_rate(precision: str, device: str, rounds: int = 7) -> float:
    """Tera-operations a second of one large matrix product, the best of several."""
    n = 8192 if device.startswith("cuda") else 1024
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    seconds = [_seconds(lambda: _multiply(a, b), device) for _ in range(rounds)]
    return 2.0 * n**3 / min(seconds) / 1e12


def _multiply(a: Tensor, b: Tensor) -> None:
    torch.mm(a, b)


def _peak_aside(part: str, given: tuple[Any, ...]) -> float:
    """`_peak_mb` in a process of its own."""
    context = torch.multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak_mb, part, given).result()


def _peak_mb(part: str, given: tuple[Any, ...]) -> float:
    """Peak memory of two steps: of the device, or of this process above what it held before (Linux; else nan)."""
    bench = _Bench(*given)
    before, step = _status_mb("VmRSS"), getattr(bench, part)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step()
    step()  # gradients and the optimiser's moments are there by now
    if bench.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return _status_mb("VmHWM") - before


def _status_mb(key: str) -> float:
    if not sys.platform.startswith("linux"):
        return float("nan")
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(key))
    return int(line.split()[1]) / 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: times both precisions and prints a table, or JSON with --json."""
    parser = argparse.ArgumentParser(
        prog="python -m transkd_lite.profiling step", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--teacher", default="segformer_b2")
    parser.add_argument("--student", default="segformer_b0")
    parser.add_argument("--method", default="transkd-base")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 256), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=15, help="at least 15 for a median worth quoting")
    parser.add_argument("--precision", choices=("fp32", "bf16"), nargs="+", default=("fp32", "bf16"))
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    found = {
        precision: time_step(
            given.teacher,
            given.student,
            method=given.method,
            batch=given.batch,
            size=tuple(given.size),
            precision=precision,
            rounds=given.rounds,
        )
        for precision in given.precision
    }
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if given.json else _table(found))


def _table(found: dict[str, dict[str, Any]]) -> str:
    names = list(next(iter(found.values())))
    head = f"{'':15}" + "".join(f"{precision:>12}" for precision in found)
    rows = [f"{name:15}" + "".join(f"{values[name]:12.4f}" for values in found.values()) for name in names]
    return "\n".join([head, *rows]) + "\n"


if __name__ == "__main__":
    main()
