"""A SegFormer as a Hugging Face folder: config.json and model.safetensors in the classic naming.

`transformers.SegformerForSemanticSegmentation.from_pretrained(folder)` opens it. Its LayerNorms use eps 1e-5
everywhere, so logits agree to about 1e-5 of their scale, not to the last bit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from transkd_lite.models.files import write_tensors
from transkd_lite.models.naming import Rules, rename
from transkd_lite.models.output import ModelSpec
from transkd_lite.models.segformer import (
    MLP_RATIO,
    NUM_HEADS,
    PATCH_SIZES,
    PATCH_STRIDES,
    REDUCTIONS,
    SegFormer,
)

__all__ = ["save_huggingface"]

_BLOCK = r"stages\.(\d)\.blocks\.(\d+)\."
_ENCODER = "segformer.encoder."
_RULES: Rules = [
    (r"stages\.(\d)\.patch_embed\.proj\.(.+)", _ENCODER + "patch_embeddings.{0}.proj.{1}"),
    (r"stages\.(\d)\.patch_embed\.norm\.(.+)", _ENCODER + "patch_embeddings.{0}.layer_norm.{1}"),
    (_BLOCK + r"norm(\d)\.(.+)", _ENCODER + "block.{0}.{1}.layer_norm_{2}.{3}"),
    (_BLOCK + r"attn\.q\.(.+)", _ENCODER + "block.{0}.{1}.attention.self.query.{2}"),
    (_BLOCK + r"attn\.k\.(.+)", _ENCODER + "block.{0}.{1}.attention.self.key.{2}"),
    (_BLOCK + r"attn\.v\.(.+)", _ENCODER + "block.{0}.{1}.attention.self.value.{2}"),
    (_BLOCK + r"attn\.sr\.(.+)", _ENCODER + "block.{0}.{1}.attention.self.sr.{2}"),
    (_BLOCK + r"attn\.norm\.(.+)", _ENCODER + "block.{0}.{1}.attention.self.layer_norm.{2}"),
    (_BLOCK + r"attn\.proj\.(.+)", _ENCODER + "block.{0}.{1}.attention.output.dense.{2}"),
    (_BLOCK + r"mlp\.dwconv\.(.+)", _ENCODER + "block.{0}.{1}.mlp.dwconv.dwconv.{2}"),
    (_BLOCK + r"mlp\.fc(\d)\.(.+)", _ENCODER + "block.{0}.{1}.mlp.dense{2}.{3}"),
    (r"stages\.(\d)\.norm\.(.+)", _ENCODER + "layer_norm.{0}.{1}"),
    (r"head\.projections\.(\d)\.(.+)", "decode_head.linear_c.{0}.proj.{1}"),
    (r"head\.fuse\.(.+)", "decode_head.linear_fuse.{0}"),
    (r"head\.norm\.(.+)", "decode_head.batch_norm.{0}"),
    (r"head\.classifier\.(.+)", "decode_head.classifier.{0}"),
]


def save_huggingface(
    model: SegFormer, folder: str | Path, *, class_names: Sequence[str] | None = None
) -> Path:
    """Write config.json and model.safetensors into `folder`. Returns it.

    - class_names: one a class, in train-id order; "class_0" … where they are not given.

    Raises ValueError for networks that transformers has no SegFormer for and for a wrong number of names.
    """
    spec = model.spec
    if not isinstance(model, SegFormer) or model.head.projection_norms is not None:
        raise ValueError(
            f"{spec.name} is no SegFormer with linear projections in its head, which transformers has"
        )
    names = list(class_names or (f"class_{i}" for i in range(spec.num_classes)))
    if len(names) != spec.num_classes:
        raise ValueError(f"class_names must have {spec.num_classes} entries, got {len(names)}")
    folder = Path(folder)
    write_tensors(folder / "model.safetensors", rename(_split_kv(model), _RULES), {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config(spec, names), indent=2) + "\n", encoding="utf-8")
    return folder


def _split_kv(model: SegFormer) -> dict[str, Tensor]:
    """The state dict with keys and values as two layers."""
    split = {}
    for name, tensor in model.state_dict().items():
        if re.search(r"\.attn\.kv\.", name):
            keys, values = tensor.chunk(2)
            split[name.replace(".kv.", ".k.")], split[name.replace(".kv.", ".v.")] = keys, values
        else:
            split[name] = tensor
    return split


def _config(spec: ModelSpec, names: list[str]) -> dict[str, Any]:
    return {
        "architectures": ["SegformerForSemanticSegmentation"],
        "model_type": "segformer",
        "num_channels": 3,
        "num_encoder_blocks": len(spec.depths),
        "depths": list(spec.depths),
        "hidden_sizes": list(spec.channels),
        "num_attention_heads": list(NUM_HEADS),
        "sr_ratios": list(REDUCTIONS),
        "patch_sizes": list(PATCH_SIZES),
        "strides": list(PATCH_STRIDES),
        "mlp_ratios": [MLP_RATIO] * len(spec.depths),
        "decoder_hidden_size": spec.decoder_channels,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout_prob": 0.1,
        "drop_path_rate": 0.1,
        "layer_norm_eps": 1e-6,
        "reshape_last_stage": True,
        "semantic_loss_ignore_index": 255,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
