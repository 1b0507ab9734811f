"""Guards: every method can be described, from what it is and not from a second list."""

from __future__ import annotations

import pytest

from transkd_lite.distill import describe, list_methods, method_table
from transkd_lite.distill.methods import METHODS


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


def test_the_table_has_a_row_for_every_method() -> None:
    head, rule, *rows = method_table().splitlines()
    assert head.count("|") == rule.count("|") == 5
    assert [row.split("`")[1] for row in rows] == list_methods()
    assert all(row.count("|") == 5 for row in rows)
