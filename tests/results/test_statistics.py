"""The statistics of comparisons: numbers worked by hand, published ones, and intervals that cover what they promise."""

import math
import statistics
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from transkd_lite.metrics import SegMetrics
from transkd_lite.results import statistics as c
from transkd_lite.results import statistics as r


def test_student_interval_and_p_by_hand():
    # Mean 0.02, sd 0.01, t(0.975, 2) = 4.302653, reach 4.302653 * 0.01 / sqrt 3.
    interval = c.student_interval([0.01, 0.02, 0.03])
    assert interval.mean == pytest.approx(0.02)
    assert interval.high - interval.mean == pytest.approx(0.0248414, rel=1e-5)
    assert not c.excludes_zero(interval.low, interval.high)
    assert c.paired_t([0.01, 0.02, 0.03]) == pytest.approx(0.0741799, rel=1e-5)


def test_bootstrap_of_three_lists_all_27_resamples():
    # Means of the resamples of (0, 0, 3): 0, 1, 2, 3 in 8, 12, 6, 1 of 27 cases.
    assert c.bootstrap_interval([0.0, 0.0, 3.0], level=0.9) == (1.0, 0.0, 2.0)
    means = [statistics.mean(drawn) for drawn in product([0.0, 0.0, 3.0, 1.0], repeat=4)]
    assert c.bootstrap_interval([0.0, 0.0, 3.0, 1.0])[1:] == tuple(np.quantile(means, [0.025, 0.975]))


def test_bootstrap_of_many_is_drawn_alike_every_time_and_close_to_the_normal_interval():
    values = np.random.default_rng(1).normal(1.0, 2.0, 400)
    interval = c.bootstrap_interval(values)
    assert interval == c.bootstrap_interval(values)
    assert interval.high - interval.mean == pytest.approx(1.96 * values.std() / 20, rel=0.05)


def coverage(interval, count, repeats=1500):
    rng = np.random.default_rng(3)
    drawn = (interval(rng.normal(0.5, 1.0, count)) for _ in range(repeats))
    return sum(low <= 0.5 <= high for _, low, high in drawn) / repeats


@pytest.mark.parametrize("count", [3, 5])
def test_students_interval_covers_what_it_promises(count):
    assert coverage(c.student_interval, count) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(("count", "lowest", "highest"), [(3, 0.6, 0.76), (5, 0.75, 0.9), (30, 0.88, 0.97)])
def test_the_bootstrap_of_few_seeds_is_too_narrow_as_its_text_says(count, lowest, highest):
    repeats = 300 if count > 6 else 1500
    assert lowest < coverage(c.bootstrap_interval, count, repeats=repeats) < highest


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=5), st.floats(0.1, 5), st.floats(-2, 2))
def test_intervals_move_with_their_data(values, scale, shift):
    moved = np.array(values) * scale + shift
    for interval in (c.student_interval, c.bootstrap_interval):
        expected = np.array(interval(values)) * scale + shift
        assert np.allclose(interval(moved), expected, atol=1e-9)
    low, high = c.bootstrap_interval(values)[1:]
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12


def test_too_little_to_say_gives_nan_not_a_number():
    for interval in (c.student_interval, c.bootstrap_interval):
        mean, low, high = interval([0.3])
        assert mean == 0.3
        assert math.isnan(low)
        assert math.isnan(high)
        assert math.isnan(interval([])[0])
    assert interval([0.1, math.nan, 0.3]) == interval([0.1, 0.3])
    assert math.isnan(c.paired_t([0.1]))
    assert math.isnan(c.paired_t([0.2, 0.2]))


def test_a_level_in_percent_and_differences_in_a_table_are_refused():
    with pytest.raises(ValueError, match="Quantiles must be in the range"):
        c.bootstrap_interval([0.1, 0.2], level=95)
    with pytest.raises(ValueError, match="1-dimensional"):
        c.student_interval(np.array([[0.1, 0.2]]))


def test_probability_of_superiority_by_hand_and_as_u():
    # 0.5 beats both, 0.3 ties with one and loses to one: (2 + 0.5) / 4.
    assert c.probability_of_superiority([0.3, 0.5], [0.3, 0.4]) == 0.625
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 12) / 10, rng.integers(0, 9, 7) / 10
    u = stats.mannwhitneyu(a, b).statistic
    assert c.probability_of_superiority(a, b) == pytest.approx(u / (12 * 7))
    assert c.probability_of_superiority(a, b) + c.probability_of_superiority(b, a) == pytest.approx(1)
    assert math.isnan(c.probability_of_superiority([], [0.1]))


def test_holm_by_hand():
    # Sorted 0.01, 0.03, 0.04 times 3, 2, 1, and never falling.
    assert c.holm([0.04, 0.01, 0.03]).tolist() == pytest.approx([0.06, 0.03, 0.06])
    corrected = c.holm([0.5, math.nan, 0.9])
    assert corrected[[0, 2]].tolist() == [1.0, 1.0]
    assert math.isnan(corrected[1])
    assert len(c.holm([])) == 0


def test_ranks_share_ties_and_put_the_best_first():
    blocks = pd.DataFrame({"none": [0.1, 0.2, 0.3], "kd": [0.1, 0.4, 0.5], "cwd": [0.0, 0.4, 0.9]})
    # none 1.5, 3, 3; kd 1.5, 1.5, 2; cwd 3, 1.5, 1.
    ranks = r.average_ranks(blocks)
    assert list(ranks.index) == ["kd", "cwd", "none"]
    assert ranks.tolist() == pytest.approx([5 / 3, 5.5 / 3, 7.5 / 3])


def test_blocks_without_all_methods_are_left_out_and_none_left_is_an_error():
    blocks = pd.DataFrame({"none": [0.1, 0.2], "kd": [0.3, math.nan]})
    assert r.average_ranks(blocks).to_dict() == {"kd": 1, "none": 2}
    with pytest.raises(ValueError, match=r"leave out those with gaps, \['kd'\]"):
        r.average_ranks(blocks.iloc[1:])
    with pytest.raises(ValueError, match="ranks need two methods"):
        r.average_ranks(blocks[["none"]])


def test_ranks_of_demsars_example():
    """His mean ranks on 14 data sets; these orders are made up to have his sums (44, 28, 40.5, 27.5)."""
    orders = [[1, 3, 4, 2], *[[2, 4, 3, 1]] * 2, *[[3, 1, 4, 2]] * 3, *[[3, 2, 4, 1]] * 2, [4, 1, 2, 3]]
    orders += [*[[4, 2, 1, 3]] * 3, [4, 2, 3, 1], [4, 1, 2.5, 2.5]]
    blocks = -pd.DataFrame(orders, columns=list("abcd"))
    assert r.average_ranks(blocks)[list("abcd")].round(3).tolist() == [3.143, 2.0, 2.893, 1.964]


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_values_are_those_of_demsars_table_5(k, q):
    n = 20
    assert r.critical_difference(k, n) / math.sqrt(k * (k + 1) / (6 * n)) == pytest.approx(q, abs=1e-3)


def test_critical_difference_of_demsars_example():
    assert r.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_alike_methods_are_told_apart_as_rarely_as_the_level_says():
    rng, repeats, wrong = np.random.default_rng(11), 400, 0
    difference = r.critical_difference(6, 12)
    for _ in range(repeats):
        ranks = r.average_ranks(pd.DataFrame(rng.normal(size=(12, 6)), columns=list("abcdef")))
        wrong += ranks.max() - ranks.min() >= difference
    assert wrong / repeats < 0.08


def test_groups_are_the_largest_sets_within_the_difference():
    ranks = pd.Series({"d": 5.0, "a": 1.0, "c": 2.8, "b": 2.0})
    assert r.indistinct_groups(ranks, 1.9) == [("a", "b", "c")]
    assert r.indistinct_groups(ranks, 1.5) == [("a", "b"), ("b", "c")]
    assert r.indistinct_groups(ranks, 0.1) == []
    assert r.indistinct_groups(ranks, 9) == [("a", "b", "c", "d")]


def test_held_out_winner_by_hand():
    blocks = pd.DataFrame({"none": [0, 0, 0], "kd": [1, 1, 1], "cwd": [3, 3, -6]}, index=[7, 8, 9])
    rows = r.held_out_winner(blocks, "none")
    # Without seed 7: kd 1, cwd -1.5; without 8 the same; without 9: cwd 3 against 1, and there it loses 6.
    assert rows["winner"].tolist() == ["kd", "kd", "cwd"]
    assert rows["chosen"].tolist() == [1, 1, 3]
    assert rows["held_out"].tolist() == [1, 1, -6]
    with pytest.raises(KeyError, match="at"):
        r.held_out_winner(blocks, "at")


def test_the_held_out_gain_of_methods_that_are_alike_is_zero_while_the_winners_own_is_not():
    rng, own, held = np.random.default_rng(2), [], []
    for _ in range(300):
        blocks = pd.DataFrame(rng.normal(size=(5, 8)), columns=list("nabcdefg"))
        gains = blocks.drop(columns="n").sub(blocks["n"], axis=0)
        own.append(gains.mean().max())
        held.append(r.held_out_winner(blocks, "n")["held_out"].mean())
    assert np.mean(own) > 0.4
    assert abs(np.mean(held)) < 0.1


def some_maps(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (20, 4, 6))
    labels[:, 0, 0] = 255
    predictions = np.where(rng.random(labels.shape) < 0.7, labels, rng.integers(0, 3, labels.shape))
    return predictions % 3, labels


def test_matrices_of_images_add_up_to_the_score():
    predictions, labels = some_maps(0)
    matrices = c.image_confusions(predictions, labels, 3)
    assert matrices.shape == (20, 3, 3)
    assert matrices.sum() == (labels != 255).sum()
    expected = SegMetrics(torch.from_numpy(matrices.sum(0)), torch.zeros(3)).miou
    assert c.bootstrap_images(matrices, 0 * matrices).mean == pytest.approx(expected)
    assert c.image_confusions([[[0, 2, 1]]], [[[0, 1, 1]]], 2).tolist() == [[[1, 0], [0, 1]]]  # 2 is void predicted
    with pytest.raises(ValueError, match="same length"):
        c.image_confusions([[[0, 1]]], [[[0]]], 2)


def test_a_class_that_is_nowhere_does_not_count():
    matrices = np.array([[[2, 0, 0], [2, 4, 0], [0, 0, 0]]])
    assert c.bootstrap_images(matrices, 0 * matrices).mean == pytest.approx((0.5 + 4 / 6) / 2)


def test_bootstrap_over_images_is_paired():
    predictions, labels = some_maps(1)
    better = np.where(np.random.default_rng(4).random(labels.shape) < 0.3, labels % 255, predictions)
    a, b = (c.image_confusions(p, labels, 3) for p in (better, predictions))
    interval = c.bootstrap_images(a, b)
    assert interval.low < interval.mean < interval.high
    assert c.excludes_zero(interval.low, interval.high)
    assert c.bootstrap_images(b, a).mean == pytest.approx(-interval.mean)
    assert c.bootstrap_images(a, a) == (0, 0, 0)
    assert math.isnan(c.bootstrap_images(a[:1], b[:1]).low)
    with pytest.raises(ValueError, match="same shape"):
        c.bootstrap_images(a, b[:19])
