"""The `transkd` command. Exit codes: 0 all done, 1 a run failed, 2 the command or a parameter is wrong (nothing ran).

Every command imports what it needs when it is called, so that `--help` and a finished batch answer at once.
"""

import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from transkd_lite.experiments.profile import (
    ROOT,
    Profile,
    list_profiles,
    load_profile,
    parse_settings,
    shrink,
    with_variant,
)
from transkd_lite.training.config import ParameterError, check_name
from transkd_lite.training.folder import METRICS_FILE, RUN_FILE, caveats, read_json

if TYPE_CHECKING:
    from transkd_lite.experiments.batch import Outcome

__all__ = [
    "align",
    "app",
    "class_table",
    "data_app",
    "export",
    "main",
    "number",
    "run_table",
    "score_line",
    "score_table",
]

# --- What runs have to say: which are finished, a line a run, scores by method and by class. No heavy import.


def run_table(outcome: "Outcome") -> str:
    """One line a run: folder, state, mIoU in percent, seconds."""
    from transkd_lite.experiments.batch import is_done, miou_of

    rows = [("run", "state", "mIoU %", "seconds")]
    for run in outcome.runs:
        folder = outcome.root / run.folder
        state = "FAILED" if run.folder in outcome.errors else "finished" if is_done(outcome.root, run) else "missing"
        metrics = read_json(folder / METRICS_FILE)
        miou, wall = miou_of(folder), metrics.get("wall_s")
        rows.append((run.title, state, number(miou, 100), number(wall)))
    return align(rows)


def score_table(outcome: "Outcome") -> str:
    """One line a method or variant: runs, mean and deviation of the mIoU, mean difference to the student alone.

    The student alone of the same variant, where the batch has that.
    """
    from transkd_lite.experiments.batch import is_done, miou_of

    scores: dict[tuple[str, str], dict[int, float]] = {}
    for run in outcome.runs:
        miou = miou_of(outcome.root / run.folder)
        if miou is not None and run.experiment is not None and run.folder not in outcome.errors:
            method = "teacher" if run.kind == "teacher" else run.experiment.method
            scores.setdefault((method, run.variant), {})[run.experiment.seed] = 100 * miou
    rows = [("method", "seeds", "mIoU %", "sd", "difference to none")]
    plain = scores.get(("none", ""), {})
    for (method, variant), by_seed in scores.items():
        values = list(by_seed.values())
        alone = plain if method == "none" else scores.get(("none", variant), plain)
        paired = [value - alone[seed] for seed, value in by_seed.items() if seed in alone]
        sd = f"{statistics.stdev(values):.2f}" if len(values) > 1 else "-"
        compared = paired and (variant or method not in ("none", "teacher"))
        gain = f"{statistics.mean(paired):+.2f}" if compared else "-"
        name = with_variant(method, variant)
        rows.append((name, str(len(values)), f"{statistics.mean(values):.2f}", sd, gain))
    if len(rows) == 1:
        return ""
    finished = [outcome.root / run.folder for run in outcome.runs if is_done(outcome.root, run)]
    return "\n".join([align(rows), *caveats(read_json(folder / RUN_FILE) for folder in finished)])


def number(value: float | None, factor: float = 1.0) -> str:
    """A value for a table, "-" for none."""
    return "-" if value is None else f"{factor * value:.1f}"


def align(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as text in columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


def score_line(metrics: dict[str, Any]) -> str:
    """`mIoU 41.2 (full), 43.0 (paper)` in percent."""
    parts = [f"{100 * metrics[name]['miou']:.2f} ({name})" for name in ("full", "paper") if name in metrics]
    return "mIoU " + ", ".join(parts)


def class_table(scores: dict[str, Any]) -> str:
    """What was scored (see `evaluate_run`), the IoU of every class, and the mIoU beside it."""
    data = scores["data"]
    protocols = {name: scores[name] for name in ("full", "paper") if name in scores}
    names = list(scores["full"]["iou"])
    width = max(map(len, names))
    lines = [
        f"{data['dataset']}, split {data['split']}: {data['images']} images, {data['size'][0]} x {data['size'][1]} "
        f"(height x width of the first), {'' if data['normalize'] else 'not '}normalized",
        f"{'class':<{width}}  " + "  ".join(f"{protocol:>6}" for protocol in protocols),
    ]
    for name in names:
        values = [score["iou"][name] for score in protocols.values()]
        cells = [" absent" if v is None else f"{100 * v:7.2f}" for v in values]
        lines.append(f"{name:<{width}} {' '.join(cells)}")
    return "\n".join([*lines, score_line(scores)])


# --- `transkd data check | fetch | prepare`: the command line of `transkd_lite.data`.

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
    from transkd_lite.data.datasets import LAYOUTS
    from transkd_lite.data.tools import check_dataset

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
    from transkd_lite.data.datasets import LAYOUTS
    from transkd_lite.data.tools import fetch

    typer.echo(fetch(check_name(name, LAYOUTS, "dataset to fetch"), root or Path(name)))


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
    from transkd_lite.data.tools import prepare_nyuv2

    check_name(name, ("nyuv2",), "dataset to prepare")
    typer.echo(f"NYUv2 is in {prepare_nyuv2(labeled, mapping, splits, root)}")


# --- `transkd export`: a trained network as an ONNX file, compared with the network before it gets its name.

NUM_SCENES = 4  # compared: a few thousand positions each


def export(
    source: Annotated[Path, typer.Argument(metavar="WEIGHTS", help="A file of weights, or a run folder.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The file to write: *.onnx")],
    size: Annotated[
        tuple[int, int], typer.Option(metavar="H W", help="Height and width of the example; others work too.")
    ] = (512, 1024),
    plain_head: Annotated[
        bool, typer.Option("--plain-head", help="Keep the head as published: more work, same function.")
    ] = False,
) -> None:
    """Write a trained network as an ONNX file.

    ONNX Runtime and the network are compared on a few scenes first; a file that differs is not kept.

    Example: transkd export data/weights/streets-segformer_b0-transkd-base.safetensors student.onnx --size 64 128
    """
    from transkd_lite.data.datasets import LAYOUTS, open_dataset
    from transkd_lite.data.labels import CITYSCAPES
    from transkd_lite.experiments.experiment import read_weights
    from transkd_lite.metrics import as_batch
    from transkd_lite.models.onnx import export_onnx, parity

    model, made = read_weights(source)
    normalize = bool(made.get("normalize", True))
    space = model.label_space  # of a file that has none: that of the training's data set, where it is a fixed one
    if space is None:
        layout = LAYOUTS.get(made.get("dataset", ""))
        fixed = CITYSCAPES if made.get("dataset") == "streets" else layout.space if layout else None
        space = fixed if fixed is not None and fixed.num_classes == model.spec.num_classes else None
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as aside:
        try:
            file = export_onnx(
                model, Path(aside) / target.name, size, space=space, normalize=normalize, fold_head=not plain_head
            )
        except ValueError as error:  # a name or a size
            raise ParameterError(str(error)) from error
        scenes = open_dataset("streets", "val", num=NUM_SCENES, size=size)["image"]
        found = parity(model, file, as_batch(scenes, normalize=normalize))
        if not found.holds:
            raise RuntimeError(f"{target} was not written: ONNX Runtime disagrees with the network: {found}")
        os.replace(file, target)
    typer.echo(f"{model.spec.name}, {model.spec.num_classes} classes, from {source}")
    typer.echo(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)")
    typer.echo(f"parity on {NUM_SCENES} scenes of {size[0]}x{size[1]}: {found}")


# --- The `transkd` command. Exit codes: 0 all done, 1 a run failed, 2 the command or a parameter is wrong
# (nothing ran).


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
app.command()(export)
ProfileName = Annotated[str, typer.Argument(help=f"A profile ({', '.join(list_profiles())}) or a .yaml file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a parameter: steps=20, teacher.lr=1.0e-4 (repeatable)."),
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


def _split(text: str, option: str, of: type = str) -> list[Any]:
    """The parts of `a,b,c`: names, or seeds."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if (text and not parts) or (of is int and not all(part.isdecimal() for part in parts)):
        what = "names" if of is str else "whole numbers (a seed is 0 or more)"
        raise ParameterError(f"{option} {text!r}: write {what} with commas between them")
    return list(map(of, parts))


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
    from transkd_lite.experiments.batch import reproduce as run_batch

    chosen = _profile(profile, settings, data_root)
    chosen = shrink(chosen) if smoke else chosen
    outcome = run_batch(
        chosen, runs=runs, methods=_split(methods, "--methods"), seeds=_split(seeds, "--seeds", int), jobs=jobs,
        scheduler=scheduler, echo=typer.echo,
    )  # fmt: skip
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
    out: Annotated[Path | None, typer.Option(help="The run folder (default: one named by the parameters).")] = None,
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
    from transkd_lite.experiments.experiment import run_experiment, save_half

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
    from transkd_lite.experiments.experiment import Experiment, evaluate_run

    values = parse_settings(settings or []) | ({"data_root": str(data_root)} if data_root else {})
    Experiment.from_dict(values)
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
    from transkd_lite.experiments.batch import render_report
    from transkd_lite.results.comparison import save_results

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
    from transkd_lite.training.folder import list_runs

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
    names: Annotated[list[str] | None, typer.Argument(help="Only these, such as 04_cross_selective_fusion.")] = None,
) -> None:
    """Execute the notebooks, store outputs in place.

    From their default parameters; a notebook that fails is left as it was.

    Example: transkd notebooks 01_data_and_metrics
    """
    from transkd_lite.experiments.notebook import refresh_notebook

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
    from transkd_lite.distill.methods import describe as print_description
    from transkd_lite.distill.methods import list_methods

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
