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
        return {name: self._weight(name) for name in names if name != "ce"}

    def _weight(self, name: str) -> float:
        family, _, stage = name.partition("_")
        if family == "csf":
            return float(self.feature)
        if family == "pea" and stage in ("1", "2", "3", "4"):
            return float(self.embedding[int(stage) - 1])
        if name == "kd":
            return float(self.kd)
        raise ValueError(
            f"the explorer knows ce, csf_1 … csf_4, pea_1 … pea_4 and kd; got the term {name}: use a method of the "
            'transkd family, such as "transkd-base+kd"'
        )

    def limited_to(self, names: Sequence[str]) -> WeightChoice:
        """The same choice with weight 0 for what none of the terms `names` uses.

        >>> WeightChoice(kd=0.5).limited_to(["ce", "csf_1", "pea_4"])
        WeightChoice(feature=1.0, embedding=(0.0, 0.0, 0.0, 1.0), kd=0.0)
        """
        has_features = any(name.startswith("csf_") for name in names)
        embedding = tuple(w if f"pea_{i}" in names else 0.0 for i, w in enumerate(self.embedding, start=1))
        return WeightChoice(
            self.feature if has_features else 0.0, embedding, self.kd if "kd" in names else 0.0
        )

    def parameters(self) -> dict[str, Any]:
        """method and options of an `Experiment` with these weights, the method without what has no weight."""
        if not (self.feature or any(self.embedding) or self.kd):
            return {"method": "none", "options": {}}
        options = {
            "feature_weight": float(self.feature),
            "embedding_weights": [float(w) for w in self.embedding],
        }
        if not self.kd:
            return {"method": "transkd-base", "options": options}
        return {"method": "transkd-base+kd", "options": options | {"kd.weight": float(self.kd)}}

    def to_yaml(self, **others: Any) -> str:
        """`parameters` with others (such as the teacher) as a file for `papermill -f`.

        >>> print(WeightChoice().to_yaml(), end="")
        method: transkd-base
        options:
          feature_weight: 1.0
          embedding_weights: [0.1, 0.1, 0.5, 1.0]
        """
        text = [
            f"{name}: {_flow(value)}"
            for name, value in {**others, "method": self.parameters()["method"]}.items()
        ]
        options = self.parameters()["options"]
        text.append("options:" if options else "options: {}")
        text += [f"  {name}: {_flow(value)}" for name, value in options.items()]
        return "\n".join(text) + "\n"


def _flow(value: Any) -> str:
    """One value in YAML's flow style, without the end mark that YAML puts after a bare scalar."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


PRESETS = {
    "Paper": WeightChoice(),
    "Equal": WeightChoice(1.0, (1.0, 1.0, 1.0, 1.0), 1.0),
    "Last stage only": WeightChoice(0.0, (0.0, 0.0, 0.0, 1.0), 0.0),
    "Off": WeightChoice(0.0, (0.0, 0.0, 0.0, 0.0), 0.0),
}
