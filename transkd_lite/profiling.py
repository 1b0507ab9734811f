"""How large a network is: parameters and multiply-accumulates, beside the published figures.

`python -m transkd_lite.profiling` prints the table of all networks, `… profiling step` times a training step (see
`time_step`). The published figures are those of the
README of the authors' repository; its parameters count 20 classes (19 and void) throughout, its "GFLOPs" 19
classes for networks alone and 20 for distilled ones, and so does the table.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pandas as pd
import torch
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile, record_function

from transkd_lite.distill.distiller import Distiller
from transkd_lite.distill.methods import create_method
from transkd_lite.metrics import autocast
from transkd_lite.models.head import folded_heads
from transkd_lite.models.output import ModelSpec, SegModel, SegOutput
from transkd_lite.models.weights import create_model, list_models
from transkd_lite.training.step import TrainStep

__all__ = [
    "CONVENTIONS",
    "GROUPS",
    "PARTS",
    "MultiplyAccumulates",
    "call_aside",
    "count_flops",
    "count_parameters",
    "main",
    "matrix_rate",
    "size_table",
    "time_step",
    "trace_steps",
]

# --- Counting multiply-accumulates of a forward pass: a function mode looks at every call of PyTorch's
# functions.
#
# A network need not compute anything for that: it is called with "meta" tensors, which have shapes and no
# values. Two conventions, since the published "GFLOPs" leave things out:
#
#     full    convolutions, linear layers, matrix products and both products of every attention; nothing else
#     paper   as the authors' counter: convolutions (with one addition an output for the bias), linear layers
#     (without it),
#             2 an element of BatchNorm, 1 an element of LayerNorm, GELU and ReLU; matrix and attention products
#             left out

CONVENTIONS = ("full", "paper")

CONVOLUTIONS = (torch.conv1d, torch.conv2d, F.conv1d, F.conv2d)
PRODUCTS = (torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__)
ELEMENTWISE = {F.batch_norm: 2, F.layer_norm: 1, F.gelu: 1, F.relu: 1, torch.relu: 1}


class MultiplyAccumulates(TorchFunctionMode):
    """Within this context, adds up in `total` what PyTorch's functions cost."""

    def __init__(self, convention: str = "full") -> None:
        super().__init__()
        if convention not in CONVENTIONS:
            raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
        self.full = convention == "full"
        self.total = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in CONVOLUTIONS:
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            additions = int(bias is not None and not self.full)
            self.total += result.numel() * (math.prod(args[1].shape[1:]) + additions)
        elif func is F.linear or (self.full and func in PRODUCTS):
            self.total += result.numel() * args[0].shape[-1]
        elif self.full and func is F.scaled_dot_product_attention:
            q, k, v = args[:3]
            self.total += math.prod(q.shape[:-1]) * k.shape[-2] * (k.shape[-1] + v.shape[-1])
        elif not self.full and func in ELEMENTWISE:
            self.total += ELEMENTWISE[func] * result.numel()
        return result


def call_aside(module: nn.Module, *args: Any, device: str = "meta") -> Any:
    """Call a module as if its parameters and buffers were zeros on `device`; the module itself is not
    touched.
    """
    own = [*module.named_parameters(), *module.named_buffers()]
    zeros = {name: torch.zeros_like(tensor, device=device) for name, tensor in own}
    with torch.no_grad():
        return functional_call(module, zeros, args)


# --- How large a network is: parameters and multiply-accumulates, beside the published figures.

# name: (millions of parameters, GFLOPs at 512x1024)
PUBLISHED = {
    "segformer_b0": (3.72, 13.67),
    "segformer_b2": (27.36, 113.84),
    "segformer_b0 + transkd-base": (4.56, 16.47),
    "segformer_b0 + transkd-gl": (5.22, 16.80),
    "segformer_b0 + transkd-ea": (5.53, 17.84),
}


def count_parameters(*modules: nn.Module) -> int:
    """Number of parameters in all modules together; a parameter that two of them share counts once.

    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    parameters = {id(p): p.numel() for module in modules for p in module.parameters()}
    return sum(parameters.values())


def count_flops(
    model: SegModel,
    size: tuple[int, int] = (512, 1024),
    *,
    distiller: Distiller | None = None,
    convention: str = "full",
) -> float:
    """Multiply-accumulates of one image of `size` (H, W); those of a distiller's training-only parts added.

    - convention: "full" counts convolutions, linear layers and attention products; "paper" what the authors'
      counter counted, which leaves attention products out (see `MultiplyAccumulates`).

    The network computes nothing, and no module is changed.
    """
    images = torch.empty(1, 3, *size, device="meta")
    with MultiplyAccumulates(convention) as counter:
        output = call_aside(model, images)
        if distiller is not None:
            # Methods may look at values (which label is void), so these few operations are really computed.
            student, teacher = (_zeros(spec, output) for spec in (model.spec, distiller.teacher_spec))
            labels = torch.zeros(1, *size, dtype=torch.long)
            call_aside(distiller, torch.zeros(1, 3, *size), student, teacher, labels, device="cpu")
    return float(counter.total)


def _zeros(spec: ModelSpec, output: SegOutput) -> SegOutput:
    """What a network of that spec would give, at the sizes of `output`, all zeros."""
    pairs = zip(output.features, spec.channels, strict=True)
    features = tuple(torch.zeros(len(f), c, *f.shape[2:]) for f, c in pairs)
    embeddings = tuple(f.flatten(2).transpose(1, 2) for f in features)
    logits = torch.zeros(len(output.logits), spec.num_classes, *output.logits.shape[2:])
    return SegOutput(logits, features, embeddings)


def size_table(size: tuple[int, int] = (512, 1024)) -> pd.DataFrame:
    """One row a network and one a published method on SegFormer-B0: parameters in millions,
    multiply-accumulates in G.

    Columns params_m, gmacs_full, gmacs_paper for images of `size` (H, W), and the published figures, which
    are for 512x1024; empty where none could be seen.
    """
    student, teacher = create_model("segformer_b0", 20), create_model("segformer_b2", 20)
    methods = [name.split(" + ")[1] for name in PUBLISHED if "+" in name]
    rows = [_row(name, create_model(name, 20), create_model(name, 19), size) for name in list_models()]
    for method in methods:
        # With the second squeeze layer, as the authors' modules have it.
        distiller = create_method(method, student, teacher, bare_squeeze=True)
        rows.append(_row(f"segformer_b0 + {method}", student, student, size, distiller))
    return pd.DataFrame(rows).set_index("network")


def _row(
    name: str, model: SegModel, counted: SegModel, size: tuple[int, int], distiller: Distiller | None = None
) -> dict[str, str | float | None]:
    parts = [model] if distiller is None else [model, distiller]
    params, gflops = PUBLISHED.get(name, (None, None))
    return {
        "network": name,
        "params_m": count_parameters(*parts) / 1e6,
        "published_params_m": params,
        "gmacs_full": count_flops(counted, size, distiller=distiller) / 1e9,
        "gmacs_paper": count_flops(counted, size, distiller=distiller, convention="paper") / 1e9,
        "published_gflops": gflops,
    }


# --- What a distillation step costs: `python -m transkd_lite.profiling step` times four things in turn.
#
# a. the teacher's forward pass without gradient
# b. the student's forward and backward pass and AdamW, alone
# c. the whole distillation step, as `fit` does it
# d. the same step as the authors' scripts write it: fp32 throughout, the teacher's graph recorded, the head as
#    published, AdamW without fusion, `.item()` on every term in every step
#
# overhead = c / (a + b): what distilling adds to the two networks. speedup = d / c. Machines are noisy, so the
# four are timed in interleaved rounds and the medians are given. The peak memory of c and of d is that of a
# process of its own, since a process keeps what it has freed.

NUM_CLASSES = 19
WARM_UP_ROUNDS = 3


class _Bench:
    """Two networks, a method, one batch, and the four things to time."""

    def __init__(
        self, teacher: str, student: str, method: str, batch: int, size: tuple[int, int], precision: str, device: str
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
        self.whole = TrainStep(copy.deepcopy(self.student), frozen, copy.deepcopy(self.method), precision=precision)
        self.naive = TrainStep(self.student, None, self.method, precision="fp32")
        self.optimizers = {
            id(step): torch.optim.AdamW(step.parameters(), lr=6e-5, weight_decay=0.01, fused=fused, foreach=False)
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
    peaks = {f"{kind}peak_mb": _peak_aside(f"{kind or 'distillation_'}step", given) for kind in ("", "naive_")}
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
            taken = _timed(part, device)
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


def _timed(part: Callable[[], None], device: str) -> float:
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
    seconds = [_timed(lambda: _multiply(a, b), device) for _ in range(rounds)]
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
        prog="python -m transkd_lite.profiling step",
        description=(
            "What a distillation step costs: `python -m transkd_lite.profiling step` times four things in turn."
        ),
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
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if given.json else _timing_table(found))


def _timing_table(found: dict[str, dict[str, Any]]) -> str:
    names = list(next(iter(found.values())))
    head = f"{'':15}" + "".join(f"{precision:>12}" for precision in found)
    rows = [f"{name:15}" + "".join(f"{values[name]:12.4f}" for values in found.values()) for name in names]
    return "\n".join([head, *rows]) + "\n"


# --- Where the time of a training step goes: torch.profiler's events, told by part and by kind of work.
#
# An event of the backward pass belongs to the part whose forward operation recorded it; autograd gives both the same
# sequence number. So teacher, student and method are each charged with all that they cost.

PARTS = ("teacher", "student", "method", "optimiser")
_PREFIX = "transkd::"
_BACKWARD = "autograd::engine::evaluate_function"
# The first group with a fragment that is in an operation's name is its group.
_FRAGMENTS = {
    "optimiser": ("adam",),
    "loss": ("nll_loss", "log_softmax", "logsoftmax", "mse_loss", "cross_entropy", "kl_div"),
    "attention": ("attention", "softmax", "bmm"),
    "convolution": ("conv",),
    "normalisation": ("norm",),
    "matrix product": ("addmm", "::mm", "linear", "matmul"),
    "resizing": ("upsample", "interpolate", "pool"),
    "copies and layout": ("copy", "contiguous", "clone", "::to", "::cat", "reorder", "empty", "zero", "fill", "slice"),
}  # fmt: skip
GROUPS = (*_FRAGMENTS, "other")


def trace_steps(
    student: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    teacher: nn.Module | None = None,
    method: nn.Module | None = None,
    precision: str = "fp32",
    steps: int = 3,
) -> pd.DataFrame:
    """Profile whole training steps on copies of the networks; one row a part and group, the longest first.

    images (N, 3, H, W) and labels (N, H, W) on the device of the networks. Columns part (of `PARTS`; the supervised
    loss is the student's), group (of `GROUPS`), seconds a step (of the device's kernels on a GPU, else of the
    processor), and share of all.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it writes to standard error that there is no GPU
    student = copy.deepcopy(student).train()
    teacher, method = (None if m is None else copy.deepcopy(m).to(images.device) for m in (teacher, method))
    step = TrainStep(student.train(), teacher and teacher.eval(), method and method.train(), precision=precision)
    optimizer = torch.optim.AdamW(step.parameters(), lr=1e-6, fused=True)
    activities = [ProfilerActivity.CPU]
    if images.is_cuda:
        activities.append(ProfilerActivity.CUDA)
    with folded_heads(student, teacher), _regions(student=student, teacher=teacher, method=method):
        _train(step, optimizer, images, labels)  # the first step allocates
        with profile(activities=activities, acc_events=True) as trace:
            for _ in range(steps):
                _train(step, optimizer, images, labels)
            if images.is_cuda:
                torch.cuda.synchronize()
    return _trace_table(trace.events() or [], steps, images.is_cuda)


def _train(step: TrainStep, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    with record_function(_PREFIX + "student"):  # what is neither network nor method is the supervised loss
        loss = step(images, labels)["total"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    with record_function(_PREFIX + "optimiser"):
        optimizer.step()


@contextlib.contextmanager
def _regions(**parts: nn.Module | None) -> Iterator[None]:
    """Within the context every forward pass of a part is a region of its name in the profile."""
    handles = []
    for name, part in parts.items():
        if part is not None:
            region = _Region(_PREFIX + name)
            handles += [part.register_forward_pre_hook(region.enter), part.register_forward_hook(region.leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Region:
    def __init__(self, name: str) -> None:
        self.name = name
        self.open: Any = None

    def enter(self, module: nn.Module, inputs: Any) -> None:
        self.open = record_function(self.name)
        self.open.__enter__()

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.open.__exit__(None, None, None)


def _trace_table(events: Iterable[Any], steps: int, on_gpu: bool) -> pd.DataFrame:
    """Self times of the host's events (which carry those of the kernels they launched), summed by part and group."""
    found = [event for event in events if event.device_type.name == "CPU"]
    recorded = _recorded_by(found)
    rows = [(_part(event, recorded), _group(event), _event_seconds(event, on_gpu) / steps) for event in found]
    table = pd.DataFrame(rows, columns=["part", "group", "seconds"]).dropna()
    table = table.groupby(["part", "group"], as_index=False).sum()
    table = table[table["seconds"] > 0].sort_values("seconds", ascending=False, ignore_index=True)
    return table.assign(share=table["seconds"] / table["seconds"].sum())


def _event_seconds(event: Any, on_gpu: bool) -> float:
    return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6


def _recorded_by(events: list[Any]) -> dict[int, str]:
    """Part by autograd's sequence number: that of the last forward operation that bears it, which made the node."""
    parts: dict[int, str] = {}
    for event in sorted(events, key=lambda event: event.time_range.start):
        part = _region(event)
        if event.sequence_nr >= 0 and part in ("student", "method"):
            parts[event.sequence_nr] = part
    return parts


def _ancestors(event: Any) -> Iterator[Any]:
    while event is not None:
        yield event
        event = event.cpu_parent


def _region(event: Any) -> str | None:
    """The innermost region around an event."""
    names = (ancestor.name for ancestor in _ancestors(event))
    return next((name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX)), None)


def _part(event: Any, recorded: dict[int, str]) -> str | None:
    """The part an event is charged to; None for what is between the parts (the profiler's own marks)."""
    for ancestor in _ancestors(event):
        if ancestor.name.startswith(_BACKWARD):
            return recorded.get(ancestor.sequence_nr, "optimiser")  # gradients put where the optimiser finds them
        if ancestor.name.startswith(_PREFIX):
            return ancestor.name.removeprefix(_PREFIX)
    return None


def _group(event: Any) -> str:
    """The group of the innermost operation whose name tells it."""
    for ancestor in _ancestors(event):
        name = ancestor.name.lower()
        if name.startswith(_PREFIX):
            break
        for group, fragments in _FRAGMENTS.items():
            if any(fragment in name for fragment in fragments):
                return group
    return "other"


if __name__ == "__main__":
    if sys.argv[1:2] == ["step"]:
        main(sys.argv[2:])
    else:
        print(size_table().to_string(float_format="{:.3f}".format, na_rep=""))
