"""TrainConfig refuses what makes no sense, by name, and the learning rate is the schedule that is promised."""

import itertools
import json
import math

import pytest

from transkd_lite.training.config import TrainConfig
from transkd_lite.training.schedule import learning_rate


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -5),
        ("steps", 2.5),
        ("epochs", 0),
        ("batch_size", 0),
        ("batch_size", True),
        ("lr", -1e-3),
        ("lr", "6e-5"),
        ("lr", math.nan),
        ("weight_decay", -0.1),
        ("betas", (0.9, 1.0)),
        ("grad_clip", 0.0),
        ("schedule", "polynomial"),
        ("schedule_unit", "iteration"),
        ("schedule_horizon", 0.5),
        ("warmup_steps", -1),
        ("crop", (0, 64)),
        ("crop", (64, 64, 64)),
        ("augment", "strong"),
        ("class_weights", (1.0, -1.0)),
        ("class_weights", (0.0, 0.0)),
        ("supervise", "half"),
        ("precision", "int8"),
        ("workers", -1),
        ("log_every", 0),
        ("checkpoint_every", 0),
        ("deterministic", "yes"),
        ("device", "gpu"),
    ],
)
def test_a_senseless_value_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"TrainConfig: {name} must "):
        TrainConfig(**{name: value})


def test_steps_and_epochs_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="steps must be None when epochs is given"):
        TrainConfig(steps=10, epochs=1)


def test_warm_up_must_end_before_the_run() -> None:
    with pytest.raises(ValueError, match="warmup_steps must be less than steps"):
        TrainConfig(steps=10, warmup_steps=10)


def test_unknown_parameter_is_named_and_the_known_are_listed() -> None:
    with pytest.raises(ValueError, match=r"unknown parameter of TrainConfig 'learning_rate': Valid: .*batch_size.*lr"):
        TrainConfig.from_dict({"learning_rate": 1e-3})


def test_a_config_survives_json() -> None:
    config = TrainConfig(steps=3, crop=(32, 64), class_weights=(1.0, 0.0), lr=1e-3)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_length_of_a_run() -> None:
    assert TrainConfig(epochs=1.5, batch_size=4).num_steps(10) == 4  # 15 images in batches of 4
    assert TrainConfig(batch_size=4).num_steps(10) == 3  # one epoch unless told
    assert TrainConfig(steps=7).num_steps(10) == 7
    with pytest.raises(ValueError, match=r"warmup_steps must be less than steps, 4 in 1\.5 epochs; got 4"):
        TrainConfig(epochs=1.5, batch_size=4, warmup_steps=4).num_steps(10)


def test_paper_schedule_steps_once_an_epoch_and_ends_at_a_third() -> None:
    config = TrainConfig(epochs=1000, batch_size=2, schedule_unit="epoch", schedule_horizon=1.5)
    steps = config.num_steps(8)
    rates = [learning_rate(config, step, steps, 4) for step in range(steps)]
    assert rates[0] == rates[3] == pytest.approx(6e-5)
    assert rates[4] == pytest.approx(6e-5 * (1 - 1 / 1500))
    assert rates[-1] == pytest.approx(6e-5 * (1 - 999 / 1500))


def test_warm_up_rises_linearly_and_cosine_halves_midway() -> None:
    config = TrainConfig(steps=12, lr=1.0, schedule="cosine", warmup_steps=2)
    rates = [learning_rate(config, step, 12) for step in range(12)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[7] == pytest.approx(0.5)
    assert all(a >= b for a, b in itertools.pairwise(rates[2:]))


def test_constant_stays() -> None:
    config = TrainConfig(steps=5, lr=0.1, schedule="constant")
    assert {learning_rate(config, step, 5) for step in range(5)} == {0.1}
