"""The `transkd` command. Exit codes: 0 all done, 1 a run failed, 2 the command or a parameter is wrong (nothing ran).

Every command imports what is heavy when it is called, so that `--help` and a finished batch answer at once.
"""

import io
import json
import os
import shlex
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option
from typer.core import TyperGroup

from transkd_lite import __version__
from transkd_lite.data.whole import METRICS_FILE, RUN_FILE, atomic_write, read_json
from transkd_lite.experiments import batch, experiment, notebook, profile
from transkd_lite.training.config import ParameterError, check_name
from transkd_lite.training.folder import caveats, is_finished, list_runs

__all__ = ["app", "main", "run_table", "score_table"]

# --- What runs have to say: which are finished, a line a run, scores by method and by class. No heavy import.


def run_table(outcome: batch.Outcome) -> str:
    """One line a run: folder, state, mIoU in percent, seconds."""
    rows = []
    for run in outcome.runs:
        failed = run.folder in outcome.errors
        state = "FAILED" if failed else "finished" if batch.is_done(outcome.root, run) else "missing"
        rows.append((run.title, state, {} if failed else read_json(outcome.root / run.folder / METRICS_FILE)))
    return _states(rows)


def _states(runs: Iterable[tuple[str, str, Mapping[str, Any]]]) -> str:
    """A line for each name, state and metrics."""
    rows: list[tuple[str, ...]] = [("run", "state", "mIoU %", "seconds")]
    for name, state, metrics in runs:
        miou, wall = metrics.get("full", {}).get("miou"), metrics.get("wall_s")
        rows.append((name, state, *("-" if v is None else f"{v:.1f}" for v in (miou and 100 * miou, wall))))
    return _align(rows)


def score_table(outcome: batch.Outcome) -> str:
    """One line a method or variant: runs, mean and deviation of the mIoU, mean difference to the student alone.

    The student alone of the same variant, where the batch has that.
    """
    scores: dict[tuple[str, str], dict[int, float]] = {}
    whole = [run for run in outcome.runs if run.folder not in outcome.errors]
    for run in whole:
        miou = read_json(outcome.root / run.folder / METRICS_FILE).get("full", {}).get("miou")
        if miou is not None and run.experiment is not None:
            method = "teacher" if run.kind == "teacher" else run.experiment.method
            scores.setdefault((method, run.variant), {})[run.experiment.seed] = 100 * miou
    rows = [("method", "seeds", "mIoU %", "sd", "difference to none")]
    plain = scores.get(("none", ""), {})
    for (method, variant), by_seed in scores.items():
        values = list(by_seed.values())
        alone = plain if method == "none" else scores.get(("none", variant), plain)
        gains = [value - alone[seed] for seed, value in by_seed.items() if seed in alone]
        compared = gains and (variant or method not in ("none", "teacher"))
        sd = f"{statistics.stdev(values):.2f}" if len(values) > 1 else "-"
        gain = f"{statistics.mean(gains):+.2f}" if compared else "-"
        name = profile.with_variant(method, variant)
        rows.append((name, str(len(values)), f"{statistics.mean(values):.2f}", sd, gain))
    if len(rows) == 1:
        return ""
    finished = [outcome.root / run.folder for run in whole if batch.is_done(outcome.root, run)]
    return "\n".join([_align(rows), *caveats(read_json(folder / RUN_FILE) for folder in finished)])


def _align(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as text in columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return "\n".join("  ".join(line) for line in lines)


def _score_line(metrics: Mapping[str, Any]) -> str:
    """`mIoU 41.20 (full), 43.00 (paper)` in percent."""
    from transkd_lite.metrics import PROTOCOLS

    return "mIoU " + ", ".join(f"{100 * metrics[name]['miou']:.2f} ({name})" for name in PROTOCOLS)


# --- The command, and what its commands share.


class _Group(TyperGroup):
    """Turns errors into a message and an exit code; TRANSKD_TRACEBACK=1 shows where they come from."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except (ValueError, OSError, RuntimeError) as error:
            if os.environ.get("TRANSKD_TRACEBACK"):
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2 if isinstance(error, ParameterError) else 1) from error


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Fetch, prepare and check a dataset.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@app.callback(invoke_without_command=True, no_args_is_help=True)
def root(version: Annotated[bool, Option("--version", help="Print the version.")] = False) -> None:
    """Learn and reproduce transformer knowledge distillation for semantic segmentation (TransKD)."""
    if version:
        typer.echo(f"transkd {__version__}")
        raise typer.Exit


Name = Annotated[str, Argument(metavar="PROFILE", help=f"{', '.join(profile.list_profiles())}, or a .yaml file.")]
Settings = Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help="Sets a parameter; repeatable.")]
DataRoot = Annotated[Path | None, Option(help="The dataset's folder.", exists=True, file_okay=False, resolve_path=True)]
Runs = Annotated[Path, Option("--runs", help="The folder of all run folders.")]
AsJson = Annotated[bool, Option("--json", help="Print as JSON.")]


def _settings(texts: list[str] | None, data_root: Path | None) -> dict[str, Any]:
    """The parameters that the command line changes."""
    return profile.parse_settings(texts or []) | ({"data_root": str(data_root)} if data_root else {})


def _parts(text: str) -> list[str]:
    """The parts of `a,b,c`."""
    return [part.strip() for part in text.split(",") if part.strip()]


# --- Datasets and files.


def _report(name: str, root: Path, options: Mapping[str, Any]) -> Any:
    """What `check_dataset` finds."""
    from transkd_lite.data.datasets import LAYOUTS
    from transkd_lite.data.tools import check_dataset

    try:
        return check_dataset(check_name(name, LAYOUTS, "dataset in folders"), root, **options)
    except TypeError as error:
        raise ParameterError(f"--set names an option of {name}, see open_dataset; got {options}: {error}") from error


@app.command()
def new(
    folder: Annotated[Path, Argument(metavar="DIR", help="A folder for the profile and its runs; made where missing.")],
    data: Annotated[Path, Option(help="The folder of the images and labels.", exists=True, file_okay=False)],
    settings: Settings = None,
) -> None:
    """Write a profile for your own images.

    Looks at the folder as `data check` does, and writes what to train on what, for how long.

    Examples:

    transkd new cracks --data ../photographs

    transkd new masks --data ../masks --set "label_map={0: 0, 255: 1}"
    """
    from transkd_lite.data.tools import find_name
    from transkd_lite.experiments.preflight import new_profile

    options = profile.parse_settings(settings or [])
    path, told = new_profile(folder, _report(find_name(data), data, options), options)
    typer.echo(f"{path.read_text(encoding='utf-8')}\n{told}\n\nwrote {path}. Next:\n  cd {shlex.quote(str(folder))}")
    typer.echo(f"  transkd reproduce {path.name} --smoke  # a minute or two, to see that all is well")
    typer.echo(f"  transkd reproduce {path.name}")


@data_app.command("check")
def data_check(
    name: Annotated[str, Argument(help="cityscapes, acdc, nyuv2, voc2012, camvid or folder.")],
    root: Annotated[Path, Option(help="The folder that holds its files.")],
    settings: Settings = None,
) -> None:
    """Look into every file of a dataset.

    Counts, pairs, sizes, labels and class shares; the exit code is 1 where something is wrong, or train or val is
    not there.

    Example: transkd data check folder --root ../masks --set "label_map={0: 0, 255: 1}"
    """
    found = _report(name, root, profile.parse_settings(settings or []))
    typer.echo(str(found))
    raise typer.Exit(not found.ok)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, Argument(help="camvid; for the others it says where they are.")],
    root: Annotated[Path | None, Option(help="Where to put the files (default: ./NAME).")] = None,
) -> None:
    """Download a dataset where that is allowed, or say how to get it.

    Example: transkd data fetch camvid --root datasets/camvid
    """
    from transkd_lite.data.datasets import LAYOUTS
    from transkd_lite.data.tools import fetch

    typer.echo(fetch(check_name(name, LAYOUTS, "dataset to fetch"), root or Path(name)))


@data_app.command("prepare")
def data_prepare(
    name: Annotated[Literal["nyuv2"], Argument(help="The others need no preparation.")],
    root: Annotated[Path, Option(help="Where to put the folders.")],
    labeled: Annotated[Path, Option(help="nyu_depth_v2_labeled.mat")],
    mapping: Annotated[Path, Option(help="classMapping40.mat")],
    splits: Annotated[Path, Option(help="splits.mat")],
) -> None:
    """Make images and labels from NYU Depth v2's MATLAB files.

    Example: transkd data prepare nyuv2 --root datasets/nyuv2 --labeled nyu_depth_v2_labeled.mat
    --mapping classMapping40.mat --splits splits.mat
    """
    from transkd_lite.data.tools import prepare_nyuv2

    typer.echo(f"NYUv2 is in {prepare_nyuv2(labeled, mapping, splits, root)}")


NUM_SCENES = 4  # that an exported file is compared on: a few thousand positions each


@app.command()
def export(
    source: Annotated[Path, Argument(metavar="WEIGHTS", help="A file of weights, or a run folder.")],
    target: Annotated[Path, Argument(metavar="TARGET", help="The file to write: *.onnx")],
    size: Annotated[tuple[int, int], Option(metavar="H W", help="Of the example; others work too.")] = (512, 1024),
    plain_head: Annotated[bool, Option("--plain-head", help="Keep the published head: more work.")] = False,
) -> None:
    """Write a trained network as an ONNX file.

    ONNX Runtime and the network are compared on a few scenes first; a file that differs is not kept.

    Example: transkd export data/weights/streets-segformer_b0-transkd-base.safetensors student.onnx --size 64 128
    """
    from transkd_lite.data.datasets import LAYOUTS, open_dataset
    from transkd_lite.data.labels import CITYSCAPES
    from transkd_lite.metrics import as_batch
    from transkd_lite.models.onnx import export_onnx, parity

    model, made = experiment.read_weights(source)
    normalize, dataset = bool(made.get("normalize", True)), str(made.get("dataset"))
    # The classes of a file that does not name them: those of the training's data set, where it has fixed ones.
    fixed = CITYSCAPES if dataset == "streets" else getattr(LAYOUTS.get(dataset), "space", None)
    space = model.label_space or (fixed if fixed and fixed.num_classes == model.spec.num_classes else None)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as aside:
        options: dict[str, Any] = {"space": space, "normalize": normalize, "fold_head": not plain_head}
        try:
            file = export_onnx(model, Path(aside) / target.name, size, **options)
        except ValueError as error:  # a name or a size
            raise ParameterError(str(error)) from error
        scenes = open_dataset("streets", "val", num=NUM_SCENES, size=size)["image"]
        found = parity(model, file, as_batch(scenes, normalize=normalize))
        if not found.holds:
            raise RuntimeError(f"{target} was not written: ONNX Runtime disagrees with the network: {found}")
        atomic_write(target, file.read_bytes())
    typer.echo(f"{model.spec.name}, {model.spec.num_classes} classes, from {source}")
    typer.echo(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)")
    typer.echo(f"parity on {NUM_SCENES} scenes of {size[0]}x{size[1]}: {found}")


# --- Runs and batches.


@app.command()
def reproduce(
    name: Name,
    data_root: DataRoot = None,
    methods: Annotated[str, Option(help="Methods instead of the profile's: none,kd,transkd-base")] = "",
    seeds: Annotated[str, Option(help="Seeds instead of the profile's: 0,1,2")] = "",
    runs: Runs = Path("runs"),
    jobs: Annotated[int, Option(min=1, help="Notebooks side by side on this machine.")] = 1,
    scheduler: Annotated[str | None, Option(help="A Dask scheduler: tcp://host:8786")] = None,
    smoke: Annotated[bool, Option("--smoke", help="A minute or two: few steps and images.")] = False,
    settings: Settings = None,
) -> None:
    """Run a profile: teacher, students, report.

    Every run is a notebook executed by papermill into a folder of its own; finished runs are skipped.

    Examples:

    transkd reproduce demo

    transkd reproduce camvid --data-root ../CamVid --smoke

    transkd reproduce cityscapes --data-root /data/cityscapes --methods none,transkd-base --seeds 0 --jobs 2
    """
    if not all(map(str.isdecimal, _parts(seeds))):
        raise ParameterError(f"--seeds {seeds!r}: write whole numbers (a seed is 0 or more) with commas between them")
    where: dict[str, Any] = {"runs": runs, "jobs": jobs, "scheduler": scheduler, "echo": typer.echo}
    chosen = profile.load_profile(name, _settings(settings, data_root))
    chosen = profile.shrink(chosen) if smoke else chosen
    outcome = batch.reproduce(chosen, methods=_parts(methods), seeds=[int(seed) for seed in _parts(seeds)], **where)
    if not outcome.executed and not outcome.errors:
        rendered = "the report was rendered anew" if outcome.report_rendered else "nothing to do"
        typer.echo(f"All {len(outcome.runs)} runs in {outcome.root} are finished: {rendered}.")
    typer.echo("\n".join(["", run_table(outcome), "", score_table(outcome)]))
    if outcome.report is not None and outcome.report.is_file():
        stale = " (of an earlier batch)" if "report" in outcome.errors else ""
        typer.echo(f"\nReport: {outcome.report}{stale}")
    if outcome.runs[-1].kind == "student" and not outcome.errors:
        student = shlex.quote(str(outcome.root / outcome.runs[-1].folder))
        typer.echo(f"The last student as a file: transkd export {student} student.onnx")
    for folder, error in outcome.errors.items():
        typer.echo(f"FAILED {folder}: {error}", err=True)
    raise typer.Exit(bool(outcome.errors))


@app.command()
def train(
    name: Name,
    settings: Settings = None,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
    out: Annotated[Path | None, Option(help="The run folder (default: one named by the parameters).")] = None,
    save: Annotated[Path | None, Option(help="Also save the network here, in half precision.")] = None,
    teacher: Annotated[bool, Option("--teacher", help="The profile's teacher, not its student.")] = False,
) -> None:
    """Train one network from a profile's parameters.

    Goes on where an earlier call was stopped.

    Examples:

    transkd train streets-teacher --save data/weights/streets-segformer_b1.safetensors

    transkd train camvid --teacher --data-root ../CamVid
    """
    given = _settings(settings, data_root)
    chosen = profile.load_profile(name, given)
    kind = "teacher" if teacher else chosen.kind
    run = chosen.experiment(kind)
    ignored = [key for key in given if key.startswith("students." if teacher else "teacher.")]
    ignored += ["--teacher (there is no such section)"] * (teacher and chosen.teacher is None)
    ignored += ["teacher"] * (run.method == "none" and run.teacher is not None)
    if ignored:
        raise ParameterError(f"training {kind}, method {run.method}, would ignore {', '.join(ignored)}: leave it out")
    folder = out or runs / chosen.name / run.folder_name(kind)
    if os.environ.get("RANK", "0") != "0":  # of torchrun's processes one speaks and saves
        experiment.run_experiment(run, folder)
        return
    if "RANK" not in os.environ and not is_finished(folder):
        planned = profile.PlannedRun(kind, folder.name, profile.NOTEBOOKS, {}, None, run)
        typer.echo(batch.preflight([planned], folder.parent)[0])
    typer.echo(f"{run.network}, method {run.method}, into {folder}")
    typer.echo(_score_line(experiment.run_experiment(run, folder)))
    if save is not None:
        experiment.save_half(folder, save, profile=chosen.name + " --teacher" * teacher)
        typer.echo(f"saved {save} ({save.stat().st_size / 1e6:.1f} MB)")


@app.command()
def evaluate(
    source: Annotated[Path, Argument(metavar="RUN", help="A run folder, or a file of weights.")],
    settings: Settings = None,
    data_root: DataRoot = None,
    split: Annotated[str, Option(help="Which images to score on.")] = "val",
    as_json: AsJson = False,
) -> None:
    """Score a run's network, or a file of weights.

    By both protocols: at label resolution ("full") and at a quarter of it ("paper"). On the validation images of its
    training, which the folder or the file names; for a file that does not, --set dataset=… height=… and width=….

    Examples:

    transkd evaluate runs/demo/student-none-s0-1a2b3c4d

    transkd evaluate data/weights/streets-segformer_b1.safetensors --set val_images=50
    """
    from transkd_lite.metrics import PROTOCOLS

    values = _settings(settings, data_root)
    experiment.Experiment.from_dict(values)
    scores = experiment.evaluate_run(source, values, split)
    if as_json:
        typer.echo(json.dumps(scores, indent=2))
        return
    data = scores["data"]
    typer.echo(
        f"{data['dataset']}, split {data['split']}: {data['images']} images, {data['size'][0]} x {data['size'][1]} "
        f"(height x width of the first), {'' if data['normalize'] else 'not '}normalized"
    )
    rows = [("class", *PROTOCOLS)]
    for name in scores["full"]["iou"]:
        found = [scores[protocol]["iou"][name] for protocol in PROTOCOLS]
        rows.append((name, *("absent" if iou is None else f"{100 * iou:.2f}" for iou in found)))
    typer.echo(f"{_align(rows)}\n{_score_line(scores)}")


@app.command()
def report(
    name: Name,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
    smoke: Annotated[bool, Option("--smoke", help="That of the batch run with --smoke.")] = False,
    tables: Annotated[Path | None, Option(help="Also save the batch's table, curves and figure here.")] = None,
) -> None:
    """Render a batch's report again.

    Example: transkd report demo --tables data/results
    """
    from transkd_lite.results.comparison import save_results

    chosen = profile.load_profile(name, _settings(None, data_root))
    chosen = profile.shrink(chosen) if smoke else chosen
    root = (runs / chosen.name).resolve()
    if not root.is_dir():
        raise ParameterError(f"no batch in {root}: run `transkd reproduce {name}` first")
    if chosen.report is None and tables is None:
        raise ParameterError(f"profile {name} has no report; --tables DIR saves its tables")
    for path in save_results(root, tables) if tables is not None else ():
        typer.echo(f"Saved: {path}")
    if chosen.report is not None:
        typer.echo(f"Report: {batch.render_report(chosen, root)}")


@app.command("runs")
def list_run_folders(
    runs: Annotated[Path, Argument(metavar="[DIR]", help="The folder of run folders.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List run folders with their state.

    States: finished, running, interrupted, failed, damaged. Below the table stands what is wrong with which.

    Example: transkd runs runs/demo
    """
    found = list_runs(runs)
    if as_json:
        listed = [{**run.metrics, "run": str(run.folder), "state": run.state, "note": run.note} for run in found]
        typer.echo(json.dumps(listed, indent=2))
    elif found:
        rows = ((str(run.folder.relative_to(runs)), run.state, run.metrics) for run in found)
        notes = (f"{run.name} ({run.state}): {run.note}" for run in found if run.note)
        typer.echo("\n".join([_states(rows), *notes]))
    else:
        raise ParameterError(f"no run folder below {runs}: pass the folder that reproduce or train wrote to")


@app.command()
def notebooks(names: Annotated[list[str] | None, Argument(help="Such as 04_cross_selective_fusion.")] = None) -> None:
    """Execute the notebooks, store outputs in place.

    All, or those that are named, from their default parameters; a notebook that fails is left as it was.

    Example: transkd notebooks 01_data_and_metrics
    """
    folder = profile.NOTEBOOKS
    paths = [*folder.glob("[0-9][0-9]_*.ipynb"), *folder.glob("solutions/*.ipynb")]
    known = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in paths)
    failed = False
    for name in [check_name(name, known, "notebook") for name in names or known]:
        try:
            typer.echo(f"{name}: {notebook.refresh_notebook(folder / f'{name}.ipynb'):.0f} s")
        except RuntimeError as error:
            failed = True
            typer.echo(f"{name}: FAILED: {error}", err=True)
    raise typer.Exit(failed)


@app.command("describe")
def explain(method: Annotated[str, Argument(help="A method, or several joined with +; none lists all.")] = "") -> None:
    """Explain a method: formula, terms, options.

    Example: transkd describe transkd-base
    """
    from transkd_lite.distill.methods import describe, list_methods

    if not method:
        typer.echo("\n".join(list_methods()))
        return
    for part in method.split("+"):
        check_name(part, list_methods(), "method")
    describe(method)


def main() -> None:
    """What the installed script calls."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console's encoding may lack Σ or ‖
        sys.stdout.reconfigure(errors="replace")
    app()


if __name__ == "__main__":
    main()
