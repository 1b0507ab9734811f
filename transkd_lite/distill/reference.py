"""The authors' checkpoints: a student with the parts that only its training needed, or a network alone.

A file of theirs is a flat list of tensors. Which network, which method, how many classes and which teacher's
widths it belongs to follows from names and shapes; only whether a GL-Mixer adds its input does not. Their
naming is in the tables below and in `models.naming`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from transkd_lite.distill.distiller import STAGES, Distiller
from transkd_lite.distill.methods import PAPER_TEACHER, create_method
from transkd_lite.models.naming import Rules, rename
from transkd_lite.models.output import ModelSpec, SegModel, listed, printable
from transkd_lite.models.weights import (
    create_model,
    find_authors_network,
    flatten,
    infer_network,
    load_tensors,
    read_tensors,
)

__all__ = ["load_reference_checkpoint"]


def load_reference_checkpoint(
    source: str | Path | Mapping[str, Any], *, residual: bool = False
) -> tuple[SegModel, Distiller | None]:
    """Build the network, and the method where there is one, that a checkpoint of the authors holds.

    - source: a path, or a state dict. What it is wrapped in ({"state_dict": …}, "module." …), a teacher and a
      moving average beside it are seen through, as in `create_model`. Nothing is unpickled but tensors.
    - residual: whether a GL-Mixer adds its input, which a file does not tell.

    Returns both in evaluation mode; None for the method where the file is a network alone. Raises ValueError
    where no network or method has these tensors, with the first names of those that are missing or left over.
    """
    tensors = flatten(source) if isinstance(source, Mapping) else read_tensors(source)
    network = find_authors_network(tensors)
    name, num_classes, network_options = infer_network(network.tensors)
    model = create_model(name, num_classes, **network_options)
    load_tensors(model, network.tensors)
    student = re.match(r"(.*)student[./]", network.prefix)
    if student is None:  # a network alone
        return model.eval(), None
    beside = network.beside.items()
    parts = {n.removeprefix(student[1]): tensor for n, tensor in beside if n.startswith(student[1])}
    if not parts:
        return model.eval(), None
    method, options, teacher = _recognise(parts, model.spec, residual)
    distiller = create_method(method, model, teacher, **options)
    given = rename(parts, _rules("review" if method == "review" else "csf", options))
    own = distiller.parts.state_dict()
    missing, unexpected = sorted(set(own) - set(given)), sorted(set(given) - set(own))
    if missing or unexpected:
        raise ValueError(
            f"the checkpoint looks like {method}, but tensors are missing: {listed(missing) or 'none'}; "
            f"or left over: {listed(unexpected) or 'none'}"
        )
    wrong = [name for name, tensor in own.items() if tensor.shape != given[name].shape]
    if wrong:
        raise ValueError(
            f"the checkpoint looks like {method}, but these tensors have other shapes there: {listed(wrong)}"
        )
    distiller.parts.load_state_dict(given)
    return model.eval(), distiller.eval()


def _recognise(
    parts: Mapping[str, Tensor], student: ModelSpec, residual: bool
) -> tuple[str, dict[str, Any], ModelSpec]:
    """The method that training-only parts belong to, its options and its teacher."""
    fusion = next((kind for kind in ("skfs", "abfs") if f"{kind}.0.conv1.0.weight" in parts), None)
    # The teacher's widths are those of the fusion's last convolutions, else of the projections, else the paper's.
    convolutions = [f"{fusion}.{len(STAGES) - stage}.conv2.0.weight" for stage in STAGES]
    projections = {stage: f"embed{stage}_linearproject.weight" for stage in STAGES}
    names = list(projections.values()) if fusion is None else convolutions
    widths = tuple(parts[n].shape[0] for n in names) if {*names} <= parts.keys() else PAPER_TEACHER.channels
    stages = tuple(stage for stage, name in projections.items() if name in parts)
    if stages == (1,):  # one stage alone is always called the first: its shape tells which it is
        shape = tuple(parts[projections[1]].shape)
        stages = tuple(stage for stage in STAGES if (widths[stage - 1], student.channels[stage - 1]) == shape)
        if len(stages) != 1:
            raise ValueError(
                f"{projections[1]} has shape {printable(shape)}, which is the (teacher, student) width of the "
                f"stages {list(stages)} of widths {widths} and {student.channels}: it must be that of exactly one"
            )
    options: dict[str, Any] = {}
    if fusion is not None:
        options["fusion_width"] = parts[f"{fusion}.0.conv1.0.weight"].shape[0]
    if fusion == "skfs":
        options["bare_squeeze"] = "skfs.1.fc1.0.weight" in parts
    if len(stages) == 1:
        options |= {"embedding_stages": stages, "embedding_weights": (1.0,)}
    if not stages:
        method = "review" if fusion == "abfs" else "csf"
    elif fusion is None:
        method = "pea"
    else:
        mixer = "atten_weight" in parts
        method = "transkd-gl" if mixer else "transkd-ea" if "fuse_weights.0" in parts else "transkd-base"
        options |= ({"fusion": "abf"} if fusion == "abfs" else {}) | ({"residual": residual} if mixer else {})
    return method, options, ModelSpec("teacher", widths, num_classes=student.num_classes)  # type: ignore[arg-type]


def _rules(family: str, options: Mapping[str, Any]) -> Rules:
    """From the authors' names to those of `Distiller.parts`. Their fusion counts from the deepest stage."""
    rules: Rules = []
    for stage in STAGES:
        theirs = rf"(?:skfs|abfs)\.{len(STAGES) - stage}\."
        ours = f"{family}.fusion.stages.{stage - 1}."
        names = {"conv1": "reduce", "conv2": "expand", "fc": "squeeze", "fc1": "bare_squeeze", "fcs": "heads"}
        rules += [(rf"{theirs}{their}\.(.+)", f"{ours}{our}.{{0}}") for their, our in names.items()]
        rules.append((rf"{theirs}att_conv\.0\.(.+)", f"{ours}gate.{{0}}"))
    alone = options.get("embedding_stages", STAGES)
    for stage, label in zip(alone, STAGES, strict=False):
        ours = f"pea.stages.{stage}."
        rules += [
            (rf"embed{label}_linearproject\.(.+)", ours + "linear.{0}"),
            (rf"patch_embed{label}\.(.+)", ours + "patch_embed.{0}"),
            (rf"fuse_weights\.{stage - 1}", ours + "linear_scale"),
            (rf"fuse_weights\.{stage + 3}", ours + "patch_scale"),
        ]
    mixer = "pea.stages.4.mixer."
    names = {"attn4": "attention", "conv1": "value", "conv2": "gate"}
    rules += [(rf"{their}\.(.+)", f"{mixer}{our}.{{0}}") for their, our in names.items()]
    return [*rules, ("atten_weight", mixer + "attention_scale"), ("conv_weight", mixer + "conv_scale")]
