"""The settings of one training run, checked when they are made, and the learning rate as a pure function of
the step.

Defaults are the paper's optimiser (AdamW, lr 6e-5, betas 0.9/0.999, weight decay 0.01; section IV-B and the
authors' scripts). The authors decay once an epoch over 1500 epochs and stop at 1000: that is
``schedule="poly", schedule_unit="epoch", schedule_horizon=1.5``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transkd_lite.data import AUGMENTATIONS

__all__ = ["AUGMENTATIONS", "PRECISIONS", "SCHEDULES", "TrainConfig", "learning_rate"]

SCHEDULES = ("poly", "cosine", "constant")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are(fits: Callable[[Any], bool], values: Any) -> bool:
    return isinstance(values, tuple) and all(map(fits, values))


_RULES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("batch_size log_every", "above 0, a whole number", lambda v: _is_int(v) and v > 0),
    ("warmup_steps seed workers cache_mb", "0 or more, a whole number", lambda v: _is_int(v) and v >= 0),
    (
        "steps checkpoint_every eval_every",
        "a whole number above 0, or None",
        lambda v: v is None or (_is_int(v) and v > 0),
    ),
    ("lr eps schedule_power", "above 0, a finite number", lambda v: _is_finite(v) and v > 0),
    ("weight_decay", "0 or more, a finite number", lambda v: _is_finite(v) and v >= 0),
    ("epochs grad_clip", "above 0, or None", lambda v: v is None or (_is_finite(v) and v > 0)),
    ("schedule_horizon", "1 or more (a multiple of the run's length)", lambda v: _is_finite(v) and v >= 1),
    ("pad normalize compile deterministic", "True or False", lambda v: isinstance(v, bool)),
    ("betas", "two numbers in [0, 1)", lambda v: _are(lambda b: _is_finite(b) and 0 <= b < 1, v) and len(v) == 2),
    (
        "crop",
        "(height, width) in pixels above 0, or None",
        lambda v: v is None or (_are(lambda s: _is_int(s) and s > 0, v) and len(v) == 2),
    ),
    (
        "class_weights",
        "None or factors of 0 or more, not all 0",
        lambda v: v is None or (_are(lambda w: _is_finite(w) and w >= 0, v) and sum(v) > 0),
    ),
)
_CHOICES = {
    "schedule": SCHEDULES,
    "schedule_unit": ("step", "epoch"),
    "augment": AUGMENTATIONS,
    "supervise": ("full", "quarter"),
    "precision": PRECISIONS,
    "device": ("auto", "cpu"),
    "channels_last": (None, True, False),
}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `fit`. A value that makes no sense raises `ValueError` naming the parameter.

    steps, epochs: length of the run, in optimiser steps or in passes over the data (give at most one; one
    epoch if
        neither). batch_size: images a step over all processes together.
    lr, weight_decay, betas, eps, grad_clip: AdamW; the gradient's norm is clipped to grad_clip if given.
    schedule: "poly" (power `schedule_power`), "cosine" or "constant", after a linear warm-up of warmup_steps.
        schedule_horizon: the decay reaches zero after this multiple of the run. schedule_unit: decay a
        "step" or an "epoch".
    crop: (height, width) in pixels, None for the image as it is. pad: images smaller than the crop are
    filled with void.
    augment: a name of `data.transforms`.
    normalize: subtract ImageNet's mean and divide by its deviation; otherwise values are in [0, 1].
    class_weights: one non-negative factor for each logit in the cross entropy.
    supervise: "full" compares logits upsampled to the labels, "quarter" labels resized to the logits (the
    paper).
    precision: "auto" takes bf16 on a GPU that has it, fp16 on an older one, fp32 on everything else.
    compile: run student and teacher through torch.compile.
    channels_last: give the networks images in this memory layout. None leaves it off: on CPUs a step took between 5%
    more and 2% less with it. deterministic: only kernels with a reproducible result.
    workers: loader processes. cache_mb: decoded samples are kept in memory up to this size.
    log_every, checkpoint_every, eval_every: in steps; None means never (checkpoint: only at the end of a
    run).
    device: "auto" or "cpu".

    >>> TrainConfig(steps=100, lr=1e-4).lr
    0.0001
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 4
    lr: float = 6e-5
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    grad_clip: float | None = None
    schedule: str = "poly"
    schedule_power: float = 1.0
    schedule_horizon: float = 1.0
    schedule_unit: str = "step"
    warmup_steps: int = 0
    crop: tuple[int, int] | None = None
    pad: bool = False
    augment: str = "flip"
    normalize: bool = True
    class_weights: tuple[float, ...] | None = None
    supervise: str = "full"
    precision: str = "auto"
    compile: bool = False
    channels_last: bool | None = None
    deterministic: bool = False
    seed: int = 0
    workers: int = 0
    cache_mb: int = 1024
    log_every: int = 10
    checkpoint_every: int | None = 200
    eval_every: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if _is_int(self.crop):
            object.__setattr__(self, "crop", (self.crop, self.crop))
        for name in ("betas", "crop", "class_weights"):  # lists come from YAML and JSON
            if isinstance(getattr(self, name), Iterable):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for names, rule, fits in _RULES:
            for name in names.split():
                self._require(name, fits(getattr(self, name)), rule)
        for name, allowed in _CHOICES.items():
            self._require(name, getattr(self, name) in allowed, "one of " + ", ".join(map(repr, allowed)))
        alone = self.steps is None or self.epochs is None
        self._require("steps", alone, "None when epochs is given (give only one)")
        if self.steps is not None:
            self._require("warmup_steps", self.warmup_steps < self.steps, f"less than steps ({self.steps})")

    def _require(self, name: str, fits: bool, rule: str) -> None:
        if not fits:
            raise ValueError(f"TrainConfig: {name} must be {rule}; got {name}={getattr(self, name)!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The config of a plain mapping (JSON, YAML).

        Raises `ValueError` naming an unknown parameter and listing the known ones.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"TrainConfig: unknown parameter {name!r}; known are {', '.join(known)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold and `from_dict` takes back."""
        values = dataclasses.asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    def check_fits(self, image_size: tuple[int, int], num_classes: int) -> None:
        """Raise `ValueError`, naming the parameter, where a setting does not fit the images (H, W) or the logits."""
        (height, width), crop, weights = image_size, self.crop, self.class_weights
        if crop is not None and not self.pad and (crop[0] > height or crop[1] > width):
            raise ValueError(
                f"TrainConfig: crop must fit into the image ({height}x{width}); got crop={crop}: "
                "choose a smaller crop, larger images, or pad=True"
            )
        if weights is not None and len(weights) != num_classes:
            raise ValueError(
                f"TrainConfig: class_weights must have one factor for each of the {num_classes} logits; "
                f"got {len(weights)}"
            )

    def num_steps(self, num_samples: int) -> int:
        """Optimiser steps of the whole run over a dataset of num_samples images."""
        if self.steps is not None:
            return self.steps
        epochs = 1.0 if self.epochs is None else self.epochs
        return max(1, math.ceil(epochs * num_samples / self.batch_size))


def learning_rate(config: TrainConfig, step: int, num_steps: int, steps_per_epoch: float = 1.0) -> float:
    """Learning rate of step 0 … num_steps - 1.

    Warm-up rises linearly from lr / warmup_steps to lr; then, with p the share of the horizon that is done,
    poly gives lr (1 - p)^power and cosine lr (1 + cos(pi p)) / 2.

    >>> [learning_rate(TrainConfig(steps=4, lr=1.0), s, 4) for s in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = float(step)
    if config.schedule_unit == "epoch":
        done = math.floor(step / steps_per_epoch) * steps_per_epoch
    start, end = config.warmup_steps, num_steps * config.schedule_horizon
    share = min(1.0, max(0.0, (done - start) / max(1.0, end - start)))
    if config.schedule == "cosine":
        return config.lr * (1.0 + math.cos(math.pi * share)) / 2.0
    return config.lr * (1.0 - share) ** config.schedule_power
