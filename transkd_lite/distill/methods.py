"""All methods by name: `create_method(name, student, teacher)`; "a+b" has the terms of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transkd_lite.distill import features, logits, relations, transkd  # noqa: F401  (they register methods)
from transkd_lite.distill.distiller import Distiller
from transkd_lite.distill.part import METHODS, Method, Part
from transkd_lite.models.files import listed
from transkd_lite.models.output import ModelSpec, SegModel

__all__ = ["Distiller", "create_method", "list_methods"]


def list_methods() -> list[str]:
    """The names that `create_method` takes. Any of them may be joined: "transkd-base+kd"."""
    return sorted(METHODS)


def _method(name: str) -> Method:
    if name not in METHODS:
        known = ", ".join(list_methods())
        raise ValueError(f"unknown method {name!r}: there are {known}, and any of them joined with +")
    return METHODS[name]


def _own_options(method: Method, joined: list[Method], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are meant for `method`: those it takes, and `name.option` for it alone."""
    own = {}
    for key, value in options.items():
        addressee, _, option = key.rpartition(".")
        takers = [m.name for m in joined if option in m.options and addressee in ("", m.name)]
        if not takers:
            valid = "; ".join(f"{m.name} takes {', '.join(m.options)}" for m in joined)
            raise ValueError(f"unknown option {key!r}: {valid}")
        if len(takers) > 1:
            raise ValueError(f"option {key!r} is taken by {' and '.join(takers)}: write {takers[0]}.{key}")
        if takers == [method.name]:
            own[option] = value
    return own


def _spec(role: str, network: SegModel | ModelSpec) -> ModelSpec:
    spec = getattr(network, "spec", network)
    if not isinstance(spec, ModelSpec):
        raise ValueError(f"{role} must be a SegModel or a ModelSpec, got {type(network).__name__}")
    return spec


def _check_terms(name: str, parts: list[Part]) -> list[str]:
    """The terms of all parts. Raises ValueError where two are called the same."""
    terms = [term for part in parts for term in part.weights]
    twice = sorted({term for term in terms if terms.count(term) > 1})
    if twice or not terms:
        problem = f"two terms named {', '.join(twice)}: leave one method out" if twice else "no terms at all"
        raise ValueError(f"{name} would have {problem}")
    return terms


def _warmups(terms: list[str], schedule: str | Mapping[str, str], warmup_steps: int) -> dict[str, int]:
    """The terms whose weight rises, with the number of steps."""
    chosen = dict.fromkeys(terms, schedule) if isinstance(schedule, str) else dict(schedule)
    strange = sorted(set(chosen) - set(terms)) + sorted(set(chosen.values()) - {"constant", "linear"})
    if strange:
        raise ValueError(
            f'schedule is "constant" or "linear", or one of them for some of {", ".join(terms)}; got {listed(strange)}'
        )
    rising = [term for term, kind in chosen.items() if kind == "linear"]
    if rising and warmup_steps < 1:
        raise ValueError(f"a linear schedule needs warmup_steps >= 1, got {warmup_steps}")
    return dict.fromkeys(rising, warmup_steps)


def create_method(
    name: str,
    student: SegModel | ModelSpec,
    teacher: SegModel | ModelSpec,
    *,
    weights: Mapping[str, float] | None = None,
    schedule: str | Mapping[str, str] = "constant",
    warmup_steps: int = 0,
    **options: Any,
) -> Distiller:
    """Build the method `name`, or several joined with "+", for a pair of networks.

    - weights: replaces the default weights of the terms named in it.
    - schedule: "constant" or "linear" (from 0 over `warmup_steps` training steps), for all terms or by term.
    - options: those of the methods (`describe` lists them). Where two joined methods take the same one, write
      "method.option".

    Raises ValueError for unknown names and options, and for networks that cannot be compared.
    """
    own, other = _spec("student", student), _spec("teacher", teacher)
    joined = [_method(part) for part in name.split("+")]
    parts = [p for m in joined for p in m.build(own, other, **_own_options(m, joined, options))]
    terms = _check_terms(name, parts)
    if not set(weights or {}) <= set(terms):
        raise ValueError(
            f"weights name the terms {', '.join(terms)} of {name}; got {listed(dict(weights or {}))}"
        )
    distiller = Distiller(name, parts, own, other)
    distiller.weights.update(weights or {})
    distiller.warmup = _warmups(terms, schedule, warmup_steps)
    distiller.options = {**options, "weights": weights, "schedule": schedule, "warmup_steps": warmup_steps}
    return distiller
