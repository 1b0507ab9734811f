"""The authors' checkpoints: a student with the parts that only its training needed, or a network alone.

A file of theirs is a flat list of tensors. Which network, which method, how many classes and which teacher's
widths it belongs to follows from names and shapes; only whether a GL-Mixer adds its input does not. Their
naming is in the table below and in `models.naming`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from transkd_lite.distill.distiller import STAGES, Distiller
from transkd_lite.distill.methods import PAPER_TEACHER, create_method
from transkd_lite.models import weights
from transkd_lite.models.naming import Rules, find_network, rename
from transkd_lite.models.output import ModelSpec, SegModel, printable

__all__ = ["load_reference_checkpoint"]

Tensors = Mapping[str, Tensor]
# From the authors' names to those of `Distiller.parts`, where those of the fusion are placed already.
_STAGE = {"conv1": "reduce", "conv2": "expand", "fc": "squeeze", "fc1": "bare_squeeze", "fcs": "heads"}
_MIXER = {"attn4": "attention", "conv1": "value", "conv2": "gate"}
_RULES: Rules = [
    *((rf"(.+stages\.\d)\.{theirs}\.(.+)", f"{{0}}.{ours}.{{1}}") for theirs, ours in _STAGE.items()),
    (r"(.+stages\.\d)\.att_conv\.0\.(.+)", "{0}.gate.{1}"),
    (r"embed(\d)_linearproject\.(.+)", "pea.stages.{0}.linear.{1}"),
    (r"patch_embed(\d)\.(.+)", "pea.stages.{0}.patch_embed.{1}"),
    *((rf"fuse_weights\.{i - 1}", f"pea.stages.{i}.linear_scale") for i in STAGES),
    *((rf"fuse_weights\.{i + 3}", f"pea.stages.{i}.patch_scale") for i in STAGES),
    *((rf"{theirs}\.(.+)", f"pea.stages.4.mixer.{ours}.{{0}}") for theirs, ours in _MIXER.items()),
    ("atten_weight", "pea.stages.4.mixer.attention_scale"),
    ("conv_weight", "pea.stages.4.mixer.conv_scale"),
]


def load_reference_checkpoint(
    source: str | Path | Mapping[str, Any], *, residual: bool = False
) -> tuple[SegModel, Distiller | None]:
    """Build the network, and the method where there is one, that a checkpoint of the authors holds.

    source: a path, or a state dict. What it is wrapped in ({"state_dict": …}, "module." …), a teacher and a
        moving average beside it are seen through, as in `create_model`. Nothing is unpickled but tensors.
    residual: whether a GL-Mixer adds its input, which a file does not tell.

    Returns both in evaluation mode; None for the method where the file is a network alone. Raises `ValueError`
    where no network or method has these tensors, with the first names of those that do not fit.
    """
    tensors = weights.flatten(source) if isinstance(source, Mapping) else weights.read_tensors(source)
    network = find_network(tensors, weights.AUTHORS)
    name, num_classes, options = weights.infer_network(network.tensors)
    model = weights.create_model(name, num_classes, **options)
    weights.load_tensors(model, network.tensors)
    home = re.match(r"(.*)student[./]", network.prefix)
    parts = {n.removeprefix(home[1]): tensor for n, tensor in network.beside.items() if home and n.startswith(home[1])}
    if not parts:  # a network alone
        return model.eval(), None
    fusion = next((kind for kind in ("skfs", "abfs") if f"{kind}.0.conv1.0.weight" in parts), None)
    projections = {stage: f"embed{stage}_linearproject.weight" for stage in STAGES}
    # The teacher's widths are those of the fusion's last convolutions, else of the projections, else the paper's.
    names = [f"{fusion}.{4 - stage}.conv2.0.weight" for stage in STAGES] if fusion else [*projections.values()]
    widths: Any = tuple(parts[n].shape[0] for n in names) if {*names} <= parts.keys() else PAPER_TEACHER.channels
    stages = tuple(stage for stage, name in projections.items() if name in parts)
    if stages == (1,):  # one stage alone is always called the first: its shape tells which it is
        shape, pairs = tuple(parts[projections[1]].shape), [*zip(widths, model.spec.channels, strict=True)]
        stages = tuple(stage for stage in STAGES if pairs[stage - 1] == shape)
        if len(stages) != 1:
            raise ValueError(f"{projections[1]} must fit one of the (teacher, student) widths {pairs}; got {shape}")
        parts = {re.sub("^((patch_)?embed)1", rf"\g<1>{stages[0]}", n): tensor for n, tensor in parts.items()}
    options = {}
    if fusion:
        options["fusion_width"] = parts[f"{fusion}.0.conv1.0.weight"].shape[0]
    if fusion == "skfs":
        options["bare_squeeze"] = "skfs.1.fc1.0.weight" in parts
    if len(stages) == 1:
        options |= {"embedding_stages": stages, "embedding_weights": (1.0,)}
    if not stages:
        method = "review" if fusion == "abfs" else "csf"
    elif not fusion:
        method = "pea"
    else:
        options["fusion"] = {"skfs": "csf", "abfs": "abf"}[fusion]
        method = "transkd-ea" if "fuse_weights.0" in parts else "transkd-base"
        if "atten_weight" in parts:
            method, options["residual"] = "transkd-gl", residual
    teacher = ModelSpec("teacher", widths, num_classes=num_classes)
    family = "review" if method == "review" else "csf"
    placed = {  # theirs counts from the deepest stage
        re.sub(r"^(?:skfs|abfs)\.(\d)", lambda m: f"{family}.fusion.stages.{3 - int(m[1])}", name): tensor
        for name, tensor in parts.items()
    }
    distiller = create_method(method, model, teacher, **options)
    try:
        distiller.parts.load_state_dict(rename(placed, _RULES))
    except RuntimeError as error:
        what = printable(" ".join(str(error).split()), 500)
        raise ValueError(f"the checkpoint looks like one of {distiller.name}, but does not fit: {what}") from error
    return model.eval(), distiller.eval()
