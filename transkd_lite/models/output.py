"""What every network gives and says about itself: `SegOutput`, `ModelSpec` and the base class `SegModel`.

Distillation compares two networks stage by stage (TransKD, section III), so a network is, to the rest of the
library, nothing but these three things: four features, four patch embeddings and the logits of one forward
pass, and a description of their shapes that is known without running it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

if TYPE_CHECKING:
    from transkd_lite.data.labels import LabelSpace

__all__ = [
    "METADATA_KEY",
    "ModelSpec",
    "SegModel",
    "SegOutput",
    "StagedModel",
    "bare_network",
    "check_images",
    "listed",
    "printable",
]

METADATA_KEY = "transkd_lite"  # under which files of weights and ONNX files hold the spec
SHOWN = 3  # names in a message


def printable(text: object, limit: int = 50) -> str:
    """A text of unknown origin, fit for a message: no control characters, at most `limit` characters.

    >>> printable("norm\\x1b[31m.weight", 12)
    'norm?[…eight'
    """
    clean = "".join(c if c.isprintable() else "?" for c in str(text))
    half = limit // 2
    return clean if len(clean) <= limit else f"{clean[:half]}…{clean[1 + half - limit :]}"


def listed(names: Collection[object]) -> str:
    """The first names, and how many more there are.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(printable, itertools.islice(names, SHOWN))) + more


# --- What every network gives and says about itself: `SegOutput`, `ModelSpec` and the base class `SegModel`.

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
        """Read what `to_json` wrote. Raises ValueError for fields that a spec does not have or lacks."""
        fields = json.loads(text)
        if not isinstance(fields, dict) or not {"name", "channels", "options"} <= set(fields):
            raise ValueError("a model spec must hold name, channels and options; the file is not whole")
        unknown = sorted(set(fields) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"a model spec has no field {listed(unknown)}; it was written by a newer version, upgrade")
        return cls(**_lists_to_tuples(fields | {"options": _lists_to_tuples(fields["options"])}))


def _lists_to_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


class SegModel(nn.Module):
    """Base class of the networks: `spec` describes it, `forward` maps images to a `SegOutput`.

    `label_space` names the classes of the data that it was trained on, None where that is not known. `fit` sets it,
    `save_model` keeps it, and whoever scores the network compares it with that of the data.
    """

    spec: ModelSpec
    label_space: LabelSpace | None = None

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


def bare_network(model: nn.Module) -> SegModel:
    """The network inside torch.compile, DataParallel and DistributedDataParallel, or the model as it is."""
    while not isinstance(model, SegModel):
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            raise ValueError(f"expected a network of create_model, got {type(model).__name__}")
        model = inner
    return model


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
