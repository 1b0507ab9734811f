"""Guards: our SegFormers compute what the authors' SegFormers compute, from the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from transkd_lite.models import create_model
from transkd_lite.models.naming import AUTHORS_SEGFORMER, rename

CASES = ["forward_segformer_b0", "forward_segformer_b1"]


@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_the_authors(golden: Any, name: str) -> None:
    case = golden.case(name)
    model = create_model(case["arch"], 20).eval()
    model.load_state_dict(rename(golden.checkpoint(case["arch"], case["seed"]), AUTHORS_SEGFORMER))
    with torch.no_grad():
        output = model(golden.images(case["seed"], case["shape"]))
    golden.assert_close(output.logits, case["logits"])
    golden.assert_close(output.features, case["features"])
    golden.assert_close(output.embeddings, case["embeddings"])


@pytest.mark.parametrize("depth", range(6))
def test_every_tensor_of_a_checkpoint_has_its_place(golden: Any, depth: int) -> None:
    name = f"segformer_b{depth}"
    with torch.device("meta"):
        model = create_model(name, 20)
        listing = {k: torch.empty(shape) for k, shape in golden.listings[name].items()}
        model.load_state_dict(rename(listing, AUTHORS_SEGFORMER), assign=True)
