"""Taking the gradients: every term's, with respect to the student, at several moments of a run.

    python -m transkd_lite.gradient_record data/results/gradients-streets.json

writes the record that ships with the course (a few minutes on a CPU). The student is in training mode, as in a
training step: BatchNorm takes the batch's statistics, stochastic depth and dropout act, drawn once for all terms since
one forward pass serves them all. Running statistics, random state and the method's step counter are as before
afterwards, so that a run that is looked at goes on as one that is not. See `gradients` for what follows from the
numbers. Source: this project.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .experiment import Experiment
from .gradients import GradientMoment, GradientRecord
from .parameters import ParameterError, find_file
from .runs import atomic_write, provenance
from .surroundings import device_name, own_random_state
from .train_step import TrainStep
from .trials import TrialBench

__all__ = [
    "SHIPPED_GRADIENTS",
    "gram_of",
    "load_gradients",
    "record_gradients",
    "shipped_experiment",
    "take_moment",
    "term_gradients",
]

SHIPPED_GRADIENTS = "data/results/gradients-streets.json"
SHIPPED_MOMENTS, SHIPPED_BATCHES = (0, 50, 150, 300), 4
CHUNK = 2**18
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

    The mean is over the batches: row t is (1/B) Σ_b ∇L_t(batch b), unweighted, ce first. `total` is left out: it is
    the rows' weighted sum. The module comes back as it was, in its mode.

    Raises ValueError without any batch.
    """
    parameters = [p for p in step.student.parameters() if p.requires_grad]
    device, names = parameters[0].device, ()
    losses, gradients, count = torch.zeros(()), torch.zeros(()), 0
    with _untouched(step), own_random_state(device):
        for count, (images, labels) in enumerate(batches, start=1):
            torch.manual_seed(count)
            terms = step(images.to(device), labels.to(device))
            terms.pop("total")
            names = tuple(terms)
            rows = [_flat_gradient(term, parameters) for term in terms.values()]
            gradients = gradients.to(device) + torch.stack(rows)
            losses = losses + torch.stack([term.detach().double().cpu() for term in terms.values()])
    if not count:
        raise ValueError("term_gradients needs at least one batch of (images, labels); got none")
    return names, losses / count, gradients / count


def _flat_gradient(term: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The gradient (P,) of a scalar; parameters that it does not reach have zeros."""
    parts = torch.autograd.grad(
        term, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.flatten() for part in parts])


@contextlib.contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Training mode within the context; afterwards mode and buffers are as before."""
    modes = [(m, m.training) for m in module.modules()]
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module.train()
    try:
        yield
    finally:
        for name, buffer in module.named_buffers():
            buffer.copy_(buffers[name])
        for part, training in modes:
            part.training = training


def gram_of(gradients: Tensor) -> NDArray[np.float64]:
    """The Gram matrix (T, T) of gradients (T, P), summed in float64.

    >>> gram_of(torch.tensor([[3.0, 4.0], [1.0, 0.0]])).tolist()
    [[25.0, 3.0], [3.0, 1.0]]
    """
    gram = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    for part in gradients.split(CHUNK, dim=1):
        wide = part.double()
        gram += (wide @ wide.T).cpu()
    return ((gram + gram.T) / 2).numpy()  # the product of a matrix with its own transpose may round unevenly


def take_moment(step: TrainStep, batches: Iterable[Batch], steps_done: int) -> GradientMoment:
    """The losses and the Gram matrix of all terms on these batches, with the student as it is now."""
    names, losses, gradients = term_gradients(step, batches)
    return GradientMoment(steps_done, names, losses.numpy(), gram_of(gradients))


def record_gradients(
    experiment: Experiment,
    moments: Sequence[int] = SHIPPED_MOMENTS,
    *,
    num_batches: int = SHIPPED_BATCHES,
    train_data: Any = None,
) -> GradientRecord:
    """Train as the experiment says and look at the gradients after so many steps each.

    The batches are the first `num_batches` of the training run, the same ones at every moment.

    Raises ValueError unless the moments ascend from 0 or more to at most the run's steps.
    """
    bench = TrialBench(experiment, train_data)
    trainer = bench.trainer()
    _check_moments(moments, trainer.num_steps)
    fixed, taken = list(bench.batches(range(num_batches))), []
    stream = bench.lockstep({"run": trainer}, max(moments))
    for wanted in moments:
        while trainer.step < wanted:
            next(stream)
        taken.append(take_moment(trainer.modules, fixed, trainer.step))
    about = {
        "experiment": experiment.record(),
        "gradients": f"of the mean over the run's first {num_batches} batches, student in training mode",
        "num_batches": num_batches,
        "num_parameters": sum(p.numel() for p in trainer.modules.student.parameters() if p.requires_grad),
        **_origin(bench),
    }
    return GradientRecord(tuple(taken), dict(trainer.modules.method.weights), about)


def _check_moments(moments: Sequence[int], num_steps: int) -> None:
    ascending = list(moments) == sorted(set(moments))
    if not moments or not ascending or moments[0] < 0 or moments[-1] > num_steps:
        raise ValueError(
            f"moments must ascend from 0 or more to at most the run's {num_steps} steps; got {list(moments)}"
        )


def _origin(bench: TrialBench) -> dict[str, Any]:
    """Versions, commit and device: where the numbers come from."""
    known = provenance()
    kept = {key: known[key] for key in ("commit", "dirty", "python")}
    return {**kept, "torch": known["versions"].get("torch"), "device": device_name(bench.accelerator.device)}


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


def main(arguments: Sequence[str]) -> int:
    """Write the shipped record to the path given."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m transkd_lite.gradient_record FILE.json\n")
        return 2
    record = record_gradients(shipped_experiment())
    atomic_write(arguments[0], record.to_json())
    sys.stdout.write(
        f"{arguments[0]}: steps {', '.join(map(str, record.steps))} of {len(record.names)} terms\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
