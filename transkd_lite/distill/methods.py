"""Distillation methods behind one interface: `create_method(name, student, teacher)` gives a `Distiller`.

    terms = distiller(images, student(images), teacher(images), labels)     {"csf_1": …, "pea_4": …}
    loss = cross_entropy + distiller.combine(terms)

A Distiller is a list of parts (see `part`); "a+b" has the parts of both. No method has its own training loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from transkd_lite.distill import logits, transkd  # noqa: F401  (they register their methods)
from transkd_lite.distill.part import METHODS, Method, Part
from transkd_lite.models.output import ModelSpec, SegModel, SegOutput

__all__ = ["Distiller", "create_method", "list_methods"]


def _check_output(role: str, output: SegOutput, spec: ModelSpec) -> None:
    """Raise ValueError, naming the stage and the shapes, where an output is not what the spec promises."""
    if output.logits.ndim != 4 or output.logits.shape[1] != spec.num_classes:
        raise ValueError(
            f"{role} logits have shape {tuple(output.logits.shape)}, but {spec.name} promises "
            f"{spec.num_classes} classes: create the method for the networks that it is used with"
        )
    if len(output.features) != 4 or len(output.embeddings) != 4:
        raise ValueError(
            f"{role} must give 4 features and 4 embeddings, got {len(output.features)} "
            f"and {len(output.embeddings)}"
        )
    stages = zip(output.features, output.embeddings, spec.channels, strict=True)
    for stage, (feature, embedding, channels) in enumerate(stages, start=1):
        expected = (feature.shape[0], feature[0, 0].numel(), channels)
        if feature.ndim != 4 or feature.shape[1] != channels or tuple(embedding.shape) != expected:
            raise ValueError(
                f"{role} stage {stage}: {spec.name} promises a feature (N, {channels}, H, W) and an "
                f"embedding (N, H*W, {channels}), got {tuple(feature.shape)} and {tuple(embedding.shape)}: "
                "create the method for the networks that it is used with"
            )


def _constant(output: SegOutput) -> SegOutput:
    """The same values outside the graph. Tensors of inference mode, which backward cannot use, are copied."""

    def cut(x: Tensor) -> Tensor:
        return x.clone() if x.is_inference() else x.detach()

    return SegOutput(cut(output.logits), tuple(map(cut, output.features)), tuple(map(cut, output.embeddings)))


class Distiller(nn.Module):
    """A method for one pair of networks; its parameters exist only during training.

    - name, options: what `create_method` was called with.
    - parts: the families of terms, e.g. `parts["csf"].fusion` and `parts["pea"].stages["4"]`.
    - weights: one entry for each term; may be changed at any time, `combine` reads it.
    """

    def __init__(self, name: str, parts: list[Part], student: ModelSpec, teacher: ModelSpec) -> None:
        super().__init__()
        self.name = name
        self.options: dict[str, Any] = {}
        self.student_spec, self.teacher_spec = student, teacher
        self.parts = nn.ModuleDict({part.family: part for part in parts})
        self.weights: dict[str, float] = {k: v for part in parts for k, v in part.weights.items()}
        self.terms = tuple(self.weights)

    def forward(
        self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Unweighted scalar terms of one batch; no gradient flows into the teacher's output.

        images (N, 3, H, W); labels (N, h, w) of any size, 255 = void, or None where no term needs them.
        Raises ValueError for outputs that are not those of the networks that the method was created for.
        """
        _check_output("student", student, self.student_spec)
        _check_output("teacher", teacher, self.teacher_spec)
        teacher = _constant(teacher)
        terms: dict[str, Tensor] = {}
        for part in self.parts.values():
            terms.update(part(images, student, teacher, labels))
        return terms

    def combine(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The sum of the terms, each times its weight. The supervised loss is not in it.

        Raises ValueError for a term without a weight and for a weight without a term of its name.
        """
        unknown = (set(terms) - set(self.weights)) | (set(self.weights) ^ set(self.terms))
        if unknown:
            raise ValueError(
                f"{self.name} has the terms {', '.join(self.terms)}; check {', '.join(sorted(unknown))}"
            )
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()


def list_methods() -> list[str]:
    """The names that `create_method` takes. Any of them may be joined: "transkd-base+kd"."""
    return sorted(METHODS)


def _method(name: str) -> Method:
    if name not in METHODS:
        raise ValueError(
            f"unknown method {name!r}; there are {', '.join(list_methods())}, joined with + if you like"
        )
    return METHODS[name]


def _own_options(method: Method, joined: list[Method], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are meant for `method`: those it takes, and `name.option` for it alone."""
    own = {}
    for key, value in options.items():
        addressee, _, option = key.rpartition(".")
        takers = [m.name for m in joined if option in m.options and addressee in ("", m.name)]
        if not takers:
            valid = "; ".join(f"{m.name} takes {', '.join(m.options)}" for m in joined)
            raise ValueError(f"unknown option {key!r}: {valid}")
        if len(takers) > 1:
            raise ValueError(f"option {key!r} is taken by {' and '.join(takers)}: write {takers[0]}.{key}")
        if takers == [method.name]:
            own[option] = value
    return own


def create_method(
    name: str, student: SegModel | ModelSpec, teacher: SegModel | ModelSpec, **options: Any
) -> Distiller:
    """Build the method `name`, or several joined with "+", for a pair of networks.

    Options are those of the methods (`describe` lists them). Where two joined methods take the same one,
    write "method.option". Raises ValueError for unknown names and options, and for networks that cannot be
    compared.
    """
    own, other = (m.spec if isinstance(m, SegModel) else m for m in (student, teacher))
    joined = [_method(part) for part in name.split("+")]
    parts = [p for m in joined for p in m.build(own, other, **_own_options(m, joined, options))]
    names = [term for part in parts for term in part.weights]
    twice = sorted({term for term in names if names.count(term) > 1})
    if twice:
        raise ValueError(
            f"{name} would have two terms of the name {', '.join(twice)}: leave one of the methods out"
        )
    distiller = Distiller(name, parts, own, other)
    distiller.options = dict(options)
    return distiller
