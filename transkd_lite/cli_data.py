"""`transkd data check | fetch | prepare`: the command line of `transkd_lite.data`."""

from pathlib import Path
from typing import Annotated

import typer

from transkd_lite.parameters import check_name

__all__ = ["data_app"]

data_app = typer.Typer(help="Fetch, prepare and check a dataset.", no_args_is_help=True)


@data_app.command("check")
def data_check(
    name: Annotated[str, typer.Argument(help="cityscapes, acdc, nyuv2, voc2012, camvid or folder.")],
    root: Annotated[Path, typer.Option(help="The folder that holds its files.")],
) -> None:
    """Look into every file of a dataset.

    Counts, pairs, sizes, labels and class shares; the exit code is 1 where something is wrong.

    Example: transkd data check camvid --root ../CamVid
    """
    from transkd_lite.data.check import check_dataset
    from transkd_lite.data.official import LAYOUTS

    found = check_dataset(check_name(name, LAYOUTS, "dataset in folders"), root)
    typer.echo(str(found))
    if not found.ok:
        raise typer.Exit(1)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="camvid; for the others it says where they are.")],
    root: Annotated[Path | None, typer.Option(help="Where to put the files (default: ./NAME).")] = None,
) -> None:
    """Download a dataset where that is allowed, or say how to get it.

    Example: transkd data fetch camvid --root datasets/camvid
    """
    from transkd_lite.data.fetch import INSTRUCTIONS, fetch

    typer.echo(fetch(check_name(name, ("camvid", *INSTRUCTIONS), "dataset to fetch"), root or Path(name)))


@data_app.command("prepare")
def data_prepare(
    name: Annotated[str, typer.Argument(help="nyuv2 (the others need no preparation).")],
    root: Annotated[Path, typer.Option(help="Where to put the folders.")],
    labeled: Annotated[Path, typer.Option(help="nyu_depth_v2_labeled.mat")],
    mapping: Annotated[Path, typer.Option(help="classMapping40.mat")],
    splits: Annotated[Path, typer.Option(help="splits.mat")],
) -> None:
    """Make images and labels from NYU Depth v2's MATLAB files.

    Example: transkd data prepare nyuv2 --root datasets/nyuv2 --labeled nyu_depth_v2_labeled.mat
    --mapping classMapping40.mat --splits splits.mat
    """
    from transkd_lite.data.prepare import prepare_nyuv2

    check_name(name, ("nyuv2",), "dataset to prepare")
    typer.echo(f"NYUv2 is in {prepare_nyuv2(labeled, mapping, splits, root)}")
