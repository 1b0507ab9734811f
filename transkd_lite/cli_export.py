"""`transkd export`: a trained network as an ONNX file, compared with the network before it gets its name."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transkd_lite.parameters import ParameterError, weights_file

if TYPE_CHECKING:
    from transkd_lite.data import LabelSpace
    from transkd_lite.onnx_model import Parity

__all__ = ["add_export"]

NUM_SCENES = 4  # compared: a few thousand positions each


def add_export(app: typer.Typer) -> None:
    """Give the command to the application."""
    app.command("export")(export)


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
    from transkd_lite.export import export_onnx
    from transkd_lite.models import load_model
    from transkd_lite.scoring import training_parameters

    made = training_parameters(source, weights)
    normalize = bool(made.get("normalize", True))
    model = load_model(weights)
    space = model.label_space or _label_space(made.get("dataset"), model.spec.num_classes)
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
        found = _compare(model, file, size, normalize)
        if not found.holds:
            raise RuntimeError(f"{target} was not written: ONNX Runtime disagrees with the network: {found}")
        os.replace(file, target)
    typer.echo(f"{model.spec.name}, {model.spec.num_classes} classes, from {weights}")
    typer.echo(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)")
    typer.echo(f"parity on {NUM_SCENES} scenes of {size[0]}x{size[1]}: {found}")


def _label_space(dataset: str | None, num_classes: int) -> "LabelSpace | None":
    """Names and colours of the classes of a file that carries none, where the training's data set has fixed ones."""
    from transkd_lite.data.labels import CITYSCAPES
    from transkd_lite.data.official import LAYOUTS

    layout = LAYOUTS.get(dataset or "")
    space = CITYSCAPES if dataset == "streets" else layout.space if layout else None
    return space if space is not None and space.num_classes == num_classes else None


def _compare(model: Any, file: Path, size: tuple[int, int], normalize: bool) -> "Parity":
    """How far the file is from the network on synthetic scenes."""
    from transkd_lite.data import open_dataset
    from transkd_lite.onnx_model import parity
    from transkd_lite.prediction import as_batch

    scenes = open_dataset("streets", "val", num=NUM_SCENES, size=size)
    return parity(model, file, as_batch(scenes["image"], normalize=normalize))
