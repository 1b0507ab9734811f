"""What the loss weights do to the student's gradient, for any weights, from one small matrix.

The loss of a step is L(w) = Σ_t w_t L_t, with t = ce (weight 1) and the method's terms, so its gradient with respect
to the student's parameters is g(w) = Σ_t w_t g_t: linear in the weights. With the Gram matrix G[s, t] = g_s · g_t
everything below follows for any w without another pass through a network:

    size of the whole gradient            |g|      = sqrt(w' G w)
    share of a term                       share_t  = w_t (g_t · g) / |g|² = w_t (G w)_t / (w' G w),  Σ_t share_t = 1
    cosine of two terms                   G[s, t] / sqrt(G[s, s] G[t, t])
    first-order change of L_ce            -(g_ce · g) for a step of -g (learning rate 1),
                                          -(g_ce · g) / |g| for a step of length 1 along -g

g_t is the gradient of the term's mean over the given batches, (1/B) Σ_b ∇L_t(batch b), and G is the Gram matrix of
these B-batch means, not a mean of Gram matrices: only so is the linear combination exact. "First order" and "along
-g" mean plain gradient descent with a small step; AdamW divides every coordinate by its own scale and so neither
follows g nor keeps these numbers. TransKD (arXiv 2202.13393, section III) fixes its weights by hand; the Gram view is
this project's own.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "GradientMoment",
    "GradientRecord",
    "GramReading",
    "cosine_matrix",
    "gradient_norm",
    "gradient_shares",
    "predicted_change",
    "read_gram",
    "weight_vector",
]

SUPERVISED = "ce"
Matrix = NDArray[np.float64]


def weight_vector(names: Sequence[str], weights: Mapping[str, float]) -> Matrix:
    """The weights (T,) in the order of `names`; ce has 1 unless given, a term that is not named has 0.

    Raises ValueError for a weight that is not finite, or whose term is not among `names`.

    >>> weight_vector(["ce", "kd", "pea_4"], {"kd": 0.5}).tolist()
    [1.0, 0.5, 0.0]
    """
    strange = sorted(set(weights) - set(names))
    if strange:
        raise ValueError(f"the terms are {', '.join(names)}; got weights for {', '.join(strange)}")
    vector = np.array([weights.get(name, float(name == SUPERVISED)) for name in names], np.float64)
    if not np.isfinite(vector).all():
        raise ValueError(f"every weight must be a finite number; got {dict(weights)}")
    return vector


def gradient_norm(gram: Matrix, weights: Matrix) -> float:
    """|g| = sqrt(w' G w) of gram (T, T) and weights (T,); rounding below zero counts as zero.

    >>> gradient_norm(np.diag([9.0, 16.0]), np.ones(2))
    5.0
    """
    return math.sqrt(max(0.0, float(weights @ gram @ weights)))


def gradient_shares(gram: Matrix, weights: Matrix) -> Matrix:
    """Each term's share (T,) of the squared gradient, w_t (g_t · g) / |g|²; they sum to 1.

    A negative share belongs to a term that pulls against the whole. Where g = 0 all shares are 0.

    >>> gradient_shares(np.diag([9.0, 16.0]), np.ones(2)).tolist()
    [0.36, 0.64]
    """
    parts = weights * (gram @ weights)
    total = parts.sum()
    return parts / total if total > 0 else np.zeros_like(parts)


def cosine_matrix(gram: Matrix) -> Matrix:
    """Cosines (T, T) between the terms' gradients; 0 for a term whose gradient is 0.

    >>> cosine_matrix(np.array([[4.0, -2.0], [-2.0, 1.0]])).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    norms = np.sqrt(np.maximum(0.0, np.diag(gram)))
    scale = np.outer(norms, norms)
    return np.clip(np.divide(gram, scale, out=np.zeros_like(gram), where=scale > 0), -1.0, 1.0)


def predicted_change(
    gram: Matrix, weights: Matrix, supervised: int = 0, *, unit_length: bool = True
) -> float:
    """First-order change of the supervised loss (term number `supervised`) when the parameters move along -g.

    unit_length: for a step of length 1 in the space of parameters, -(g_ce · g) / |g|, which compares directions;
    otherwise for a step of -g, that is a learning rate of 1: multiply by the learning rate of plain gradient descent.

    >>> predicted_change(np.diag([9.0, 16.0]), np.ones(2)), predicted_change(np.diag([9.0, 0.0]), np.ones(2))
    (-1.8, -3.0)
    """
    slope = -float(gram[supervised] @ weights)
    norm = gradient_norm(gram, weights) if unit_length else 1.0
    return slope / norm if norm > 0 else 0.0


@dataclass(frozen=True)
class GramReading:
    """All that one Gram matrix says about one choice of weights.

    names, weights, shares, cosines: by term (T,); cosines with the supervised gradient. norm, supervised_norm: |g| and
    |g_ce|. alignment: cosine of g with g_ce. change_per_length, change_per_rate: see `predicted_change`.
    """

    names: tuple[str, ...]
    weights: Matrix
    norms: Matrix
    shares: Matrix
    cosines: Matrix
    norm: float
    supervised_norm: float
    alignment: float
    change_per_length: float
    change_per_rate: float


def read_gram(names: Sequence[str], gram: Matrix, weights: Mapping[str, float]) -> GramReading:
    """Read a Gram matrix (T, T) of the terms `names`, ce among them, at the given weights.

    Raises ValueError for unknown terms, and where no term is the supervised loss.

    >>> read_gram(["ce", "kd"], np.array([[4.0, 3.0], [3.0, 9.0]]), {"kd": 0.0}).change_per_length
    -2.0
    """
    if SUPERVISED not in names:
        raise ValueError(
            f"one of the terms must be {SUPERVISED}, the supervised loss; got {', '.join(names)}"
        )
    vector, ce = weight_vector(names, weights), list(names).index(SUPERVISED)
    norms = np.sqrt(np.maximum(0.0, np.diag(gram)))
    along = predicted_change(gram, vector, ce)
    return GramReading(
        names=tuple(names),
        weights=vector,
        norms=norms,
        shares=gradient_shares(gram, vector),
        cosines=cosine_matrix(gram)[ce],
        norm=gradient_norm(gram, vector),
        supervised_norm=float(norms[ce]),
        alignment=-along / float(norms[ce]) if norms[ce] > 0 else 0.0,
        change_per_length=along,
        change_per_rate=predicted_change(gram, vector, ce, unit_length=False),
    )


@dataclass(frozen=True)
class GradientMoment:
    """The student's gradients at one moment of a training run.

    step: optimiser steps done. names: the terms, ce first. losses (T,): each term's mean over the batches.
    gram (T, T): the Gram matrix of the gradients of these means.
    """

    step: int
    names: tuple[str, ...]
    losses: Matrix
    gram: Matrix

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        for name, ndim in (("losses", 1), ("gram", 2)):
            value = np.asarray(getattr(self, name), np.float64)
            object.__setattr__(self, name, value)
            if value.shape != (len(self.names),) * ndim or not np.isfinite(value).all():
                raise ValueError(
                    f"{name} of step {self.step} must hold {len(self.names)} finite numbers a side, one for each "
                    f"term; got shape {value.shape}: record the gradients again"
                )

    def read(self, weights: Mapping[str, float]) -> GramReading:
        """What this moment's Gram matrix says about a choice of weights."""
        return read_gram(self.names, self.gram, weights)


@dataclass(frozen=True)
class GradientRecord:
    """Several moments of one run, with the weights that the run was trained with and where it comes from.

    about: the experiment's parameters, how the gradients were taken, versions, commit and device.
    """

    moments: tuple[GradientMoment, ...]
    weights: dict[str, float]
    about: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "moments", tuple(self.moments))
        if not self.moments:
            raise ValueError("a record needs at least one moment, got none: choose the steps to look at")

    @property
    def names(self) -> tuple[str, ...]:
        """The terms, ce first."""
        return self.moments[0].names

    @property
    def steps(self) -> tuple[int, ...]:
        """The moments, in optimiser steps."""
        return tuple(moment.step for moment in self.moments)

    def at(self, step: int) -> GradientMoment:
        """The moment after `step` optimiser steps. Raises KeyError naming those that there are."""
        for moment in self.moments:
            if moment.step == step:
                return moment
        raise KeyError(f"no gradients of step {step}; there are those of {', '.join(map(str, self.steps))}")

    def to_json(self) -> str:
        """Text that `from_json` takes back to the last digit."""
        moments = [
            {"step": m.step, "names": list(m.names), "losses": m.losses.tolist(), "gram": m.gram.tolist()}
            for m in self.moments
        ]
        head = json.dumps({"about": self.about, "weights": self.weights}, indent=1)
        rows = ",\n  ".join(json.dumps(moment) for moment in moments)
        return f'{head[:-2]},\n "moments": [\n  {rows}\n ]\n}}\n'

    @classmethod
    def from_json(cls, text: str) -> GradientRecord:
        """Read what `to_json` wrote. Raises ValueError where the text is something else."""
        try:
            values = json.loads(text)
            moments: Iterable[dict[str, Any]] = values["moments"]
            return cls(tuple(GradientMoment(**m) for m in moments), values["weights"], values["about"])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"this is no record of gradients ({type(error).__name__}: {error}): write one with record_gradients"
            ) from error
