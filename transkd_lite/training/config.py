"""The settings of one training run, checked when they are made.

Defaults are the paper's optimiser (AdamW, lr 6e-5, betas 0.9/0.999, weight decay 0.01; section IV-B and the
authors' scripts). The authors decay once an epoch over 1500 epochs and stop at 1000: that is
`schedule="poly", schedule_unit="epoch", schedule_horizon=1.5`.
"""

import dataclasses
import difflib
import functools
import json
import math
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Lt
from pydantic import TypeAdapter, ValidationError

from transkd_lite.data import Augmentation

__all__ = ["ParameterError", "TrainConfig", "check_injected", "check_name", "check_parameters", "check_plain"]

# --- Strict parameters: Python lets any type pass, papermill only warns about a name that a notebook does not have,
# and YAML reads `6e-5` as text. Here each is an error that says what is wrong, where, and what to write instead.

_adapter = functools.cache(TypeAdapter)


class ParameterError(ValueError):
    """A name, type or value that a profile, a notebook or a command line should not have; nothing has run yet."""


def check_name(name: str, valid: Iterable[str], what: str) -> str:
    """Return `name` if it is one of `valid`, else raise a `ParameterError` that names the nearest valid ones.

    >>> check_name("demo", ["demo", "smoke"], "profile")
    'demo'
    """
    names = sorted(valid)
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ParameterError(f"unknown {what} {name!r}: {hint}Valid: {', '.join(names) or '(none)'}")


def check_plain(name: str, what: str) -> str:
    """Return `name` if it can name a file or a folder and lead nowhere else, else raise a `ParameterError`."""
    if re.fullmatch(r"\w[\w .,+()-]*", name):
        return name
    raise ParameterError(f"{what} is a plain name, of letters, digits, spaces and .,+-_(), got {name!r}: rename it")


def check_parameters(given: Mapping[str, Any], hints: Mapping[str, Any], where: str) -> None:
    """Check that every given parameter exists and has the declared type and bounds.

    given: values by name. hints: types by name, as `typing.get_type_hints` gives them. where: what the parameters
    belong to, for the message. Raises `ParameterError`.

    >>> check_parameters({"lr": 1, "steps": 3}, {"lr": float, "steps": int}, "08_train_transkd")
    """
    for name, value in given.items():
        check_name(name, hints, f"parameter of {where}")
        try:  # as JSON, where a list is a tuple and a whole number a float, but True is no number and "1" neither
            _adapter(hints[name]).validate_json(json.dumps(value, default=repr), strict=True)
        except ValidationError as problems:
            told = {"be a valid array": "be a list", "be an object": "be a mapping", "Field required": "be longer"}
            found = [re.sub(r".* should ", "", problem["msg"]) for problem in problems.errors()]
            rules = " or ".join(dict.fromkeys(told.get(rule, rule) for rule in found))
            message = f"{where}: {name} must {rules}; got {name}={value!r}"
            if isinstance(value, str) and (number := re.fullmatch(r"([-+]?\d+)(\.\d*)?([eE][-+]?\d+)?", value)):
                whole, fraction, exponent = number.groups("")
                message += f". Text is no number: write {whole}{fraction or '.0' * bool(exponent)}{exponent.lower()}"
            raise ParameterError(message) from problems


def check_injected(names: Mapping[str, Any]) -> None:
    """Check what papermill has put into a notebook, which it does not do itself: `check_injected(globals())`.

    Raises `ParameterError`: a name that no cell declares by an annotation, or a value of another type.
    """
    cells = (cell for cell in names.get("In", ()) if cell.startswith("# Parameters\n"))  # papermill's begin so
    injected = [name for cell in cells for name in re.findall(r"^(\w+) = ", cell, re.MULTILINE)]
    check_parameters({name: names[name] for name in injected}, names.get("__annotations__", {}), "this notebook")


# --- The record.

Whole = Annotated[int, Ge(0)]
Count = Annotated[int, Gt(0)]
Positive = Annotated[float, Gt(0), Lt(math.inf)]
NotNegative = Annotated[float, Ge(0), Lt(math.inf)]
Beta = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `fit`. A value that makes no sense raises `ParameterError`, a `ValueError`, naming the parameter.

    steps, epochs: length of the run, in optimiser steps or in passes over the data (give at most one; one epoch if
        neither); steps=0 trains nothing: the network is scored and saved as it is.
    batch_size: images a step over all processes together.
    lr, weight_decay, betas, eps, grad_clip: AdamW; the gradient's norm is clipped to grad_clip if given.
    schedule: "poly" (power `schedule_power`), "cosine" or "constant", after a linear warm-up of warmup_steps.
        schedule_horizon: the decay reaches zero after this multiple of the run. schedule_unit: decay a "step" or an
        "epoch".
    crop: (height, width) in pixels, None for the image as it is. pad: images smaller than the crop are filled with
        void; without it the first image is checked, the others are not.
    augment: a name of `data.transforms`.
    normalize: subtract ImageNet's mean and divide by its deviation; otherwise values are in [0, 1].
    class_weights: one non-negative factor for each logit in the cross entropy.
    supervise: "full" compares logits upsampled to the labels, "quarter" labels resized to the logits (the paper).
    precision: "auto" takes bf16 on a GPU that has it, fp16 on an older one, fp32 on everything else.
    compile: run student and teacher through torch.compile.
    deterministic: only kernels with a reproducible result.
    workers: loader processes. cache_mb: memory for decoded samples and the
        teacher's answers. teacher_cache: "auto" computes these once for each sample where nothing but flips is drawn.
    log_every, checkpoint_every, eval_every: in steps; None means never (checkpoint: only at the end of a run).
    device: "auto" or "cpu".

    >>> TrainConfig(steps=100, lr=1e-4).lr
    0.0001
    """

    steps: Whole | None = None
    epochs: Positive | None = None
    batch_size: Count = 4
    lr: Positive = 6e-5
    weight_decay: NotNegative = 0.01
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Positive = 1e-8
    grad_clip: Positive | None = None
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    schedule_power: Positive = 1.0
    schedule_horizon: Annotated[float, Ge(1), Lt(math.inf)] = 1.0
    schedule_unit: Literal["step", "epoch"] = "step"
    warmup_steps: Whole = 0
    crop: tuple[Count, Count] | None = None
    pad: bool = False
    augment: Augmentation = "flip"
    normalize: bool = True
    class_weights: tuple[NotNegative, ...] | None = None
    supervise: Literal["full", "quarter"] = "full"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    deterministic: bool = False
    seed: Whole = 0
    workers: Whole = 0
    cache_mb: Whole = 1024
    log_every: Count = 10
    checkpoint_every: Count | None = 200
    eval_every: Count | None = None
    teacher_cache: Literal["auto", "off"] = "auto"
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        check_parameters(vars(self), self.hints(), type(self).__name__)
        for name in ("betas", "crop", "class_weights"):  # lists come from YAML and JSON
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        rules = {
            "steps must be None when epochs is given (give only one)": self.steps is None or self.epochs is None,
            "warmup_steps must be less than steps": not self.steps or self.warmup_steps < self.steps,
            "class_weights must not all be 0": self.class_weights is None or any(self.class_weights),
        }
        for rule in (rule for rule, kept in rules.items() if not kept):
            got = {name: getattr(self, name) for name in ("steps", "epochs", "warmup_steps", "class_weights")}
            raise ParameterError(f"{type(self).__name__}: {rule}; got {got}")

    @classmethod
    def hints(cls) -> dict[str, Any]:
        """Types of all parameters by name, in order."""
        return typing.get_type_hints(cls, include_extras=True)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The record of a plain mapping (JSON, YAML); an unknown or mistyped parameter raises `ParameterError`."""
        for name in values:
            check_name(name, cls.hints(), f"parameter of {cls.__name__}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold and `from_dict` takes back."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    def check_fits(self, image_size: tuple[int, int], num_classes: int) -> None:
        """Raise `ParameterError`, naming the parameter, where one does not fit the images (H, W) or the logits."""
        (height, width), crop, weights = image_size, self.crop, self.class_weights
        if crop is not None and not self.pad and (crop[0] > height or crop[1] > width):
            rule = f"crop must fit into the image ({height}x{width})"
            raise ParameterError(f"TrainConfig: {rule}; got {crop=}: choose a smaller crop, larger images, or pad=True")
        if weights is not None and len(weights) != num_classes:
            rule = f"class_weights must have one factor for each of the {num_classes} logits"
            raise ParameterError(f"TrainConfig: {rule}; got {len(weights)}")

    @property
    def num_states(self) -> float:
        """In how many states a sample reaches the networks: 1 as it is, 2 where only flips are drawn; or infinity."""
        return math.inf if self.crop is not None else {"none": 1, "flip": 2}.get(self.augment, math.inf)

    def num_steps(self, num_samples: int) -> int:
        """Optimiser steps of the whole run over a dataset of num_samples images."""
        if self.steps is not None:
            return self.steps
        steps = max(1, math.ceil((self.epochs or 1.0) * num_samples / self.batch_size))
        if self.warmup_steps >= steps:
            rule = f"warmup_steps must be less than steps, {steps} in {self.epochs or 1.0} epochs"
            raise ParameterError(f"{type(self).__name__}: {rule}; got {self.warmup_steps}")
        return steps
