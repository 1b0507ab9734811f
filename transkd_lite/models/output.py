"""What every network gives and says about itself: `SegOutput`, `ModelSpec` and the base class `SegModel`.

Distillation compares two networks stage by stage (TransKD, section III), so a network is, to the rest of the
library, nothing but these three things: four features, four patch embeddings and the logits of one forward
pass, and a description of their shapes that is known without running it.
"""

import dataclasses
import itertools
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from torch import Tensor, nn

from transkd_lite.data.labels import LabelSpace

__all__ = [
    "ModelSpec", "SegModel", "SegOutput", "as_tuples", "bare_network", "describe", "listed", "printable", "recorded",
    "restore",
]  # fmt: skip

METADATA_KEY = "transkd_lite"  # under which files of weights and ONNX files hold what `describe` says


class SegOutput(NamedTuple):
    """One forward pass.

    logits: (N, K, H/4, W/4), before any softmax.
    features: four maps (N, C_i, H_i, W_i), the output of stage i after its norm.
    embeddings: four token sequences (N, H_i * W_i, C_i), what enters the blocks of stage i: the output of
        its patch embedding, after the embedding's norm in SegFormer and PVTv2 and before it in LVT.
    """

    logits: Tensor
    features: tuple[Tensor, ...]
    embeddings: tuple[Tensor, ...]


@dataclass(frozen=True)
class ModelSpec:
    """A network's name and shapes: all that `create_model` needs to build it again and a method needs to fit it.

    `options` are the keyword options that were given to `create_model`; they are compared, but not hashed.

    >>> ModelSpec("segformer_b0", (32, 64, 160, 256), num_classes=19).strides
    (4, 8, 16, 32)
    """

    name: str
    channels: tuple[int, int, int, int]
    strides: tuple[int, int, int, int] = (4, 8, 16, 32)
    num_classes: int = 19
    num_heads: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    patch_sizes: tuple[int, ...] = (7, 3, 3, 3)
    decoder_channels: int = 256
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def to_json(self) -> str:
        """The spec as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))


class SegModel(nn.Module):
    """Base class of the networks: `spec` describes it, `forward` maps images to a `SegOutput`.

    A network has a `head` over four features, and either `stages`, each from a map to (feature, embedding), or an
    `encode` of its own. Where memory is short, torch's `apply_activation_checkpointing` has its blocks run again in
    the backward pass.

    `label_space` names the classes of the data that it was trained on, None where that is not known. `fit` sets it,
    `save_model` keeps it, and whoever scores the network compares it with that of the data.
    """

    spec: ModelSpec
    label_space: LabelSpace | None = None
    stages: nn.ModuleList
    head: nn.Module

    def forward(self, images: Tensor) -> SegOutput:
        """Run the network on images (N, 3, H, W). Raises ValueError for another shape or a side below 32 pixels."""
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] < 32 or images.shape[3] < 32:
            raise ValueError(f"images must have shape (N, 3, H, W), H and W at least 32, got {tuple(images.shape)}")
        features, embeddings = zip(*self.encode(images), strict=True)
        return SegOutput(self.head(features), features, embeddings)

    def encode(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Feature and embedding of each stage."""
        outputs = []
        for stage in self.stages:
            outputs.append(stage(x))
            x = outputs[-1][0]
        return outputs


def bare_network(model: nn.Module) -> SegModel:
    """The network inside of torch.compile, DataParallel and DistributedDataParallel, or the model as it is."""
    while not isinstance(model, SegModel):
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            raise ValueError(f"expected a network of create_model, got {type(model).__name__}")
        model = inner
    return model


# --- What a file of weights and an ONNX file say of their network.


def describe(spec: ModelSpec, space: LabelSpace | None, **more: Any) -> dict[str, str]:
    """Metadata of a file: a spec, names and colours of the classes where they are known, and more, as JSON."""
    known = {} if space is None else {"label_space": dataclasses.asdict(space)}
    return {METADATA_KEY: json.dumps({"spec": dataclasses.asdict(spec), **known, **more})}


def recorded(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """The record that `describe` wrote; empty for files of others."""
    return {**json.loads((metadata or {}).get(METADATA_KEY, "{}"))}


def restore(record: Mapping[str, Any], origin: object) -> tuple[ModelSpec, LabelSpace | None]:
    """The spec and the label space in the record of the file `origin`.

    Raises ValueError where there is no spec, or one with fields that this version does not know.
    """
    try:
        spec = TypeAdapter(ModelSpec).validate_json(json.dumps(record["spec"]), strict=True, extra="forbid")
        spec = dataclasses.replace(spec, options=as_tuples(spec.options))
        space = TypeAdapter(LabelSpace | None).validate_json(json.dumps(record.get("label_space")), strict=True)
    except (KeyError, ValueError) as error:
        reason = printable(str(error).partition(" [type=")[0])  # without pydantic's advice to programmers
        what = f"{printable(origin)} carries no spec of this library, or one of a newer version ({reason})"
        raise ValueError(f"{what}: give weights of others to create_model as pretrained") from error
    return spec, space


def as_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with tuples for lists, which is all that JSON has."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def printable(text: object, limit: int = 120) -> str:
    """A text of unknown origin, fit for a message: one line, no control characters, at most `limit` characters.

    >>> printable("norm\\x1b[31m.weight", 12)
    'norm?[…eight'
    """
    clean = "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))
    half = limit // 2
    return clean if len(clean) <= limit else f"{clean[:half]}…{clean[1 + half - limit :]}"


def listed(names: Collection[object]) -> str:
    """The first three names, and how many more there are.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(printable(name, 50) for name in itertools.islice(names, 3)) + more
