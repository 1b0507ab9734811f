"""Any timm backbone that offers features at strides 4, 8, 16 and 32, with SegFormer's all-MLP head.

The embedding of a stage is what its patch-embedding or downsampling layer gives; timm's families call that
layer `stem`, `patch_embed`, `patch_embeds.1`, `downsample` … or have none and lower the resolution in the
first block. So it is found by looking, in passes over images of two unlike sizes: of the modules that lie, in
autograd's graph, between the output of the stage before and the stage's own, it is the first that gives tokens of
the stage's grid and width, or the largest module around it that does, short of the stage itself.

What cannot serve is refused: backbones of a single stride (plain vision transformers), those whose stages run side
by side (HRNet), and those whose maps do not cover the image (Inception, which does not pad).
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import to_2tuple
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from transkd_lite.models.head import AllMLPHead, SemanticFPNHead, run_blocks, to_map
from transkd_lite.models.output import ModelSpec, SegModel, SegOutput, check_images, printable

__all__ = ["PVTv2", "Pyramid", "timm_weights"]

Size = tuple[int, int]

STRIDES = (4, 8, 16, 32)
# Two unlike sizes to look at, by what the sides of images must be divisible by. The odd ones are unlike modulo 32 too:
# where two branches round differently, a backbone fails for some odd sides only.
PROBE_SIZES = {1: ((97, 131), (127, 85)), 32: ((96, 64), (64, 160)), 64: ((64, 192), (128, 64))}
LAYOUT_CHANGES = ("Permute", "View", "Transpose", "Clone", "UnsafeView", "Reshape", "Alias")
ADVICE = "choose a hierarchical backbone, for instance convnextv2_atto or twins_pcpvt_small"
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

    - img_size: (H, W) in pixels, for backbones that are built for one image size.
    - drop_path: stochastic depth, for backbones that know it.
    - head_dropout, decoder_channels: as in SegFormer.
    - timm_pretrained: take the backbone's ImageNet weights from timm.

    `sources` holds the modules that give the four embeddings, each with the layout of its output. `image_size` is the
    one size that the backbone takes, None for most; `multiple` is what both sides of an image must be divisible by.

    Raises ValueError where the backbone cannot serve, and in `forward` for images of a size that it cannot take.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        *,
        img_size: Size | None = None,
        drop_path: float = 0.0,
        head_dropout: float = 0.1,
        decoder_channels: int = 256,
        timm_pretrained: bool = False,
    ) -> None:
        super().__init__()
        img_size = None if img_size is None else to_2tuple(img_size)
        options = {"img_size": img_size, "drop_path_rate": drop_path or None}
        build = _builder(name.removeprefix("timm:"), {k: v for k, v in options.items() if v is not None})
        self.backbone = build(pretrained=timm_pretrained)
        channels = tuple(self.backbone.feature_info.channels())
        self.spec = ModelSpec(name, channels, num_classes=num_classes, decoder_channels=decoder_channels)
        self.sources, self.image_size, self.multiple = _look(self.spec, build, self.backbone, img_size)
        self.head = AllMLPHead(channels, decoder_channels, num_classes, dropout=head_dropout)

    def forward(self, images: Tensor) -> SegOutput:
        check_images(images)
        size, fixed, step = (images.shape[2], images.shape[3]), self.image_size, self.multiple
        if (fixed and size != fixed) or size[0] % step or size[1] % step:
            takes = f"is built for images of {fixed}" if fixed else f"takes sides divisible by {step}"
            raise ValueError(
                f"{self.spec.name} {takes}, got {size}: give img_size=(H, W) to create_model where the backbone has "
                "this option, or resize or crop the images"
            )
        try:
            features, calls = _run(self.backbone, images, self.sources)
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, IndexError, RuntimeError) as error:  # MViTv2, say, takes no sides above 224
            raise ValueError(
                f"{self.spec.name} failed on images of {size} ({_reason(error)}): if it cannot take this size, give "
                "img_size=(H, W) to create_model where the backbone has this option, or resize or crop the images"
            ) from error
        outputs, embeddings = dict(calls), []
        for (name, layout), feature in zip(self.sources.items(), features, strict=True):
            x = outputs[name]
            if x.shape != _shapes(feature)[layout]:
                raise ValueError(
                    f"{self.spec.name} gives an embedding {tuple(x.shape)} ({name}) for a map {tuple(feature.shape)} "
                    f"of images of {size}: use sides divisible by 32"
                )
            x = x.flatten(2).transpose(1, 2) if layout == "NCHW" else x.reshape(len(x), -1, x.shape[-1])
            embeddings.append(x)
        return SegOutput(self.head(features), features, tuple(embeddings))


class _Refusal(ValueError):
    """The backbone runs on images of this size, but gives no four stages with embeddings."""


def _builder(name: str, options: dict[str, Any]) -> Callable[..., Any]:
    """timm's constructor of the backbone with four levels of output. Raises ValueError where it has none."""
    if name.split(".")[0] not in timm.list_models():
        like = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:SHOWN]) or "see timm.list_models()"
        raise ValueError(f"timm has no backbone {name!r}; it has for instance {like}")
    build: Callable[..., Any] = partial(timm.create_model, name, features_only=True, **options)
    try:
        strides = [level["reduction"] for level in build().feature_info.info]
    except Exception as error:  # timm has many ways to say that there are no levels, or no such option
        raise ValueError(
            f"{name} cannot give features of its stages with {options or 'its own options'} ({_reason(error)}): "
            f"{'change or leave out these options, or ' if options else ''}{ADVICE}"
        ) from error
    # Where two levels have one stride, the deeper one is the stage's output.
    deepest = {stride: index for index, stride in enumerate(strides)}
    if not deepest.keys() >= set(STRIDES):
        raise ValueError(
            f"{name} gives features at strides {sorted(deepest)}, but a pyramid needs {list(STRIDES)}: {ADVICE}"
        )
    return partial(build, out_indices=[deepest[stride] for stride in STRIDES])


def _reason(error: Exception) -> str:
    """What a backbone says, in at most 200 characters; of an assertion without words, the assertion."""
    said = str(error) or traceback.extract_tb(error.__traceback__)[-1].line or type(error).__name__
    return printable(" ".join(said.split()), 200)


def _look(
    spec: ModelSpec, build: Callable[..., Any], backbone: Any, img_size: Size | None
) -> tuple[dict[str, str], Size | None, int]:
    """The sources of the embeddings, the one image size (or None), and what both sides must be divisible by."""
    own = height, width = img_size or tuple(backbone.default_cfg["input_size"][1:])
    refusal: ValueError | None = None
    pairs = {} if img_size else PROBE_SIZES | {height: (own, (height, 2 * width))}
    for multiple, sizes in pairs.items():
        try:
            return _sources(spec, [_candidates(spec, backbone, size) for size in sizes]), None, multiple
        except _Refusal as error:
            refusal = error
        except Exception:
            continue  # the backbone cannot take these sizes
    if refusal is not None:
        raise refusal
    try:
        found = [_candidates(spec, backbone, own)]
    except _Refusal:
        raise
    except Exception as error:
        raise ValueError(
            f"{spec.name} cannot run on images of {own} ({_reason(error)}): "
            f"{'give another img_size or none, or ' if img_size else ''}{ADVICE}"
        ) from error
    other = (64, 128) if own != (64, 128) else (128, 64)
    with contextlib.suppress(Exception):  # a backbone without img_size is looked at in one size
        found.append(_candidates(spec, build(img_size=other), other))
    return _sources(spec, found), own, 1


def _sources(spec: ModelSpec, looks: list[list[list[tuple[str, str]]]]) -> dict[str, str]:
    """The modules that give the four embeddings, with the layouts of their outputs: candidates at every look."""
    sources = {}
    for stage, (first, *others) in enumerate(zip(*looks, strict=True), start=1):
        shared = dict(source for source in first if all(source in other for other in others))
        if not shared:
            raise _Refusal(
                f"{spec.name} has no patch embedding of stage {stage}: from the output of the stage before to its own, "
                f"no module gives tokens of its grid and width; {ADVICE}"
            )
        found = next(iter(shared))
        while found.rpartition(".")[0] in shared:
            found = found.rpartition(".")[0]
        # A stem that timm has taken apart: stem_0 (convolution), stem_1 (norm).
        parts = [n for n in shared if "." not in n and n.rpartition("_")[0] == "stem"]
        found = parts[-1] if found in parts else found
        sources[found] = shared[found]
    return sources


def _candidates(spec: ModelSpec, backbone: Any, size: Size) -> list[list[tuple[str, str]]]:
    """For each stage the modules that give tokens of its grid and width between the end of the stage before and its
    own, in the order of calls, with the layout of what they give.
    """
    device = next(backbone.parameters()).device
    names = [name for name, _ in backbone.named_modules() if name]
    # Only the graph is read: no tensor is kept for a backward pass.
    with torch.enable_grad(), saved_tensors_hooks(lambda x: None, lambda x: x):
        images = torch.zeros(1, 3, *size, device=device, requires_grad=True) * 1
        features, calls = _run(backbone.eval(), images, names)
    backbone.train()
    times = Counter(name for name, _ in calls)
    stages, before = [], {images.grad_fn}
    for feature, channels, stride in zip(features, spec.channels, spec.strides, strict=True):
        sides = zip(feature.shape[2:], size, strict=True)
        if feature.shape[1] != channels or any(n not in (s // stride, -(-s // stride)) for n, s in sides):
            raise _Refusal(
                f"{spec.name} gives a map {tuple(feature.shape[1:])} for images of {size}, not {channels} channels at "
                f"stride {stride}: {ADVICE}"
            )
        end = _end(feature)
        within = _upstream(end, before) - end
        tokens = [
            (name, layout, x.grad_fn)
            for name, x in calls
            for layout, shape in _shapes(feature).items()
            if isinstance(x, Tensor) and x.shape == shape and times[name] == 1
        ]
        after = [t for t in tokens if t[2] in within and before & _upstream({t[2]}, before)]
        stages.append([(name, layout) for name, layout, _ in after])
        before = end
    return stages


def _run(backbone: Any, images: Tensor, names: Iterable[str]) -> tuple[tuple[Tensor, ...], list[tuple[str, Any]]]:
    """The four features (N, C, H, W), and what the named modules gave, in the order of calls."""
    modules = dict(backbone.named_modules())
    calls: list[tuple[str, Any]] = []
    hooks = [modules[name].register_forward_hook(partial(_keep, calls, name)) for name in names]
    try:
        maps = backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
    return tuple(x.permute(0, 3, 1, 2) if last else x for x in maps), calls


def _keep(calls: list[tuple[str, Any]], name: str, module: nn.Module, args: Any, output: Any) -> None:
    calls.append((name, output[0] if isinstance(output, tuple | list) else output))


def _shapes(feature: Tensor) -> dict[str, tuple[int, ...]]:
    """The shapes, by layout, of tokens on the grid and of the width of a map (N, C, H, W)."""
    n, c, h, w = feature.shape
    return {"NCHW": (n, c, h, w), "NHWC": (n, h, w, c), "NLC": (n, h * w, c)}


def _end(feature: Tensor) -> set[Any]:
    """The nodes of autograd's graph that give a feature: the last, and those before that differ in layout alone."""
    node: Any = feature.grad_fn
    end = {node}
    while node.name().startswith(LAYOUT_CHANGES):
        node = node.next_functions[0][0]
        end.add(node)
    return end


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
            x = stage.norm(run_blocks(stage.blocks, embeddings[-1], size, recompute=self.gradient_checkpointing))
            x = to_map(x, size)
            features.append(x)
        return SegOutput(self.head(tuple(features)), tuple(features), tuple(embeddings))
