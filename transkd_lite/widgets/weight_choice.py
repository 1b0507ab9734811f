"""One choice of TransKD's loss weights: as weights of terms, as parameters of an experiment, as YAML for papermill.

Pure values; the explorer's sliders and its static twin in the notebook both speak through this record. Weights and
terms are those of TransKD, arXiv 2202.13393, section III.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from transkd_lite.distill.transkd import PAPER_WEIGHTS

__all__ = ["PRESETS", "WeightChoice"]


@dataclass(frozen=True)
class WeightChoice:
    """The weights that the explorer offers: one for all four fused features, one an embedding stage, one for kd.

    >>> WeightChoice(kd=0.5).term_weights(["ce", "csf_1", "pea_4", "kd"])
    {'csf_1': 1.0, 'pea_4': 1.0, 'kd': 0.5}
    """

    feature: float = 1.0
    embedding: tuple[float, ...] = PAPER_WEIGHTS
    kd: float = 0.0

    def term_weights(self, names: Sequence[str]) -> dict[str, float]:
        """The weight of every term but ce, whose weight is always 1.

        Raises ValueError for a term that is none of csf_i, pea_i and kd.
        """
        known = {f"csf_{i}": self.feature for i in (1, 2, 3, 4)} | {"kd": self.kd}
        known |= {f"pea_{i}": weight for i, weight in enumerate(self.embedding, start=1)}
        for name in names:
            if name != "ce" and name not in known:
                raise ValueError(
                    f"the explorer knows ce, csf_1 … csf_4, pea_1 … pea_4 and kd; got the term {name}: use a method "
                    'of the transkd family, such as "transkd-base+kd"'
                )
        return {name: float(known[name]) for name in names if name != "ce"}

    def parameters(self) -> dict[str, Any]:
        """method and options of an `Experiment` with these weights, the method without what has no weight."""
        if not (self.feature or any(self.embedding) or self.kd):
            return {"method": "none", "options": {}}
        embedding = [float(weight) for weight in self.embedding]
        options = {"feature_weight": float(self.feature), "embedding_weights": embedding}
        if not self.kd:
            return {"method": "transkd-base", "options": options}
        return {"method": "transkd-base+kd", "options": options | {"kd.weight": float(self.kd)}}

    def to_yaml(self, teacher: str | None = None) -> str:
        """`parameters`, with the teacher where one is given, as a file for `papermill -f`.

        >>> print(WeightChoice().to_yaml(), end="")
        method: transkd-base
        options:
          feature_weight: 1.0
          embedding_weights: [0.1, 0.1, 0.5, 1.0]
        """
        values = ({} if teacher is None else {"teacher": teacher}) | self.parameters()
        return yaml.safe_dump(values, default_flow_style=None, sort_keys=False, width=1000)


PRESETS = {
    "Paper": WeightChoice(),
    "Equal": WeightChoice(1.0, (1.0, 1.0, 1.0, 1.0), 1.0),
    "Last stage only": WeightChoice(0.0, (0.0, 0.0, 0.0, 1.0), 0.0),
    "Off": WeightChoice(0.0, (0.0, 0.0, 0.0, 0.0), 0.0),
}
