"""ONNX files of `export_onnx`, run by ONNX Runtime: `OnnxModel` behind the interface of a network, and `parity`.

An `OnnxModel` gives logits only; `tk.evaluate` and `tk.predict` take it as they take any network. `parity` runs the
file and the network it was made from on the same images and says how far apart they are.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .data.labels import LabelSpace
from .export import METADATA_KEY
from .models import ModelSpec, SegModel, SegOutput

__all__ = ["OnnxModel", "Parity", "parity", "read_onnx_metadata"]

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
