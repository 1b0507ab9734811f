"""What the loss weights do to the student's gradient, for any weights, from one small matrix.

The loss of a step is L(w) = Σ_t w_t L_t, with t = ce (weight 1) and the method's terms, so its gradient with respect
to the student's parameters is g(w) = Σ_t w_t g_t: linear in the weights. With the Gram matrix G[s, t] = g_s · g_t
everything below follows for any w without another pass through a network:

    size of the whole gradient            |g|      = sqrt(w' G w)
    share of a term                       share_t  = w_t (g_t · g) / |g|² = w_t (G w)_t / (w' G w),  Σ_t share_t = 1
    cosine of two terms                   G[s, t] / sqrt(G[s, s] G[t, t])
    first-order change of L_ce            -(g_ce · g) for a step of -g (learning rate 1),
                                          -(g_ce · g) / |g| for a step of length 1 along -g

g_t is the gradient of the term's mean over the given batches, (1/B) Σ_b ∇L_t(batch b), and G is the Gram matrix of
these B-batch means, not a mean of Gram matrices: only so is the linear combination exact. "First order" and "along
-g" mean plain gradient descent with a small step; AdamW divides every coordinate by its own scale and so neither
follows g nor keeps these numbers. TransKD (arXiv 2202.13393, section III) fixes its weights by hand; the Gram view is
this project's own.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from transkd_lite.data.files import atomic_write
from transkd_lite.data.labels import label_space
from transkd_lite.data.transforms import make_transform
from transkd_lite.distill.methods import create_method
from transkd_lite.experiments.experiment import Experiment, ParameterError, find_file
from transkd_lite.models.head import folded_heads
from transkd_lite.models.weights import load_model
from transkd_lite.training.folder import provenance
from transkd_lite.training.loop import determinism, device_name, own_random_state
from transkd_lite.training.step import Trainer, TrainStep
from transkd_lite.training.stream import SampleStore, batches

__all__ = [
    "GradientMoment",
    "GradientRecord",
    "GramReading",
    "TrialBench",
    "TrialStep",
    "cosine_matrix",
    "load_gradients",
    "record_gradients",
    "shipped_experiment",
    "take_moment",
    "term_gradients",
]

SUPERVISED = "ce"
Matrix = NDArray[np.float64]


def cosine_matrix(gram: Matrix) -> Matrix:
    """Cosines (T, T) between the terms' gradients; 0 for a term whose gradient is 0.

    >>> cosine_matrix(np.array([[4.0, -2.0], [-2.0, 1.0]])).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    norms = np.sqrt(np.maximum(0.0, np.diag(gram)))
    scale = np.outer(norms, norms)
    return np.clip(np.divide(gram, scale, out=np.zeros_like(gram), where=scale > 0), -1.0, 1.0)


@dataclass(frozen=True)
class GramReading:
    """All that one Gram matrix says about one choice of weights.

    weights, norms, shares, cosines: by term (T,). A share is w_t (g_t · g) / |g|²; shares sum to 1 (all are 0 where
    g = 0), and a negative one belongs to a term that pulls against the whole. Cosines are those with the supervised
    gradient. norm, supervised_norm: |g| and |g_ce|. alignment: cosine of g with g_ce. change_per_length,
    change_per_rate: first-order change of the supervised loss along -g, for a step of length 1 in the space of
    parameters, which compares directions, and for a step of -g (times the learning rate of plain gradient descent).
    """

    names: tuple[str, ...]
    weights: Matrix
    norms: Matrix
    shares: Matrix
    cosines: Matrix
    norm: float
    supervised_norm: float
    alignment: float
    change_per_length: float
    change_per_rate: float


@dataclass(frozen=True)
class GradientMoment:
    """The student's gradients at one moment of a training run.

    step: optimiser steps done. names: the terms, ce first. losses (T,): each term's mean over the batches.
    gram (T, T): the Gram matrix of the gradients of these means.
    """

    step: int
    names: tuple[str, ...]
    losses: Matrix
    gram: Matrix

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        for name, ndim in (("losses", 1), ("gram", 2)):
            value = np.asarray(getattr(self, name), np.float64)
            object.__setattr__(self, name, value)
            if value.shape != (len(self.names),) * ndim or not np.isfinite(value).all():
                raise ValueError(
                    f"{name} of step {self.step} must hold {len(self.names)} finite numbers a side, one for each "
                    f"term; got shape {value.shape}: record the gradients again"
                )
        if self.names[:1] != (SUPERVISED,):
            raise ValueError(f"the first term must be {SUPERVISED}, the supervised loss; got {', '.join(self.names)}")

    def read(self, weights: Mapping[str, float]) -> GramReading:
        """What the Gram matrix says about weights by term; ce has 1 unless given, a term that is not named 0.

        Raises ValueError for a weight that is not finite, or whose term this moment does not have.

        >>> moment = GradientMoment(0, ("ce", "kd"), np.ones(2), np.array([[4.0, 3.0], [3.0, 9.0]]))
        >>> moment.read({"kd": 0.0}).change_per_length
        -2.0
        """
        strange = sorted(set(weights) - set(self.names))
        if strange:
            raise ValueError(f"the terms are {', '.join(self.names)}; got weights for {', '.join(strange)}")
        vector = np.array([weights.get(name, float(name == SUPERVISED)) for name in self.names], np.float64)
        if not np.isfinite(vector).all():
            raise ValueError(f"every weight must be a finite number; got {dict(weights)}")
        pulls = self.gram @ vector  # g_t · g
        square = max(0.0, float(vector @ pulls))  # rounding below zero counts as zero
        norm, norms = square**0.5, np.sqrt(np.maximum(0.0, np.diag(self.gram)))
        slope = -float(pulls[0])
        along = slope / norm if norm > 0 else 0.0
        return GramReading(
            names=self.names,
            weights=vector,
            norms=norms,
            shares=vector * pulls / square if square > 0 else np.zeros_like(vector),
            cosines=cosine_matrix(self.gram)[0],
            norm=norm,
            supervised_norm=float(norms[0]),
            alignment=-along / float(norms[0]) if norms[0] > 0 else 0.0,
            change_per_length=along,
            change_per_rate=slope,
        )


@dataclass(frozen=True)
class GradientRecord:
    """Several moments of one run, with the weights that the run was trained with and where it comes from.

    about: the experiment's parameters, how the gradients were taken, versions, commit and device.
    """

    moments: tuple[GradientMoment, ...]
    weights: dict[str, float]
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.moments:
            raise ValueError("a record needs at least one moment, got none: choose the steps to look at")

    @property
    def names(self) -> tuple[str, ...]:
        """The terms, ce first."""
        return self.moments[0].names

    @property
    def steps(self) -> tuple[int, ...]:
        """The moments, in optimiser steps."""
        return tuple(moment.step for moment in self.moments)

    def at(self, step: int) -> GradientMoment:
        """The moment after `step` optimiser steps. Raises KeyError naming those that there are."""
        if step not in self.steps:
            raise KeyError(f"no gradients of step {step}; there are those of {', '.join(map(str, self.steps))}")
        return self.moments[self.steps.index(step)]

    def to_json(self) -> str:
        """Text that `from_json` takes back to the last digit."""
        return json.dumps(asdict(self), indent=1, default=np.ndarray.tolist) + "\n"

    @classmethod
    def from_json(cls, text: str) -> GradientRecord:
        """Read what `to_json` wrote. Raises ValueError where the text is something else."""
        try:
            values = json.loads(text)
            moments = tuple(GradientMoment(**moment) for moment in values["moments"])
            return cls(moments, values["weights"], values["about"])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"this is no record of gradients ({type(error).__name__}: {error}): write one with record_gradients"
            ) from error


# --- Short runs in lockstep: the same first weights, the same batches, different loss weights, one step at a time.
#
# `fit` owns a run from its first step to its folder. A trial is what an explorer needs instead: nothing on disk,
# something to look at after every step, and whoever looks may stop at any of them. A step here is a step of `fit`,
# made of the same parts, to the bit. Source: this project.

TrialStep = dict[str, dict[str, float]]


class TrialBench:
    """Everything that trials of one experiment share: images, label space, teacher, settings.

    Args:
        experiment: what is trained; `steps` is the length that the learning-rate schedule plans for.

    Raises:
        ParameterError: the experiment's teacher or data are missing. ValueError: its method does not fit them.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        data = experiment.open_data()[0]
        self.space = label_space(data)
        self.config = dataclasses.replace(experiment.config(), log_every=1, compile=False)
        self.store = SampleStore(data, self.config.cache_mb, self.space.num_classes)
        self.teacher = load_model(experiment.teacher_file())
        cpu = self.config.device == "cpu" or not torch.accelerator.is_available()
        self.accelerator = Accelerator(mixed_precision="no", cpu=cpu)

    def trainer(self, weights: Mapping[str, float] | None = None) -> Trainer:
        """A new student and a new method, both from the experiment's seed, ready for their first step.

        weights: by term, in place of the method's; a term that is not named keeps the method's weight.
        """
        with own_random_state(self.accelerator.device):
            student = self.experiment.build_student(self.space.num_classes)
            method = create_method(self.experiment.method, student, self.teacher, **self.experiment.options)
        strange = sorted(set(weights or {}) - set(method.weights))
        if strange:
            raise ValueError(f"{method.name} has the terms {', '.join(method.terms)}; got weights for {strange}")
        method.weights.update(weights or {})
        return Trainer(student, self.teacher, method, self.config, self.accelerator, len(self.store))

    def batches(self, steps: range) -> Iterable[tuple[Tensor, Tensor]]:
        """The batches (images (n, 3, h, w), labels (n, h, w)) that `fit` takes at these steps."""
        config = self.config
        transform = make_transform(augment=config.augment, crop=config.crop, normalize=config.normalize)
        return batches(self.store, transform, batch_size=config.batch_size, seed=config.seed, steps=steps)

    def lockstep(self, trainers: Mapping[str, Trainer], num_steps: int) -> Iterator[TrialStep]:
        """Train all side by side on the same batches; yields {name: row of the history} after every step.

        Whoever stops iterating ends the trial after a whole step of every run.
        """
        for batch in self.batches(range(num_steps)):
            for trainer in trainers.values():
                with (
                    own_random_state(self.accelerator.device),
                    determinism(self.config.deterministic),
                    folded_heads(trainer.modules.student, self.teacher),
                ):
                    trainer.modules.train()
                    trainer.clock = time.monotonic()  # the others' steps are not counted
                    trainer.train_batch(*batch)
                    trainer.log()
            yield {name: trainer.history[-1] for name, trainer in trainers.items()}

    def compare(self, weightings: Mapping[str, Mapping[str, float]], num_steps: int) -> Iterator[TrialStep]:
        """Lockstep of new students that differ in nothing but their loss weights, {name: weights by term}."""
        return self.lockstep({name: self.trainer(w) for name, w in weightings.items()}, num_steps)


# --- Taking the gradients: every term's, with respect to the student, at several moments of a run.
#
#     python -m transkd_lite.explore.gradients data/results/gradients-streets.json
#
# writes the record that ships with the course (a few minutes on a CPU). The student is in training mode, as in
# a training step: BatchNorm takes the batch's statistics, stochastic depth and dropout act, drawn once for all
# terms since one forward pass serves them all. Networks and random state are as before afterwards, so that a
# run that is looked at goes on as one that is not. The top of this module says what follows from the numbers.
# Source: this project.

SHIPPED_GRADIENTS = "data/results/gradients-streets.json"
CHUNK = 2**18  # coordinates that are widened to float64 at once
Batch = tuple[Tensor, Tensor]


def shipped_experiment() -> Experiment:
    """The run whose gradients ship with the course: TransKD-Base with kd on streets, from the shipped teacher."""
    return Experiment(
        method="transkd-base+kd",
        teacher="data/weights/streets-segformer_b1.safetensors",
        steps=300,
        augment="flip",
        precision="fp32",
        device="cpu",
    )


def term_gradients(step: TrainStep, batches: Iterable[Batch]) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Names (T), mean losses (T,) and their gradients (T, P) with respect to the student's P parameters.

    The mean is over the batches: row t is (1/B) Σ_b ∇L_t(batch b), unweighted, ce first; a parameter that a term does
    not reach has zeros. `total` is left out: it is the rows' weighted sum. A copy of the module is asked, so that the
    module stays as it is.

    Raises ValueError without any batch.
    """
    asked = copy.deepcopy(step).train()
    parameters = [p for p in asked.student.parameters() if p.requires_grad]
    device, names = parameters[0].device, ()
    losses, gradients, count = torch.zeros(()), torch.zeros((), device=device), 0
    with own_random_state(device):
        for count, (images, labels) in enumerate(batches, start=1):
            torch.manual_seed(count)
            terms = asked(images.to(device), labels.to(device))
            terms.pop("total")
            names = tuple(terms)
            rows = []
            for term in terms.values():
                parts = torch.autograd.grad(
                    term, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                rows.append(torch.cat([part.flatten() for part in parts]))
            gradients = gradients + torch.stack(rows)
            losses = losses + torch.stack([term.detach().double().cpu() for term in terms.values()])
    if not count:
        raise ValueError("term_gradients needs at least one batch of (images, labels); got none")
    return names, losses / count, gradients / count


def take_moment(step: TrainStep, batches: Iterable[Batch], steps_done: int) -> GradientMoment:
    """The losses and the Gram matrix (summed in float64) of all terms, with the student as it is now."""
    names, losses, gradients = term_gradients(step, batches)
    wide = (part.double() for part in gradients.split(CHUNK, dim=1))
    gram = torch.stack([(part @ part.T).cpu() for part in wide]).sum(0)
    gram = (gram + gram.T) / 2  # the product of a matrix with its own transpose may round unevenly
    return GradientMoment(steps_done, names, losses.numpy(), gram.numpy())


def record_gradients(
    experiment: Experiment, moments: Sequence[int] = (0, 50, 150, 300), *, num_batches: int = 4
) -> GradientRecord:
    """Train as the experiment says and look at the gradients after so many steps each.

    The batches are the first `num_batches` of the training run, the same ones at every moment.

    Raises ValueError unless the moments ascend from 0 or more to at most the run's steps.
    """
    bench = TrialBench(experiment)
    trainer = bench.trainer()
    ascending = list(moments) == sorted(set(moments))
    if not moments or not ascending or moments[0] < 0 or moments[-1] > trainer.num_steps:
        raise ValueError(
            f"moments must ascend from 0 or more to at most the run's {trainer.num_steps} steps; got {list(moments)}"
        )
    fixed, taken = list(bench.batches(range(num_batches))), []
    stream = bench.lockstep({"run": trainer}, max(moments))
    for wanted in moments:
        while trainer.step < wanted:
            next(stream)
        taken.append(take_moment(trainer.modules, fixed, trainer.step))
    origin = provenance()
    about = {
        "experiment": experiment.record(),
        "gradients": f"of the mean over the run's first {num_batches} batches, student in training mode",
        "num_batches": num_batches,
        "num_parameters": sum(p.numel() for p in trainer.modules.student.parameters() if p.requires_grad),
        **{key: origin[key] for key in ("commit", "dirty", "python")},
        "torch": origin["versions"].get("torch"),
        "device": device_name(bench.accelerator.device),
    }
    return GradientRecord(tuple(taken), dict(trainer.modules.method.weights), about)


def load_gradients(path: str | Path = SHIPPED_GRADIENTS) -> GradientRecord:
    """Read a record from a file, or from one below the repository's root.

    Raises ParameterError where there is no such file, ValueError where it holds something else.
    """
    try:
        found = find_file(str(path))
    except ParameterError:
        raise ParameterError(
            f"no record of gradients {path}: check the path, or make one with `python -m {__name__} {path}`"
        ) from None
    return GradientRecord.from_json(Path(found).read_text(encoding="utf-8"))


def main(file: Path) -> None:
    """Write the shipped record to a file."""
    atomic_write(file, record_gradients(shipped_experiment()).to_json())


if __name__ == "__main__":
    import typer

    typer.run(main)
