"""Guards: CKA is 1 where it must be, near 0 where nothing is shared, and equals what Gram matrices give."""

import math

import pytest
import torch

from transkd_lite.explore.attention import linear_cka, linear_fit, r_squared, stage_similarity

BOTH = pytest.mark.parametrize("estimator", ["unbiased", "biased"])


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def from_gram_matrices(x, y, estimator):
    """The definitions with their (n, n) matrices: Kornblith et al., eq. 3 and 4; Song et al., eq. 5."""
    n = len(x)
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    one = torch.ones(n, dtype=torch.float64)

    def biased(k, l):
        return torch.trace(k @ centring @ l @ centring) / (n - 1) ** 2

    def unbiased(k, l):
        k, l = (g - torch.diag(g.diagonal()) for g in (k, l))
        middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        return (torch.trace(k @ l) + middle - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))

    hsic = {"biased": biased, "unbiased": unbiased}[estimator]
    k, l = x @ x.T, y @ y.T
    return float(hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt())


@BOTH
def test_definition_with_gram_matrices(estimator):
    x, y = noise(30, 5) + 3, noise(30, 7, seed=1)
    y[:, :5] += x
    assert linear_cka(x, y, estimator=estimator) == pytest.approx(from_gram_matrices(x, y, estimator), rel=1e-9)


def test_worked_by_hand():
    """One channel each, centred: x = (-1, -1, 1, 1), y = (-1, 1, -1, 1) are orthogonal; x and (-2, 0, 0, 2) are not.

    Biased CKA of two channels is their squared correlation: (4 / sqrt(4 * 8))² = 1/2.
    """
    x = torch.tensor([[-1.0], [-1.0], [1.0], [1.0]])
    assert linear_cka(x, torch.tensor([[-1.0], [1.0], [-1.0], [1.0]]), estimator="biased") == 0
    assert linear_cka(x, torch.tensor([[-2.0], [0.0], [0.0], [2.0]]), estimator="biased") == pytest.approx(0.5)


def test_unbiased_worked_by_hand():
    """x = (-1, -1, 1, 1), y = (-1, 1, -1, 1): off the diagonal K holds x_i x_j, so its rows sum to -1.

    tr(KL) = sum of x_i y_i x_j y_j over i != j = -4, 1'K1 = 1'L1 = -4, 1'KL1 = 4: -4 + 16/6 - 8/2 = -16/3.
    With y = x: tr(KK) = 12 and 12 + 16/6 - 8/2 = 32/3. So CKA is -1/2.
    """
    x = torch.tensor([[-1.0], [-1.0], [1.0], [1.0]])
    y = torch.tensor([[-1.0], [1.0], [-1.0], [1.0]])
    assert linear_cka(x, y) == pytest.approx(-0.5)


@BOTH
def test_rotation_scale_and_shift_change_nothing(estimator):
    x, y = noise(50, 6), noise(50, 4, seed=1) + noise(50, 6)[:, :4]
    rotation, _ = torch.linalg.qr(noise(6, 6, seed=2))
    moved = -3.5 * x @ rotation + 100
    assert linear_cka(x, moved, estimator=estimator) == pytest.approx(1)
    plain = linear_cka(x, y, estimator=estimator)
    assert 0.05 < plain < 0.95
    assert linear_cka(moved, y, estimator=estimator) == pytest.approx(plain, rel=1e-6)
    assert linear_cka(y, x, estimator=estimator) == pytest.approx(plain, rel=1e-9)


def test_another_linear_map_changes_it():
    x = noise(50, 3)
    assert linear_cka(x, x * torch.tensor([10.0, 1.0, 0.1])) < 0.9


def test_unrelated_features_are_unlike_only_without_bias():
    """200 examples of 300 and 400 channels: the biased estimator finds likeness in noise."""
    unbiased, biased = (
        [linear_cka(noise(200, 300, seed=s), noise(200, 400, seed=99 - s), estimator=e) for s in range(8)]
        for e in ("unbiased", "biased")
    )
    assert abs(sum(unbiased) / 8) < 0.02
    assert min(biased) > 0.5


@BOTH
def test_constant_features_have_no_alignment(estimator):
    assert math.isnan(linear_cka(torch.ones(9, 2), noise(9, 3), estimator=estimator))


def test_half_precision_is_widened():
    x = noise(40, 3).half() * 100
    assert linear_cka(x, x) == pytest.approx(1)


@pytest.mark.parametrize(
    ("x", "y", "estimator", "message"),
    [
        (torch.ones(4, 2), torch.ones(5, 2), "unbiased", r"same n examples.*got \(4, 2\), \(5, 2\)"),
        (torch.ones(4, 2, 2), torch.ones(4, 2), "unbiased", "see stage_similarity"),
        (torch.ones(3, 2), torch.ones(3, 2), "unbiased", "4 or more"),
        (torch.ones(4, 2), torch.ones(4, 2), "debiased", "'unbiased' or 'biased'; got .*'debiased'"),
    ],
)
def test_what_cannot_be_compared_is_said(x, y, estimator, message):
    with pytest.raises(ValueError, match=message):
        linear_cka(x, y, estimator=estimator)


def test_stages_are_compared_cell_by_cell_of_the_coarsest_grid():
    fine, coarse = noise(2, 3, 4, 4), noise(2, 5, 2, 2, seed=1)
    cells = [fine[n, :, y : y + 2, x : x + 2].mean((1, 2)) for n in (0, 1) for y in (0, 2) for x in (0, 2)]
    rows = [coarse[n, :, y, x] for n in (0, 1) for y in (0, 1) for x in (0, 1)]
    expected = linear_cka(torch.stack(cells), torch.stack(rows))
    assert stage_similarity([fine], [coarse]).item() == pytest.approx(expected, rel=1e-6)


def test_stages_of_other_images_are_refused():
    with pytest.raises(ValueError, match="same n examples"):
        stage_similarity([torch.zeros(2, 1, 4, 4)], [torch.zeros(3, 1, 4, 4)])


def test_stages_meet_stages():
    first = [noise(6, c, s, 2 * s) for c, s in ((4, 8), (6, 4), (8, 2))]
    second = [first[2] * 2 + 1, first[0].flip(1)]
    table = stage_similarity(first, second)
    assert table.shape == (3, 2)
    assert table[2, 0].item() == pytest.approx(1)
    assert table[0, 1].item() == pytest.approx(1)
    assert table[1].abs().max() < 0.3


def test_the_best_linear_layer_is_found_and_predicts_other_tokens():
    generator = torch.Generator().manual_seed(0)
    x, x_new = (torch.randn(n, 50, 8, generator=generator) for n in (4, 2))
    layer = torch.nn.Linear(8, 3)
    with torch.no_grad():
        y, y_new = layer(x), layer(x_new)
    found = linear_fit(x, y, x_new)
    assert found.shape == y_new.shape
    assert r_squared(found, y_new) == pytest.approx(1, abs=1e-6)
    assert r_squared(y_new.flatten(0, 1).mean(0).expand_as(y_new), y_new) == pytest.approx(0, abs=1e-6)
    assert r_squared(linear_fit(torch.zeros_like(x) + x[..., :1], y, x_new[..., :1].expand_as(x_new)), y_new) < 0.9


def test_a_ridge_keeps_a_fit_of_few_tokens_from_noise():
    generator = torch.Generator().manual_seed(0)
    x, y, x_new, y_new = (torch.randn(60, 50, generator=generator) for _ in range(4))
    loose, tight = (r_squared(linear_fit(x, y, x_new, ridge=ridge), y_new) for ridge in (1e-6, 10.0))
    assert loose < tight < 0.1
