"""Guards: every method can be described, from what it is and not from a second list."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import transkd_lite as tk
from transkd_lite.distill.methods import METHODS, describe, list_methods


@pytest.mark.parametrize("name", list_methods())
def test_describe_prints_formula_source_options_and_terms(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert describe(name) is None
    printed = capsys.readouterr().out
    method = METHODS[name]
    assert method.formula in printed
    assert method.source in printed
    assert method.strength
    assert method.strength in " ".join(printed.split())
    assert all(f"{option}={default!r}" in printed for option, default in method.options.items())


def test_describe_prints_terms_with_weights_of_joined_methods(capsys: pytest.CaptureFixture[str]) -> None:
    describe("pea+kd")
    assert "pea_1 0.1, pea_2 0.1, pea_3 0.5, pea_4 1, kd 1" in capsys.readouterr().out


def test_describe_refuses_unknown_methods() -> None:
    with pytest.raises(ValueError, match="unknown method 'dk': there are at, "):
        describe("dk")


class Means(tk.Part):
    """A method of one's own: the difference of the mean logits."""

    def forward(
        self, images: Tensor, student: tk.SegOutput, teacher: tk.SegOutput, labels: Tensor | None
    ) -> dict[str, Tensor]:
        return {"means": (student.logits.mean() - teacher.logits.mean()).square()}


def test_a_method_of_ones_own_joins_the_table(
    lab: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("transkd_lite.distill.methods.METHODS", dict(METHODS))

    @tk.register("means", formula="(mean z_S - mean z_T)²", source="this test")
    def means(student: tk.ModelSpec, teacher: tk.ModelSpec, *, weight: float = 2.0) -> list[tk.Part]:
        return [Means("means", {"means": weight})]

    images = lab.images()
    method = tk.create_method("means+kd", lab.student, lab.teacher, **{"means.weight": 3.0})
    terms = method(images, lab.output(lab.student, images), lab.output(lab.teacher, images), lab.labels())
    torch.testing.assert_close(method.combine(terms), 3 * terms["means"] + terms["kd"])
    tk.describe("means")
    assert "options  weight=2.0\n  terms and default weights  means 2" in capsys.readouterr().out
    tk.register("means", formula="another", source="a cell that is run again")(means)
    assert tk.list_methods().count("means") == 1


@pytest.mark.parametrize("name", ["kd", "none", "my+kd"])
def test_a_name_that_means_something_else_already_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"a name of its own, without \+"):
        tk.register(name, formula="…", source="…")
