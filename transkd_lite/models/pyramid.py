"""Any timm backbone that offers features at strides 4, 8, 16 and 32, with SegFormer's all-MLP head; and PVTv2.

The embedding of a stage is what its patch-embedding or downsampling layer gives; timm's families call that
layer `stem`, `patch_embed`, `patch_embeds.1`, `downsample` … or have none and lower the resolution in the
first block. So it is found by looking, in passes over images of two unlike sizes: of the modules that lie, in
autograd's graph, between the output of the stage before and the stage's own, it is the first that gives tokens of
the stage's grid and width, or the largest module around it that does, short of the stage itself.

What cannot serve is refused: backbones of a single stride (plain vision transformers), those whose stages run side
by side (HRNet), and those whose maps do not cover the image (Inception, which does not pad).
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import to_2tuple
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from transkd_lite.models.head import AllMLPHead, SemanticFPNHead, to_map
from transkd_lite.models.output import ModelSpec, SegModel, printable

__all__ = ["NETWORKS", "PVTv2", "Pyramid"]

Size = tuple[int, int]

# Two unlike sizes to look at, by what the sides of images must be divisible by. The odd ones are unlike modulo 32 too:
# where two branches round differently, a backbone fails for some odd sides only.
PROBE_SIZES = {1: ((97, 131), (127, 85)), 32: ((96, 64), (64, 160)), 64: ((64, 192), (128, 64))}
LAYOUT_CHANGES = ("Permute", "View", "Transpose", "Clone", "UnsafeView", "Reshape", "Alias")
ADVICE = "choose a hierarchical backbone of timm.list_models(), for instance convnextv2_atto or twins_pcpvt_small"


class Pyramid(SegModel):
    """Images (N, 3, H, W) to a `SegOutput`, through the timm backbone that `name` gives after "timm:".

    img_size: (H, W) in pixels, or both sides, for backbones that are built for one image size.
    drop_path: stochastic depth, for backbones that know it.
    head_dropout, decoder_channels: as in SegFormer.
    fetch: take the backbone's ImageNet weights from timm.

    `sources` holds the modules that give the four embeddings, each with the layout of its output. `image_size` is the
    one size that the backbone takes, None for most; `multiple` is what both sides of an image must be divisible by.

    Raises ValueError where the backbone cannot serve, and in `forward` for images of a size that it cannot take.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        fetch: bool = False,
        *,
        img_size: Size | int | None = None,
        drop_path: float = 0.0,
        head_dropout: float = 0.1,
        decoder_channels: int = 256,
    ) -> None:
        super().__init__()
        given = {"img_size": img_size and to_2tuple(img_size), "drop_path_rate": drop_path}
        options: dict[str, Any] = {key: value for key, value in given.items() if value}
        build: Any = partial(timm.create_model, name.removeprefix("timm:"), features_only=True, **options)
        try:
            if not timm.is_model(name.removeprefix("timm:")):  # of a hub or a folder, or none
                raise ValueError(f"Unknown model {name.removeprefix('timm:')!r}: timm itself has no such backbone")
            # Where two levels have one stride, the deeper one is the stage's output.
            deepest = {level["reduction"]: index for index, level in enumerate(build().feature_info.info)}
            if not deepest.keys() >= set(ModelSpec.strides):
                raise ValueError(f"it has strides {sorted(deepest)}")
        except Exception as error:  # timm has many ways to say that there are no levels, or no such name or option
            rule = f"{name} cannot give features at strides {ModelSpec.strides} with {options or 'its own options'}"
            raise ValueError(f"{rule} ({printable(repr(error))}): change or omit the options, or {ADVICE}") from error
        self.backbone = build(pretrained=fetch, out_indices=[deepest[stride] for stride in ModelSpec.strides])
        channels = tuple(self.backbone.feature_info.channels())
        self.spec = ModelSpec(name, channels, num_classes=num_classes, decoder_channels=decoder_channels)
        self.sources, self.image_size, self.multiple = _look(self.spec, self.backbone, options.get("img_size"))
        self.head = AllMLPHead(channels, decoder_channels, num_classes, dropout=head_dropout)

    def encode(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        name, size = self.spec.name, tuple(images.shape[2:])
        if size != (self.image_size or size) or size[0] % self.multiple or size[1] % self.multiple:
            takes = self.image_size or f"sides divisible by {self.multiple}"
            raise _WrongSize(name, size, f"it takes {takes}")
        features, outputs = _run(name, self.backbone, images, self.sources)
        stages = []
        for (source, layout), feature in zip(self.sources.items(), features, strict=True):
            x = outputs[source]
            if x.shape != _shapes(feature)[layout]:
                raise _WrongSize(name, size, f"{source} gives {tuple(x.shape)} for a map {tuple(feature.shape)}")
            x = x.flatten(2).transpose(1, 2) if layout == "NCHW" else x.reshape(len(x), -1, x.shape[-1])
            stages.append((feature, x))
        return stages


class _WrongSize(ValueError):
    """The backbone cannot take images of this size."""

    def __init__(self, name: str, size: Sequence[int], reason: object) -> None:
        super().__init__(
            f"{name} cannot take images of {tuple(size)} ({printable(reason)}): give img_size=(H, W) to create_model "
            "where the backbone has this option, or resize or crop the images"
        )


def _look(spec: ModelSpec, backbone: Any, img_size: Size | None) -> tuple[dict[str, str], Size | None, int]:
    """The sources of the embeddings, the one image size (or None), and what both sides must be divisible by."""
    own = height, width = img_size or tuple(backbone.default_cfg["input_size"][1:])
    refusal: ValueError | None = None
    for multiple, sizes in {} if img_size else (PROBE_SIZES | {height: (own, (height, 2 * width))}).items():
        try:
            return _sources(spec, [_candidates(spec, backbone, size) for size in sizes]), None, multiple
        except ValueError as error:
            refusal = refusal if isinstance(error, _WrongSize) else error
    if refusal is not None:
        raise refusal
    return _sources(spec, [_candidates(spec, backbone, own)]), own, 1


def _sources(spec: ModelSpec, looks: list[list[dict[str, str]]]) -> dict[str, str]:
    """The modules that give the four embeddings, with the layouts of their outputs: candidates at every look."""
    sources = {}
    for stage, (first, *others) in enumerate(zip(*looks, strict=True), start=1):
        shared = {name: layout for name, layout in first.items() if all(o.get(name) == layout for o in others)}
        if not shared:
            raise ValueError(f"{spec.name} has no module that gives a patch embedding of stage {stage}: {ADVICE}")
        found = next(iter(shared))
        while found.rpartition(".")[0] in shared:
            found = found.rpartition(".")[0]
        # A stem that timm has taken apart: stem_0 (convolution), stem_1 (norm).
        parts = [n for n in shared if "." not in n and n.rpartition("_")[0] == "stem"]
        found = parts[-1] if found in parts else found
        sources[found] = shared[found]
    return sources


def _candidates(spec: ModelSpec, backbone: Any, size: Size) -> list[dict[str, str]]:
    """For each stage the modules that give tokens of its grid and width between the end of the stage before and its
    own, in the order of calls, with the layout of what they give.
    """
    names = [name for name, _ in backbone.named_modules() if name]
    # Only the graph is read: no tensor is kept for a backward pass.
    with torch.enable_grad(), saved_tensors_hooks(lambda x: None, lambda x: x):
        images = torch.zeros(1, 3, *size, requires_grad=True) * 1
        features, outputs = _run(spec.name, backbone.eval(), images, names)
    backbone.train()
    stages, before = [], {images.grad_fn}
    for feature, channels, stride in zip(features, spec.channels, spec.strides, strict=True):
        sides = zip(feature.shape[2:], size, strict=True)
        if feature.shape[1] != channels or any(n not in (s // stride, -(-s // stride)) for n, s in sides):
            shape = tuple(feature.shape[1:])
            raise ValueError(f"{spec.name} gives a map {shape} of images of {size} at stride {stride}: {ADVICE}")
        # What gives the feature: the last node of the graph, and those before that differ in layout alone.
        end = {feature.grad_fn}
        node: Any = feature.grad_fn
        while node.name().startswith(LAYOUT_CHANGES):
            node = node.next_functions[0][0]
            end.add(node)
        within = _upstream(end, before) - end
        layouts = {shape: layout for layout, shape in _shapes(feature).items()}
        tokens = {n: x for n, x in outputs.items() if isinstance(x, Tensor) and x.shape in layouts}
        inside = {n: x for n, x in tokens.items() if x.grad_fn in within and before & _upstream({x.grad_fn}, before)}
        stages.append({n: layouts[x.shape] for n, x in inside.items()})
        before = end
    return stages


def _run(name: str, backbone: Any, images: Tensor, sources: Iterable[str]) -> tuple[list[Tensor], dict[str, Any]]:
    """The four features (N, C, H, W), and what these modules gave, in the order of calls; None if called twice."""
    outputs: dict[str, Any] = {}

    def keep(source: str, module: nn.Module, args: Any, output: Any) -> None:
        given = output[0] if isinstance(output, tuple | list) else output
        outputs[source] = None if source in outputs else given

    with ExitStack() as hooks:
        for source in sources:
            hooks.enter_context(backbone.get_submodule(source).register_forward_hook(partial(keep, source)))
        try:
            maps = backbone(images)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # MViTv2, say, takes no sides above 224
            raise _WrongSize(name, images.shape[2:], repr(error)) from error
    last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
    return [x.permute(0, 3, 1, 2) if last else x for x in maps], outputs


def _shapes(feature: Tensor) -> dict[str, tuple[int, ...]]:
    """The shapes, by layout, of tokens on the grid and of the width of a map (N, C, H, W)."""
    n, c, h, w = feature.shape
    return {"NCHW": (n, c, h, w), "NHWC": (n, h, w, c), "NLC": (n, h * w, c)}


def _upstream(nodes: set[Any], stop: set[Any]) -> set[Any]:
    """These nodes of autograd's graph and all that they depend on, not going past `stop`."""
    found: set[Any] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [] if node in stop else [after for after, _ in node.next_functions]
    return found


class PVTv2(SegModel):
    """Images (N, 3, H, W), H and W at least 32, to a `SegOutput`.

    drop_path, head_dropout: as in SegFormer; fetch: as in `Pyramid`.

    >>> import torch
    >>> PVTv2("pvt_v2_b0", 19)(torch.rand(1, 3, 64, 128)).logits.shape
    torch.Size([1, 19, 16, 32])
    """

    backbone: Any  # timm types its stages as plain modules

    def __init__(
        self, name: str, num_classes: int, fetch: bool = False, *, drop_path: float = 0.1, head_dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.backbone = timm.create_model(name, fetch, num_classes=0, drop_path_rate=drop_path)
        stages = list(self.backbone.stages)
        channels = tuple(stage.norm.normalized_shape[0] for stage in stages)
        self.head = SemanticFPNHead(channels, num_classes, dropout=head_dropout)
        heads, depths = zip(*((stage.blocks[0].attn.num_heads, len(stage.blocks)) for stage in stages), strict=True)
        self.spec = ModelSpec(name, channels, num_classes=num_classes, num_heads=heads, depths=depths)

    def encode(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        outputs = []
        for stage in self.backbone.stages:
            # The first patch embedding stands before the stages, the others inside theirs.
            tokens = (stage.downsample or self.backbone.patch_embed)(x)  # (N, H_i, W_i, C_i)
            size, x = tokens.shape[1:3], tokens.flatten(1, 2)
            for block in stage.blocks:
                x = block(x, size)
            x = to_map(stage.norm(x), size)
            outputs.append((x, tokens.flatten(1, 2)))
        return outputs


NETWORKS = {"pvt": PVTv2, "timm": Pyramid}
