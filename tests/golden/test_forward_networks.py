"""Guards: our networks compute what the authors' networks compute, and have as many parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from transkd_lite.models.weights import create_model, infer_network, load_tensors
from transkd_lite.profiling import count_parameters

# Stricter than the promised 1e-4, at which a wrong LayerNorm eps in the patch embeddings would pass (3e-5).
TOLERANCE = 1e-5
CASES = ["forward_segformer_b0", "forward_segformer_b1", "forward_pvt_v2_b0", "forward_lvt"]
# Published in millions, for 19 classes and void.
PARAMETERS_M = {"segformer_b0": 3.719, "segformer_b2": 27.362, "pvt_v2_b0": 7.528, "pvt_v2_b2": 29.099, "lvt": 3.837}
NETWORKS = [*(f"segformer_b{i}" for i in range(6)), "pvt_v2_b0", "pvt_v2_b2", "lvt"]


@pytest.mark.parametrize("listing", CASES)
def test_outputs_equal_the_authors(golden: Any, listing: str) -> None:
    case = golden.case(listing)
    model = create_model(case["arch"], 20).eval()
    load_tensors(model, golden.checkpoint(case["arch"], case["seed"]))
    model.double()
    with torch.no_grad():
        output = model(golden.images(case["seed"], case["shape"]))
    for name in ("logits", "features", "embeddings"):
        golden.assert_close(getattr(output, name), case[name], TOLERANCE)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_of_a_checkpoint_has_its_place(golden: Any, name: str) -> None:
    with torch.device("meta"):
        checkpoint = {k: torch.empty(shape) for k, shape in golden.listings[name].items()}
        model = create_model(name, 20)
        load_tensors(model, checkpoint)  # refuses what is missing or left over
    assert infer_network(checkpoint) == (name, 20, {})
    published = PARAMETERS_M.get(name)
    if published is not None:
        assert round(count_parameters(model) / 1e6, 3) == published
