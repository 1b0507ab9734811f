"""Guards: the maps are the attention that the network applies, and looking changes nothing."""

from __future__ import annotations

import pytest
import torch

from transkd_lite.explore.attention import attend
from transkd_lite.models.weights import create_model


@pytest.mark.parametrize("name", ["segformer_b0", "pvt_v2_b0"])
def test_maps_are_the_attention_that_is_applied(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, 5).eval()
    images = torch.rand(2, 3, 64, 96)
    stages = model.backbone.stages if name.startswith("pvt") else model.stages
    attention = stages[0].blocks[1].attn
    inputs: list[torch.Tensor] = []
    hook = attention.register_forward_hook(lambda m, args, out: inputs.extend([args[0], out]))
    with torch.no_grad():
        model(images)
        hook.remove()
        seen = attend(model, images)
        # 64x96 pixels: 16x24 queries; reduction 8 leaves 2x3 keys.
        shape = {(1, 2): (2, 1, 384, 6), (4, 1): (2, 8, 6, 6)}
        assert {key: tuple(seen[key].weights.shape) for key in shape} == shape
        for block in seen.values():
            torch.testing.assert_close(block.weights.sum(-1), torch.ones(block.weights.shape[:-1]))
        x, output = inputs
        reduced = attention.norm(attention.sr(x.transpose(1, 2).unflatten(2, (16, 24))).flatten(2).transpose(1, 2))
        values = attention.kv(reduced)[:, :, x.shape[2] :].unsqueeze(1)  # one head in stage 1
        applied = attention.proj((seen[1, 2].weights @ values).squeeze(1))
    torch.testing.assert_close(applied, output, rtol=1e-4, atol=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_network_without_such_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="lvt has no attention to show"):
        attend(create_model("lvt", 5), torch.rand(1, 3, 32, 32))
