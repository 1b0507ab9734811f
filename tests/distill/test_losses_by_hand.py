"""Guards: every pure loss has, on 2x2 positions, the value that pencil and paper give."""

from __future__ import annotations

from math import e, log, sqrt

import pytest
import torch
from torch import Tensor

from transkd_lite.distill import losses

ZERO = torch.zeros(1, 1, 2, 2)
ONE_TO_FOUR = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
KL_UNIFORM_FROM_3_TO_1 = 0.75 * log(0.75 / 0.5) + 0.25 * log(0.25 / 0.5)


def positions(*vectors: tuple[float, ...]) -> Tensor:
    """Four vectors as a map (1, C, 2, 2), row by row."""
    return torch.tensor(vectors, dtype=torch.float32).T.reshape(1, -1, 2, 2)


def everywhere(*values: float) -> Tensor:
    """The same vector at all four positions."""
    return positions(values, values, values, values)


def value(loss: Tensor) -> float:
    assert loss.ndim == 0
    return loss.item()


def test_mse() -> None:
    assert value(losses.mse(ONE_TO_FOUR, ZERO)) == pytest.approx((1 + 4 + 9 + 16) / 4)


def test_hcl_of_height_two_uses_the_1x1_average_with_weight_one_half() -> None:
    assert value(losses.hcl([ONE_TO_FOUR], [ZERO])) == pytest.approx((7.5 + 0.5 * 2.5**2) / 1.5)


@pytest.mark.parametrize(("height", "weights"), [(1, 1), (2, 1.5), (4, 1.75), (8, 1.875), (16, 1.875)])
def test_hcl_halves_the_weight_per_level_used(height: int, weights: float) -> None:
    # Signs alternate along the width, so that every average of an even number of columns is 0.
    signs = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 1, height, 16)
    assert value(losses.hcl([signs], [torch.zeros_like(signs)])) == pytest.approx(1 / weights)


def test_hcl_adds_the_stages() -> None:
    one = value(losses.hcl([ONE_TO_FOUR], [ZERO]))
    assert value(losses.hcl([ONE_TO_FOUR] * 3, [ZERO] * 3)) == pytest.approx(3 * one)


def test_at() -> None:
    # Q_S = (1, 1, 1, 1) / 2 and Q_T = (1, 0, 0, 0).
    teacher = torch.tensor([[[[5.0, 0.0], [0.0, 0.0]]]])
    assert value(losses.at(torch.full((1, 3, 2, 2), 7.0), teacher)) == pytest.approx((0.25 + 3 * 0.25) / 4)


def test_mgd_is_a_sum_over_positions_and_a_mean_over_images() -> None:
    batch = torch.cat([ONE_TO_FOUR, ONE_TO_FOUR])
    assert value(losses.mgd(batch, torch.zeros(2, 1, 2, 2))) == pytest.approx(30)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_kd(temperature: float) -> None:
    teacher = everywhere(temperature * log(3), 0)
    expected = temperature**2 * KL_UNIFORM_FROM_3_TO_1
    assert value(losses.kd(everywhere(0, 0), teacher, temperature=temperature)) == pytest.approx(expected)


def test_kd_is_a_mean_over_valid_pixels_alone() -> None:
    teacher = positions((log(3), 0), (0, 0), (9, 0), (9, 0))
    labels = torch.tensor([[[0, 0], [255, 255]]])
    assert value(losses.kd(everywhere(0, 0), teacher, labels)) == pytest.approx(KL_UNIFORM_FROM_3_TO_1 / 2)


def test_cwd_over_positions() -> None:
    # The teacher's probabilities are 1/2 and three times 1/6, the student's 1/4 each.
    teacher = torch.tensor([[[[log(3), 0.0], [0.0, 0.0]]]])
    expected = 0.5 * log(2) + 0.5 * log(4 / 6)
    assert value(losses.cwd(ZERO, teacher, temperature=1)) == pytest.approx(expected)
    assert value(losses.cwd(ZERO, 4 * teacher, temperature=4)) == pytest.approx(16 * expected)


def test_cwd_over_classes_is_kd_over_all_pixels() -> None:
    teacher = everywhere(log(3), 0)
    assert value(losses.cwd(everywhere(0, 0), teacher, 1, "classes")) == pytest.approx(KL_UNIFORM_FROM_3_TO_1)


def test_dkd() -> None:
    # p_T = (1/2, 3/8, 1/8), p_S = (1/3, 1/3, 1/3), target 0; among the others (3/4, 1/4) and (1/2, 1/2).
    teacher = everywhere(log(4), log(3), 0)
    tckd = 0.5 * log(0.5 / (1 / 3)) + 0.5 * log(0.5 / (2 / 3))
    loss = losses.dkd(everywhere(0, 0, 0), teacher, torch.zeros(1, 2, 2), alpha=3, beta=2, temperature=1)
    assert value(loss) == pytest.approx(3 * tckd + 2 * KL_UNIFORM_FROM_3_TO_1)


def test_dist_between_classes() -> None:
    # With two classes the correlation of a pixel is 1 where the order agrees and -1 where it does not.
    student, teacher = positions((1, 0), (2, 0), (0, 1), (0, 3)), positions((4, 0), (1, 0), (0, 1), (1, 0))
    assert value(losses.dist(student, teacher, gamma=0)) == pytest.approx(2 / 4, abs=1e-6)


def test_dist_between_pixels() -> None:
    # Class 0 has probabilities (3, 3, 1, 1) / 4 against (3, 1, 3, 1) / 4: uncorrelated.
    high, low = (log(3), 0.0), (0.0, log(3))
    loss = losses.dist(positions(high, high, low, low), positions(high, low, high, low), beta=0)
    assert value(loss) == pytest.approx(1)


def test_skd() -> None:
    # Affinities of two directions in turn: 1 and 0 half each; of one direction: 1.
    student = positions((2, 0), (0, 5), (1, 0), (0, 1))
    assert value(losses.skd(student, everywhere(1, 0), pool=1)) == pytest.approx(8 / 16)
    assert value(losses.skd(student, everywhere(1, 0), pool=2)) == pytest.approx(0)  # one node


def test_ifvd() -> None:
    # Class 0: (1, 0) and (0, 1), each at 45 degrees to their mean. Class 1 has no variation.
    student = positions((1, 0), (0, 1), (1, 0), (1, 0))
    loss = losses.ifvd(student, everywhere(1, 1), torch.tensor([[[0, 0], [1, 1]]]), num_classes=2)
    assert value(loss) == pytest.approx(2 * (1 - 1 / sqrt(2)) ** 2 / 4)


def test_cirkd() -> None:
    # The student's rows are uniform. The teacher's first row is (e, 1, 1, 1) / (e + 3), the others (1, e, e, e).
    teacher = positions((1, 0), (0, 1), (0, 1), (0, 1))
    first = [e / (e + 3)] + [1 / (e + 3)] * 3
    other = [1 / (1 + 3 * e)] + [e / (1 + 3 * e)] * 3
    divergences = [sum(p * log(p * 4) for p in row) for row in (first, other, other, other)]
    assert value(losses.cirkd(everywhere(1, 0), teacher, temperature=1)) == pytest.approx(
        sum(divergences) / 4, rel=1e-5
    )
