"""One training step as a module: student, teacher, method and supervision give one dictionary of loss terms.

The teacher runs without a graph (the authors record it; same numbers, more time and memory). Being one
module, the step is what DistributedDataParallel wraps, so the student's and the method's gradients are
reduced together.
"""

import inspect
import json
import math
import os
import time
import warnings
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.overrides import TorchFunctionMode

from transkd_lite.data.labels import VOID
from transkd_lite.distill.distiller import Distiller
from transkd_lite.metrics import autocast, match_sizes, resolve_precision
from transkd_lite.models.output import SegModel, SegOutput
from transkd_lite.training.config import TrainConfig
from transkd_lite.training.interrupts import StopRequest
from transkd_lite.training.schedule import learning_rate
from transkd_lite.training.stream import mix_seed
from transkd_lite.training.teacher_cache import TeacherCache

__all__ = ["NonFiniteLossError", "SyncedBatchNorm", "TrainStep", "Trainer", "cross_entropy"]

# --- The supervised part of the loss: cross entropy, at the size of the labels or of the logits.
#
# The paper's scripts resize labels to a quarter ("quarter"); most later work upsamples the logits ("full").


def cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, world_size: int = 1) -> Tensor:
    """Weighted mean cross entropy of logits (N, K, H, W) against labels (N, H, W) of the same size.

    The sum over pixels is divided by the class weights of all pixels that are not void, their number where weights are
    None (with several processes, their mean over processes). Without any valid pixel the loss is 0 and still has a
    gradient, where PyTorch's mean would be 0 / 0.
    """
    valid = labels != VOID
    weights = valid if class_weights is None else class_weights[labels.masked_fill(~valid, 0)] * valid
    total = weights.sum().float()
    if world_size > 1:
        dist.all_reduce(total)
        total = total / world_size
    summed = F.cross_entropy(logits.float(), labels, class_weights, ignore_index=VOID, reduction="sum")
    return summed / total.clamp(min=torch.finfo(torch.float32).tiny)


# --- One training step as a module: student, teacher, method and supervision give one dictionary of loss terms.


class TrainStep(nn.Module):
    """forward(images (n, 3, h, w), labels (n, h, w)) -> {"total", "ce", and one scalar for each term of the
    method}.

    `total` is ce + method.combine(terms), supervised and in the precision that `config` says. The teacher is held
    outside the module tree: it is neither trained, saved nor reduced.

    With several processes the mean over them is the loss of one process with the whole batch: ce is divided by the
    class weights of the whole batch, and a method's means over valid pixels by their number in the whole batch.
    Terms that relate images to each other (cirkd, the intra-class part of dist) relate those of one process.
    """

    def __init__(
        self, student: nn.Module, config: TrainConfig, teacher: Any = None, method: Any = None, world_size: int = 1
    ) -> None:
        super().__init__()
        self.student, self.method, self._outside = student, method, (teacher,)
        self.config, self.world_size = config, world_size
        if isinstance(method, Distiller):
            method.join_training(world_size)
        weights = None if config.class_weights is None else torch.tensor(config.class_weights)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, images: Tensor, labels: Tensor, target: SegOutput | None = None) -> dict[str, Tensor]:
        """The loss terms of one mini-batch; target: what the teacher says of it, where that is known."""
        teacher = self._outside[0]
        with autocast(images.device, resolve_precision(self.config.precision, images.device)):
            if teacher is not None and target is None:
                with torch.no_grad():
                    target = teacher(images)
            output = self.student(images)
            terms = {} if self.method is None else self.method(images, output, target, labels)
            extra = 0.0 if self.method is None else self.method.combine(terms)
        logits, labels = match_sizes(output.logits.float(), labels, self.config.supervise)
        ce = cross_entropy(logits, labels, self.class_weights, self.world_size)
        return {"total": ce + extra, "ce": ce, **terms}


class SyncedBatchNorm(TorchFunctionMode):
    """Within the context every BatchNorm in training takes its statistics over all processes.

    PyTorch's SyncBatchNorm needs a GPU; this works on any backend and leaves the modules as they are.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What a call of one of PyTorch's functions gives."""
        if func is not F.batch_norm:
            return func(*args, **(kwargs or {}))
        call = inspect.signature(func).bind(*args, **(kwargs or {}))
        call.apply_defaults()
        x, running_mean, running_var, weight, bias, training, momentum, eps = call.args
        if not training:
            return func(*call.args)
        wide, dims, shape = x.float(), [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
        count = wide.numel() / wide.shape[1] * dist.get_world_size()
        mean = all_reduce(wide.sum(dims, keepdim=True)) / count
        centred = wide - mean
        variance = all_reduce(centred.square().sum(dims, keepdim=True)) / count
        with torch.no_grad():
            for running, now in ((running_mean, mean), (running_var, variance * count / max(1.0, count - 1))):
                if running is not None:
                    running.lerp_(now.flatten().to(running.dtype), momentum)
        y = centred * torch.rsqrt(variance + eps)
        return (y if weight is None else y * weight.view(shape) + bias.view(shape)).to(x.dtype)


# --- What a run is at a step: everything that it needs to go on, and nothing else.
#
# The host waits for the device once per logging interval: until then a step's terms stay on the device. All
# random states follow from (seed, step, process), so the step number in a checkpoint stands for them.


class NonFiniteLossError(RuntimeError):
    """A loss term became infinite or not a number."""


_ADVICE = "lower lr or its weight, set grad_clip or precision='fp32'; the checkpoints before that step are whole"
_PLAIN = ("step", "names", "seconds", "elapsed", "threads")


class Trainer:
    """Student, method, optimiser, position and history of one run; the networks are moved to the accelerator's device.

    samples: how many there are to train on, which make an epoch.

    `state_dict` and `load_state_dict` are whole: a run that goes on from them ends with the same weights and the
    same history as one that never stopped.
    """

    def __init__(
        self, student: SegModel, teacher: Any, method: Any, config: TrainConfig, accelerator: Accelerator, samples: int
    ) -> None:
        self.config, self.accelerator, self.num_samples = config, accelerator, samples
        self.device, self.num_steps = accelerator.device, config.num_steps(samples)
        self.precision = resolve_precision(config.precision, self.device)
        teacher = teacher and teacher.to(self.device).eval()
        compiled: Any = torch.compile if config.compile else lambda network: network
        whole = TrainStep(compiled(student), config, teacher and compiled(teacher), method, accelerator.num_processes)
        self.modules = whole.to(self.device)
        self.trained = [p for p in self.modules.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )  # fmt: skip
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        alone = accelerator.num_processes == 1
        self.prepared: nn.Module = accelerator.prepare_model(self.modules, evaluation_mode=alone)
        # What has a state of its own, and, below, the plain values of a state.
        self.stateful = {"student": student, "method": method, "optimizer": self.optimizer, "scaler": self.scaler}
        self.cache: TeacherCache | None = None  # `fit` gives one
        self.step = 0
        self.seconds, self.elapsed = 0.0, 0.0  # of all rows of the history, and since the last row
        self.clock = time.monotonic()  # set it to leave out what is not training
        self.threads = [(0, torch.get_num_threads())]  # from that step on
        self.history: list[dict[str, float]] = []
        self.names: list[str] = []
        self.pending: list[Tensor] = []  # one vector of terms for each step since the last row

    def train_batch(self, images: Tensor, labels: Tensor, keys: Tensor | None = None) -> None:
        """One optimiser step on a mini-batch of `batches`; only new answers of a cached teacher wait for the device."""
        config = self.config
        torch.manual_seed(mix_seed(config.seed, self.step, self.accelerator.process_index, 1))
        images = images.to(self.device, non_blocking=True, memory_format=torch.contiguous_format)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        target = None if self.cache is None or keys is None else self.cache(keys)
        terms = self.prepared(images, labels.to(self.device, non_blocking=True), target)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(terms["total"]).backward()
        if config.grad_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.trained, config.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.names = list(terms)
        self.pending.append(torch.stack([term.detach().float() for term in terms.values()]))
        self.step += 1
        self._read_clock()

    def learning_rate(self, step: int) -> float:
        """The schedule's value at a step."""
        return learning_rate(self.config, step, self.num_steps, self.num_samples / self.config.batch_size)

    def is_due(self, every: int | None) -> bool:
        """Whether the step just done ends an interval of so many (None: never), and is not the run's last."""
        return every is not None and self.step % every == 0 and self.step < self.num_steps

    def stops(self, stop: StopRequest) -> bool:
        """Whether a signal came; several processes agree on it, and only where they wait for each other anyway."""
        if self.accelerator.num_processes > 1:
            if self.step % self.config.log_every:
                return False
            asked = torch.tensor(float(stop.signal or 0), device=self.device)
            stop.signal = int(self.accelerator.gather(asked).max()) or None
        return stop.signal is not None

    def log(self) -> dict[str, float]:
        """Fetch the terms since the last row (the one wait), check them, and add a row of their means."""
        values = self._fetch()
        self._read_clock()
        means = dict(zip(self.names, values.mean(0).tolist(), strict=True))
        method = self.modules.method
        weights = {} if method is None else {name: float(weight) for name, weight in method.weights.items()}
        for name, steps in getattr(method, "warmup", {}).items():  # as they are at this step
            weights[name] *= min(1.0, float(method.steps_seen) / steps)
        row = {
            "step": self.step, "epoch": self.step * self.config.batch_size / self.num_samples,
            "lr": self.learning_rate(self.step - 1), "loss": means.pop("total"),
            **means, **{f"weight_{name}": weight for name, weight in weights.items()},
            "images_per_s": len(values) * self.config.batch_size / max(self.elapsed, 1e-9),
        }  # fmt: skip
        self.history.append(row)
        self.seconds += self.elapsed
        self.pending, self.elapsed = [], 0.0
        return row

    def _read_clock(self) -> None:
        now = time.monotonic()
        self.elapsed += now - self.clock
        self.clock = now

    def _fetch(self) -> Tensor:
        """Terms of the pending steps (steps, terms), meaned over processes, in float64 on the host.

        Raises `NonFiniteLossError` naming the first step and term that broke.
        """
        stacked = torch.stack(self.pending)
        if self.accelerator.num_processes > 1:
            stacked = self.accelerator.reduce(stacked, "mean")
        values = stacked.double().cpu()
        broken = (~values.isfinite()).any(1).nonzero().flatten().tolist()
        if not broken:
            return values
        step = self.step - len(values) + broken[0]
        first = dict(zip(self.names, values[broken[0]].tolist(), strict=True))
        terms = {name: value for name, value in first.items() if not math.isfinite(value)}
        if len(terms) > 1:
            terms.pop("total", None)  # it breaks with any of them
        found = ", ".join(f"{name} = {value}" for name, value in terms.items())
        where = f"at step {step} (counted from 0) {found}, with lr {self.learning_rate(step):.3g} in {self.precision}"
        raise NonFiniteLossError(f"every loss term must be finite; {where}: {_ADVICE}")

    def state_dict(self) -> dict[str, Any]:
        """Everything, in tensors and plain values.

        Raises `NonFiniteLossError` rather than give a broken state.
        """
        if self.pending:
            self._fetch()
        norm = torch.stack(torch._foreach_norm([p.detach() for p in self.trained])).sum()
        if not bool(norm.isfinite()):
            found = f"after step {self.step - 1} some are not (the gradient overflowed)"
            raise NonFiniteLossError(f"every weight must be finite; {found}: {_ADVICE}")
        state: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        state |= {name: {} if part is None else part.state_dict() for name, part in self.stateful.items()}
        state |= {"pending": [terms.cpu() for terms in self.pending], "history": json.dumps(self.history)}
        return state | {"precision": self.precision}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, with as many threads as then where this machine has the cores.

        Warns (`UserWarning`), once for each change, where it has not: the last digits will differ.
        """
        state = {"threads": self.threads, **state}
        for name, part in self.stateful.items():
            if part is not None:
                part.load_state_dict(state[name])
        for name in _PLAIN:
            setattr(self, name, state[name])
        self.pending = [terms.to(self.device) for terms in state["pending"]]
        self.history = json.loads(state["history"])
        before = self.threads[-1][1]
        if before <= (os.cpu_count() or 1):
            torch.set_num_threads(before)
        if (now := torch.get_num_threads()) != before:
            self.threads = [*self.threads, (self.step, now)]
            what = f"this run had {before} threads and goes on at step {self.step} with the {now} of this machine"
            warnings.warn(f"{what}: its last digits are not those of a run that never stopped", stacklevel=2)
