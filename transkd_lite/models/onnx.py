"""A network as an ONNX file: `export_onnx`. What is exported is the student alone, all that a deployment needs.

One file: input `images` (N, 3, H, W) float32, output `logits` (N, K, H/4, W/4, rounded up). Upsampling and
argmax stay outside: they depend on what is wanted (the label's size, probabilities, a mask), and logits at a quarter
of the size are a sixteenth of the data to hand over. Batch, height and width are free; backbones built for one image
size keep that size. The all-MLP head is folded first, its weights multiplied out for good (see `AllMLPHead` for the
mathematics): the same function, a fraction of the work.

The metadata entry "transkd_lite" is JSON: `spec` and, where it is known, `label_space`, as in files of weights, and
`input`, `normalize` (mean and std, or null), `output`, `folded_head` and the `parameters` of the training. `OnnxModel`
reads such files and runs them.
"""

import copy
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transkd_lite.data.labels import LabelSpace
from transkd_lite.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from transkd_lite.data.whole import atomic_write
from transkd_lite.models.head import AllMLPHead, FoldedHead
from transkd_lite.models.output import SegModel, SegOutput, describe, recorded, restore

__all__ = ["OnnxModel", "Parity", "export_onnx", "parity"]

INPUT = "images: float32 (N, 3, H, W), RGB in [0, 1], then normalized"
OUTPUT = "logits: float32 (N, K, H/4, W/4) before any softmax, sizes rounded up"
SMALLEST = 64  # pixels: below, stage 4 of the example is one token wide, which the exporter takes for a law


def export_onnx(
    model: SegModel,
    path: str | os.PathLike[str],
    size: Sequence[int],
    *,
    space: LabelSpace | None = None,
    normalize: bool = True,
    fold_head: bool = True,
    dynamic: bool = True,
    opset: int = 20,
    parameters: Mapping[str, Any] | None = None,
) -> Path:
    """Write a network's logits as one ONNX file, whole or not at all, and return its path.

    model: any network of the library; it is copied, and comes out as it went in.
    path: where to, ending in `.onnx`; missing folders are made.
    size: (H, W) in pixels of the example that is traced, at least 64x64. With `dynamic` the file takes other
        sizes too, each side at least 32.
    space: names and colours of the classes, kept in the metadata; by default the network's own.
    normalize: whether the network was trained on images with ImageNet's mean and deviation taken out; kept in
        the metadata, not computed in the graph: use `as_batch(images, normalize=…)`.
    fold_head: multiply the linear maps of an all-MLP head out before the upsampling.
    dynamic: leave height and width free; otherwise only the batch is (quicker to export).
    opset: the version of ONNX's operators; an older runtime needs a lower one.
    parameters: how the network was trained, anything that JSON can hold, kept in the metadata.
    Raises `ValueError`: a path that does not end in `.onnx`, a size that is no pair of whole numbers from 64 on, a
        label space of another number of classes, an opset that the exporter does not write.
    Raises `RuntimeError`: the exporter cannot take this network.
    """
    path, space = Path(path), space or model.label_space
    if path.suffix != ".onnx":
        raise ValueError(f"an ONNX file is named *.onnx, got {path}: write {path.with_suffix('.onnx').name}")
    if not (isinstance(size, Sequence) and len(size) == 2 and all(isinstance(n, int) and n >= SMALLEST for n in size)):
        raise ValueError(f"size must be two whole numbers (height, width) of at least {SMALLEST} pixels, got {size!r}")
    if space is not None and space.num_classes > model.spec.num_classes:
        raise ValueError(f"space names {space.num_classes} classes, but {model.spec.name} has {model.spec.num_classes}")
    free = dynamic and getattr(model, "image_size", None) is None  # some timm backbones know one size only
    proto = _traced(model, size, fold_head, {0: "batch", 2: "height", 3: "width"} if free else {0: "batch"}, opset)
    (written,) = (entry.version for entry in proto.opset_import if not entry.domain)
    if written != opset:  # what it cannot convert it leaves as it is
        raise ValueError(f"opset must be one that the exporter writes, such as 18 to 23; {opset} came as {written}")
    # The exporter's notes are a megabyte of stack traces with the paths of this machine.
    graph = proto.graph
    parts = [*graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output]
    for holder in (proto, graph, *parts):
        del holder.metadata_props[:]
        holder.doc_string = ""
    constants = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} if normalize else None
    form = {"input": INPUT, "normalize": constants, "output": OUTPUT, "folded_head": fold_head}
    about = describe(model.spec, space, **form, parameters={**(parameters or {}), "normalize": normalize})
    for key, value in about.items():
        proto.metadata_props.add(key=key, value=value)
    return atomic_write(path, proto.SerializeToString())


class _Logits(nn.Module):
    """The network without what only distillation reads: its features and embeddings."""

    def __init__(self, model: SegModel, fold: bool) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu().float()
        head = getattr(self.model, "head", None)
        if fold and isinstance(head, AllMLPHead) and head.projection_norms is None:
            self.model.head = FoldedHead(head)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


def _traced(model: SegModel, size: Sequence[int], fold: bool, axes: dict[int, str], opset: int) -> Any:
    """The exporter's graph with those axes free, without its warnings, log records and prints."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"), redirect_stderr(StringIO()):
            # Two images: a batch of one would be taken for a law as well.
            program: Any = torch.onnx.export(
                _Logits(model, fold), (torch.zeros(2, 3, *size),), dynamo=True, opset_version=opset, verbose=False,
                input_names=["images"], output_names=["logits"], dynamic_shapes={"images": axes},
            )  # fmt: skip
        found = program.model_proto.graph.input[0].type.tensor_type.shape.dim
        fixed = [f"{name} to {found[i].dim_value}" for i, name in axes.items() if not found[i].dim_param]
        if fixed:
            raise ValueError(f"it fixes {', '.join(fixed)}")
        return program.model_proto
    except Exception as error:  # the exporter raises whatever its many stages raise
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        what = f"{model.spec.name} at {size[0]}x{size[1]} cannot be exported to ONNX ({reason[0]})"
        raise RuntimeError(f"{what}: try dynamic=False, or another network") from error
    finally:
        logging.disable(disabled)


class OnnxModel(SegModel):
    """A network that ONNX Runtime computes on the CPU: images (N, 3, H, W) to logits, no features, no embeddings.

    `tk.evaluate` and `tk.predict` take it as they take any network.

    path: a file of `export_onnx`, or one quantised from it.
    threads: cores to use; None for ONNX Runtime's choice, all of them.

    Raises FileNotFoundError, and ValueError where the file is not one of this library, or for images of another size
    than it was made for.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3  # errors only
        content = Path(path).read_bytes()
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ValueError(f"{path} is not an ONNX file that can run ({error}): export it again") from error
        self.metadata = recorded(self.session.get_modelmeta().custom_metadata_map)
        self.spec, self.label_space = restore(self.metadata, path)
        # Files of an earlier version keep none.
        self.metadata.setdefault("parameters", {"normalize": self.metadata.get("normalize", True) is not None})
        # It says where images belong: on the CPU.
        self.placement = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, images: Tensor) -> SegOutput:
        try:
            (logits,) = self.session.run(["logits"], {"images": images.detach().cpu().float().numpy()})
        except Exception as error:  # ONNX Runtime has many
            takes, got = self.session.get_inputs()[0].shape, list(images.shape)
            raise ValueError(f"images for this ONNX file have the shape {takes}, got {got}: resize them") from error
        return SegOutput(torch.from_numpy(logits), (), ())


class Parity(NamedTuple):
    """How far an ONNX file is from its network on some images.

    max_difference: largest absolute difference of two logits; max_logit: the largest logit, for scale.
    same_class: share of positions, at a quarter of the image size, where both choose the same class.
    num_positions: how many were compared.
    """

    max_difference: float
    max_logit: float
    same_class: float
    num_positions: int

    @property
    def holds(self) -> bool:
        """Whether no logit differs by more than a thousandth of the largest one."""
        # Kernels of two libraries add up in other orders: about 1e-6 a layer.
        return self.max_difference <= 1e-3 * self.max_logit

    def __str__(self) -> str:
        far = f"logits differ by at most {self.max_difference:.1e} (the largest is {self.max_logit:.1f})"
        return f"{far}, the class is the same at {100 * self.same_class:.3f}% of {self.num_positions:,} positions"


@torch.no_grad()
def parity(model: SegModel, onnx: SegModel | str | os.PathLike[str], images: Tensor) -> Parity:
    """Compare a network with its ONNX file (or `OnnxModel`) on images (N, 3, H, W), as `as_batch` gives them.

    The network computes in evaluation mode, where it is; a copy does, so that it stays as it was.
    """
    other = onnx if isinstance(onnx, SegModel) else OnnxModel(onnx)
    ours = copy.deepcopy(model).eval()(images.to(next(model.parameters()).device)).logits.float().cpu()
    theirs = other(images).logits
    same = (ours.argmax(1) == theirs.argmax(1)).double()
    return Parity(float((ours - theirs).abs().max()), float(ours.abs().max()), float(same.mean()), same.numel())
