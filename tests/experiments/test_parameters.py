"""Protects: a misspelt name, a wrong type or YAML's text-for-a-number is an error before anything runs."""

import dataclasses
import json
from pathlib import Path
from typing import Optional, Union

import pytest
from safetensors.torch import save_file

from transkd_lite.experiments.experiment import Experiment, evaluate_run, read_signature
from transkd_lite.models.weights import create_model
from transkd_lite.training.config import ParameterError, check_injected, check_name, check_parameters

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


def test_the_parameters_cell_gives_types():
    hints = read_signature(FIXTURES / "quick_run.ipynb")
    assert hints["teacher"] == str | None
    assert hints["options"] is dict
    assert list(hints)[-1] == "out_dir"


@pytest.mark.parametrize("line", ["steps: 3 = 3", "steps: 'int' = 3", "steps: whole = 3", "steps: int() = 3"])
def test_an_annotation_that_names_no_type_is_refused(line, tmp_path):
    path, tagged = tmp_path / "own.ipynb", {"tags": ["parameters"]}
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "metadata": tagged, "source": line}]}))
    with pytest.raises(ParameterError, match="holds one annotated literal a line"):
        read_signature(path)


def test_a_notebook_without_the_cell_has_no_parameters(tmp_path):
    path = tmp_path / "bare.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "metadata": {}, "source": "x = 1"}]}))
    assert read_signature(path) == {}


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


def test_types_that_papermills_help_can_read_are_read_here_too(tmp_path):
    source = "a: Optional[str] = None\nb: Union[str, list[float], None] = 1\nc: Optional[tuple[int, int]] = None"
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": source}
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [cell]}))
    wanted = {"a": Optional[str], "b": Union[str, list[float], None], "c": Optional[tuple[int, int]]}  # noqa: UP007, UP045
    assert read_signature(tmp_path / "a.ipynb") == wanted


def globals_of(injected, **values):
    """What `globals()` holds in a notebook of the parameters steps and method after papermill has put in a cell."""
    cells = ["", "import numpy as np", 'steps: int = 80\nmethod: str = "transkd-base"', f"# Parameters\n{injected}\n"]
    return {"In": cells, "__annotations__": {"steps": int, "method": str}, "steps": 80, "method": "none", **values}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (globals_of('metod = "kd"', metod="kd"), "unknown parameter of this notebook 'metod': did you mean method"),
        (globals_of("lr = 0.1", lr=0.1), "unknown parameter of this notebook 'lr'"),  # a field, but not declared
        (globals_of('steps = "3"', steps="3"), "this notebook: steps must be a valid integer; got steps='3'"),
    ],
)
def test_a_parameter_that_papermill_was_given_and_the_notebook_lacks_is_refused(names, message):
    for check in (check_injected, Experiment.from_notebook):
        with pytest.raises(ParameterError, match=message):
            check(names)


def test_what_papermill_puts_in_rightly_is_taken():
    assert Experiment.from_notebook(globals_of("steps = 3", steps=3)).steps == 3
    own = {"In": ["", "# Parameters\nsteps = 3\nnote = 1"], "steps": 3, "note": 1}  # a notebook without annotations
    assert Experiment.from_notebook(own).steps == 3


@pytest.mark.parametrize("data", [{"dataset": "hub:a/b"}, {"dataset": "streets", "data_options": {"cache": "/x"}}])
def test_a_file_of_weights_chooses_no_hub_and_no_folder(data, tmp_path):
    model = create_model("segformer_b0", 19)
    made = {"parameters": {"height": 32, "width": 64, **data}}
    record = {"spec": dataclasses.asdict(model.spec), "provenance": made}
    save_file(model.state_dict(), tmp_path / "m.safetensors", {"transkd_lite": json.dumps(record)})
    with pytest.raises(ParameterError, match=rf"m\.safetensors may not choose dataset={data['dataset']} and"):
        evaluate_run(tmp_path / "m.safetensors", {})
