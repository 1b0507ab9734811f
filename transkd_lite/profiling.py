"""How large a network is: parameters and multiply-accumulates, beside the published figures.

`python -m transkd_lite.profiling` prints the table of all networks, `… profiling step` times a training step (see
`profiling_step`). The published figures are those of the
README of the authors' repository; its parameters count 20 classes (19 and void) throughout, its "GFLOPs" 19
classes for networks alone and 20 for distilled ones, and so does the table.
"""

from __future__ import annotations

import sys

import pandas as pd
import torch
from torch import nn

from transkd_lite.distill.methods import Distiller, create_method
from transkd_lite.models.factory import create_model, list_models
from transkd_lite.models.flops import MultiplyAccumulates, call_aside
from transkd_lite.models.output import ModelSpec, SegModel, SegOutput

__all__ = ["count_flops", "count_parameters", "size_table"]

# name: (millions of parameters, GFLOPs at 512x1024)
PUBLISHED = {
    "segformer_b0": (3.72, 13.67),
    "segformer_b2": (27.36, 113.84),
    "segformer_b0 + transkd-base": (4.56, 16.47),
    "segformer_b0 + transkd-gl": (5.22, 16.80),
    "segformer_b0 + transkd-ea": (5.53, 17.84),
}


def count_parameters(*modules: nn.Module) -> int:
    """Number of parameters in all modules together; a parameter that two of them share counts once.

    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    parameters = {id(p): p.numel() for module in modules for p in module.parameters()}
    return sum(parameters.values())


def count_flops(
    model: SegModel,
    size: tuple[int, int] = (512, 1024),
    *,
    distiller: Distiller | None = None,
    convention: str = "full",
) -> float:
    """Multiply-accumulates of one image of `size` (H, W); those of a distiller's training-only parts added.

    - convention: "full" counts convolutions, linear layers and attention products; "paper" what the authors'
      counter counted, which leaves attention products out (see `models.flops`).

    The network computes nothing, and no module is changed.
    """
    images = torch.empty(1, 3, *size, device="meta")
    with MultiplyAccumulates(convention) as counter:
        output = call_aside(model, images)
        if distiller is not None:
            # Methods may look at values (which label is void), so these few operations are really computed.
            student, teacher = (_zeros(spec, output) for spec in (model.spec, distiller.teacher_spec))
            labels = torch.zeros(1, *size, dtype=torch.long)
            call_aside(distiller, torch.zeros(1, 3, *size), student, teacher, labels, device="cpu")
    return float(counter.total)


def _zeros(spec: ModelSpec, output: SegOutput) -> SegOutput:
    """What a network of that spec would give, at the sizes of `output`, all zeros."""
    pairs = zip(output.features, spec.channels, strict=True)
    features = tuple(torch.zeros(len(f), c, *f.shape[2:]) for f, c in pairs)
    embeddings = tuple(f.flatten(2).transpose(1, 2) for f in features)
    logits = torch.zeros(len(output.logits), spec.num_classes, *output.logits.shape[2:])
    return SegOutput(logits, features, embeddings)


def size_table(size: tuple[int, int] = (512, 1024)) -> pd.DataFrame:
    """One row a network and one a published method on SegFormer-B0: parameters in millions,
    multiply-accumulates in G.

    Columns params_m, gmacs_full, gmacs_paper for images of `size` (H, W), and the published figures, which
    are for 512x1024; empty where none could be seen.
    """
    student, teacher = create_model("segformer_b0", 20), create_model("segformer_b2", 20)
    methods = [name.split(" + ")[1] for name in PUBLISHED if "+" in name]
    rows = [_row(name, create_model(name, 20), create_model(name, 19), size) for name in list_models()]
    for method in methods:
        # With the second squeeze layer, as the authors' modules have it.
        distiller = create_method(method, student, teacher, bare_squeeze=True)
        rows.append(_row(f"segformer_b0 + {method}", student, student, size, distiller))
    return pd.DataFrame(rows).set_index("network")


def _row(
    name: str, model: SegModel, counted: SegModel, size: tuple[int, int], distiller: Distiller | None = None
) -> dict[str, str | float | None]:
    parts = [model] if distiller is None else [model, distiller]
    params, gflops = PUBLISHED.get(name, (None, None))
    return {
        "network": name,
        "params_m": count_parameters(*parts) / 1e6,
        "published_params_m": params,
        "gmacs_full": count_flops(counted, size, distiller=distiller) / 1e9,
        "gmacs_paper": count_flops(counted, size, distiller=distiller, convention="paper") / 1e9,
        "published_gflops": gflops,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["step"]:
        from transkd_lite.profiling_step import main

        main(sys.argv[2:])
    else:
        print(size_table().to_string(float_format="{:.3f}".format, na_rep=""))
