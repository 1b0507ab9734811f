"""What every network gives and says about itself: `SegOutput`, `ModelSpec` and the base class `SegModel`.

Distillation compares two networks stage by stage (TransKD, section III), so a network is, to the rest of the
library, nothing but these three things: four features, four patch embeddings and the logits of one forward
pass, and a description of their shapes that is known without running it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

__all__ = ["ModelSpec", "SegModel", "SegOutput", "StagedModel", "check_images"]

NUM_STAGES = 4


class SegOutput(NamedTuple):
    """One forward pass.

    - logits: (N, K, H/4, W/4), before any softmax.
    - features: four maps (N, C_i, H_i, W_i), the output of stage i after its norm.
    - embeddings: four token sequences (N, H_i * W_i, C_i), what enters the blocks of stage i: the output of
      its patch embedding, after the embedding's norm in SegFormer and PVTv2 and before it in LVT.
    """

    logits: Tensor
    features: tuple[Tensor, ...]
    embeddings: tuple[Tensor, ...]


@dataclass(frozen=True)
class ModelSpec:
    """A network's name and shapes: all that `create_model` needs to build it again and a method needs to fit
    it.

    `options` are the keyword options that were given to `create_model`; they are compared, but not hashed.

    >>> spec = ModelSpec("segformer_b0", (32, 64, 160, 256), num_classes=19)
    >>> ModelSpec.from_json(spec.to_json()) == spec
    True
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

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Read what `to_json` wrote. Raises ValueError for fields that a spec does not have."""
        fields: dict[str, Any] = json.loads(text)
        unknown = sorted(set(fields) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(
                f"a model spec has no field {unknown}; it was written by a newer version, upgrade"
            )
        return cls(**_lists_to_tuples(fields | {"options": _lists_to_tuples(fields["options"])}))


def _lists_to_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


class SegModel(nn.Module):
    """Base class of the networks: `spec` describes it, `forward` maps images to a `SegOutput`."""

    spec: ModelSpec

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                f"{self.spec.name} cannot train on this mini-batch of one image: a BatchNorm layer got one value per "
                "channel (a map of 1x1), which has no variance; use mini-batches of at least two images, which always "
                "helps, or larger images"
            ) from error

    def forward(self, images: Tensor) -> SegOutput:
        """Run the network on images (N, 3, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(images) -> SegOutput")


class StagedModel(SegModel):
    """A network made of `stages`, each from a map to (feature, embedding), and a `head` over the four
    features.
    """

    stages: nn.ModuleList
    head: nn.Module

    def forward(self, images: Tensor) -> SegOutput:
        """Images (N, 3, H, W), both sides at least 32, to a `SegOutput`."""
        check_images(images)
        x, features, embeddings = images, [], []
        for stage in self.stages:
            x, embedding = stage(x)
            features.append(x)
            embeddings.append(embedding)
        return SegOutput(self.head(tuple(features)), tuple(features), tuple(embeddings))


def check_images(images: Tensor, smallest: int = 32) -> None:
    """Raise ValueError unless images are (N, 3, H, W) with both sides at least `smallest` pixels."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (N, 3, H, W), got {tuple(images.shape)}")
    if images.shape[2] < smallest or images.shape[3] < smallest:
        raise ValueError(
            f"images must be at least {smallest}x{smallest} pixels, so that the last stage keeps one token; "
            f"got {images.shape[2]}x{images.shape[3]}: enlarge them or choose a larger crop"
        )
