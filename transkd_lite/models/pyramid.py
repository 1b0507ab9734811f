"""Any timm backbone that offers features at strides 4, 8, 16 and 32, with SegFormer's all-MLP head.

The embedding of a stage is what its patch-embedding or downsampling layer gives; timm's families call that
layer `stem`, `patch_embed`, `patch_embeds.1`, `downsample` … or have none and lower the resolution in the
first block. So it is found by looking: in one pass over a small image it is the first module to give tokens
of the stage's grid and width, or the largest module around it that does, short of the stage itself.

What cannot serve: backbones of a single stride (plain vision transformers), those without `features_only`
(MLP mixers), and those whose image size is fixed, unless `img_size` sets it (Swin, MaxViT).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.func import functional_call

from transkd_lite.models.head import AllMLPHead, SemanticFPNHead, run_blocks, to_map
from transkd_lite.models.output import ModelSpec, SegModel, SegOutput, check_images, printable

__all__ = ["PVTv2", "Pyramid", "timm_weights"]

STRIDES = (4, 8, 16, 32)
PROBE_SIZE = (64, 128)
SHOWN = 5


def timm_weights(name: str) -> dict[str, Tensor]:
    """timm's ImageNet weights of a backbone. Raises FileNotFoundError where they cannot be fetched."""
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:
        raise FileNotFoundError(
            f"timm's weights of {name} could not be fetched ({printable(error, 200)}): check the connection, or give "
            "a path"
        ) from error


class Pyramid(SegModel):
    """Images (N, 3, H, W) to a `SegOutput`, through the timm backbone that `name` gives after "timm:".

    - img_size: (H, W), for backbones that are built for one image size.
    - drop_path: stochastic depth, for backbones that know it.
    - head_dropout, decoder_channels: as in SegFormer.
    - timm_pretrained: take the backbone's ImageNet weights from timm.

    Raises ValueError where the backbone cannot serve, and in `forward` for images of another size than it is
    built for.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        *,
        img_size: tuple[int, int] | None = None,
        drop_path: float = 0.0,
        head_dropout: float = 0.1,
        decoder_channels: int = 256,
        timm_pretrained: bool = False,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"img_size": None if img_size is None else tuple(img_size)}
        options["drop_path_rate"] = drop_path or None
        options = {key: value for key, value in options.items() if value is not None}
        self.backbone = _backbone(name, options | {"pretrained": timm_pretrained})
        channels = tuple(self.backbone.feature_info.channels())
        self.spec = ModelSpec(name, channels, num_classes=num_classes, decoder_channels=decoder_channels)
        self.image_size = _image_size(self.backbone, img_size)
        self.sources = _embedding_sources(self.backbone, channels, self.image_size or PROBE_SIZE)
        self.head = AllMLPHead(channels, decoder_channels, num_classes, dropout=head_dropout)

    def forward(self, images: Tensor) -> SegOutput:
        check_images(images)
        if self.image_size is not None and tuple(images.shape[2:]) != self.image_size:
            raise ValueError(
                f"{self.spec.name} is built for images of {self.image_size}, got {tuple(images.shape[2:])}: "
                "give img_size=(H, W) to create_model"
            )
        modules = dict(self.backbone.named_modules())
        outputs: dict[int, Any] = {}
        hooks = [
            modules[n].register_forward_hook(partial(_keep, outputs, i)) for i, n in enumerate(self.sources)
        ]
        try:
            maps = self.backbone(images)
        finally:
            for hook in hooks:
                hook.remove()
        features = tuple(_channels_first(m, c) for m, c in zip(maps, self.spec.channels, strict=True))
        grids = [(f.shape[2], f.shape[3], f.shape[1]) for f in features]
        embeddings = tuple(_embedding(self.sources[i], outputs[i], grid) for i, grid in enumerate(grids))
        return SegOutput(self.head(features), features, embeddings)


def _backbone(name: str, options: dict[str, Any]) -> Any:
    backbone_name = name.removeprefix("timm:")
    if backbone_name.split(".")[0] not in timm.list_models():
        like = (
            ", ".join(timm.list_models(f"*{backbone_name.split('_')[0]}*")[:SHOWN])
            or "see timm.list_models()"
        )
        raise ValueError(f"timm has no backbone {backbone_name!r}; it has for instance {like}")
    try:
        trial: Any = timm.create_model(backbone_name, features_only=True, **options | {"pretrained": False})
        strides = list(trial.feature_info.reduction())
    except (RuntimeError, AttributeError, TypeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"{backbone_name} cannot give features of its stages with {options}: {printable(error, 200)}"
        ) from error
    # Where two levels have one stride, the deeper one is the stage's output.
    indices = [max((i for i, s in enumerate(strides) if s == stride), default=-1) for stride in STRIDES]
    if -1 in indices:
        raise ValueError(
            f"{backbone_name} gives features at strides {strides}, but a pyramid needs {list(STRIDES)}: choose a "
            "hierarchical backbone, for instance convnextv2_atto or twins_pcpvt_small"
        )
    return timm.create_model(backbone_name, features_only=True, out_indices=indices, **options)


def _image_size(backbone: Any, img_size: tuple[int, int] | None) -> tuple[int, int] | None:
    """None where any size will do, else the one that the backbone is built for."""
    if img_size is None:
        try:
            _probe(backbone, PROBE_SIZE)
            return None
        except (AssertionError, RuntimeError):
            img_size = backbone.default_cfg["input_size"][1:]
    return img_size[0], img_size[1]


def _probe(backbone: nn.Module, size: tuple[int, int]) -> list[Tensor]:
    """One pass with random parameters: new residual branches often end in zeros, and then all blocks look
    alike.
    """
    generator = torch.Generator().manual_seed(0)
    parameters = {n: 0.1 * torch.randn(p.shape, generator=generator) for n, p in backbone.named_parameters()}
    training = backbone.training
    with torch.no_grad():
        maps = functional_call(backbone.eval(), parameters, torch.rand(1, 3, *size, generator=generator))
    backbone.train(training)
    return maps


def _embedding_sources(backbone: nn.Module, channels: tuple[int, ...], size: tuple[int, int]) -> list[str]:
    """The names of the modules that give the four embeddings."""
    calls: list[tuple[str, Any]] = []
    hooks = [
        module.register_forward_hook(partial(_record, calls, name))
        for name, module in backbone.named_modules()
        if name
    ]
    maps = _probe(backbone, size)
    for hook in hooks:
        hook.remove()
    features = [_channels_first(m, c) for m, c in zip(maps, channels, strict=True)]
    return [_first_of_stage(calls, feature) for feature in features]


def _first_of_stage(calls: list[tuple[str, Any]], feature: Tensor) -> str:
    """The outermost module around the first tokens of a stage that is not yet the whole stage."""
    grid = (feature.shape[2], feature.shape[3], feature.shape[1])
    final = feature.flatten(2).transpose(1, 2)
    tokens = {name: _tokens(output, grid) for name, output in calls}
    before_end = {n for n, t in tokens.items() if t is not None and not torch.equal(t, final)}
    found = next((name for name, _ in calls if name in before_end), None)
    if found is None:
        raise ValueError(
            f"no layer of the backbone gives an embedding on the grid and width {grid} of a stage"
        )
    while found.rpartition(".")[0] in before_end:
        found = found.rpartition(".")[0]
    # A stem that timm has taken apart: stem_0 (convolution), stem_1 (norm).
    parts = [n for n in before_end if "." not in n and n.rpartition("_")[0] == "stem"]
    return max(parts) if found in parts else found


def _record(calls: list[tuple[str, Any]], name: str, module: nn.Module, args: Any, output: Any) -> None:
    calls.append((name, output))


def _keep(outputs: dict[int, Any], key: int, module: nn.Module, args: Any, output: Any) -> None:
    outputs[key] = output


def _channels_first(x: Tensor, channels: int) -> Tensor:
    """(N, C, H, W), also from backbones that give (N, H, W, C)."""
    return x if x.shape[1] == channels else x.permute(0, 3, 1, 2)


def _embedding(source: str, output: Any, grid: tuple[int, int, int]) -> Tensor:
    tokens = _tokens(output, grid)
    if tokens is None:
        raise ValueError(
            f"{source} gives no tokens on the grid {grid[:2]} of its stage: use an image size divisible by 32"
        )
    return tokens


def _tokens(output: Any, grid: tuple[int, int, int]) -> Tensor | None:
    """A module's output as tokens (N, H * W, C), where it is a map or tokens of that grid (H, W, C); else
    None.
    """
    x = output[0] if isinstance(output, tuple) else output
    height, width, channels = grid
    if not isinstance(x, Tensor):
        return None
    if x.shape[1:] == (channels, height, width):
        return x.flatten(2).transpose(1, 2)
    if x.shape[1:] == (height, width, channels):
        return x.flatten(1, 2)
    return x if x.shape[1:] == (height * width, channels) else None


# --- PVTv2 B0-B5: timm's backbones with the semantic-FPN head of the paper.
#
# Wang et al., "PVT v2: Improved Baselines with Pyramid Vision Transformer", 2022. The paper distils B2 into B0.
# The backbone is timm's; only its walk through the stages is written out here, because distillation needs the
# patch embeddings too.


class PVTv2(SegModel):
    """Images (N, 3, H, W), H and W at least 32, to a `SegOutput`.

    - drop_path, head_dropout, gradient_checkpointing: as in SegFormer.

    >>> import torch
    >>> PVTv2("pvt_v2_b0", 19)(torch.rand(1, 3, 64, 128)).logits.shape
    torch.Size([1, 19, 16, 32])
    """

    backbone: Any  # timm types its stages as plain modules

    def __init__(
        self,
        name: str,
        num_classes: int,
        *,
        drop_path: float = 0.1,
        head_dropout: float = 0.1,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = timm.create_model(name, num_classes=0, drop_path_rate=drop_path)
        self.gradient_checkpointing = gradient_checkpointing
        stages = list(self.backbone.stages)
        channels = tuple(stage.norm.normalized_shape[0] for stage in stages)
        self.head = SemanticFPNHead(channels, num_classes, dropout=head_dropout)
        self.spec = ModelSpec(
            name=name,
            channels=channels,
            num_classes=num_classes,
            num_heads=tuple(stage.blocks[0].attn.num_heads for stage in stages),
            depths=tuple(len(stage.blocks) for stage in stages),
        )

    def forward(self, images: Tensor) -> SegOutput:
        check_images(images)
        x, features, embeddings = images, [], []
        for stage in self.backbone.stages:
            # The first patch embedding stands before the stages, the others inside theirs.
            embed = stage.downsample or self.backbone.patch_embed
            tokens = embed(x)  # (N, H_i, W_i, C_i)
            size = (tokens.shape[1], tokens.shape[2])
            embeddings.append(tokens.flatten(1, 2))
            x = stage.norm(
                run_blocks(stage.blocks, embeddings[-1], size, recompute=self.gradient_checkpointing)
            )
            x = to_map(x, size)
            features.append(x)
        return SegOutput(self.head(tuple(features)), tuple(features), tuple(embeddings))
