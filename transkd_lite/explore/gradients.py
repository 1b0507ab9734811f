"""What the loss weights do to the student's gradient, for any weights, from one small matrix.

The loss of a step is L(w) = Σ_t w_t L_t, with t = ce (weight 1) and the method's terms, so its gradient with respect
to the student's parameters is g(w) = Σ_t w_t g_t: linear in the weights. With the Gram matrix G[s, t] = g_s · g_t
everything below follows for any w without another pass through a network:

    size of the whole gradient            |g|      = sqrt(w' G w)
    share of a term                       share_t  = w_t (g_t · g) / |g|² = w_t (G w)_t / (w' G w),  Σ_t share_t = 1
    cosine of two terms                   G[s, t] / sqrt(G[s, s] G[t, t])
    first-order change of L_ce            -(g_ce · g) for a step of -g (learning rate 1),
                                          -(g_ce · g) / |g| for a step of length 1 along -g

g_t is the gradient of the term's mean over the given batches, and G is the Gram matrix of these means, not a mean of
Gram matrices: only so is the linear combination exact. "First order" and "along -g" mean plain gradient descent with a
small step; AdamW divides every coordinate by its own scale and so neither follows g nor keeps these numbers. TransKD
(arXiv 2202.13393, section III) fixes its weights by hand; the Gram view is this project's own.
"""

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer
from torch import Tensor

from transkd_lite.data.labels import label_space
from transkd_lite.distill.methods import create_method
from transkd_lite.experiments.experiment import Experiment
from transkd_lite.models.head import folded_heads
from transkd_lite.models.weights import load_model
from transkd_lite.results.tables import DATA
from transkd_lite.training.folder import provenance
from transkd_lite.training.loop import determinism, device_name, own_random_state
from transkd_lite.training.step import Trainer, TrainStep
from transkd_lite.training.stream import SampleStore, batches

__all__ = [
    "GradientMoment", "GradientRecord", "TrialBench", "cosine_matrix", "load_gradients",
    "record_gradients", "take_moment", "term_gradients",
]  # fmt: skip

Matrix = Annotated[
    NDArray[np.float64], BeforeValidator(lambda rows: np.asarray(rows, np.float64)), PlainSerializer(np.ndarray.tolist)
]


def cosine_matrix(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines (T, T) between the terms' gradients; 0 for a term whose gradient is 0.

    >>> cosine_matrix(np.array([[4.0, -2.0], [-2.0, 1.0]])).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    norms = np.sqrt(np.maximum(0.0, np.diag(gram)))
    scale = np.outer(norms, norms)
    return np.clip(np.divide(gram, scale, out=np.zeros_like(gram), where=scale > 0), -1.0, 1.0)


class GradientReading(NamedTuple):
    """What weights do to the student's gradient g; the formulas stand at the top of this module.

    terms: a row a term; its weight, loss, norm of its gradient, share of the whole (the shares sum to 1, all are 0
    where g = 0, and a negative one pulls against the whole) and cosine with the supervised gradient. norm: |g|.
    alignment: cosine of g with g_ce. change_per_length, change_per_rate: first-order change of the supervised loss
    along -g.
    """

    terms: pd.DataFrame
    norm: float
    alignment: float
    change_per_length: float
    change_per_rate: float


class GradientMoment(BaseModel, frozen=True, arbitrary_types_allowed=True):
    """The student's gradients at one moment of a training run.

    step: optimiser steps done. names: the terms, ce first. losses (T,): each term's mean over the batches.
    gram (T, T): the Gram matrix of the gradients of these means.
    """

    step: int
    names: tuple[str, ...]
    losses: Matrix
    gram: Matrix

    def read(self, weights: Mapping[str, float]) -> GradientReading:
        """What the Gram matrix says about weights by term; ce has 1 unless given, a term that is not named 0.

        Raises `ValueError` for a weight whose term this moment does not have.

        >>> moment = GradientMoment(step=0, names=("ce", "kd"), losses=np.ones(2), gram=[[4.0, 3.0], [3.0, 9.0]])
        >>> moment.read({"kd": 0.0}).change_per_length
        -2.0
        """
        if strange := sorted(set(weights) - set(self.names)):
            raise ValueError(f"the terms are {', '.join(self.names)}; got weights for {', '.join(strange)}")
        vector = np.array([weights.get(name, float(name == "ce")) for name in self.names])
        combine = np.vstack([np.eye(len(vector)), vector])
        gram = combine @ self.gram @ combine.T  # of the terms and, last, of their weighted sum
        cosines, norms = cosine_matrix(gram), np.sqrt(np.maximum(0.0, np.diag(gram)))
        pulls, square = gram[-1, :-1], gram[-1, -1]
        shares = np.divide(vector * pulls, square, out=np.zeros_like(vector), where=square > 0)
        terms = {"weight": vector, "loss": self.losses, "norm": norms[:-1], "share": shares, "cosine": cosines[0, :-1]}
        alignment = float(cosines[0, -1])
        changes = -float(norms[0]) * alignment, -float(pulls[0])
        return GradientReading(pd.DataFrame(terms, list(self.names)), float(norms[-1]), alignment, *changes)


class GradientRecord(BaseModel, frozen=True):
    """Several moments of one run, and where it comes from.

    about: the experiment's parameters, how the gradients were taken, versions, commit and device. `model_dump_json` and
    `model_validate_json` keep the last digit.
    """

    moments: Annotated[tuple[GradientMoment, ...], Field(min_length=1)]
    about: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The terms, ce first."""
        return self.moments[0].names

    @property
    def steps(self) -> tuple[int, ...]:
        """The moments, in optimiser steps."""
        return tuple(moment.step for moment in self.moments)

    def at(self, step: int) -> GradientMoment:
        """The moment after `step` optimiser steps. Raises `KeyError` where there is none, see `steps`."""
        return dict(zip(self.steps, self.moments, strict=True))[step]


# --- Short runs in lockstep: the same first weights, the same mini-batches, different loss weights, one step at a time.
#
# A step here is a step of `fit`, made of the same parts, to the bit; nothing is written, and whoever looks may stop.

Batch = tuple[Tensor, Tensor]
Rows = dict[str, dict[str, float]]


class TrialBench:
    """Everything that trials of one experiment share: images, label space, teacher, settings.

    experiment: what is trained; `steps` is the length that the learning-rate schedule plans for.

    Raises `ParameterError` where its teacher or data are missing, `ValueError` where its method does not fit.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        data = experiment.open_data()[0]
        self.space = label_space(data)
        self.config = dataclasses.replace(experiment.config(), log_every=1, compile=False, workers=0)
        self.store = SampleStore(data, self.config.cache_mb, self.space.num_classes)
        self.teacher = load_model(experiment.teacher_file())
        cpu = self.config.device == "cpu" or not torch.accelerator.is_available()
        self.accelerator = Accelerator(mixed_precision="no", cpu=cpu)

    def trainer(self, weights: Mapping[str, float] | None = None) -> Trainer:
        """A new student and a new method, both from the experiment's seed, ready for their first step.

        weights: by term, in place of the method's, which refuses other terms at its first step; a term that is not
        named keeps the method's weight.
        """
        with own_random_state(self.accelerator.device):
            student = self.experiment.build_student(self.space.num_classes)
            method = create_method(self.experiment.method, student, self.teacher, **self.experiment.options)
        method.weights.update(weights or {})
        return Trainer(student, self.teacher, method, self.config, self.accelerator, len(self.store))

    def batches(self, steps: range) -> Iterable[Batch]:
        """The batches (images (n, 3, h, w), labels (n, h, w)) that `fit` takes at these steps."""
        return ((images, labels) for images, labels, _ in batches(self.store, self.config, steps))

    def lockstep(self, trainers: Mapping[str, Trainer], num_steps: int) -> Iterator[Rows]:
        """Train all side by side on the same mini-batches; yields {name: row of the history} after every step.

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
                    trainer.train_batch(*batch)
                    trainer.log()
            yield {name: trainer.history[-1] for name, trainer in trainers.items()}

    def compare(self, weightings: Mapping[str, Mapping[str, float]], num_steps: int) -> Iterator[Rows]:
        """Lockstep of new students that differ in nothing but their loss weights, {name: weights by term}."""
        return self.lockstep({name: self.trainer(w) for name, w in weightings.items()}, num_steps)


# --- Taking the gradients: every term's, with respect to the student, at several moments of a run.
#
# The student is in training mode; stochastic depth and dropout are drawn once for all terms, since one forward pass
# serves them all. The shipped record is that of TransKD-Base; `kd` is measured beside it and has no weight:
#
#     experiment = tk.Experiment(
#         method="transkd-base+kd", options={"kd.weight": 0.0}, augment="flip", precision="fp32", device="cpu",
#         teacher="data/weights/streets128-segformer_b1.safetensors", train_images=512, height=96, width=192,
#         steps=600, batch_size=4, lr=4.0e-3, warmup_steps=60,
#     )
#     tk.record_gradients(experiment, (0, 60, 150, 300))      one thread (OMP_NUM_THREADS=1), some minutes
#
# The record's `about["experiment"]` holds these parameters; `model_dump_json(indent=1)` writes it.


def term_gradients(step: TrainStep, batches: Iterable[Batch]) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Names (T), mean losses (T,) and their gradients (T, P) with respect to the student's P parameters.

    The mean is over the batches: row t is (1/B) Σ_b ∇L_t(batch b), unweighted, ce first; a parameter that a term does
    not reach has zeros. A copy of the module is run, so that it stays as it is. Raises `ValueError` without any batch.
    """
    twin, batches = copy.deepcopy(step).train(), list(batches)
    if not batches:
        raise ValueError("term_gradients needs at least one batch of (images, labels); got none")
    parameters = [p for p in twin.student.parameters() if p.requires_grad]
    device, losses = parameters[0].device, torch.zeros(())
    gradients = torch.zeros((), device=device)
    gradient = partial(torch.autograd.grad, inputs=parameters, retain_graph=True, materialize_grads=True)
    with own_random_state(device):
        for number, (images, labels) in enumerate(batches, start=1):
            torch.manual_seed(number)
            terms = twin(images.to(device), labels.to(device))
            del terms["total"]
            rows = [torch.cat([part.flatten() for part in gradient(term)]) for term in terms.values()]
            gradients = gradients + torch.stack(rows)
            losses = losses + torch.stack([*terms.values()]).detach().double().cpu()
    return tuple(terms), losses / len(batches), gradients / len(batches)


def take_moment(step: TrainStep, batches: Iterable[Batch], steps_done: int) -> GradientMoment:
    """The losses and the Gram matrix (summed in float64) of all terms, with the student as it is now."""
    names, losses, gradients = term_gradients(step, batches)
    wide = (part.double() for part in gradients.split(2**18, dim=1))  # so many coordinates are widened at once
    gram = torch.stack([(part @ part.T).cpu() for part in wide]).sum(0)
    gram = (gram + gram.T) / 2  # the product of a matrix with its own transpose may round unevenly
    return GradientMoment(step=steps_done, names=names, losses=losses.numpy(), gram=gram.numpy())


def record_gradients(
    experiment: Experiment, moments: Sequence[int] = (0, 60, 150, 300), *, num_batches: int = 4
) -> GradientRecord:
    """Train as the experiment says and look at the gradients after so many steps each, on the run's first batches.

    Raises `ValueError` unless the moments ascend from 0 or more to at most the run's steps.
    """
    bench = TrialBench(experiment)
    trainer = bench.trainer()
    if not moments or list(moments) != sorted(set(moments) & set(range(trainer.num_steps + 1))):
        raise ValueError(f"moments must ascend within the run's 0 to {trainer.num_steps} steps; got {list(moments)}")
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
        "num_parameters": sum(p.numel() for p in trainer.modules.student.parameters() if p.requires_grad),
        "num_batches": num_batches, "commit": origin["commit"], "dirty": origin["dirty"], "python": origin["python"],
        "torch": origin["versions"].get("torch"), "device": device_name(bench.accelerator.device),
    }  # fmt: skip
    return GradientRecord(moments=tuple(taken), about=about)


def load_gradients(path: str | Path = DATA / "results" / "gradients-streets.json") -> GradientRecord:
    """Read a record. Raises `FileNotFoundError` where there is no file, ValueError where it holds something else."""
    return GradientRecord.model_validate_json(Path(path).read_text(encoding="utf-8"))
