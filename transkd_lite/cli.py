"""The `transkd` command. Exit codes: 0 all done, 1 a run failed, 2 the command or a parameter is wrong (nothing ran).

Every command imports what it needs when it is called, so that `--help` and a finished batch answer at once.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from transkd_lite.cli_data import data_app
from transkd_lite.cli_export import add_export
from transkd_lite.parameters import ParameterError
from transkd_lite.profiles import ROOT, Profile, list_profiles, load_profile, parse_settings, shrink

if TYPE_CHECKING:
    from transkd_lite.summary import Outcome

__all__ = ["app", "main"]


class _Group(TyperGroup):
    """Turns errors into a message and an exit code; TRANSKD_TRACEBACK=1 shows where they come from."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, RuntimeError) as error:
            if os.environ.get("TRANSKD_TRACEBACK") or isinstance(error, BrokenPipeError):
                raise
            if type(error).__module__.startswith(("click", "typer")):
                raise  # typer's own errors and exits
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2 if isinstance(error, ParameterError) else 1) from error


app = typer.Typer(
    cls=_Group,
    help="Learn and reproduce transformer knowledge distillation for semantic segmentation (TransKD).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
add_export(app)
ProfileName = Annotated[
    str, typer.Argument(help=f"A profile ({', '.join(list_profiles())}) or a .yaml file.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Replace a parameter: steps=20, teacher.lr=1.0e-4 (repeatable)."
    ),
]
DataRoot = Annotated[Path | None, typer.Option(help="The folder that holds the dataset's files.")]
Runs = Annotated[Path, typer.Option("--runs", help="The folder of all run folders.")]


def _profile(name: str, settings: list[str] | None, data_root: Path | None) -> Profile:
    """The profile with what the command line changes."""
    values = parse_settings(settings or [])
    if data_root is not None:
        if not data_root.is_dir():
            raise ParameterError(
                f"--data-root {data_root} is not a folder: pass the one that holds the dataset's files"
            )
        values["data_root"] = str(data_root.resolve())
    return load_profile(name, values)


def _split(text: str, what: str) -> list[str]:
    """The parts of `a,b,c`."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if text and not parts:
        raise ParameterError(f"{what} {text!r}: write names with commas between them")
    return parts


def _seeds(text: str) -> list[int]:
    """The numbers of `0,1,2`."""
    try:
        seeds = [int(part) for part in _split(text, "--seeds")]
    except ValueError as error:
        raise ParameterError(
            f"--seeds {text!r}: write whole numbers with commas between them, such as 0,1,2"
        ) from error
    if any(seed < 0 for seed in seeds):
        raise ParameterError(f"--seeds {text!r}: a seed is 0 or more")
    return seeds


@app.command()
def reproduce(
    profile: ProfileName,
    data_root: DataRoot = None,
    methods: Annotated[str, typer.Option(help="Methods instead of the profile's: none,kd,transkd-base")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds instead of the profile's: 0,1,2")] = "",
    runs: Runs = Path("runs"),
    jobs: Annotated[int, typer.Option(min=1, help="Notebooks side by side on this machine.")] = 1,
    scheduler: Annotated[str | None, typer.Option(help="A Dask scheduler: tcp://host:8786")] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="A minute or two: few steps and images.")] = False,
    settings: Settings = None,
) -> None:
    """Run a profile: teacher, students, report.

    Every run is a notebook executed by papermill into a folder of its own; finished runs are skipped.

    Examples:

    transkd reproduce demo

    transkd reproduce camvid --data-root ../CamVid --smoke

    transkd reproduce cityscapes --data-root /data/cityscapes --methods none,transkd-base --seeds 0 --jobs 2
    """
    from transkd_lite.batch import reproduce as run_batch

    chosen = _profile(profile, settings, data_root)
    chosen = shrink(chosen) if smoke else chosen
    outcome = run_batch(
        chosen, runs=runs, methods=_split(methods, "--methods"), seeds=_seeds(seeds), jobs=jobs,
        scheduler=scheduler, echo=typer.echo,
    )  # fmt: skip
    _tell(outcome)


def _tell(outcome: "Outcome") -> None:
    """Print the two tables and what there is to look at; exit 1 where something failed."""
    from transkd_lite.summary import run_table, score_table

    if not outcome.executed and not outcome.errors:
        rendered = "the report was rendered anew" if outcome.report_rendered else "nothing to do"
        typer.echo(f"All {len(outcome.runs)} runs in {outcome.root} are finished: {rendered}.")
    typer.echo("\n".join(["", run_table(outcome), "", score_table(outcome)]))
    if outcome.report is not None and outcome.report.is_file():
        stale = " (of an earlier batch)" if "report" in outcome.errors else ""
        typer.echo(f"\nReport: {outcome.report}{stale}")
    for name, error in outcome.errors.items():
        typer.echo(f"FAILED {name}: {error}", err=True)
    if outcome.errors:
        raise typer.Exit(1)


@app.command()
def train(
    profile: ProfileName,
    settings: Settings = None,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
    out: Annotated[
        Path | None, typer.Option(help="The run folder (default: one named by the parameters).")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Also save the network here, in half precision.")] = None,
) -> None:
    """Train one network from a profile's parameters.

    Goes on where an earlier call was stopped.

    Example: transkd train streets-teacher --save data/weights/streets-segformer_b1.safetensors
    """
    chosen = _profile(profile, settings, data_root)
    experiment = chosen.experiment(chosen.kind)
    experiment.check_names()
    experiment.check_data()
    folder = out or runs / chosen.name / experiment.folder_name(chosen.kind)
    first = os.environ.get("RANK", "0") == "0"  # of torchrun's processes one speaks and saves
    if first:
        typer.echo(f"{experiment.network}, method {experiment.method}, into {folder}")
    from transkd_lite.experiment import run_experiment
    from transkd_lite.scoring import save_half
    from transkd_lite.summary import score_line

    metrics = run_experiment(experiment, folder)
    if first:
        typer.echo(score_line(metrics))
    if first and save is not None:
        save_half(folder, save, profile=chosen.name)
        typer.echo(f"saved {save} ({save.stat().st_size / 1e6:.1f} MB)")


@app.command()
def evaluate(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a file of weights.")],
    settings: Settings = None,
    data_root: DataRoot = None,
    split: Annotated[str, typer.Option(help="Which images to score on.")] = "val",
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score a run's network, or a file of weights.

    By both protocols: at label resolution ("full") and at a quarter of it ("paper"). On the validation images of its
    training, which the folder or the file names; for a file that does not, --set dataset=… height=… and width=….

    Examples:

    transkd evaluate runs/demo/student-none-s0-1a2b3c4d

    transkd evaluate data/weights/streets-segformer_b1.safetensors --set val_images=50
    """
    from transkd_lite.experiment import Experiment
    from transkd_lite.scoring import evaluate_run
    from transkd_lite.summary import class_table

    values = parse_settings(settings or []) | ({"data_root": str(data_root)} if data_root else {})
    Experiment.from_parameters(values)
    scores = evaluate_run(source, values, split)
    typer.echo(json.dumps(scores, indent=2) if as_json else class_table(scores))


@app.command()
def report(
    profile: ProfileName,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
    smoke: Annotated[bool, typer.Option("--smoke", help="That of the batch run with --smoke.")] = False,
    tables: Annotated[
        Path | None, typer.Option(help="Also save the batch's table, training curves and figure here.")
    ] = None,
) -> None:
    """Render a batch's report again.

    Example: transkd report demo --tables data/results
    """
    from transkd_lite.batch import render_report
    from transkd_lite.gallery import save_results

    chosen = _profile(profile, None, data_root)
    chosen = shrink(chosen) if smoke else chosen
    root = (runs / chosen.name).resolve()
    if not root.is_dir():
        raise ParameterError(f"no batch in {root}: run `transkd reproduce {profile}` first")
    if chosen.report is None and tables is None:
        raise ParameterError(f"profile {profile} has no report; --tables DIR saves its tables")
    if tables is not None:
        for path in save_results(root, tables):
            typer.echo(f"Saved: {path}")
    if chosen.report is not None:
        typer.echo(f"Report: {render_report(chosen, root)}")


@app.command("runs")
def list_run_folders(
    runs: Annotated[Path, typer.Argument(metavar="[DIR]", help="The folder of run folders.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List run folders with their state.

    States: finished, running, interrupted, failed.

    Example: transkd runs runs/demo
    """
    from transkd_lite.runs import list_runs
    from transkd_lite.summary import align, number

    found = list_runs(runs)
    if as_json:
        listed = [{**r.metrics, "run": str(r.folder), "state": r.state} for r in found]
        typer.echo(json.dumps(listed, indent=2))
        return
    if not found:
        raise ParameterError(f"no run folder below {runs}: pass the folder that reproduce or train wrote to")
    rows = [("run", "state", "mIoU %", "seconds")]
    for run in found:
        miou, wall = run.metrics.get("full", {}).get("miou"), run.metrics.get("wall_s")
        rows.append((str(run.folder.relative_to(runs)), run.state, number(miou, 100), number(wall)))
    typer.echo(align(rows))


@app.command()
def notebooks(
    names: Annotated[
        list[str] | None, typer.Argument(help="Only these, such as 04_cross_selective_fusion.")
    ] = None,
) -> None:
    """Execute the notebooks, store outputs in place.

    From their default parameters; a notebook that fails is left as it was.

    Example: transkd notebooks 01_data_and_metrics
    """
    from transkd_lite.batch import refresh_notebook
    from transkd_lite.parameters import check_name

    folder = ROOT / "notebooks"
    paths = [*folder.glob("[0-9][0-9]_*.ipynb"), *folder.glob("solutions/*.ipynb")]
    known = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in paths)
    failed = 0
    for name in [check_name(name, known, "notebook") for name in names or known]:
        try:
            seconds = refresh_notebook(folder / f"{name}.ipynb")
            typer.echo(f"{name}: {seconds:.0f} s")
        except RuntimeError as error:
            failed += 1
            typer.echo(f"{name}: FAILED: {error}", err=True)
    if failed:
        raise typer.Exit(1)


@app.command()
def describe(
    method: Annotated[str, typer.Argument(help="A method, or several joined with +; none lists all.")] = "",
) -> None:
    """Explain a method: formula, terms, options.

    Example: transkd describe transkd-base
    """
    from transkd_lite.distill import list_methods
    from transkd_lite.distill.describe import describe as print_description
    from transkd_lite.parameters import check_name

    if not method:
        typer.echo("\n".join(list_methods()))
        return
    for part in method.split("+"):
        check_name(part, list_methods(), "method")
    print_description(method)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
