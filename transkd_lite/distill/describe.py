"""What each method is, in words: formula, source, terms, default weights and options.

Nothing is written down twice: terms and weights are read off the method, built for the paper's pair of
networks.
"""

from __future__ import annotations

from textwrap import fill

import torch

from transkd_lite.distill.methods import create_method, list_methods
from transkd_lite.distill.part import METHODS
from transkd_lite.models.output import ModelSpec

__all__ = ["default_weights", "describe", "method_table"]

PAPER_STUDENT = ModelSpec("segformer_b0", (32, 64, 160, 256))
PAPER_TEACHER = ModelSpec("segformer_b2", (64, 128, 320, 512))


def default_weights(name: str) -> dict[str, float]:
    """The terms of a method, or of several joined with "+", with their default weights."""
    with torch.device("meta"):  # the shapes are enough
        return create_method(name, PAPER_STUDENT, PAPER_TEACHER).weights


def _lines(name: str) -> list[str]:
    method = METHODS[name]
    options = ", ".join(f"{option}={value!r}" for option, value in method.options.items())
    weight = fill(method.strength, 110, initial_indent="  weight   ", subsequent_indent=" " * 11)
    lines = [
        name,
        f"  formula  {method.formula}",
        f"  source   {method.source}",
        weight,
        f"  options  {options}",
    ]
    return [line for line in lines if line]


def describe(name: str) -> None:
    """Print a method's formula, source, options, terms and default weights; of "a+b" those of both.

    The line "weight" tells with which networks, crops and map sizes the default weight was published (where it says
    "with kd", NAME+kd is the published loss), and how the term grows with the map.

    Raises ValueError for an unknown method.
    """
    weights = default_weights(name)
    lines = [line for part in name.split("+") for line in _lines(part)]
    terms = ", ".join(f"{term} {weight:g}" for term, weight in weights.items())
    print("\n".join([*lines, f"  terms and default weights  {terms}"]))


def method_table() -> str:
    """All methods as a Markdown table: name, formula, terms with default weights, source."""
    rows = ["| method | formula | terms (default weight) | source |", "|---|---|---|---|"]
    for name in list_methods():
        terms = ", ".join(f"`{term}` ({weight:g})" for term, weight in default_weights(name).items())
        rows.append(f"| `{name}` | {METHODS[name].formula} | {terms} | {METHODS[name].source} |")
    return "\n".join(rows)
