"""The schedule: the learning rate as a function of the step, and of nothing else."""

import math

from transkd_lite.training.config import TrainConfig

__all__ = ["learning_rate"]


def learning_rate(config: TrainConfig, step: int, num_steps: int, steps_per_epoch: float = 1.0) -> float:
    """Learning rate of step 0 … num_steps - 1.

    Warm-up rises linearly from lr / warmup_steps to lr; then, with p the share of the horizon that is done,
    poly gives lr (1 - p)^power and cosine lr (1 + cos(pi p)) / 2.

    >>> [learning_rate(TrainConfig(steps=4, lr=1.0), s, 4) for s in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = float(step)
    if config.schedule_unit == "epoch":
        done = math.floor(step / steps_per_epoch) * steps_per_epoch
    start, end = config.warmup_steps, num_steps * config.schedule_horizon
    share = min(1.0, max(0.0, (done - start) / max(1.0, end - start)))
    if config.schedule == "cosine":
        return config.lr * (1.0 + math.cos(math.pi * share)) / 2.0
    return config.lr * (1.0 - share) ** config.schedule_power
