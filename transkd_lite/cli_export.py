"""`transkd export`: a trained network as an ONNX file, compared with the network before it gets its name."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from transkd_lite.parameters import ParameterError, weights_file

__all__ = ["export"]

NUM_SCENES = 4  # compared: a few thousand positions each


def export(
    source: Annotated[Path, typer.Argument(metavar="WEIGHTS", help="A file of weights, or a run folder.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The file to write: *.onnx")],
    size: Annotated[
        tuple[int, int],
        typer.Option(metavar="H W", help="Height and width of the example; others work too."),
    ] = (512, 1024),
    plain_head: Annotated[
        bool, typer.Option("--plain-head", help="Keep the head as published: more work, same function.")
    ] = False,
) -> None:
    """Write a trained network as an ONNX file.

    ONNX Runtime and the network are compared on a few scenes first; a file that differs is not kept.

    Example: transkd export data/weights/streets-segformer_b0-transkd-base.safetensors student.onnx --size 64 128
    """
    weights = weights_file(source)
    from transkd_lite.data import open_dataset
    from transkd_lite.data.labels import CITYSCAPES
    from transkd_lite.data.official import LAYOUTS
    from transkd_lite.export import export_onnx
    from transkd_lite.models import load_model
    from transkd_lite.onnx_model import parity
    from transkd_lite.prediction import as_batch
    from transkd_lite.scoring import training_parameters

    made = training_parameters(source, weights)
    normalize = bool(made.get("normalize", True))
    model = load_model(weights)
    space = (
        model.label_space
    )  # of a file that has none: that of the training's data set, where it is a fixed one
    if space is None:
        layout = LAYOUTS.get(made.get("dataset", ""))
        fixed = CITYSCAPES if made.get("dataset") == "streets" else layout.space if layout else None
        space = fixed if fixed is not None and fixed.num_classes == model.spec.num_classes else None
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as aside:
        try:
            file = export_onnx(
                model,
                Path(aside) / target.name,
                size,
                space=space,
                normalize=normalize,
                fold_head=not plain_head,
            )
        except ValueError as error:  # a name or a size
            raise ParameterError(str(error)) from error
        scenes = open_dataset("streets", "val", num=NUM_SCENES, size=size)["image"]
        found = parity(model, file, as_batch(scenes, normalize=normalize))
        if not found.holds:
            raise RuntimeError(f"{target} was not written: ONNX Runtime disagrees with the network: {found}")
        os.replace(file, target)
    typer.echo(f"{model.spec.name}, {model.spec.num_classes} classes, from {weights}")
    typer.echo(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)")
    typer.echo(f"parity on {NUM_SCENES} scenes of {size[0]}x{size[1]}: {found}")
