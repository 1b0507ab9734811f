"""Protects: a misspelt name, a wrong type or YAML's text-for-a-number is an error before anything runs."""

import json
from pathlib import Path

import pytest

from transkd_lite.experiments.experiment import read_signature
from transkd_lite.training.config import ParameterError, check_name, check_parameters

FIXTURES = Path(__file__).parents[1] / "notebooks" / "fixtures"
HINTS = {"lr": float, "steps": int | None, "crop": tuple[int, int] | None, "names": list[str], "flip": bool}


@pytest.mark.parametrize(
    "given",
    [{"lr": 1}, {"lr": 6.0e-5, "steps": None}, {"crop": [64, 64]}, {"crop": (64, 64), "names": ["a"], "flip": False}],
)
def test_values_of_the_declared_type_pass(given):
    check_parameters(given, HINTS, "a notebook")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lrr": 1.0}, "unknown parameter of a notebook 'lrr': did you mean lr"),
        ({"lr": "6e-5"}, "write 6.0e-5"),
        ({"lr": "-6E-05"}, r"write -6.0e-05"),
        ({"lr": "0.5"}, "write 0.5"),
        ({"lr": True}, "lr must be a valid number; got lr=True"),
        ({"steps": 2.5}, "steps must be a valid integer; got steps=2.5"),
        ({"crop": [64]}, r"crop must be longer; got crop=\[64\]"),
        ({"names": ["a", 1]}, "names must be a valid string"),
        ({"flip": 1}, "flip must be a valid boolean; got flip=1"),
    ],
)
def test_other_values_are_refused_with_the_mend(given, message):
    with pytest.raises(ParameterError, match=message):
        check_parameters(given, HINTS, "a notebook")


def test_an_unknown_name_lists_the_near_and_the_valid_ones():
    with pytest.raises(ParameterError, match=r"did you mean transkd-base\? Valid: kd, transkd-base"):
        check_name("trankd-base", ["transkd-base", "kd"], "method")


def test_the_parameters_cell_gives_types_and_defaults():
    hints, defaults = read_signature(FIXTURES / "quick_run.ipynb")
    assert hints["teacher"] == str | None
    assert hints["options"] is dict
    assert defaults["lr"] == 1.0e-3
    assert list(defaults)[-1] == "out_dir"


def test_a_notebook_without_the_cell_has_no_parameters(tmp_path):
    path = tmp_path / "bare.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "metadata": {}, "source": "x = 1"}]}))
    assert read_signature(path) == ({}, {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("derived_parameter", "write a literal and derive the rest in the next cell"),
        ("damaged", "is not a readable notebook"),
        ("absent", "that folder has .*quick_run.ipynb"),
    ],
)
def test_a_bad_notebook_is_named_with_what_is_wrong(name, message):
    with pytest.raises(ParameterError, match=message):
        read_signature(FIXTURES / f"{name}.ipynb")
