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

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GradientMoment", "GradientRecord", "GramReading", "cosine_matrix"]

SUPERVISED = "ce"
Matrix = NDArray[np.float64]


def cosine_matrix(gram: Matrix) -> Matrix:
    """Cosines (T, T) between the terms' gradients; 0 for a term whose gradient is 0.

    >>> cosine_matrix(np.array([[4.0, -2.0], [-2.0, 1.0]])).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    norms = np.sqrt(np.maximum(0.0, np.diag(gram)))
    scale = np.outer(norms, norms)
    return np.clip(np.divide(gram, scale, out=np.zeros_like(gram), where=scale > 0), -1.0, 1.0)


@dataclass(frozen=True)
class GramReading:
    """All that one Gram matrix says about one choice of weights.

    weights, norms, shares, cosines: by term (T,). A share is w_t (g_t · g) / |g|²; shares sum to 1 (all are 0 where
    g = 0), and a negative one belongs to a term that pulls against the whole. Cosines are those with the supervised
    gradient. norm, supervised_norm: |g| and |g_ce|. alignment: cosine of g with g_ce. change_per_length,
    change_per_rate: first-order change of the supervised loss along -g, for a step of length 1 in the space of
    parameters, which compares directions, and for a step of -g (times the learning rate of plain gradient descent).
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
        if self.names[:1] != (SUPERVISED,):
            raise ValueError(
                f"the first term must be {SUPERVISED}, the supervised loss; got {', '.join(self.names)}"
            )

    def read(self, weights: Mapping[str, float]) -> GramReading:
        """What the Gram matrix says about weights by term; ce has 1 unless given, a term that is not named 0.

        Raises ValueError for a weight that is not finite, or whose term this moment does not have.

        >>> moment = GradientMoment(0, ("ce", "kd"), np.ones(2), np.array([[4.0, 3.0], [3.0, 9.0]]))
        >>> moment.read({"kd": 0.0}).change_per_length
        -2.0
        """
        strange = sorted(set(weights) - set(self.names))
        if strange:
            raise ValueError(f"the terms are {', '.join(self.names)}; got weights for {', '.join(strange)}")
        vector = np.array([weights.get(name, float(name == SUPERVISED)) for name in self.names], np.float64)
        if not np.isfinite(vector).all():
            raise ValueError(f"every weight must be a finite number; got {dict(weights)}")
        pulls = self.gram @ vector  # g_t · g
        square = max(0.0, float(vector @ pulls))  # rounding below zero counts as zero
        norm, norms = square**0.5, np.sqrt(np.maximum(0.0, np.diag(self.gram)))
        slope = -float(pulls[0])
        along = slope / norm if norm > 0 else 0.0
        return GramReading(
            names=self.names,
            weights=vector,
            norms=norms,
            shares=vector * pulls / square if square > 0 else np.zeros_like(vector),
            cosines=cosine_matrix(self.gram)[0],
            norm=norm,
            supervised_norm=float(norms[0]),
            alignment=-along / float(norms[0]) if norms[0] > 0 else 0.0,
            change_per_length=along,
            change_per_rate=slope,
        )


@dataclass(frozen=True)
class GradientRecord:
    """Several moments of one run, with the weights that the run was trained with and where it comes from.

    about: the experiment's parameters, how the gradients were taken, versions, commit and device.
    """

    moments: tuple[GradientMoment, ...]
    weights: dict[str, float]
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
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
        if step not in self.steps:
            raise KeyError(
                f"no gradients of step {step}; there are those of {', '.join(map(str, self.steps))}"
            )
        return self.moments[self.steps.index(step)]

    def to_json(self) -> str:
        """Text that `from_json` takes back to the last digit."""
        return json.dumps(asdict(self), indent=1, default=np.ndarray.tolist) + "\n"

    @classmethod
    def from_json(cls, text: str) -> GradientRecord:
        """Read what `to_json` wrote. Raises ValueError where the text is something else."""
        try:
            values = json.loads(text)
            moments = tuple(GradientMoment(**moment) for moment in values["moments"])
            return cls(moments, values["weights"], values["about"])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"this is no record of gradients ({type(error).__name__}: {error}): write one with record_gradients"
            ) from error
