"""The Distiller: what every method is during training, whatever it compares.

    terms = distiller(images, student(images), teacher(images), labels)     {"csf_1": …, "pea_4": …}
    loss = cross_entropy + distiller.combine(terms)

It checks what comes in, cuts the teacher out of the graph, asks its parts for their terms, and weighs them. A `Part`
is a module that yields named terms; `methods` says which parts a method has.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from transkd_lite.data.labels import require_train_ids
from transkd_lite.distill.losses import count_valid, map_size, resize_map, valid_pixels
from transkd_lite.models.output import ModelSpec, SegOutput, listed

__all__ = ["STAGES", "Distiller", "Part", "SingleTerm", "check_stages"]

STAGES = (1, 2, 3, 4)
Labels = Literal["unused", "optional", "required"]


def check_stages(option: str, stages: Sequence[int]) -> tuple[int, ...]:
    """The stages as a tuple. Raises ValueError unless they are some of 1 … 4 in ascending order."""
    chosen = tuple(stages) if isinstance(stages, list | tuple) else (stages,)
    if any(s not in STAGES for s in chosen) or list(chosen) != sorted(set(chosen)):
        raise ValueError(f"{option} must be some of the stages 1, 2, 3, 4 in ascending order, got {stages!r}")
    return tuple(int(stage) for stage in chosen)


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

    - loss(student map, teacher map), with `labels` too unless they are "unused"; "required" refuses a batch without
      labels. Where processes share a mini-batch it also gets `count`, the number of valid pixels to divide by (see
      `losses.count_valid`).
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
        labels: Labels = "unused",
    ) -> None:
        super().__init__(name, {name: weight})
        self.loss, self.labels = loss, labels
        self.stages = None if stages is None else check_stages("stages", stages)
        if self.stages == ():
            raise ValueError(f"{name} compares features: stages must name at least one of 1, 2, 3, 4")
        self.adapters = nn.ModuleDict({str(stage): module for stage, module in (adapters or {}).items()})

    def forward(
        self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None
    ) -> dict[str, Tensor]:
        if self.labels == "required" and labels is None:
            raise ValueError(f"{self.family} needs labels, got None: pass labels=… to the distiller")
        if self.stages is None:
            pairs = {"logits": (student.logits, teacher.logits)}
        else:
            pairs = {str(i): (student.features[i - 1], teacher.features[i - 1]) for i in self.stages}
        found = []
        for name, (own, wanted) in pairs.items():
            own = resize_map(own, map_size(wanted))
            own = self.adapters[name](own) if name in self.adapters else own
            known: dict[str, Any] = {} if self.labels == "unused" else {"labels": labels}
            if known and self.processes > 1:
                known["count"] = count_valid(valid_pixels(labels, wanted), self.processes)
            found.append(self.loss(own, wanted, **known))
        return {self.family: torch.stack(found).sum()}


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
    pairs = [(g.float(), x.detach().float()) for g, x in zip(gradients, outputs, strict=True) if g is not None]
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
        # Terms without gradient that were found, and the pixels of the smallest images that were searched for them.
        self._idle: set[str] = set()
        self._smallest = torch.inf
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
        self._check(images, student, teacher, labels)
        teacher = _constant(teacher)
        if self.training:
            self.steps_seen += 1
        terms: dict[str, Tensor] = {}
        for part in self.parts.values():
            terms.update(part(images, student, teacher, labels))
        self._warn_of_idle_terms(images, student, labels, terms)
        return terms

    def _check(self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None) -> None:
        """Raise ValueError, naming the stage and the shapes, where something is not what the specs promise."""
        sizes = {"images": len(images), "student": len(student.logits), "teacher": len(teacher.logits)}
        if labels is not None:
            sizes["labels"] = len(labels)
        if len(set(sizes.values())) > 1:
            counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise ValueError(f"a batch has one number of images, got {counts}: pass outputs of the same images")
        if labels is not None and self._processes is None:
            classes = max(self.student_spec.num_classes, self.teacher_spec.num_classes)
            require_train_ids(labels, classes, f"the labels for {self.name}")
        advice = "create the method for the networks that it is used with"
        networks = (("student", student, self.student_spec), ("teacher", teacher, self.teacher_spec))
        for role, output, spec in networks:
            shape, given = tuple(output.logits.shape), (len(output.features), len(output.embeddings))
            if len(shape) != 4 or shape[1] != spec.num_classes:
                promise = f"but {spec.name} promises {spec.num_classes} classes"
                raise ValueError(f"{role} logits have shape {shape}, {promise}: {advice}")
            if given != (4, 4):
                raise ValueError(f"{role} must give 4 features and 4 embeddings, got {given[0]} and {given[1]}")
            stages = zip(output.features, output.embeddings, spec.channels, strict=True)
            for stage, (feature, embedding, width) in enumerate(stages, start=1):
                expected = (len(feature), feature.shape[2:].numel(), width)
                if feature.ndim != 4 or feature.shape[1] != width or embedding.shape != expected:
                    raise ValueError(
                        f"{role} stage {stage}: {spec.name} promises a feature (N, {width}, H, W) and an embedding "
                        f"(N, H*W, {width}), got {tuple(feature.shape)} and {tuple(embedding.shape)}: {advice}"
                    )

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

    def combine(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The sum of the terms, each times its weight at this step. The supervised loss is not in it.

        Raises ValueError for a term that is not this method's, and where `weights` has lost or gained a name.
        """
        strange = (set(terms) - set(self.terms)) | (set(self.weights) ^ set(self.terms))
        if strange:
            raise ValueError(
                f"{self.name} has the terms {', '.join(self.terms)}, each with one weight; "
                f"check {listed(sorted(strange))}"
            )
        # A warm-up's weight stays on the device, so that nothing waits for it.
        rise = {term: (self.steps_seen / steps).clamp(max=1) for term, steps in self.warmup.items()}
        weighted = [self.weights[name] * rise.get(name, 1) * term for name, term in terms.items()]
        return torch.stack(weighted).sum()
