"""A SegFormer as a Hugging Face folder: config.json and model.safetensors in the classic naming.

`transformers.SegformerForSemanticSegmentation.from_pretrained(folder)` opens what `save_huggingface` writes. Its
LayerNorms use eps 1e-5 everywhere, so logits agree to about 1e-5 of their scale, not to the last bit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from transkd_lite.models.files import printable, write_tensors
from transkd_lite.models.naming import TO_HUGGINGFACE, plain_name, rename
from transkd_lite.models.output import ModelSpec, bare_network
from transkd_lite.models.segformer import (
    MLP_RATIO,
    NORM_EPS,
    NUM_HEADS,
    PATCH_SIZES,
    PATCH_STRIDES,
    REDUCTIONS,
    SEGFORMERS,
    SegFormer,
    heads_fit,
)

__all__ = ["read_options", "save_huggingface"]

# What no option changes here. Other keys name classes or concern training alone, such as rates of dropout.
_FIXED = [
    *("num_channels", "num_encoder_blocks", "depths", "hidden_sizes", "sr_ratios", "patch_sizes", "strides"),
    *("mlp_ratios", "hidden_act", "reshape_last_stage"),
]
TRANSFORMERS_EPS = 1e-5


def read_options(name: str, config: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The options of the SegFormer `name` that weights in transformers' naming need.

    - config: what stands in config.json; empty where there is none.

    transformers computes all LayerNorms with eps 1e-5, whatever layer_norm_eps says, and so does a network read
    from files that it wrote. Raises ValueError, with the key, for a network that this library does not build.
    """
    channels, depths = SEGFORMERS[name].channels, SEGFORMERS[name].depths
    usual = _config(ModelSpec(name, channels, num_heads=NUM_HEADS, depths=depths), [])
    given = usual | dict(config)
    needed = {key: usual[key] for key in _FIXED if given[key] != usual[key]}
    if not heads_fit(given["num_attention_heads"], channels):
        needed["num_attention_heads"] = f"divisors of {list(channels)}"
    if given["layer_norm_eps"] not in (NORM_EPS, TRANSFORMERS_EPS):
        needed["layer_norm_eps"] = f"{NORM_EPS} or {TRANSFORMERS_EPS}"
    if needed:
        key, value = next(iter(needed.items()))
        raise ValueError(
            f"{printable(origin, 160)} has {key} = {printable(json.dumps(given[key]), 80)}, but {name} needs {value}: "
            "choose the network that the file belongs to, or run this one in transformers"
        )
    theirs = not config or "transformers_version" in config
    eps = TRANSFORMERS_EPS if theirs else given["layer_norm_eps"]
    return {"num_heads": tuple(given["num_attention_heads"]), "norm_eps": eps}


def save_huggingface(
    model: nn.Module, folder: str | Path, *, class_names: Sequence[str] | None = None
) -> Path:
    """Write config.json and model.safetensors into `folder`. Returns it.

    - class_names: one a class, in train-id order; "class_0" … where they are not given.

    Raises ValueError for networks that transformers has no SegFormer for and for a wrong number of names.
    """
    model = bare_network(model)
    spec = model.spec
    if not isinstance(model, SegFormer) or model.head.projection_norms is not None:
        raise ValueError(
            f"{spec.name} is no SegFormer with linear projections in its head, which transformers has"
        )
    names = list(class_names or (f"class_{i}" for i in range(spec.num_classes)))
    if len(names) != spec.num_classes:
        raise ValueError(f"class_names must have {spec.num_classes} entries, got {len(names)}")
    folder = Path(folder)
    write_tensors(folder / "model.safetensors", rename(_split_kv(model), TO_HUGGINGFACE), {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config(spec, names), indent=2) + "\n", encoding="utf-8")
    return folder


def _split_kv(model: SegFormer) -> dict[str, Tensor]:
    """The state dict with keys and values as two layers."""
    split = {}
    for name, tensor in model.state_dict().items():
        name = plain_name(name)
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
        "num_attention_heads": list(spec.num_heads),
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
        "layer_norm_eps": spec.options.get("norm_eps", NORM_EPS),
        "reshape_last_stage": True,
        "semantic_loss_ignore_index": 255,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
