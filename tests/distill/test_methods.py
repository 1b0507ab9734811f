"""Guards: what every method promises, shown on a pair of tiny networks with different widths."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from transkd_lite.distill.methods import create_method, list_methods
from transkd_lite.models.output import SegOutput

METHODS = [
    *("at", "cirkd", "csf", "cwd", "cwd-features", "dist", "dkd", "fitnet", "ifvd", "kd", "mgd", "pea"),
    *("review", "skd", "transkd-base", "transkd-ea", "transkd-gl"),
]
WITH_KD = [f"{name}+kd" for name in METHODS if name not in ("kd", "cirkd")]
EVERY = [*METHODS, "transkd-base+kd", "cwd+cwd-features+at"]
CSF = [f"csf_{stage}" for stage in (1, 2, 3, 4)]
PEA = [f"pea_{stage}" for stage in (1, 2, 3, 4)]
every_method = pytest.mark.parametrize("name", EVERY)
every_precision = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
LABELLED = {"kd", "dkd", "dist", "ifvd"}  # the terms that look at labels
may_be_idle = pytest.mark.filterwarnings("ignore:.*with respect to the student is 0")


def test_list_methods() -> None:
    assert list_methods() == METHODS


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("transkd-base", CSF + PEA),
        ("transkd-gl", CSF + PEA),
        ("transkd-ea", CSF + PEA),
        ("csf", CSF),
        ("pea", PEA),
        ("review", [f"review_{stage}" for stage in (1, 2, 3, 4)]),
        ("cwd-features", [f"cwd_{stage}" for stage in (1, 2, 3, 4)]),
        ("cirkd", ["cirkd", "kd"]),
        ("transkd-base+kd", [*CSF, *PEA, "kd"]),
        *((name, [name]) for name in ("kd", "cwd", "skd", "ifvd", "fitnet", "at", "mgd", "dkd", "dist")),
    ],
)
def test_names_of_terms_and_weights(lab: Any, name: str, terms: list[str]) -> None:
    method = create_method(name, lab.student, lab.teacher)
    images = lab.images()
    given = method(images, lab.output(lab.student, images), lab.output(lab.teacher, images), lab.labels())
    assert list(given) == list(method.weights) == terms
    assert all(term.ndim == 0 for term in given.values())


def test_default_weights(lab: Any) -> None:
    def weights(name: str) -> list[float]:
        return list(create_method(name, lab.student, lab.teacher).weights.values())

    assert weights("transkd-base") == [1, 1, 1, 1, 0.1, 0.1, 0.5, 1]
    single = {"kd": 1, "cwd": 3, "skd": 10, "ifvd": 20, "fitnet": 10, "at": 1e4, "mgd": 2e-5}
    assert {name: weights(name) for name in single} == {name: [weight] for name, weight in single.items()}


@every_method
def test_gallery_the_terms_fall_in_training(lab: Any, name: str) -> None:
    images, labels = lab.images(size=(96, 96)), lab.labels(size=(96, 96))
    student, teacher = lab.network(lab.student), lab.network(lab.teacher)
    method = create_method(name, student, teacher)
    with torch.no_grad():
        wanted: SegOutput = teacher(images)
    optimizer = torch.optim.Adam([*student.parameters(), *method.parameters()], lr=0.01)
    history = []
    for _ in range(20):
        terms = method(images, student(images), wanted, labels)
        optimizer.zero_grad()
        # Every term as itself: weights of 1e4 or 2e-5 would hide the other terms of a sum.
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        history.append({key: term.item() for key, term in terms.items()})
    for term in method.weights:
        first, last = history[0][term], sum(step[term] for step in history[-3:]) / 3
        assert last < 0.95 * first, (term, first, last)


@may_be_idle
@every_method
@every_precision
@pytest.mark.parametrize(("n", "size"), [(2, (33, 71)), (1, (33, 71)), (1, (32, 32))], ids=str)
def test_finite_without_gradient_into_the_teacher(
    lab: Any, name: str, n: int, size: tuple[int, int], dtype: torch.dtype
) -> None:
    images, labels = lab.images(n, size), lab.labels(n, size)
    method = create_method(name, lab.student, lab.teacher)
    student = lab.output(lab.student, images, dtype=dtype)
    teacher = lab.output(lab.teacher, images, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        terms = method(images, student, teacher, labels)
        total = method.combine(terms)
    total.backward()
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
    gradients = [x.grad for x in (*lab.tensors(student), *method.parameters()) if x.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)
    assert all(x.grad is None for x in lab.tensors(teacher))


@may_be_idle
@every_method
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("make", [torch.zeros, torch.ones])
def test_constant_outputs_have_finite_gradients(lab: Any, name: str, make: Any, n: int) -> None:
    images = lab.images(n)
    method = create_method(name, lab.student, lab.teacher)
    student = lab.output(lab.student, images, make)
    total = method.combine(method(images, student, lab.output(lab.teacher, images, make), lab.labels(n)))
    total.backward()
    assert total.isfinite()
    gradients = [x.grad for x in (*lab.tensors(student), *method.parameters()) if x.grad is not None]
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("name", ["kd", "dkd", "dist", "ifvd"])
def test_what_lies_under_void_pixels_changes_nothing(lab: Any, name: str) -> None:
    images, labels = lab.images(), lab.labels()
    void, deep_void = ((labels == 255)[:, None, k // 2 :: k, k // 2 :: k].float() for k in (4, 32))

    def disturbed(output: SegOutput) -> SegOutput:
        *shallow, deepest = output.features
        deepest = deepest + 9 * torch.randn_like(deepest) * deep_void
        logits = output.logits + 9 * torch.randn_like(output.logits) * void
        return output._replace(logits=logits, features=(*shallow, deepest))

    method = create_method(name, lab.student, lab.teacher)
    student, teacher = lab.output(lab.student, images), lab.output(lab.teacher, images)
    before = method(images, student, teacher, labels)[name]
    after = method(images, disturbed(student), disturbed(teacher), labels)[name]
    assert before > 0
    torch.testing.assert_close(before, after)


def _terms_and_gradients(
    lab: Any, name: str, labels: torch.Tensor, dtype: torch.dtype = torch.float32, num_classes: int = 5
) -> tuple[dict[str, torch.Tensor], dict[str, list[torch.Tensor]]]:
    """The terms of one mini-batch, and of each its gradients with respect to the student's outputs."""
    torch.manual_seed(0)
    student_spec, teacher_spec = (
        dataclasses.replace(spec, num_classes=num_classes) for spec in (lab.student, lab.teacher)
    )
    images = lab.images()
    student, teacher = (lab.output(student_spec, images, dtype=dtype), lab.output(teacher_spec, images, dtype=dtype))
    method = create_method(name, student_spec, teacher_spec)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        terms = method(images, student, teacher, labels)
    outputs = lab.tensors(student)
    gradients = {
        key: [g for g in torch.autograd.grad(term, outputs, retain_graph=True, allow_unused=True) if g is not None]
        for key, term in terms.items()
    }
    assert all(term.isfinite() for term in terms.values())
    assert all(g.isfinite().all() for found in gradients.values() for g in found)
    return terms, gradients


@every_precision
@pytest.mark.parametrize("name", METHODS + WITH_KD)
def test_without_labelled_pixels_terms_with_labels_are_zero_and_the_others_unchanged(
    lab: Any, name: str, dtype: torch.dtype
) -> None:
    terms, gradients = _terms_and_gradients(lab, name, torch.full((2, 64, 96), 255), dtype)
    others, _ = _terms_and_gradients(lab, name, lab.labels(), dtype)
    for key, term in terms.items():
        if key in LABELLED:
            assert term == 0
            assert all((g == 0).all() for g in gradients[key])
        else:
            torch.testing.assert_close(term, others[key])


@may_be_idle
@every_precision
@pytest.mark.parametrize("name", METHODS + WITH_KD)
@pytest.mark.parametrize("void", [False, True])
def test_one_class_makes_comparisons_of_classes_zero(lab: Any, name: str, dtype: torch.dtype, void: bool) -> None:
    labels = torch.full((2, 64, 96), 255 if void else 0)
    terms, gradients = _terms_and_gradients(lab, name, labels, dtype, num_classes=1)
    for key in terms.keys() & {"kd", "dkd", "dist"}:
        assert terms[key] == 0
        assert all((g == 0).all() for g in gradients[key])
    assert all(terms[key] > 0 for key in terms.keys() - LABELLED)


@every_precision
@pytest.mark.parametrize("name", METHODS + WITH_KD)
@pytest.mark.parametrize("label", [5, 44, -1])
def test_labels_outside_the_classes_are_refused(lab: Any, name: str, dtype: torch.dtype, label: int) -> None:
    labels = lab.labels()
    labels[1, 3, 5] = label
    message = rf"train ids are 0-4 and 255; got label {label} in the labels for {name.replace('+', '.')}: map the"
    with pytest.raises(ValueError, match=message):
        _terms_and_gradients(lab, name, labels, dtype)


@pytest.mark.parametrize("name", sorted(LABELLED))
def test_processes_that_share_a_mini_batch_divide_by_the_count_of_all(
    lab: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.mul_(3))  # the other one has twice as many
    images, labels = lab.images(), lab.labels()
    student, teacher = lab.output(lab.student, images), lab.output(lab.teacher, images)
    method = create_method(name, lab.student, lab.teacher, **({"gamma": 0.0} if name == "dist" else {}))
    alone = method(images, student, teacher, labels)[name]
    method.join_training(2)
    torch.testing.assert_close(method(images, student, teacher, labels)[name], alone * 2 / 3)


def test_a_student_may_have_more_classes_where_logits_are_not_compared(lab: Any) -> None:
    images, labels = lab.images(), lab.labels()
    labels[:, 32:] = 5
    wider = dataclasses.replace(lab.student, num_classes=6)
    method = create_method("ifvd+csf", wider, lab.teacher)
    assert method(images, lab.output(wider, images), lab.output(lab.teacher, images), labels)["ifvd"] > 0


@pytest.mark.parametrize(
    ("name", "idle"),
    [
        *((name, name) for name in ("at", "skd", "ifvd", "cirkd")),
        *(("cwd-features", "cwd_4"), ("transkd-base+skd", "skd")),
    ],
)
def test_a_term_with_one_position_is_named_once(lab: Any, name: str, idle: str) -> None:
    method = create_method(name, lab.student, lab.teacher)

    def step() -> None:
        images, labels = lab.images(2, (32, 32)), torch.zeros(2, 32, 32, dtype=torch.long)
        student, teacher = lab.output(lab.student, images), lab.output(lab.teacher, images)
        method.combine(method(images, student, teacher, labels)).backward()

    with pytest.warns(UserWarning, match=rf"^{name.replace('+', '.')}: the gradient of {idle} with .* is 0") as seen:
        step()
    assert len(seen) == 1
    assert "take larger images or other stages" in str(seen[0].message)
    step()


def test_constant_maps_of_the_teacher_are_named(lab: Any) -> None:
    images = lab.images()
    method = create_method("dist+kd", lab.student, lab.teacher)
    teacher = lab.output(lab.teacher, images, torch.ones)
    with pytest.warns(UserWarning, match="the gradient of dist with respect to the student is 0"):
        method(images, lab.output(lab.student, images), teacher, lab.labels())


def test_idle_terms_are_looked_for_at_the_first_labelled_mini_batch(lab: Any) -> None:
    images = lab.images()
    method = create_method("dist", lab.student, lab.teacher)
    student, teacher = lab.output(lab.student, images), lab.output(lab.teacher, images, torch.ones)
    method(images, student, teacher, torch.full((2, 64, 96), 255))
    with torch.no_grad():
        method(images, student, teacher, lab.labels())
    with pytest.warns(UserWarning, match="the gradient of dist"):
        method(images, student, teacher, lab.labels())


@every_method
def test_networks_of_other_strides_are_adapted(lab: Any, name: str) -> None:
    images, labels = lab.images(), lab.labels()
    coarse = dataclasses.replace(lab.teacher, strides=(8, 16, 16, 32))
    method = create_method(name, lab.student, coarse)
    terms = method(images, lab.output(lab.student, images), lab.output(coarse, images), labels)
    assert all(term.isfinite() for term in terms.values())


def test_outputs_of_inference_mode_can_be_a_teacher(lab: Any) -> None:
    images = lab.images()
    method = create_method("transkd-base+kd", lab.student, lab.teacher)
    with torch.inference_mode():
        teacher = lab.network(lab.teacher)(images)
    student = lab.output(lab.student, images)
    method.combine(method(images, student, teacher)).backward()
    assert student.logits.grad is not None


def test_combine_is_the_weighted_sum_and_follows_the_weights(lab: Any) -> None:
    method = create_method("pea", lab.student, lab.teacher)
    terms = {name: torch.tensor(float(i)) for i, name in enumerate(method.weights, start=1)}
    assert method.combine(terms).item() == pytest.approx(0.1 + 0.2 + 1.5 + 4)
    method.weights["pea_4"] = 0.0
    assert method.combine(terms).item() == pytest.approx(0.1 + 0.2 + 1.5)
    assert method.combine({"pea_3": terms["pea_3"]}).item() == pytest.approx(1.5)
    method.weights["pae_4"] = 1.0
    with pytest.raises(ValueError, match="pae_4"):
        method.combine(terms)


def test_joined_methods_have_the_terms_of_both(lab: Any) -> None:
    images, labels = lab.images(), lab.labels()
    student, teacher = lab.output(lab.student, images), lab.output(lab.teacher, images)

    def terms(name: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return create_method(name, lab.student, lab.teacher)(images, student, teacher, labels)

    torch.testing.assert_close(terms("csf+pea"), terms("transkd-base"))
    torch.testing.assert_close(terms("kd+dist"), terms("kd") | terms("dist"))


def test_options_of_joined_methods(lab: Any) -> None:
    def weights(name: str, **options: Any) -> dict[str, float]:
        return create_method(name, lab.student, lab.teacher, **options).weights

    assert weights("pea+kd", weight=2.0)["kd"] == 2
    assert weights("cwd+kd", **{"kd.weight": 2.0}) == {"cwd": 3, "kd": 2}
    assert weights("cwd+kd", weights={"cwd": 5}) == {"cwd": 5, "kd": 1}
    with pytest.raises(
        ValueError, match=r"'weight' must be that of one method, as option or method\.option: cwd takes .*; kd takes"
    ):
        weights("cwd+kd", weight=2.0)


def test_a_warm_up_rises_with_the_training_steps(lab: Any) -> None:
    images = lab.images()
    student, teacher = lab.output(lab.student, images), lab.output(lab.teacher, images)
    method = create_method("kd+at", lab.student, lab.teacher, warmup_steps={"kd": 4})
    ones = {"kd": torch.ones(()), "at": torch.zeros(())}
    seen = []
    for _ in range(6):
        method(images, student, teacher)
        seen.append(method.combine(ones).item())
    assert seen == [0.25, 0.5, 0.75, 1, 1, 1]
    resumed = create_method("kd+at", lab.student, lab.teacher, warmup_steps=12)
    resumed.load_state_dict(method.state_dict())
    assert resumed.combine(ones).item() == 0.5
    resumed.eval()(images, student, teacher)
    assert resumed.combine(ones).item() == 0.5


def test_methods_take_networks_or_their_specs(lab: Any) -> None:
    network = lab.network(lab.student)
    assert create_method("csf", network, lab.teacher).student_spec == lab.student


def test_what_is_no_network_is_refused(lab: Any) -> None:
    with pytest.raises(ValueError, match="teacher must be a SegModel or a ModelSpec, got NoneType"):
        create_method("kd", lab.student, None)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("transkd", {}, "unknown method 'transkd'.*transkd-base"),
        ("kd", {"temprature": 2}, "option 'temprature' must be that of one method.*: kd takes temperature, weight"),
        ("kd", {"cwd.weight": 2}, r"option 'cwd\.weight' must be"),
        ("cirkd+kd", {}, "of different names; .*would have cirkd, kd, kd"),
        ("kd", {"weights": {"dk": 1}}, "kd has the terms kd; weights or warmup_steps name dk"),
        ("kd", {"warmup_steps": {"at": 3}}, "weights or warmup_steps name at"),
        ("mgd", {"stages": []}, "stages must be at least one"),
        ("at", {"stages": [0, 4]}, r"stages must be at least one of the stages 1, 2, 3, 4.*\[0, 4\]"),
    ],
)
def test_create_method_refuses_what_it_does_not_understand(
    lab: Any, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        create_method(name, lab.student, lab.teacher, **options)


@pytest.mark.parametrize("name", ["kd", "cwd", "dkd", "dist", "cirkd"])
def test_networks_of_other_classes_are_refused(lab: Any, name: str) -> None:
    other = dataclasses.replace(lab.teacher, num_classes=7)
    with pytest.raises(ValueError, match="tiny-student has 5 classes and the teacher tiny-teacher has 7"):
        create_method(name, lab.student, other)


@pytest.mark.parametrize("name", ["dkd", "ifvd"])
def test_methods_that_need_labels_say_so(lab: Any, name: str) -> None:
    images = lab.images()
    method = create_method(name, lab.student, lab.teacher)
    with pytest.raises(ValueError, match=r"labels must have shape \(N, h, w\), got None"):
        method(images, lab.output(lab.student, images), lab.output(lab.teacher, images))


def test_outputs_of_other_networks_are_refused(lab: Any) -> None:
    images, labels = lab.images(), lab.labels()
    method = create_method("transkd-base", lab.student, lab.teacher)
    student, teacher = lab.output(lab.student, images), lab.output(lab.teacher, images)
    promise = r"the student's output must be, .* \(2, 5, 8, 12, 16, 24\), as tiny-student gives it; "
    with pytest.raises(ValueError, match=promise + r"got \(2, 5, 12, 16, 24, 32\)"):
        method(images, teacher, teacher)
    with pytest.raises(ValueError, match=r"the teacher's .* got \(2, 5, 12, 16, 24\)"):
        method(images, student, teacher._replace(features=teacher.features[:3]))
    with pytest.raises(ValueError, match=r"the teacher's .* got \(2, 9, "):
        method(images, student, teacher._replace(logits=torch.zeros(2, 9, 16, 24)))
    with pytest.raises(ValueError, match=r"the teacher's .* got \(1, "):
        method(images, student, lab.output(lab.teacher, images[:1]))
    with pytest.raises(ValueError, match="one mini-batch, got 2 images and 1 labels"):
        method(images, student, teacher, labels[:1])
    shorter = (*student.embeddings[:2], student.embeddings[2][:, 1:], student.embeddings[3])
    with pytest.raises(ValueError, match=r"must have one shape, got \(2, 23, 24\) and \(2, 24, 24\)"):
        method(images, student._replace(embeddings=shorter), teacher)
