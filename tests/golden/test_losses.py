"""The bare losses agree with the numbers of the authors' code, on tensors that a seed gives again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from transkd_lite.distill import losses

CASE = json.loads((Path(__file__).parent / "cases" / "losses.json").read_text())
STUDENT = [(2, 8, 16, 32), (2, 16, 8, 16), (2, 24, 4, 8), (2, 32, 2, 4)]


@pytest.fixture(scope="module")
def tensors() -> dict:
    rng = np.random.default_rng([CASE["seed"], 3])

    def draw(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).double()

    student, teacher = [draw(s) for s in STUDENT], [draw(s) for s in STUDENT]
    return {"student": student, "teacher": teacher, "a": draw((2, 19, 12, 20)), "b": draw((2, 19, 12, 20))}


def test_hcl(tensors: dict) -> None:
    assert losses.hcl(tensors["student"], tensors["teacher"]).item() == pytest.approx(CASE["hcl"], rel=1e-4)


@pytest.mark.parametrize("temperature", [1, 4])
@pytest.mark.parametrize(("over", "key"), [("positions", "channel"), ("classes", "spatial")])
def test_cwd(tensors: dict, over: str, key: str, temperature: int) -> None:
    value = losses.cwd(tensors["a"], tensors["b"], temperature=temperature, over=over)
    assert value.item() == pytest.approx(CASE[f"cwd_{key}_tau{temperature}"], rel=1e-4)
