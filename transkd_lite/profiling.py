"""How large a network is: parameters and multiply-accumulates, beside the published figures.

`python -m transkd_lite.profiling` prints the table of all networks, `… profiling step` times a training step (see
`time_step`). The published figures are those of the README of the authors' repository; its parameters count 20
classes (19 and void) throughout, its "GFLOPs" 19 classes for networks alone and 20 for distilled ones, and so does the
table.
"""

import copy
import math
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from json import dumps
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import psutil
import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from transkd_lite.distill.distiller import Distiller
from transkd_lite.distill.methods import create_method
from transkd_lite.metrics import autocast
from transkd_lite.models.output import SegModel, SegOutput
from transkd_lite.models.weights import create_model, list_models
from transkd_lite.results.tables import read_table
from transkd_lite.training.config import TrainConfig
from transkd_lite.training.loop import peak_mb
from transkd_lite.training.step import TrainStep
from transkd_lite.training.stream import SampleStore
from transkd_lite.training.teacher_cache import TeacherCache

__all__ = ["MultiplyAccumulates", "call_aside", "count_flops", "count_parameters"]

# --- Counting multiply-accumulates of a forward pass: a function mode looks at every call of PyTorch's functions.
#
# A network need not compute anything for that: it is called with "meta" tensors, which have shapes and no values. Two
# conventions, since the published "GFLOPs" leave things out:
#
#     full    convolutions, linear layers, matrix products and both products of every attention; nothing else
#     paper   as the authors' counter: convolutions (with one addition an output for the bias), linear layers (without
#             it), 2 an element of BatchNorm, 1 an element of LayerNorm, GELU and ReLU; no matrix and attention products

Size = tuple[int, int]
PRODUCTS = (torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__)
ELEMENTWISE = {F.batch_norm: 2, F.layer_norm: 1, F.gelu: 1, F.relu: 1, torch.relu: 1}


class MultiplyAccumulates(TorchFunctionMode):
    """Within this context, adds up in `total` what PyTorch's functions cost."""

    def __init__(self, convention: str = "full") -> None:
        super().__init__()
        if convention not in ("full", "paper"):
            raise ValueError(f"convention must be one of full, paper, got {convention!r}")
        self.full = convention == "full"
        self.total = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.conv1d, torch.conv2d, F.conv1d, F.conv2d):
            additions = int(not self.full and len(args) > 2 and args[2] is not None)
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
    """Call a module as if its parameters and buffers were zeros on `device`; the module itself is not touched."""
    own = [*module.named_parameters(), *module.named_buffers()]
    zeros = {name: torch.zeros_like(tensor, device=device) for name, tensor in own}
    with torch.no_grad():
        return functional_call(module, zeros, args)


# --- How large a network is: parameters and multiply-accumulates, beside the published figures.


def count_parameters(*modules: nn.Module) -> int:
    """Number of parameters in all modules together; a parameter that two of them share counts once.

    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in nn.ModuleList(modules).parameters())


def count_flops(
    model: SegModel, size: Size = (512, 1024), *, distiller: Distiller | None = None, convention: str = "full"
) -> float:
    """Multiply-accumulates of one image of `size` (H, W); those of a distiller's training-only parts added.

    convention: "full" counts convolutions, linear layers and attention products; "paper" what the authors'
        counter counted, which leaves attention products out (see `MultiplyAccumulates`).

    The network computes nothing, and no module is changed.
    """
    with MultiplyAccumulates(convention) as counter:
        output = call_aside(model, torch.empty(1, 3, *size, device="meta"))
        if distiller is not None:
            # Methods may look at values (which label is void), so these few operations are really computed.
            given: list[Tensor | SegOutput] = [torch.zeros(1, 3, *size)]
            for spec in (model.spec, distiller.teacher_spec):
                pairs = zip(output.features, spec.channels, strict=True)
                features = tuple(torch.zeros(1, width, *f.shape[2:]) for f, width in pairs)
                logits = torch.zeros(1, spec.num_classes, *output.logits.shape[2:])
                given.append(SegOutput(logits, features, tuple(f.flatten(2).transpose(1, 2) for f in features)))
            call_aside(distiller, *given, torch.zeros(1, *size, dtype=torch.long), device="cpu")
    return float(counter.total)


def size_table(size: Size = (512, 1024)) -> pd.DataFrame:
    """One row a network and one a published method on SegFormer-B0: parameters in millions,
    multiply-accumulates in G.

    Columns params_m, gmacs_full, gmacs_paper for images of `size` (H, W), and the published figures, which
    are for 512x1024; empty where there are none.
    """
    alone = {"teacher": "segformer_b2", "none": "segformer_b0"}
    published = read_table("paper", ("method", "params_m", "gflops")).set_index("method")
    published = published.rename(lambda method: alone.get(method, f"segformer_b0 + {method}"))
    rows = []
    for name in dict.fromkeys([*list_models(), *published.index]):
        network, _, method = name.partition(" + ")
        model, counted = create_model(network, 20), create_model(network, 20 if method else 19)
        helper = None
        if method:  # with the second squeeze layer, as the authors' modules have it
            helper = create_method(method, model, create_model("segformer_b2", 20), bare_squeeze=True)
        gmacs = [count_flops(counted, size, distiller=helper, convention=c) / 1e9 for c in ("full", "paper")]
        rows.append((name, count_parameters(*filter(None, (model, helper))) / 1e6, *gmacs))
    table = pd.DataFrame(rows, columns=["network", "params_m", "gmacs_full", "gmacs_paper"]).set_index("network")
    return table.join(published[["params_m", "gflops"]].add_prefix("published_"))


# --- What a distillation step costs: `python -m transkd_lite.profiling step` times five things in turn.
#
# a. the teacher's forward pass without gradient
# b. the student's forward and backward pass and AdamW, alone
# c. the whole distillation step, as `fit` does it
# d. the same step as the authors' scripts write it: fp32 throughout, the teacher's graph recorded, the head as
#    published, AdamW without fusion, `.item()` on every term in every step
# e. c, with the teacher's output read from a `TeacherCache` in memory
#
# overhead = c / (a + b): what distilling adds to the two networks. speedup = d / c. cached_overhead = e / b: what it
# adds to the student where the teacher's answers are known; cached_speedup = d / e. Machines are noisy, so the five are
# timed in interleaved rounds and the medians are given. The peak memory of c and of d is that of a
# process of its own, since a process keeps what it has freed.

NUM_CLASSES = 19
WARM_UP_ROUNDS = 3


def _parts(
    device: torch.device, teacher: str, student: str, method: str, batch: int, size: Size, precision: str
) -> dict[str, Callable[[], Any]]:
    """The five things to time, a to e, with two new networks, a method and one batch."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, *size, device=device)
    labels = torch.randint(0, NUM_CLASSES, (batch, *size), device=device)
    tutor: Any = create_model(teacher, NUM_CLASSES).to(device).eval()
    pupil: Any = create_model(student, NUM_CLASSES).to(device).train()
    helper = create_method(method, pupil, tutor).to(device).train()
    frozen, alone = copy.deepcopy(tutor).requires_grad_(False), copy.deepcopy(pupil)
    own, own_helper = copy.deepcopy((pupil, helper))
    for network in (frozen, alone, own):
        network.head.folded = True
    pictures = np.random.default_rng(0).integers(0, 256, (2 * batch, *size, 3), np.uint8)
    store = SampleStore([{"image": picture, "label": picture[..., 0] % NUM_CLASSES} for picture in pictures])
    config = TrainConfig.from_dict({"precision": precision, "augment": "none"})
    cache, keys = TeacherCache(frozen, store, config, helper.reads, device), torch.randperm(2 * batch)[:batch]

    def training(step: TrainStep, fused: bool = True) -> Callable[..., dict[str, Tensor]]:
        optimizer = torch.optim.AdamW(step.parameters(), lr=6e-5, weight_decay=0.01, foreach=False, fused=fused)

        def train(target: SegOutput | None = None) -> dict[str, Tensor]:
            terms = step(images, labels, target)
            optimizer.zero_grad(set_to_none=True)
            terms["total"].backward()
            optimizer.step()
            return terms

        return train

    whole = training(TrainStep(own, config, frozen, own_helper))
    naive = training(TrainStep(pupil, TrainConfig(precision="fp32"), None, helper), fused=False)

    return {
        "teacher_s": torch.no_grad()(autocast(device, precision)(lambda: frozen(images))),
        "student_s": training(TrainStep(alone, config)),
        "step_s": whole,
        # The teacher's graph is recorded and thrown away.
        "naive_s": lambda: {name: term.item() for name, term in naive(tutor(images)).items()},
        "cached_s": lambda: whole(cache(keys)),
    }


def _timed(part: Callable[[], Any]) -> float:
    """Seconds of a call, the device's work included."""
    begun = time.perf_counter()
    part()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _peak_mb(part: str, given: tuple[Any, ...]) -> float:
    """Peak memory of two steps: of the device, or of this process above what it held before."""
    parts = _parts(*given)
    held = 0 if torch.cuda.is_available() else psutil.Process().memory_info().rss / 2**20
    parts[part]()
    parts[part]()  # gradients and the optimiser's moments are there by now
    return (peak_mb(given[0]) or math.nan) - held


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def print_sizes(context: typer.Context) -> None:
    """Print parameters and multiply-accumulates of all networks beside the published figures."""
    if context.invoked_subcommand is None:
        typer.echo(size_table().to_string(float_format="{:.3f}".format, na_rep=""))


@app.command("step")
def time_step(
    teacher: str = "segformer_b2",
    student: str = "segformer_b0",
    method: str = "transkd-base",
    batch: int = 4,
    size: Annotated[Size, typer.Option(metavar="H W")] = (128, 256),
    rounds: Annotated[int, typer.Option(help="At least 15 for a median worth quoting.")] = 15,
    precision: Literal["fp32", "bf16"] | None = None,
    json: bool = False,
) -> None:
    """What a distillation step costs: times five things in turn, in both precisions unless one is given.

    Prints median seconds over interleaved rounds (teacher_s, student_s, step_s, naive_s, cached_s), their ratios
    (overhead, speedup, cached_overhead, cached_speedup) and the peak memory of a step (peak_mb, naive_peak_mb).
    """
    device, found = torch.device("cuda" if torch.cuda.is_available() else "cpu"), {}
    for name in (precision,) if precision else ("fp32", "bf16"):
        given = (device, teacher, student, method, batch, size, name)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as aside:
            memory = aside.map(_peak_mb, ("step_s", "naive_s"), (given, given))
        parts = _parts(*given)
        turns = [{part: _timed(run) for part, run in parts.items()} for _ in range(WARM_UP_ROUNDS + rounds)]
        times = pd.DataFrame(turns[WARM_UP_ROUNDS:]).median().to_dict()
        a, b, c, d, e = times.values()
        times |= {"overhead": c / (a + b), "speedup": d / c, "cached_overhead": e / b, "cached_speedup": d / e}
        found[name] = times | dict(zip(("peak_mb", "naive_peak_mb"), memory, strict=True))
    typer.echo(dumps(found, indent=2) if json else pd.DataFrame(found).to_string(float_format="{:.4f}".format))


if __name__ == "__main__":
    app()
