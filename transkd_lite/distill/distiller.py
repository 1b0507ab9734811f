"""The Distiller: what every method is during training, whatever it compares.

    terms = distiller(images, student(images), teacher(images), labels)     {"csf_1": …, "pea_4": …}
    loss = cross_entropy + distiller.combine(terms)

It checks what comes in, cuts the teacher out of the graph, asks its parts for their terms, and weighs them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from transkd_lite.data.labels import require_train_ids
from transkd_lite.distill.adapt import valid_pixels
from transkd_lite.distill.part import Part
from transkd_lite.models.files import listed
from transkd_lite.models.output import ModelSpec, SegOutput

__all__ = ["Distiller"]


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
        expected = (feature.shape[0], feature.shape[2:].numel(), channels)
        if feature.ndim != 4 or feature.shape[1] != channels or tuple(embedding.shape) != expected:
            raise ValueError(
                f"{role} stage {stage}: {spec.name} promises a feature (N, {channels}, H, W) and an "
                f"embedding (N, H*W, {channels}), got {tuple(feature.shape)} and {tuple(embedding.shape)}: "
                "create the method for the networks that it is used with"
            )


def _check_batch(images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None) -> None:
    """Raise ValueError unless all have the same number of images."""
    sizes = {"images": len(images), "student": len(student.logits), "teacher": len(teacher.logits)}
    if labels is not None:
        sizes["labels"] = len(labels)
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"a batch has one number of images, got {counts}: pass outputs of the same images")


def _constant(output: SegOutput) -> SegOutput:
    """The same values outside the graph. Tensors of inference mode, which backward cannot use, are copied."""

    def cut(x: Tensor) -> Tensor:
        return x.clone() if x.is_inference() else x.detach()

    return SegOutput(cut(output.logits), tuple(map(cut, output.features)), tuple(map(cut, output.embeddings)))


def _influence(term: Tensor, outputs: Sequence[Tensor]) -> float:
    """How much a term changes with the student's outputs, Σ |gradient| |output|; rounding leaves up to 1e-7."""
    if not term.requires_grad:
        return 0.0
    scale = torch.full_like(term, 2.0**16)  # float16 would flush the gradient of a mean over a map to 0
    gradients = torch.autograd.grad(term, outputs, scale, retain_graph=True, allow_unused=True)
    pairs = [
        (g.float(), x.detach().float()) for g, x in zip(gradients, outputs, strict=True) if g is not None
    ]
    return sum(float(g.norm() * x.norm().clamp_min(1) / scale) for g, x in pairs)


class Distiller(nn.Module):
    """A method for one pair of networks; its parameters exist only during training.

    - name, options: what `create_method` was called with.
    - parts: the families of terms, e.g. `parts["csf"].fusion` and `parts["pea"].stages["4"]`.
    - terms: the names of the terms, in order.
    - weights: one entry for each term; may be changed at any time, `combine` reads it.
    - warmup: for some terms the number of steps over which the weight rises linearly from 0.
    - steps_seen: forward passes in training mode; in the state dict, so that a warm-up goes on after a resume.
    """

    steps_seen: Tensor

    def __init__(self, name: str, parts: Sequence[Part], student: ModelSpec, teacher: ModelSpec) -> None:
        super().__init__()
        self.name = name
        self.options: dict[str, Any] = {}
        self.student_spec, self.teacher_spec = student, teacher
        self.parts = nn.ModuleDict({part.family: part for part in parts})
        self.weights: dict[str, float] = {k: v for part in parts for k, v in part.weights.items()}
        self.terms = tuple(self.weights)
        self.warmup: dict[str, int] = {}
        self._processes: int | None = None  # known within a training loop alone
        self._smallest = (
            torch.inf
        )  # pixels of the smallest images for which terms without gradient were looked for
        self._idle: set[str] = set()  # those found
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.long))

    def join_training(self, processes: int) -> None:
        """Called by the training loop: so many processes share a mini-batch, and its labels are known to be train ids.

        Labels are not checked any more, since that would wait for the device at every step.
        """
        self._processes = processes
        for part in self.parts.values():
            part.processes = processes  # type: ignore[assignment]

    def forward(
        self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Unweighted scalar terms of one batch; no gradient flows into the teacher's output.

        images (N, 3, H, W); labels (N, h, w) of any size, 255 = void, or None where no term needs them.
        Raises ValueError for outputs that are not those of the networks that the method was created for, and for
        labels that are no class of either. Warns once of a term that cannot change the student at this size.
        """
        _check_batch(images, student, teacher, labels)
        if labels is not None and self._processes is None:
            classes = max(self.student_spec.num_classes, self.teacher_spec.num_classes)
            require_train_ids(labels, classes, f"the labels for {self.name}")
        _check_output("student", student, self.student_spec)
        _check_output("teacher", teacher, self.teacher_spec)
        teacher = _constant(teacher)
        if self.training:
            self.steps_seen += 1
        terms: dict[str, Tensor] = {}
        for part in self.parts.values():
            terms.update(part(images, student, teacher, labels))
        self._warn_of_idle_terms(images, student, labels, terms)
        return terms

    def _warn_of_idle_terms(
        self, images: Tensor, student: SegOutput, labels: Tensor | None, terms: Mapping[str, Tensor]
    ) -> None:
        """Warn once of every term without gradient with respect to the student. It takes a backward pass through the
        terms, at the first mini-batch and at the first of smaller images.

        A mini-batch without labelled positions says nothing and is passed over, as is training on several processes,
        whose gradients wait for each other.
        """
        outputs = [x for x in (student.logits, *student.features, *student.embeddings) if x.requires_grad]
        alone, pixels = self._processes in (None, 1), images.shape[2:].numel()
        if not (outputs and alone and torch.is_grad_enabled()) or pixels >= self._smallest:
            return
        if labels is not None and not valid_pixels(labels, student.features[3]).any():
            return
        self._smallest = pixels
        idle = [name for name in terms.keys() - self._idle if _influence(terms[name], outputs) < 1e-7]
        self._idle.update(idle)
        if idle:
            sizes = ", ".join(f"{f.shape[2]} x {f.shape[3]}" for f in student.features)
            warnings.warn(
                f"{self.name}: the gradient of {', '.join(sorted(idle))} with respect to the student is 0 on images of "
                f"{images.shape[2]} x {images.shape[3]} (features of {sizes}; {student.logits.shape[1]} classes). One "
                "position, one class or constant maps leave nothing to compare: take larger images or earlier stages, "
                "or leave the term out",
                stacklevel=3,
            )

    def _weight(self, term: str) -> float | Tensor:
        """The weight of a term at this step; a warm-up's stays on the device, so that nothing waits for it."""
        steps = self.warmup.get(term, 0)
        return self.weights[term] * (self.steps_seen / steps).clamp(max=1) if steps else self.weights[term]

    def combine(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The sum of the terms, each times its weight. The supervised loss is not in it.

        Raises ValueError for a term that is not this method's, and where `weights` has lost or gained a name.
        """
        strange = (set(terms) - set(self.terms)) | (set(self.weights) ^ set(self.terms))
        if strange:
            raise ValueError(
                f"{self.name} has the terms {', '.join(self.terms)}, each with one weight; "
                f"check {listed(sorted(strange))}"
            )
        return torch.stack([self._weight(name) * term for name, term in terms.items()]).sum()
