"""The authors' checkpoints: a student with the parts that only its training needed, or a network alone.

A file of theirs is a flat list of tensors. Which network, which method, how many classes and which teacher's
widths it belongs to follows from names and shapes; only whether a GL-Mixer adds its input does not. Their
naming is in the tables below and in `models.naming`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from transkd_lite.distill.distiller import Distiller
from transkd_lite.distill.methods import create_method
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

STAGES = (1, 2, 3, 4)
PAPER_TEACHER = (64, 128, 320, 512)  # widths of SegFormer-B2 and of PVTv2-B2


class Contents(NamedTuple):
    """The method that training-only parts belong to, its options and its teacher's widths."""

    method: str
    options: dict[str, Any]
    teacher_channels: tuple[int, int, int, int]


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
    student, parts = _split(tensors)
    name, num_classes, options = infer_network(student)
    model = create_model(name, num_classes, **options)
    load_tensors(model, student)
    if not parts:
        return model.eval(), None
    contents = _contents(parts, model.spec, residual)
    teacher = ModelSpec("teacher", contents.teacher_channels, num_classes=num_classes)
    distiller = create_method(contents.method, model, teacher, **contents.options)
    _load(distiller, parts, contents)
    return model.eval(), distiller.eval()


def _split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The student's tensors without their prefix, and the parts beside it. What is no student is a network
    alone.
    """
    network = find_authors_network(tensors)
    student = re.match(r"(.*)student[./]", network.prefix)
    if student is None:
        return network.tensors, {}
    beside = network.beside.items()
    return network.tensors, {n.removeprefix(student[1]): t for n, t in beside if n.startswith(student[1])}


def _contents(parts: Mapping[str, Tensor], student: ModelSpec, residual: bool) -> Contents:
    fusion = next((kind for kind in ("skfs", "abfs") if f"{kind}.0.conv1.0.weight" in parts), None)
    teacher = _teacher_channels(parts, fusion)
    options: dict[str, Any] = {}
    if fusion is not None:
        options["fusion_width"] = parts[f"{fusion}.0.conv1.0.weight"].shape[0]
    if fusion == "skfs":
        options["bare_squeeze"] = "skfs.1.fc1.0.weight" in parts
    stages = _embedding_stages(parts, student.channels, teacher)
    if not stages:
        return Contents("review" if fusion == "abfs" else "csf", options, teacher)
    if len(stages) == 1:
        options |= {"embedding_stages": stages, "embedding_weights": (1.0,)}
    if fusion is None:
        return Contents("pea", options, teacher)
    if fusion == "abfs":
        options["fusion"] = "abf"
    if "atten_weight" in parts:
        return Contents("transkd-gl", options | {"residual": residual}, teacher)
    return Contents("transkd-ea" if "fuse_weights.0" in parts else "transkd-base", options, teacher)


def _teacher_channels(parts: Mapping[str, Tensor], fusion: str | None) -> tuple[int, int, int, int]:
    """Read off the last convolutions of the fusion, else off the projections, else the paper's."""
    if fusion is not None:
        names = [f"{fusion}.{len(STAGES) - stage}.conv2.0.weight" for stage in STAGES]
    else:
        names = [f"embed{stage}_linearproject.weight" for stage in STAGES]
    if any(name not in parts for name in names):
        return PAPER_TEACHER
    first, second, third, fourth = (parts[name].shape[0] for name in names)
    return first, second, third, fourth


def _embedding_stages(
    parts: Mapping[str, Tensor], student: tuple[int, ...], teacher: tuple[int, ...]
) -> tuple[int, ...]:
    """The aligned stages. One stage alone is always called the first: its shapes tell which it is."""
    stages = tuple(stage for stage in STAGES if f"embed{stage}_linearproject.weight" in parts)
    if stages != (1,):
        return stages
    shape = tuple(parts["embed1_linearproject.weight"].shape)
    matching = [stage for stage in STAGES if (teacher[stage - 1], student[stage - 1]) == shape]
    if len(matching) != 1:
        raise ValueError(
            f"embed1_linearproject.weight has shape {printable(shape)}, which is the (teacher, student) width of the "
            f"stages {matching} of widths {teacher} and {student}: it must be that of exactly one"
        )
    return (matching[0],)


def _load(distiller: Distiller, parts: Mapping[str, Tensor], contents: Contents) -> None:
    given = rename(parts, _rules("review" if contents.method == "review" else "csf", contents.options))
    own = distiller.parts.state_dict()
    missing, unexpected = sorted(set(own) - set(given)), sorted(set(given) - set(own))
    if missing or unexpected:
        raise ValueError(
            f"the checkpoint looks like {contents.method}, but tensors are missing: {listed(missing) or 'none'}; "
            f"or left over: {listed(unexpected) or 'none'}"
        )
    wrong = [name for name, tensor in own.items() if tensor.shape != given[name].shape]
    if wrong:
        raise ValueError(
            f"the checkpoint looks like {contents.method}, but these tensors have other shapes there: {listed(wrong)}"
        )
    distiller.parts.load_state_dict(given)


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
