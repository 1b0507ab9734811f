"""Taking the gradients: every term's, with respect to the student, at several moments of a run.

    python -m transkd_lite.gradient_record data/results/gradients-streets.json

writes the record that ships with the course (a few minutes on a CPU). The student is in training mode, as in a
training step: BatchNorm takes the batch's statistics, stochastic depth and dropout act, drawn once for all terms since
one forward pass serves them all. Networks and random state are as before afterwards, so that a run that is looked at
goes on as one that is not. See `gradients` for what follows from the numbers. Source: this project.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from transkd_lite.experiment import Experiment
from transkd_lite.gradients import GradientMoment, GradientRecord
from transkd_lite.parameters import ParameterError, find_file
from transkd_lite.runs import atomic_write, provenance
from transkd_lite.surroundings import device_name, own_random_state
from transkd_lite.train_step import TrainStep
from transkd_lite.trials import TrialBench

__all__ = ["load_gradients", "record_gradients", "shipped_experiment", "take_moment", "term_gradients"]

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
