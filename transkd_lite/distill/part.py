"""What a method is made of: `Part`, a module that yields named terms, and the registry of methods.

A method is a function that builds its parts for two networks; `register` files it under its name together
with the formula and the source that `describe` prints. The keyword-only arguments of the function are the
method's options; where it hands `**options` on, those of the function it hands them to count too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from transkd_lite.distill.adapt import count_valid, map_size, resize_map, valid_pixels
from transkd_lite.models.output import ModelSpec, SegOutput

__all__ = [
    "CIRKD",
    "CIRKD_SEGFORMER",
    "METHODS",
    "Method",
    "Part",
    "SingleTerm",
    "check_same_classes",
    "check_stages",
    "register",
]

STAGES = (1, 2, 3, 4)
# Runs for which several default weights were published (github.com/winycg/CIRKD).
CIRKD = "CIRKD's runs with DeepLabV3, ResNet-101 -> 18, crops of 512 x 1024, maps of 64 x 128"
CIRKD_SEGFORMER = "SegFormer-B4 -> B0, crops of 1024 x 1024, decoder maps of 256 x 256"


class Part(nn.Module):
    """Some terms of a method, with the modules that exist only to compute them.

    `family` names the part inside a Distiller, `weights` holds one default weight for each term that
    `forward` yields. `processes` is the number of processes that share a mini-batch; the training loop sets it.
    """

    processes = 1

    def __init__(self, family: str, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.family = family
        self.weights = dict(weights)

    def forward(
        self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None
    ) -> dict[str, Tensor]:
        """Unweighted scalar terms by the names that `weights` has. The teacher is detached already."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")


class SingleTerm(Part):
    """One term that bears its method's name: a loss of pairs of maps, added over the stages.

    - loss(student map, teacher map), with the labels as a third argument unless `labels` is "unused";
      "required" refuses a batch without labels. Where processes share a mini-batch it also gets `count`, the
      number of valid pixels to divide by (see `adapt.count_valid`).
    - stages: whose features are compared; None means the logits.
    - adapters: by stage, modules that bring the student's map to the teacher's width where the loss needs it.

    The student's map is resized to the teacher's (bilinear) before it is adapted.
    """

    def __init__(
        self,
        name: str,
        loss: Callable[..., Tensor],
        weight: float,
        *,
        stages: Sequence[int] | None = None,
        adapters: Mapping[int, nn.Module] | None = None,
        labels: Literal["unused", "optional", "required"] = "unused",
    ) -> None:
        super().__init__(name, {name: weight})
        self.loss, self.labels = loss, labels
        self.stages = None if stages is None else check_stages("stages", stages)
        if self.stages == ():
            raise ValueError(f"{name} compares features: stages must name at least one of 1, 2, 3, 4")
        self.adapters = nn.ModuleDict({str(stage): module for stage, module in (adapters or {}).items()})

    def _compare(self, student: Tensor, teacher: Tensor, labels: Tensor | None, adapter: str = "") -> Tensor:
        resized = resize_map(student, map_size(teacher))
        adapted = self.adapters[adapter](resized) if adapter in self.adapters else resized
        if self.labels == "unused":
            return self.loss(adapted, teacher)
        shared = (
            {"count": count_valid(valid_pixels(labels, teacher), self.processes)}
            if self.processes > 1
            else {}
        )
        return self.loss(adapted, teacher, labels, **shared)

    def forward(
        self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None
    ) -> dict[str, Tensor]:
        if self.labels == "required" and labels is None:
            raise ValueError(f"{self.family} needs labels, got None: pass labels=… to the distiller")
        if self.stages is None:
            return {self.family: self._compare(student.logits, teacher.logits, labels)}
        maps = ((i, student.features[i - 1], teacher.features[i - 1]) for i in self.stages)
        return {self.family: torch.stack([self._compare(s, t, labels, str(i)) for i, s, t in maps]).sum()}


Builder = Callable[..., list[Part]]


def _keyword_options(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


@dataclass(frozen=True)
class Method:
    """A registered method: the function that builds its parts, what `describe` prints, the options' defaults."""

    name: str
    build: Builder
    formula: str
    source: str
    strength: str
    options: Mapping[str, Any]


METHODS: dict[str, Method] = {}


def register(
    name: str, *, formula: str, source: str, strength: str = "", options_of: Sequence[Callable[..., Any]] = ()
) -> Callable[[Builder], Builder]:
    """Decorator: file a function (student spec, teacher spec, *, options) -> list of parts as method `name`.

    `strength` says with which networks and map sizes the default weight was published, and how the term grows with the
    map. `options_of` are the functions that get the builder's `**options`.
    """

    def decorate(build: Builder) -> Builder:
        options = {k: v for f in (*options_of, build) for k, v in _keyword_options(f).items()}
        METHODS[name] = Method(name, build, formula, source, strength, options)
        return build

    return decorate


def check_stages(option: str, stages: Sequence[int]) -> tuple[int, ...]:
    """The stages as a tuple. Raises ValueError unless they are some of 1 … 4 in ascending order."""
    chosen = tuple(stages) if isinstance(stages, list | tuple) else (stages,)
    if any(s not in STAGES for s in chosen) or list(chosen) != sorted(set(chosen)):
        raise ValueError(f"{option} must be some of the stages 1, 2, 3, 4 in ascending order, got {stages!r}")
    return tuple(int(stage) for stage in chosen)


def check_same_classes(method: str, student: ModelSpec, teacher: ModelSpec) -> None:
    """Raise ValueError where the logits of the two networks do not mean the same classes."""
    if student.num_classes != teacher.num_classes:
        raise ValueError(
            f"{method} compares logits class by class, but the student {student.name} has "
            f"{student.num_classes} classes and the teacher {teacher.name} has {teacher.num_classes}: "
            "build both with the same num_classes, or choose a method that compares features"
        )
