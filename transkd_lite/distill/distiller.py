"""The Distiller: what every method is during training, whatever it compares.

    terms = distiller(images, student(images), teacher(images), labels)     {"csf_1": …, "pea_4": …}
    loss = cross_entropy + distiller.combine(terms)

It checks what comes in, cuts the teacher out of the graph, asks its parts for their terms, and weighs them. A `Part`
is a module that yields named terms; `methods` says which parts a method has.
"""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from transkd_lite.data.labels import require_train_ids
from transkd_lite.distill.losses import resize_map, valid_pixels
from transkd_lite.models.output import ModelSpec, SegOutput

__all__ = ["STAGES", "Distiller", "Part", "SingleTerm", "Terms", "check_stages"]

STAGES = (1, 2, 3, 4)
MAPS = ("logits", *(f"{kind}_{i}" for kind in ("features", "embeddings") for i in STAGES))
Terms = dict[str, Tensor]
Loss = Callable[..., Tensor]
Stages = Sequence[int] | None
Adapter = Callable[[int], nn.Module] | None


def check_stages(option: str, stages: Sequence[int]) -> tuple[int, ...]:
    """The stages as a tuple. Raises `ValueError` unless they are one or more of 1 … 4 in ascending order."""
    given = list(stages) if isinstance(stages, list | tuple) else [stages]
    chosen = [stage for stage in STAGES if stage in given]
    if not chosen or chosen != given:
        raise ValueError(f"{option} must be at least one of the stages 1, 2, 3, 4, in ascending order, got {stages!r}")
    return tuple(chosen)


class Part(nn.Module):
    """Some terms of a method, with the modules that exist only to compute them.

    A part defines forward(images, student output, teacher output, labels or None) -> unweighted scalar terms by name;
    the teacher's output is detached already.

    family: names the part inside a Distiller.
    weights: one default weight for each term that `forward` yields.
    processes: the number of processes that share a mini-batch; the training loop sets it.
    reads: names of the teacher's maps that it reads (logits, features_1 … embeddings_4), all unless told; the
        others may be anything of their shape.
    """

    processes = 1
    reads: Collection[str] = MAPS

    def __init__(self, family: str, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.family = family
        self.weights = dict(weights)


class SingleTerm(Part):
    """One term that bears its method's name: a loss of pairs of maps, added over the stages.

    loss: of (student map, teacher map), and `labels=…` too where `labels` is True; it is then a mean over the pixels
        that are not void.
    stages: whose features are compared; None means the logits.
    adapter: makes, for a stage, the module that brings the student's map to the teacher's width.

    The student's map is resized to the teacher's (bilinear) before it is adapted.
    """

    def __init__(
        self, name: str, loss: Loss, weight: float, stages: Stages = None, adapter: Adapter = None, labels: bool = False
    ) -> None:
        super().__init__(name, {name: weight})
        self.loss, self.labels = loss, labels
        self.stages = None if stages is None else check_stages("stages", stages)
        self.reads = ["logits"] if self.stages is None else [f"features_{i}" for i in self.stages]
        self.adapters = nn.ModuleDict({str(i): adapter(i) for i in self.stages or ()} if adapter else {})

    def forward(self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None) -> Terms:
        pairs = {"logits": (student.logits, teacher.logits)}
        if self.stages is not None:
            pairs = {str(i): (student.features[i - 1], teacher.features[i - 1]) for i in self.stages}
        found = []
        for name, (own, wanted) in pairs.items():
            own = resize_map(own, wanted.shape[2:])
            own = self.adapters[name](own) if name in self.adapters else own
            term = self.loss(own, wanted, labels=labels) if self.labels else self.loss(own, wanted)
            if self.labels and self.processes > 1:
                # The mean of the processes' terms, which is what gradients are averaged to, shall be the term of the
                # whole mini-batch, however unequal their void: each counts as its share of the valid pixels.
                valid = valid_pixels(labels, wanted).sum()
                everywhere = valid.clone()
                torch.distributed.all_reduce(everywhere)
                term = term * (self.processes * valid / everywhere.clamp_min(1))
            found.append(term)
        return {self.family: torch.stack(found).sum()}


class Distiller(nn.Module):
    """A method for one pair of networks; its parameters exist only during training.

    parts: the families of terms, e.g. `parts["csf"].fusion` and `parts["pea"].stages["4"]`.
    terms: the names of the terms, in order. options: what the parts were built with, as `create_method` was given it.
    reads: names of the teacher's maps that some term depends on: logits, features_1 … embeddings_4.
    weights: one entry for each term; may be changed at any time, `combine` reads it.
    warmup: for some terms the number of steps over which the weight rises linearly from 0.
    steps_seen: forward passes in training mode; in the state dict, so that a warm-up goes on after a resume.
    """

    steps_seen: Tensor

    def __init__(self, name: str, parts: Sequence[Part], student: ModelSpec, teacher: ModelSpec) -> None:
        super().__init__()
        self.name = name
        self.student_spec, self.teacher_spec = student, teacher
        self.parts = nn.ModuleDict({part.family: part for part in parts})
        self.weights: dict[str, float] = {k: v for part in parts for k, v in part.weights.items()}
        self.terms = tuple(self.weights)
        self.reads = {name for part in parts for name in part.reads}
        if unknown := self.reads.difference(MAPS):
            raise ValueError(f"the parts of {name} may read {', '.join(MAPS)}; got reads {', '.join(sorted(unknown))}")
        self.options: dict[str, Any] = {}
        self.warmup: dict[str, int] = {}
        self._processes: int | None = None  # known within a training loop alone
        self._searched = False
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.long))

    def join_training(self, processes: int) -> None:
        """Called by the training loop: so many processes share a mini-batch, and its labels are known to be train ids.

        Labels are not checked any more, since that would wait for the device at every step.
        """
        self._processes = processes
        for part in self.parts.values():
            part.processes = processes  # type: ignore[assignment]

    def forward(self, images: Tensor, student: SegOutput, teacher: SegOutput, labels: Tensor | None = None) -> Terms:
        """Unweighted scalar terms of one batch; no gradient flows into the teacher's output.

        images (N, 3, H, W); labels (N, h, w) of any size, 255 = void, or None where no term needs them.
        Raises `ValueError` for outputs that are not those of the networks that the method was created for, and for
        labels that are no class of either. The first mini-batch is searched for terms that cannot change the student.
        """
        n = len(images)
        if labels is not None and len(labels) != n:
            raise ValueError(f"images and labels must be of one mini-batch, got {n} images and {len(labels)} labels")
        if labels is not None and self._processes is None:
            classes = max(self.student_spec.num_classes, self.teacher_spec.num_classes)
            require_train_ids(labels, classes, f"the labels for {self.name}")
        for role, output, spec in (("student", student, self.student_spec), ("teacher", teacher, self.teacher_spec)):
            given = (len(output.logits), output.logits.shape[1], *(f.shape[1] for f in output.features))
            if given != (promised := (n, spec.num_classes, *spec.channels)):
                rule = f"the {role}'s output must be, in images, classes and widths of features, {promised}"
                advice = "create the method for the networks that it is used with"
                raise ValueError(f"{rule}, as {spec.name} gives it; got {given}: {advice}")

        def constant(x: Tensor) -> Tensor:
            return x.clone() if x.is_inference() else x.detach()  # backward cannot use tensors of inference mode

        embeddings = tuple(map(constant, teacher.embeddings))
        teacher = SegOutput(constant(teacher.logits), tuple(map(constant, teacher.features)), embeddings)
        if self.training:
            self.steps_seen += 1
        found = [part(images, student, teacher, labels) for part in self.parts.values()]
        terms = {name: term for some in found for name, term in some.items()}
        self._warn_of_idle_terms(student, labels, terms)
        return terms

    def _warn_of_idle_terms(self, student: SegOutput, labels: Tensor | None, terms: Mapping[str, Tensor]) -> None:
        """Warn of every term without gradient with respect to the student, once: it takes a backward pass through the
        terms of the first mini-batch.

        A mini-batch without labelled positions says nothing and is passed over, as is training on several processes,
        whose gradients wait for each other.
        """
        outputs = [x for x in (student.logits, *student.features, *student.embeddings) if x.requires_grad]
        if self._searched or self._processes not in (None, 1) or not (outputs and torch.is_grad_enabled()):
            return
        if labels is not None and not valid_pixels(labels, student.features[3]).any():
            return
        self._searched = True

        def influence(term: Tensor) -> float:
            """How much a term changes with the outputs, Σ |gradient| |output|; rounding leaves up to 1e-7."""
            if not term.requires_grad:
                return 0.0
            scale = torch.full_like(term, 2.0**16)  # float16 would flush the gradient of a mean over a map to 0
            gradients = torch.autograd.grad(term, outputs, scale, retain_graph=True, allow_unused=True)
            pairs = [(g.float(), x.detach().float()) for g, x in zip(gradients, outputs, strict=True) if g is not None]
            return sum(float(g.norm() * x.norm().clamp_min(1) / scale) for g, x in pairs)

        idle = sorted(name for name, term in terms.items() if influence(term) < 1e-7)
        if idle:
            what = f"the gradient of {', '.join(idle)} with respect to the student is 0"
            why = "one position, one class or constant maps leave nothing to compare"
            warnings.warn(f"{self.name}: {what}: {why}; take larger images or other stages or terms", stacklevel=3)

    def combine(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The sum of the terms, each times its weight at this step. The supervised loss is not in it.

        Raises `ValueError` for a term that is not this method's, and where `weights` has lost or gained a name.
        """
        if not {*terms} <= {*self.terms} == {*self.weights}:
            given = f"terms {', '.join(terms)} and weights of {', '.join(self.weights)}"
            raise ValueError(f"{self.name} has the terms {', '.join(self.terms)}, each with one weight; got {given}")
        # A warm-up's weight stays on the device, so that nothing waits for it.
        rise = {term: (self.steps_seen / steps).clamp(max=1) for term, steps in self.warmup.items()}
        weighted = [self.weights[name] * rise.get(name, 1) * term for name, term in terms.items()]
        return torch.stack(weighted).sum()
