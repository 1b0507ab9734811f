"""Attention with spatial reduction, of SegFormer, PVTv2 and LVT: what it looks up, and its map.

The networks use `scaled_dot_product_attention`, which never forms the map. `attention_map` forms it a second time from
what enters a block's attention; `explore.attention.attend` does so for chosen blocks of a network.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from transkd_lite.models.head import to_map, to_tokens

__all__ = ["attention_map", "keys_and_values"]


def keys_and_values(attention: Any, x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What attention with spatial reduction looks up: (N, heads, H * W / R^2, C / heads) each.

    attention: a module with num_heads, kv and, where R > 1, sr and norm (SegFormer, PVTv2, LVT).
    x: tokens (N, H * W, C).
    """
    if attention.sr is not None:
        x = attention.norm(to_tokens(attention.sr(to_map(x, size))))
    k, v = attention.kv(x).unflatten(2, (2, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return k, v


def attention_map(attention: Any, x: Tensor, size: Sequence[int]) -> Tensor:
    """softmax(q k' / sqrt(d)) of an attention module of SegFormer or PVTv2 for tokens (N, H * W, C).

    Returns (N, heads, queries, keys), rows adding up to 1: queries are the H * W positions, keys those that the spatial
    reduction leaves, both row by row.
    """
    q = attention.q(x).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
    k, _ = keys_and_values(attention, x, size)
    return ((q @ k.transpose(2, 3)).float() * q.shape[-1] ** -0.5).softmax(-1)
