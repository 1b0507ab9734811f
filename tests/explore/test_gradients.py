"""The Gram matrix of the terms' gradients says exactly what the gradients themselves say, for any weights."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trial_bench import TERMS, TINY

from transkd_lite import fit
from transkd_lite.experiments.experiment import Experiment
from transkd_lite.explore.gradients import (
    GradientMoment,
    GradientRecord,
    TrialBench,
    cosine_matrix,
    load_gradients,
    record_gradients,
    take_moment,
    term_gradients,
)


@pytest.fixture(scope="module")
def bench():
    return TrialBench(TINY)


@pytest.fixture(scope="module")
def batches(bench):
    return list(bench.batches(range(2)))


# -- the numbers, by hand and as properties


def read(gram, weights):
    """Terms ce, t1, t2, … with these weights."""
    names = ("ce", *(f"t{k}" for k in range(1, len(gram))))
    moment = GradientMoment(step=0, names=names, losses=np.ones(len(gram)), gram=gram)
    return moment.read(dict(zip(names, weights, strict=True)))


def test_numbers_worked_by_hand():
    # g_ce = (3, 0), g_1 = (0, 4), g_2 = (-2, 0); weights 1, 0.5, 1: g = (1, 2)
    vectors = np.array([[3.0, 0.0], [0.0, 4.0], [-2.0, 0.0]])
    gram = vectors @ vectors.T
    reading = read(gram, [1.0, 0.5, 1.0])
    assert reading.norm == pytest.approx(np.sqrt(5))
    assert reading.terms["share"].tolist() == pytest.approx([3 / 5, 4 / 5, -2 / 5])
    assert reading.change_per_length == pytest.approx(-3 / np.sqrt(5))
    assert reading.change_per_rate == pytest.approx(-3)
    assert reading.alignment == pytest.approx(1 / np.sqrt(5))
    assert reading.terms["norm"].tolist() == pytest.approx([3, 4, 2])
    assert reading.terms["cosine"].tolist() == [1, 0, -1]
    assert cosine_matrix(gram) == pytest.approx(np.array([[1, 0, -1], [0, 1, 0], [-1, 0, 1]]))


vectors_and_weights = st.integers(2, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.floats(-10, 10), min_size=4, max_size=4), min_size=n, max_size=n),
        st.lists(st.floats(0, 3), min_size=n, max_size=n),
    )
)


@settings(max_examples=80)
@given(vectors_and_weights)
def test_any_gram_matrix_agrees_with_its_vectors(case):
    vectors, weights = np.array(case[0]), np.array(case[1])
    gram, whole = vectors @ vectors.T, weights @ vectors
    size, reading = np.linalg.norm(whole), read(gram, weights)
    assert reading.norm == pytest.approx(size, abs=1e-5)
    assert reading.change_per_rate == pytest.approx(-vectors[0] @ whole, abs=1e-6)
    if size > 1e-2:
        shares = weights * (vectors @ whole) / size**2
        assert reading.terms["share"].to_numpy() == pytest.approx(shares, abs=1e-5)
        assert shares.sum() == pytest.approx(1)
        assert read(gram, 2 * weights).terms["share"].to_numpy() == pytest.approx(reading.terms["share"].to_numpy())
        best = -np.linalg.norm(vectors[0])
        assert reading.change_per_length >= best - 1e-6  # nothing descends faster than its own gradient


def test_no_gradient_at_all_is_no_division_by_zero():
    nothing = read(np.zeros((2, 2)), [1.0, 1.0])
    assert nothing.terms[["share", "cosine"]].to_numpy().tolist() == [[0, 0], [0, 0]]
    assert (nothing.change_per_length, nothing.alignment) == (0, 0)


def test_weights_left_out_are_those_of_the_supervised_loss_alone():
    moment = GradientMoment(step=0, names=("ce", "kd", "pea_4"), losses=np.ones(3), gram=np.eye(3))
    assert moment.read({"kd": 0.5}).terms["weight"].tolist() == [1.0, 0.5, 0.0]


def test_wrong_weights_and_terms_are_named():
    moment = GradientMoment(step=0, names=("ce", "kd"), losses=np.ones(2), gram=np.eye(2))
    with pytest.raises(ValueError, match=r"the terms are ce, kd; got weights for csf_9"):
        moment.read({"csf_9": 1.0})


# -- real gradients


def combined(step, batches):
    step.student.zero_grad()
    for number, (images, labels) in enumerate(batches, start=1):
        torch.manual_seed(number)
        (step.train()(images, labels)["total"] / len(batches)).backward()
    return torch.cat([p.grad.flatten() for p in step.student.parameters()]).double()


def test_linear_combination_is_the_gradient_of_the_combined_loss(bench, batches):
    weights = dict(zip(TERMS[1:], np.linspace(0.2, 2.6, len(TERMS) - 1).tolist(), strict=True))
    step = bench.trainer(weights).modules
    names, losses, gradients = term_gradients(step, batches)
    assert names == TERMS
    moment = take_moment(step, batches, 0)
    assert (moment.names, moment.losses.tolist()) == (names, losses.tolist())
    reading, whole = moment.read(weights), combined(step, batches)
    summed = torch.tensor(reading.terms["weight"].to_numpy()) @ gradients.double()
    assert float((whole - summed).norm() / whole.norm()) < 1e-5
    assert reading.norm == pytest.approx(float(whole.norm()), rel=1e-5)
    ce = gradients[0].double()
    assert reading.change_per_length == pytest.approx(-float(ce @ whole / whole.norm()), rel=1e-4)


def test_a_small_plain_step_changes_the_supervised_loss_as_predicted(bench, batches):
    step = bench.trainer().modules
    weights = dict(step.method.weights)
    reading = take_moment(step, batches, 0).read(weights)
    whole = combined(step, batches)

    @torch.no_grad()
    def ce():
        values = []
        for number, (images, labels) in enumerate(batches, start=1):
            torch.manual_seed(number)
            values.append(float(step(images, labels)["ce"]))
        return np.mean(values)

    before, length = ce(), 1e-3
    parameters = list(step.student.parameters())
    place = torch.nn.utils.parameters_to_vector(parameters)
    moved = place - (length * whole / whole.norm()).float()
    torch.nn.utils.vector_to_parameters(moved.detach(), parameters)
    assert ce() - before == pytest.approx(length * reading.change_per_length, rel=0.1)


def test_looking_changes_nothing(bench, batches):
    step = bench.trainer().modules
    step.eval()
    before = {name: value.clone() for name, value in step.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    term_gradients(step, batches[:1])
    assert torch.equal(torch.rand(1), expected)
    assert not any(module.training for module in step.modules())
    assert all(torch.equal(value, before[name]) for name, value in step.state_dict().items())
    assert all(p.grad is None for p in step.parameters())
    with pytest.raises(ValueError, match="at least one batch"):
        term_gradients(step, [])


def test_a_trial_is_fit_step_by_step_and_looking_on_changes_nothing(bench, batches):
    first = bench.trainer().modules
    settings = {"config": dataclasses.replace(TINY.config(), log_every=1), "progress": "none"}
    history = fit(first.student, bench.store.data, teacher=bench.teacher, method=first.method, **settings).history
    trainers = {"looked at": bench.trainer(), "left alone": bench.trainer()}
    for number, row in enumerate(bench.lockstep(trainers, 4)):
        for values in row.values():
            assert values["loss"] == pytest.approx(history["loss"][number], rel=1e-6)
            assert values["kd"] == pytest.approx(history["kd"][number], rel=1e-6)
        if number == 1:
            take_moment(trainers["looked at"].modules, batches[:1], 2)


def test_trials_differ_in_nothing_but_their_weights(bench):
    runs = {"plain": {}, "same": {}, "other": {"csf_1": 50.0}}
    first, second = list(bench.compare(runs, 2))
    assert first["plain"]["ce"] == first["same"]["ce"] == first["other"]["ce"]
    assert second["plain"]["ce"] == second["same"]["ce"] != second["other"]["ce"]
    with pytest.raises(ValueError, match=r"each with one weight; got .*csf_9"):
        next(bench.compare({"strange": {"csf_9": 1.0}}, 1))


# -- the record


def test_a_record_goes_to_json_and_back_to_the_last_digit():
    record = record_gradients(TINY, (0, 1), num_batches=1)
    assert record.steps == (0, 1)
    assert not np.array_equal(record.at(0).gram, record.at(1).gram)
    again = GradientRecord.model_validate_json(record.model_dump_json(indent=1))
    assert again.about == json.loads(json.dumps(record.about))
    for one, other in zip(record.moments, again.moments, strict=True):
        assert (one.step, one.names) == (other.step, other.names)
        assert np.array_equal(one.gram, other.gram)
        assert np.array_equal(one.losses, other.losses)


@pytest.mark.parametrize("moments", [(), (2, 1), (0, 0), (-1, 2), (0, 5)])
def test_moments_outside_the_run_are_refused(moments):
    with pytest.raises(ValueError, match="moments must ascend within the run's 0 to 4 steps"):
        record_gradients(TINY, moments)


def test_what_is_no_record_is_refused(tmp_path):
    for text in ("", "{}", '{"about": {}, "moments": [{"step": 0}]}'):
        with pytest.raises(ValueError, match="GradientRecord"):
            GradientRecord.model_validate_json(text)
    with pytest.raises(ValueError, match="at least 1 item"):
        GradientRecord(moments=(), about={})
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        load_gradients(tmp_path / "none.json")
    with pytest.raises(KeyError, match="7"):
        load_gradients().at(7)


def test_the_shipped_record_is_whole_and_of_this_code():
    record = load_gradients()
    assert record.names == TERMS
    assert {0, 300} <= {*record.steps}
    assert record.about["dirty"] is False
    assert len(record.about["commit"]) == 40
    experiment = Experiment.from_dict(record.about["experiment"])
    assert record.about["experiment"] == experiment.record()
    for moment in record.moments:
        assert np.array_equal(moment.gram, moment.gram.T)
        assert np.linalg.eigvalsh(moment.gram).min() > -1e-4 * np.trace(moment.gram)
        assert moment.read(dict.fromkeys(TERMS, 1.0)).terms["share"].sum() == pytest.approx(1)
    bench, losses = TrialBench(experiment), []
    step = bench.trainer().modules.train()
    for number, (images, labels) in enumerate(bench.batches(range(record.about["num_batches"])), start=1):
        torch.manual_seed(number)
        with torch.no_grad():
            terms = step(images, labels)
        losses.append([float(terms[name]) for name in record.names])
    assert np.mean(losses, axis=0) == pytest.approx(record.at(0).losses, rel=1e-3)
