"""What a method is made of: `Part`, a module that yields named terms, and the registry of methods.

A method is a function that builds its parts for two networks; `register` files it under its name together
with the formula and the source that `describe` prints. The keyword-only arguments of the function are the
method's options; where it hands `**options` on, those of the function it hands them to count too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from transkd_lite.models.output import ModelSpec, SegOutput

__all__ = ["METHODS", "Method", "Part", "check_same_classes", "check_stages", "register"]

STAGES = (1, 2, 3, 4)


class Part(nn.Module):
    """Some terms of a method, with the modules that exist only to compute them.

    `family` names the part inside a Distiller, `weights` holds one default weight for each term that
    `forward` yields.
    """

    def __init__(self, family: str, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.family = family
        self.weights = dict(weights)

    def forward(
        self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None
    ) -> dict[str, Tensor]:
        """Unweighted scalar terms, as many and by the names that `weights` has. The teacher is detached
        already.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward")


Builder = Callable[..., list[Part]]


def _keyword_options(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


@dataclass(frozen=True)
class Method:
    """A registered method: its name, the function that builds its parts, its formula, source and options'
    defaults.
    """

    name: str
    build: Builder
    formula: str
    source: str
    options: Mapping[str, Any]


METHODS: dict[str, Method] = {}


def register(
    name: str, *, formula: str, source: str, options_of: Sequence[Callable[..., Any]] = ()
) -> Callable[[Builder], Builder]:
    """Decorator: file a function (student spec, teacher spec, *, options) -> list of parts as method `name`.

    `options_of` are the functions that get the builder's `**options`.
    """

    def decorate(build: Builder) -> Builder:
        options = {k: v for f in (*options_of, build) for k, v in _keyword_options(f).items()}
        METHODS[name] = Method(name, build, formula, source, options)
        return build

    return decorate


def check_stages(option: str, stages: Sequence[int]) -> tuple[int, ...]:
    """The stages as a tuple. Raises ValueError unless they are some of 1 … 4 in ascending order."""
    chosen = tuple(stages) if isinstance(stages, list | tuple) else (stages,)
    if any(s not in STAGES for s in chosen) or list(chosen) != sorted(set(chosen)):
        raise ValueError(f"{option} must be some of the stages 1, 2, 3, 4 in ascending order, got {stages!r}")
    return chosen


def check_same_classes(method: str, student: ModelSpec, teacher: ModelSpec) -> None:
    """Raise ValueError where the logits of the two networks do not mean the same classes."""
    if student.num_classes != teacher.num_classes:
        raise ValueError(
            f"{method} compares logits class by class, but the student {student.name} has "
            f"{student.num_classes} classes and the teacher {teacher.name} has {teacher.num_classes}: "
            "build both with the same num_classes, or choose a method that compares features"
        )
