"""Short runs in lockstep: the same first weights, the same batches, different loss weights, one step at a time.

`fit` owns a run from its first step to its folder. A trial is what an explorer needs instead: nothing on disk,
something to look at after every step, and whoever looks may stop at any of them. A step here is a step of `fit`,
made of the same parts, to the bit. Source: this project.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from transkd_lite.data import label_space
from transkd_lite.data.transforms import make_transform
from transkd_lite.distill import create_method
from transkd_lite.experiment import Experiment
from transkd_lite.folded_head import folded_heads
from transkd_lite.loading import SampleStore, batches
from transkd_lite.models import load_model
from transkd_lite.surroundings import determinism, own_random_state
from transkd_lite.trainer import Trainer, make_trainer

__all__ = ["TrialBench", "TrialStep"]

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
            raise ValueError(
                f"{method.name} has the terms {', '.join(method.terms)}; got weights for {strange}"
            )
        method.weights.update(weights or {})
        return make_trainer(student, self.teacher, method, self.config, self.accelerator, len(self.store))

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
                    trainer.run([batch], lambda _: True, bool(self.config.channels_last))
            yield {name: trainer.history[-1] for name, trainer in trainers.items()}

    def compare(self, weightings: Mapping[str, Mapping[str, float]], num_steps: int) -> Iterator[TrialStep]:
        """Lockstep of new students that differ in nothing but their loss weights, {name: weights by term}."""
        return self.lockstep({name: self.trainer(w) for name, w in weightings.items()}, num_steps)
