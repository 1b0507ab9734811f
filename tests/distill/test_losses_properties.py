"""Guards: what every pure loss promises whatever the values, shown on random maps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from transkd_lite.distill import losses

CLASSES = 6
Loss = Callable[[Tensor, Tensor], Tensor]


def _labels(shape: torch.Size) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    labels = torch.randint(0, CLASSES, (shape[0], *shape[2:]), generator=generator)
    return labels.where(torch.rand(labels.shape, generator=generator) > 0.2, 255)


def _with_labels(loss: Callable[..., Tensor], **options: int) -> Loss:
    return lambda student, teacher: loss(student, teacher, _labels(student.shape), **options)


LOSSES: dict[str, Loss] = {
    "mse": losses.mse,
    "hcl": losses.hcl,
    "at": losses.at,
    "mgd": losses.mgd,
    "kd": losses.kd,
    "kd-valid": _with_labels(losses.kd, temperature=3),
    "cwd": losses.cwd,
    "cwd-classes": partial(losses.cwd, over="classes"),
    "dkd": _with_labels(losses.dkd),
    "dist": losses.dist,
    "dist-valid": _with_labels(losses.dist),
    "skd": losses.skd,
    "ifvd": _with_labels(losses.ifvd, num_classes=CLASSES),
    "cirkd": losses.cirkd,
}
LABELLED = {"kd": losses.kd, "dkd": losses.dkd, "dist": losses.dist, "ifvd": partial(losses.ifvd, num_classes=CLASSES)}
shapes = st.tuples(st.integers(1, 3), st.just(CLASSES), st.integers(1, 7), st.integers(1, 7))
seeds = st.integers(0, 2**31)
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
every_labelled_loss = pytest.mark.parametrize("loss", LABELLED.values(), ids=LABELLED)
few = settings(max_examples=15)


def _maps(shape: tuple[int, ...], seed: int, count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


@every_loss
@given(shape=shapes, seed=seeds)
@few
def test_never_negative_and_zero_where_the_student_equals_the_teacher(
    loss: Loss, shape: tuple[int, ...], seed: int
) -> None:
    student, teacher = _maps(shape, seed)
    assert loss(student, teacher).item() >= -1e-6
    assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-5)


@every_loss
@given(seed=seeds)
@few
def test_larger_where_the_student_is_worse(loss: Loss, seed: int) -> None:
    teacher, noise = _maps((2, CLASSES, 9, 11), seed)
    better, worse = loss(teacher + 0.1 * noise, teacher), loss(teacher + noise, teacher)
    assert 0 < better < worse


@every_loss
@given(shape=shapes, seed=seeds, dtype=st.sampled_from([torch.bfloat16, torch.float16]))
@few
def test_half_precision_is_reduced_in_float32(
    loss: Loss, shape: tuple[int, ...], seed: int, dtype: torch.dtype
) -> None:
    student, teacher = (x.to(dtype) for x in _maps(shape, seed))
    with torch.autocast("cpu", torch.bfloat16):
        low = loss(student, teacher)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, loss(student.float(), teacher.float()))


CONSTANTS = [0.0, 1.0, -3.7, 1e4]


@every_loss
@pytest.mark.parametrize("student_value", CONSTANTS)
@pytest.mark.parametrize("teacher_value", [*CONSTANTS, None])
def test_constant_maps_have_finite_values_and_moderate_gradients(
    loss: Loss, student_value: float, teacher_value: float | None
) -> None:
    shape = (2, CLASSES, 5, 3)
    student = torch.full(shape, student_value, requires_grad=True)
    teacher = _maps(shape, 0)[0] if teacher_value is None else torch.full(shape, teacher_value)
    value = loss(student, teacher)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad.norm() < 1e6


@every_loss
def test_confident_logits_make_no_zero_times_log_zero(loss: Loss) -> None:
    student, teacher = (1e4 * x for x in _maps((1, CLASSES, 4, 4), 0))
    student.requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@every_labelled_loss
@given(seed=seeds)
@few
def test_what_lies_under_void_pixels_changes_nothing(loss: Callable[..., Tensor], seed: int) -> None:
    student, teacher, noise = _maps((2, CLASSES, 6, 7), seed, 3)
    labels = _labels(student.shape)
    void = (labels == 255)[:, None]
    student.requires_grad_()
    value = loss(student, teacher, labels)
    other = loss(student + noise * void, teacher - noise * void, labels)
    torch.testing.assert_close(value, other)
    (gradient,) = torch.autograd.grad(value, student)
    assert (gradient * void == 0).all()
    assert (gradient * ~void != 0).any()


@every_labelled_loss
def test_no_valid_pixel_gives_zero_that_is_attached_to_the_graph(loss: Callable[..., Tensor]) -> None:
    student, teacher = _maps((2, CLASSES, 6, 7), 0)
    student.requires_grad_()
    value = loss(student, teacher, torch.full((2, 12, 14), 255))
    value.backward()
    assert value.item() == 0
    assert student.grad is not None
    assert (student.grad == 0).all()


@every_labelled_loss
def test_labels_are_resized_with_nearest_neighbour(loss: Callable[..., Tensor]) -> None:
    student, teacher = _maps((2, CLASSES, 6, 7), 0)
    labels = _labels(student.shape)
    enlarged = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
    torch.testing.assert_close(loss(student, teacher, labels), loss(student, teacher, enlarged))
    torch.testing.assert_close(loss(student, teacher, labels), loss(student, teacher, labels.byte()))


@given(seed=seeds, temperature=st.floats(0.5, 5))
@few
def test_kd_is_tckd_plus_nckd_with_the_weight_that_dkd_takes_away(seed: int, temperature: float) -> None:
    student, teacher = _maps((1, CLASSES, 1, 1), seed)
    label = torch.tensor([[[2]]])
    parts = partial(losses.dkd, student, teacher, label, temperature=temperature)
    other_classes = 1 - (teacher / temperature).softmax(1)[0, 2, 0, 0]
    expected = parts(alpha=1, beta=0) + other_classes * parts(alpha=0, beta=1)
    kd = losses.kd(student, teacher, label, temperature=temperature)
    torch.testing.assert_close(kd, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["kd", "dkd", "dist"])
def test_one_class_leaves_nothing_to_compare(name: str) -> None:
    student, teacher = (x[:, :1].requires_grad_() for x in _maps((2, CLASSES, 6, 7), 0))
    value = LABELLED[name](student, teacher, torch.zeros(2, 6, 7, dtype=torch.long))
    value.backward()
    assert value == 0
    assert (student.grad == 0).all()


def test_cirkd_holds_blocks_of_similarities_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = _maps((2, CLASSES, 16, 16), 0)
    student.requires_grad_()
    found = []
    for relations in (2**24, 2**12):
        monkeypatch.setattr(losses, "RELATIONS", relations)
        kept: list[int] = []

        def keep(x: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            value = losses.cirkd(student, teacher)
        found.append((value, torch.autograd.grad(value, student)[0], sum(kept)))
    torch.testing.assert_close(found[0][:2], found[1][:2])
    assert found[1][2] < (2 * 16 * 16) ** 2 < found[0][2]


def test_cirkd_pools_large_maps_as_its_authors_do() -> None:
    student, teacher = _maps((1, 2, 256, 256), 0)
    pooled = [torch.nn.functional.avg_pool2d(x, 4) for x in (student, teacher)]
    torch.testing.assert_close(losses.cirkd(student, teacher), losses.cirkd(*pooled, pool=1))


def test_dist_looks_at_correlation_alone() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.2]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    closer_to_uniform = 1 / 3 + 0.1 * (probabilities - 1 / 3)
    inter = losses.dist(closer_to_uniform.log(), probabilities.log(), gamma=0)
    assert inter.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("loss", [losses.at, losses.skd, losses.cirkd])
def test_relations_do_not_need_equal_widths(loss: Loss) -> None:
    assert loss(torch.randn(2, 5, 4, 4), torch.randn(2, 9, 4, 4)) > 0


@pytest.mark.parametrize("name", ["mse", "hcl", "mgd", "kd", "cwd", "dkd", "dist"])
def test_unequal_shapes_are_refused_with_both_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"\(1, 6, 4, 4\).*\(1, 6, 4, 5\)"):
        LOSSES[name](torch.zeros(1, CLASSES, 4, 4), torch.zeros(1, CLASSES, 4, 5))


def test_bad_arguments_are_refused() -> None:
    one = torch.zeros(1, 2, 2, 2)
    with pytest.raises(ValueError, match="argument 2 is longer"):
        losses.hcl([one], [one, one])
    with pytest.raises(ValueError, match='"positions" or "classes"'):
        losses.cwd(one, one, over="channels")
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        losses.kd(one, one, temperature=0)
    with pytest.raises(ValueError, match=r"\(N, h, w\)"):
        losses.kd(one, one, torch.zeros(1, 1, 2, 2))
