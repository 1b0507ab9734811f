"""Guards: captured maps are the attention that the network applies, and looking changes nothing."""

from __future__ import annotations

import pytest
import torch

from transkd_lite.models import capture_attention, create_model


@pytest.mark.parametrize("name", ["segformer_b0", "pvt_v2_b0"])
def test_maps_are_the_attention_that_is_applied(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, 5).eval()
    images = torch.rand(2, 3, 64, 96)
    stages = model.backbone.stages if name.startswith("pvt") else model.stages
    attention = stages[0].blocks[1].attn
    with torch.no_grad():
        plain = model(images)
        with capture_attention(model, [(1, 2), (4, 1)]) as captured:
            inputs: list[torch.Tensor] = []
            hook = attention.register_forward_hook(lambda m, args, out: inputs.extend([args[0], out]))
            looked_at = model(images)
            hook.remove()
        # 64x96 pixels: 16x24 queries; reduction 8 leaves 2x3 keys.
        shape = {(1, 2): (2, 1, 384, 6), (4, 1): (2, 8, 6, 6)}
        assert {key: tuple(a.shape) for key, a in captured.attention.items()} == shape
        for a in captured.attention.values():
            torch.testing.assert_close(a.sum(-1), torch.ones(a.shape[:-1]))
        x, output = inputs
        reduced = attention.norm(attention.sr(x.transpose(1, 2).unflatten(2, (16, 24))).flatten(2).transpose(1, 2))
        values = attention.kv(reduced)[:, :, x.shape[2] :].unsqueeze(1)  # one head in stage 1
        applied = attention.proj((captured.attention[1, 2] @ values).squeeze(1))
    torch.testing.assert_close(applied, output, rtol=1e-4, atol=1e-5)
    assert torch.equal(plain.logits, looked_at.logits)
    assert all(torch.equal(a, b) for a, b in zip(captured.features, plain.features, strict=True))


def test_nothing_is_left_behind() -> None:
    model = create_model("segformer_b0", 5).eval()
    with pytest.raises(RuntimeError, match="stop"), capture_attention(model):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks for module in model.modules())


def test_last_block_of_each_stage_by_default() -> None:
    model = create_model("segformer_b0", 5).eval()
    with torch.no_grad(), capture_attention(model) as captured:
        model(torch.rand(1, 3, 32, 32))
    assert list(captured.attention) == [(1, 2), (2, 2), (3, 2), (4, 2)]


@pytest.mark.parametrize(
    ("name", "blocks", "message"),
    [
        ("segformer_b0", [(1, 3)], r"segformer_b0 has no \(stage, block\) \[\(1, 3\)\]"),
        ("lvt", None, "lvt has no attention to capture"),
    ],
)
def test_what_cannot_be_captured_is_said(name: str, blocks: list[tuple[int, int]] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message), capture_attention(create_model(name, 5), blocks):
        pass
