"""The loop behind `fit`: one class that holds everything a run needs to go on, and nothing else.

The host waits for the device once per logging interval: until then a step's terms stay on the device. All
random states follow from (seed, step, process), so the step number in a checkpoint stands for them.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .config import TrainConfig, learning_rate
from .loading import mix_seed
from .models.output import SegModel
from .train_step import TrainStep, resolve_precision

__all__ = ["NonFiniteLossError", "Trainer", "make_trainer"]


class NonFiniteLossError(RuntimeError):
    """A loss term became infinite or not a number."""


class Trainer:
    """Student, method, optimiser, position and history of one run.

    `run` advances it; `state_dict` and `load_state_dict` are whole: a run that goes on from them ends with
    the same weights and the same history as one that never stopped.
    """

    def __init__(
        self,
        step_module: TrainStep,
        config: TrainConfig,
        accelerator: Accelerator,
        *,
        num_steps: int,
        num_samples: int,
    ) -> None:
        self.modules = step_module
        self.config, self.accelerator = config, accelerator
        self.num_steps, self.num_samples = num_steps, num_samples
        self.device = accelerator.device
        self.trained = [p for p in step_module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=step_module.precision == "fp16")
        self.prepared: nn.Module = accelerator.prepare_model(
            step_module, evaluation_mode=accelerator.num_processes == 1
        )
        self.step = 0
        self.seconds = 0.0
        self.threads = [(0, torch.get_num_threads())]  # from that step on
        self.history: list[dict[str, float]] = []
        self.names: list[str] = []
        self._pending: list[Tensor] = []  # one vector of terms for each step since the last row
        self._elapsed = 0.0

    # -- one step

    def train_batch(self, images: Tensor, labels: Tensor) -> None:
        """One optimiser step; nothing here waits for the device."""
        config = self.config
        torch.manual_seed(mix_seed(config.seed, self.step, self.accelerator.process_index, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        terms = self.prepared(images, labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(terms["total"]).backward()
        if config.grad_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.trained, config.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.names = list(terms)
        self._pending.append(torch.stack([term.detach().float() for term in terms.values()]))
        self.step += 1

    def learning_rate(self, step: int) -> float:
        """The schedule's value at a step."""
        return learning_rate(self.config, step, self.num_steps, self.num_samples / self.config.batch_size)

    def run(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        after_step: Callable[[Trainer], bool],
        channels_last: bool = False,
    ) -> bool:
        """Train on the batches until they end (True) or after_step says stop (False)."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.modules.train()
        since = time.monotonic()
        for images, labels in batches:
            images = images.to(self.device, non_blocking=True, memory_format=layout)
            self.train_batch(images, labels.to(self.device, non_blocking=True))
            if self.step % self.config.log_every == 0 or self.step == self.num_steps:
                self.log(self._elapsed + time.monotonic() - since)
                since = time.monotonic()
            self._elapsed += time.monotonic() - since
            if not after_step(self):
                return False
            since = time.monotonic()  # scoring and saving are not counted as training
        return True

    # -- what is told

    def log(self, seconds: float) -> None:
        """Fetch the terms since the last row (the one wait), check them, and add a row of their means."""
        values = self._fetch()
        steps, self._pending, self._elapsed = len(values), [], 0.0
        self.seconds += seconds
        means = dict(zip(self.names, values.mean(0).tolist(), strict=True))
        row = {
            "step": self.step,
            "epoch": self.step * self.config.batch_size / self.num_samples,
            "lr": self.learning_rate(self.step - 1),
            "loss": means.pop("total"),
            **means,
            **{f"weight_{name}": float(weight) for name, weight in self._weights().items()},
            "images_per_s": steps * self.config.batch_size / max(seconds, 1e-9),
        }
        self.history.append(row)

    def last_row(self) -> dict[str, float]:
        """The row of the step just done, made now where no logging interval ends."""
        if not self.history or self.history[-1]["step"] != self.step:
            self.log(self._elapsed)
        return self.history[-1]

    def _weights(self) -> dict[str, float]:
        """The method's weights as they are at this step: some rise over a warm-up."""
        method = self.modules.method
        if method is None:
            return {}
        warmup, seen = getattr(method, "warmup", {}), float(getattr(method, "steps_seen", 0))
        risen = {name: min(1.0, seen / steps) for name, steps in warmup.items()}
        return {name: weight * risen.get(name, 1.0) for name, weight in method.weights.items()}

    def _fetch(self) -> Tensor:
        """Terms of the pending steps (steps, terms), meaned over processes, in float64 on the host.

        Raises `NonFiniteLossError` naming the first step and term that broke.
        """
        stacked = torch.stack(self._pending)
        if self.accelerator.num_processes > 1:
            stacked = self.accelerator.reduce(stacked, "mean")
        values = stacked.double().cpu()
        broken = (~values.isfinite()).nonzero().tolist()
        if broken:
            row = broken[0][0]
            terms = [self.names[c] for r, c in broken if r == row]
            named = [t for t in terms if t != "total"] or terms
            self._raise_broken(self.step - len(values) + row, named, values[row])
        return values

    def _raise_broken(self, step: int, names: list[str], values: Tensor) -> None:
        found = ", ".join(f"{name} = {float(values[self.names.index(name)])}" for name in names)
        raise NonFiniteLossError(
            f"every loss term must be finite; at step {step} (counted from 0) {found}, with lr "
            f"{self.learning_rate(step):.3g} in {self.modules.precision}: lower lr or its weight, set "
            "grad_clip or precision='fp32'; the checkpoints before that step are whole"
        )

    # -- what is kept

    def state_dict(self) -> dict[str, Any]:
        """Everything, in tensors and plain values.

        Raises `NonFiniteLossError` rather than give a broken state.
        """
        if self._pending:
            self._fetch()
        norm = torch.stack(torch._foreach_norm([p.detach() for p in self.trained])).sum()
        if not bool(norm.isfinite()):
            raise NonFiniteLossError(
                f"every weight must be finite; after step {self.step - 1} some are not (the gradient "
                "overflowed): lower lr, set grad_clip or precision='fp32'; the checkpoints before are whole"
            )
        method = self.modules.method
        return {
            "step": self.step,
            "precision": self.modules.precision,
            "threads": self.threads,
            "student": self.modules.student.state_dict(),
            "method": {} if method is None else method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "names": list(self.names),
            "pending": [t.cpu() for t in self._pending],
            "history": json.dumps(self.history),
            "seconds": self.seconds,
            "elapsed": self._elapsed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, with as many threads as then where this machine has the cores.

        Warns (`UserWarning`), once for each change, where it has not: the last digits will differ.
        """
        self.threads = list(state.get("threads", self.threads))
        before = self.threads[-1][1]
        if before <= (os.cpu_count() or 1):
            torch.set_num_threads(before)
        if torch.get_num_threads() != before:
            self.threads.append((state["step"], torch.get_num_threads()))
            warnings.warn(
                f"this run had {before} threads and goes on at step {state['step']} with the "
                f"{torch.get_num_threads()} of this machine: its last digits are not those of a run that never stopped",
                stacklevel=2,
            )
        self.modules.student.load_state_dict(state["student"])
        if self.modules.method is not None:
            self.modules.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.names = state["names"]
        self._pending = [t.to(self.device) for t in state["pending"]]
        self.history = json.loads(state["history"])
        self.seconds, self._elapsed, self.step = state["seconds"], state["elapsed"], state["step"]


def make_trainer(
    student: SegModel,
    teacher: SegModel | None,
    method: nn.Module | None,
    config: TrainConfig,
    accelerator: Accelerator,
    num_samples: int,
) -> Trainer:
    """The trainer of a run at its first step; the networks are moved to the accelerator's device."""
    device, weights = accelerator.device, config.class_weights
    for module in (student, teacher, method):
        if module is not None:
            module.to(device)
    if teacher is not None:
        teacher.eval()
    step = TrainStep(
        _compiled(student, config),
        _compiled(teacher, config),
        method,
        supervise=config.supervise,
        class_weights=None if weights is None else torch.tensor(weights, device=device),
        precision=resolve_precision(config.precision, device),
        world_size=accelerator.num_processes,
    )
    num_steps = config.num_steps(num_samples)
    return Trainer(step, config, accelerator, num_steps=num_steps, num_samples=num_samples)


def _compiled(network: Any, config: TrainConfig) -> Any:
    return torch.compile(network) if config.compile and network is not None else network
