"""A network as an ONNX file: `export_onnx`. What is exported is the student alone, all that a deployment needs.

One file, opset 20: input `images` (N, 3, H, W) float32, output `logits` (N, K, H/4, W/4, rounded up). Upsampling and
argmax stay outside: they depend on what is wanted (the label's size, probabilities, a mask), and logits at a quarter
of the size are a sixteenth of the data to hand over. Batch, height and width are free; backbones built for one image
size keep that size. The all-MLP head is folded first, its weights multiplied out for good (see `folded_head` for the
mathematics): the same function, a fraction of the work.

The metadata entry "transkd_lite" is JSON: `spec`, `input`, `normalize` (mean and std, or null), `output`,
`folded_head`, and `names` and `palette` where a label space was given. `OnnxModel` reads such files and runs them.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import numbers
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transkd_lite.data.files import atomic_write
from transkd_lite.data.labels import LabelSpace
from transkd_lite.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from transkd_lite.models.head import AllMLPHead, can_fold, linear_maps, product
from transkd_lite.models.output import ModelSpec, SegModel, SegOutput

__all__ = ["OnnxModel", "Parity", "export_onnx", "parity", "read_onnx_metadata"]

METADATA_KEY = "transkd_lite"
OPSET = 20
SMALLEST = (
    64  # pixels: below, stage 4 of the example is one token wide, and the exporter takes that for a law
)
AXES = {0: "batch", 2: "height", 3: "width"}


def export_onnx(
    model: SegModel,
    path: str | os.PathLike[str],
    size: Sequence[int],
    *,
    space: LabelSpace | None = None,
    normalize: bool = True,
    fold_head: bool = True,
    dynamic: bool = True,
) -> Path:
    """Write a network's logits as one ONNX file, whole or not at all, and return its path.

    Args:
        model: any network of the library; it is copied, and comes out as it went in.
        path: where to, ending in `.onnx`; missing folders are made.
        size: (H, W) in pixels of the example that is traced, at least 64x64. With `dynamic` the file takes other
            sizes too, each side at least 32.
        space: names and colours of the classes, kept in the metadata; by default the network's own.
        normalize: whether the network was trained on images with ImageNet's mean and deviation taken out; kept in
            the metadata, not computed in the graph: use `as_batch(images, normalize=…)`.
        fold_head: multiply the linear maps of an all-MLP head out before the upsampling.
        dynamic: leave height and width free; otherwise only the batch is (quicker to export).

    Raises:
        ValueError: a path that does not end in `.onnx`, a size that is no pair of whole numbers from 64 on, a label
            space of another number of classes.
        RuntimeError: the exporter cannot take this network.
    """
    path, size, space = _checked_path(path), _checked_size(size), space or model.label_space
    if space is not None and space.num_classes > model.spec.num_classes:
        raise ValueError(
            f"space names {space.num_classes} classes, but {model.spec.name} has {model.spec.num_classes} logits: "
            "pass label_space(data) of the data that the network was trained on"
        )
    about = {
        "spec": json.loads(model.spec.to_json()),
        "input": "images: float32 (N, 3, H, W), RGB in [0, 1], then normalized",
        "normalize": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} if normalize else None,
        "output": "logits: float32 (N, K, H/4, W/4) before any softmax, sizes rounded up",
        "folded_head": fold_head,
    }
    if space is not None:
        about |= {"names": space.names, "palette": space.palette}
    free = dynamic and getattr(model, "image_size", None) is None  # some timm backbones know one size only
    return atomic_write(path, _exported(model, size, about, fold_head, free))


class _FoldedHead(nn.Module):
    """An all-MLP head with its linear maps multiplied out once, W_i P_i, as 1x1 convolutions of the small maps."""

    def __init__(self, head: AllMLPHead) -> None:
        super().__init__()
        self.maps = nn.ModuleList(_convolution(*product(*maps)) for maps in linear_maps(head))
        self.norm, self.classifier = head.norm, head.classifier

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        first, *others = (convolve(x) for convolve, x in zip(self.maps, features, strict=True))
        size = features[0].shape[2:]
        fused = first + sum(F.interpolate(x, size, mode="bilinear", align_corners=False) for x in others)
        return self.classifier(F.relu(self.norm(fused)))


def _convolution(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A linear map of the channels as a 1x1 convolution."""
    convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
    convolution.weight = nn.Parameter(weight[:, :, None, None].detach())
    convolution.bias = None if bias is None else nn.Parameter(bias.detach())
    return convolution


def _fold_heads(module: nn.Module) -> None:
    """Put folded heads in the place of those that can be folded."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if can_fold(child):
                setattr(parent, name, _FoldedHead(child))


class _Logits(nn.Module):
    """The network without what only distillation reads: its features and embeddings."""

    def __init__(self, model: SegModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


def _exported(model: SegModel, size: tuple[int, int], about: dict[str, Any], fold: bool, free: bool) -> bytes:
    """The bytes of the ONNX file."""
    alone = _Logits(copy.deepcopy(model).cpu().float())
    if fold:
        _fold_heads(alone)
    alone.eval().requires_grad_(False)
    axes = {axis: name for axis, name in AXES.items() if free or axis == 0}
    example = torch.zeros(2, 3, *size)  # two images: a batch of one would be taken for a law as well
    try:
        with _quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                alone, (example,), dynamo=True, opset_version=OPSET, verbose=False,
                input_names=["images"], output_names=["logits"], dynamic_shapes={"images": axes},
            )  # fmt: skip
            proto = program.model_proto
    except Exception as error:  # the exporter raises whatever its many stages raise
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise RuntimeError(
            f"{model.spec.name} at {size[0]}x{size[1]} cannot be exported to ONNX ({reason[0]}): try dynamic=False, "
            f"or another network"
        ) from error
    _require_free(proto, axes, model.spec.name)
    _strip_notes(proto)
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(about)
    return bytes(proto.SerializeToString())


def _require_free(proto: Any, axes: dict[int, str], name: str) -> None:
    """Raise RuntimeError where the exporter fixed an axis that should be free."""
    found = proto.graph.input[0].type.tensor_type.shape.dim
    fixed = [f"{axes[i]} to {found[i].dim_value}" for i in axes if not found[i].dim_param]
    if fixed:
        raise RuntimeError(
            f"{name} cannot be exported to ONNX with free axes (fixed: {', '.join(fixed)}): try dynamic=False"
        )


def _strip_notes(proto: Any) -> None:
    """Take out the exporter's notes: stack traces, a megabyte of them, with the paths of this machine."""
    graph = proto.graph
    for holder in (
        proto,
        graph,
        *graph.node,
        *graph.value_info,
        *graph.initializer,
        *graph.input,
        *graph.output,
    ):
        del holder.metadata_props[:]
        holder.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress lines, warnings or log records of the exporter, which has many of each."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                yield
        finally:
            logging.disable(disabled)


def _checked_path(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"an ONNX file is named *.onnx, got {path}: write {path.with_suffix('.onnx').name}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file in it")
    return path


def _checked_size(size: Sequence[int]) -> tuple[int, int]:
    whole = isinstance(size, Sequence) and all(isinstance(n, numbers.Integral) for n in size)
    if not whole or isinstance(size, str) or len(size) != 2 or min(size) < SMALLEST:
        raise ValueError(
            f"size must be two whole numbers (height, width) of at least {SMALLEST} pixels, got {size!r}: the file "
            "takes other sizes too"
        )
    return int(size[0]), int(size[1])


# --- ONNX files of `export_onnx`, run by ONNX Runtime: `OnnxModel` behind the interface of a network, and `parity`.
#
# An `OnnxModel` gives logits only; `tk.evaluate` and `tk.predict` take it as they take any network. `parity` runs the
# file and the network it was made from on the same images and says how far apart they are.

TOLERANCE = 1e-3  # of the largest logit: kernels of two libraries add up in other orders, about 1e-6 a layer


class OnnxModel(SegModel):
    """A network that ONNX Runtime computes on the CPU: images (N, 3, H, W) to logits, no features, no embeddings.

    - path: a file of `export_onnx`, or one quantised from it.
    - threads: cores to use; None for ONNX Runtime's choice, all of them.

    Raises FileNotFoundError, and ValueError where the file is not one of this library.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        super().__init__()
        self.session = _session(path, threads)
        self.metadata = _metadata(self.session, path)
        self.spec = ModelSpec.from_json(json.dumps(self.metadata["spec"]))
        if "names" in self.metadata:
            palette = tuple((r, g, b) for r, g, b in self.metadata["palette"])
            self.label_space = LabelSpace(tuple(self.metadata["names"]), palette)
        self.placement = nn.Parameter(
            torch.empty(0), requires_grad=False
        )  # says where images belong: the CPU

    def forward(self, images: Tensor) -> SegOutput:
        """Raises ValueError where images are not (N, 3, H, W) or the file was made for one size and it is another."""
        wanted = self.session.get_inputs()[0].shape
        given = tuple(images.shape)
        if len(given) != 4 or any(isinstance(w, int) and w != g for w, g in zip(wanted, given, strict=True)):
            raise ValueError(
                f"this ONNX file takes images of shape {tuple(wanted)}, got {given}: resize them"
            )
        (logits,) = self.session.run(["logits"], {"images": images.detach().cpu().float().numpy()})
        return SegOutput(torch.from_numpy(logits), (), ())


@dataclass(frozen=True)
class Parity:
    """How far an ONNX file is from its network on some images.

    - max_difference: largest absolute difference of two logits; max_logit: the largest logit, for scale.
    - same_class: share of positions, at a quarter of the image size, where both choose the same class.
    - num_positions: how many were compared.
    """

    max_difference: float
    max_logit: float
    same_class: float
    num_positions: int

    @property
    def holds(self) -> bool:
        """Whether no logit differs by more than a thousandth of the largest one."""
        return self.max_difference <= TOLERANCE * self.max_logit

    def __str__(self) -> str:
        return (
            f"logits differ by at most {self.max_difference:.1e} (the largest is {self.max_logit:.1f}), "
            f"the class is the same at {100 * self.same_class:.3f}% of {self.num_positions:,} positions"
        )


@torch.no_grad()
def parity(model: SegModel, onnx: SegModel | str | os.PathLike[str], images: Tensor) -> Parity:
    """Compare a network with its ONNX file (or `OnnxModel`) on images (N, 3, H, W), as `as_batch` gives them.

    The network computes in evaluation mode, where it is, and comes back in the mode in which it was.
    """
    other = onnx if isinstance(onnx, SegModel) else OnnxModel(onnx)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        ours = model(images.to(next(model.parameters()).device)).logits.float().cpu()
    finally:
        for module, mode in modes:
            module.training = mode
    theirs = other(images).logits
    same = (ours.argmax(1) == theirs.argmax(1)).double()
    return Parity(
        float((ours - theirs).abs().max()), float(ours.abs().max()), float(same.mean()), same.numel()
    )


def read_onnx_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `export_onnx` wrote into the file beside the graph: spec, input, normalize, output, names, palette."""
    return _metadata(_session(path, 1), path)


def _session(path: str | os.PathLike[str], threads: int | None) -> Any:
    import onnxruntime

    if not Path(path).is_file():
        raise FileNotFoundError(f"no ONNX file at {path}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3  # errors only
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not an ONNX file that can run ({reason}): export it again") from error


def _metadata(session: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise ValueError(f"{path} carries no spec of this library: make it with export_onnx")
    return dict(json.loads(text))
