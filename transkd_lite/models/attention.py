"""Looking at attention: a context in which chosen blocks of a SegFormer or PVTv2 also give their attention
maps.

The networks use `scaled_dot_product_attention`, which never forms the map. Inside the context a hook forms it
a second time from what enters the block's attention, so outputs stay what they are, and a pass outside the
context does nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from transkd_lite.models.head import keys_and_values
from transkd_lite.models.naming import family_of
from transkd_lite.models.output import SegModel, SegOutput, listed

__all__ = ["Captured", "attention_map", "capture_attention"]

Block = tuple[int, int]


@dataclass
class Captured:
    """What the last forward pass showed.

    attention: for each chosen (stage, block) the map (N, heads, queries, keys), rows adding up to 1;
        queries are the H_i * W_i positions of the stage, keys those that its spatial reduction leaves, both row
        by row.
    features: the four features.
    """

    attention: dict[Block, Tensor] = field(default_factory=dict)
    features: tuple[Tensor, ...] = ()


@contextmanager
def capture_attention(model: SegModel, blocks: Sequence[Block] | None = None) -> Iterator[Captured]:
    """Within this context, every forward pass of the model fills a `Captured`.

    blocks: (stage, block) pairs, both counted from 1; None for the last block of each stage.

    The maps are detached. A map has H_i * W_i rows: at 512x1024 and stage 1 of SegFormer 32,768 rows of 512.
    Raises ValueError for networks without such attention and for blocks that do not exist.

    >>> import torch
    >>> from transkd_lite.models import create_model
    >>> model = create_model("segformer_b0", 19).eval()
    >>> with capture_attention(model, [(4, 2)]) as captured:
    ...     _ = model(torch.rand(1, 3, 64, 64))
    >>> captured.attention[4, 2].shape
    torch.Size([1, 8, 4, 4])
    """
    name, depths, captured = model.spec.name, model.spec.depths, Captured()
    if family_of(name) not in ("segformer", "pvt"):
        raise ValueError(f"{name} has no attention to capture: choose a SegFormer or a PVTv2")
    chosen = list(enumerate(depths, start=1) if blocks is None else blocks)
    wrong = [(s, b) for s, b in chosen if not (1 <= s <= len(depths) and 1 <= b <= depths[s - 1])]
    if wrong:
        raise ValueError(f"{name} has no (stage, block) [{listed(wrong)}]: its stages hold {depths} blocks, from 1")

    def keep_map(key: Block, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        captured.attention[key] = attention_map(module, *args).detach()

    def keep_features(module: nn.Module, args: tuple[Any, ...], output: SegOutput) -> None:
        captured.features = tuple(feature.detach() for feature in output.features)

    stages: Any = getattr(model, "backbone", model).stages
    with ExitStack() as hooks:
        for stage, block in chosen:
            hook = partial(keep_map, (stage, block))
            hooks.enter_context(stages[stage - 1].blocks[block - 1].attn.register_forward_hook(hook))
        hooks.enter_context(model.register_forward_hook(keep_features))
        yield captured


def attention_map(attention: Any, x: Tensor, size: tuple[int, int]) -> Tensor:
    """softmax(q k' / sqrt(d)) of an attention module of SegFormer or PVTv2 for tokens (N, H * W, C)."""
    q = attention.q(x).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
    k, _ = keys_and_values(attention, x, size)
    return ((q @ k.transpose(2, 3)).float() * q.shape[-1] ** -0.5).softmax(-1)
