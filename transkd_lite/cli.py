"""The `transkd` command. Exit codes: 0 all done, 1 a run failed, 2 the command or a parameter is wrong (nothing ran).

Every command imports what is heavy when it is called, so that `--help` and a finished batch answer at once.
"""

import io
import json
import os
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option
from typer.core import TyperGroup

from transkd_lite import __version__
from transkd_lite.data import tools
from transkd_lite.data.datasets import LAYOUTS, open_dataset
from transkd_lite.data.decoding import read_frames
from transkd_lite.data.files import SUFFIXES, is_hidden
from transkd_lite.data.labels import LabelSpace, voc_palette
from transkd_lite.data.whole import METRICS_FILE, RUN_FILE, atomic_write, read_json
from transkd_lite.experiments import batch, experiment, preflight, profile
from transkd_lite.training.config import ParameterError, check_name
from transkd_lite.training.folder import caveats, is_finished, list_runs

__all__ = ["app", "main", "run_table", "score_table"]

# --- What runs have to say: which are finished, a line a run, scores by method and by class. No heavy import.


def run_table(outcome: batch.Outcome) -> str:
    """One line a run: folder, state, mIoU in percent, seconds."""
    rows = [("run", "state", "mIoU %", "seconds")]
    for run in outcome.runs:
        failed = run.folder in outcome.errors
        state = "FAILED" if failed else "finished" if batch.is_done(outcome.root, run) else "missing"
        metrics = {} if failed else read_json(outcome.root / run.folder / METRICS_FILE)
        rows.append((run.title, state, *batch.scores(metrics)))
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
    if not scores:
        return ""
    rows = [("method", "seeds", "mIoU %", "sd", "difference to none")]
    for (method, variant), by_seed in scores.items():
        values = list(by_seed.values())
        alone = scores.get(("none", variant if method != "none" else ""), scores.get(("none", ""), {}))
        gains = [value - alone[seed] for seed, value in by_seed.items() if seed in alone]
        compared = gains and (variant or method not in ("none", "teacher"))
        gain = f"{statistics.mean(gains):+.2f}" if compared else "-"
        mean, sd = f"{statistics.mean(values):.2f}", f"{statistics.stdev(values):.2f}" if len(values) > 1 else "-"
        rows.append((f"{method} ({variant})" if variant else method, str(len(values)), mean, sd, gain))
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
        except (ValueError, OSError, RuntimeError) as error:
            if isinstance(error, typer.Exit | typer.Abort | BrokenPipeError) or os.environ.get("TRANSKD_TRACEBACK"):
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2 if isinstance(error, ParameterError) else 1) from error


HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, context_settings=HELP)
data_app = typer.Typer(help="Fetch, prepare and check a dataset.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@app.callback(cls=_Group, invoke_without_command=True, no_args_is_help=True)
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


# --- Datasets and files.


def _report(name: str, root: Path, options: Mapping[str, Any]) -> Any:
    """What `check_dataset` finds."""
    try:
        return tools.check_dataset(check_name(name, LAYOUTS, "dataset in folders"), root, **options)
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
    options = profile.parse_settings(settings or [])
    path, told = preflight.new_profile(folder, _report(tools.find_name(data), data, options), options)
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
    typer.echo(tools.fetch(check_name(name, LAYOUTS, "dataset to fetch"), root or Path(name)))


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
    typer.echo(f"NYUv2 is in {tools.prepare_nyuv2(labeled, mapping, splits, root)}")


@app.command()
def export(
    source: Annotated[Path, Argument(metavar="WEIGHTS", help="A file of weights, or a run folder.")],
    target: Annotated[Path, Argument(metavar="TARGET", help="The file to write: *.onnx")],
    size: Annotated[tuple[int, int], Option(metavar="H W", help="Of the example; others work too.")] = (512, 1024),
    plain_head: Annotated[bool, Option("--plain-head", help="Keep the published head: more work.")] = False,
    opset: Annotated[int, Option(help="The version of ONNX's operators.")] = 20,
) -> None:
    """Write a trained network as an ONNX file.

    ONNX Runtime and the network are compared on a few scenes first; a file that differs is not kept.

    Example: transkd export data/weights/streets128-segformer_b0-transkd-base.safetensors student.onnx --size 128 256
    """
    from transkd_lite.metrics import as_batch
    from transkd_lite.models.onnx import export_onnx, parity

    model, made = experiment.read_weights(source)
    normalize = bool(made.get("normalize", True))
    with tempfile.TemporaryDirectory() as aside:
        options: dict[str, Any] = {"normalize": normalize, "fold_head": not plain_head, "parameters": made}
        try:
            file = export_onnx(model, Path(aside) / target.name, size, opset=opset, **options)
        except ValueError as error:  # a name, a size or an opset
            raise ParameterError(str(error)) from error
        height, width = (min(side, 1024) for side in size)  # the memory of a comparison grows with it
        scenes = open_dataset("streets", "val", num=4, size=(height, width))["image"]
        found = parity(model, file, as_batch(scenes, normalize=normalize))
        if not found.holds:
            raise RuntimeError(f"{target} was not written: ONNX Runtime disagrees with the network: {found}")
        atomic_write(target, file.read_bytes())
    what = f"{model.spec.name}, {model.spec.num_classes} classes, from {source}"
    typer.echo(f"{what}\nwrote {target} ({target.stat().st_size / 1e6:.1f} MB)")
    typer.echo(f"parity on 4 scenes of {height}x{width}: {found}")


@app.command()
def predict(
    source: Annotated[Path, Argument(metavar="NETWORK", help="A run folder, a file of weights, or an .onnx file.")],
    pictures: Annotated[Path, Argument(metavar="PICTURES", help="One, or a folder.", exists=True, resolve_path=True)],
    out: Annotated[Path, Option(help="The folder to write to.", resolve_path=True)],
    size: Annotated[tuple[int, int] | None, Option(metavar="H W", help="Of the network's input.")] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace what an earlier call has written.")] = False,
) -> None:
    """Segment pictures: label maps, and overlays with a legend.

    OUT/labels has a PNG for each picture: its pixels are class numbers (255 is void), in the colours of the classes.
    OUT/overlays has the picture under these colours, with their names below. Both have the picture's own size. A folder
    is searched with all folders in it, which OUT then has too. Every frame of an animation (GIF, WebP, PNG) counts, as
    NAME/00000.png and so on. The network is given pictures of the size of its training, where that is known, of --size
    H W, or with --size 0 0 each picture as it is.

    Example: transkd predict data/weights/streets128-segformer_b1.safetensors photographs --out segmented
    """
    kinds = [out / "labels", out / "overlays"]
    root, found = (pictures, sorted(pictures.rglob("*"))) if pictures.is_dir() else (pictures.parent, [pictures])
    found = [p for p in found if p.suffix.lower() in SUFFIXES and p.is_file() and not {*kinds} & {*p.parents}]
    names = [name for path in found if not any(map(is_hidden, (name := path.relative_to(root)).parts))]
    if not names:
        advice = "of a video make a folder of pictures: ffmpeg -i VIDEO FOLDER/%05d.png"
        raise ParameterError(f"pictures end with {', '.join(SUFFIXES)}; {pictures} has none: {advice}")
    alike = len({str(name.with_suffix("")).lower() for name in names}) < len(names)  # a.jpg beside a.png
    stems = [str(name if alike else name.with_suffix("")) for name in names]
    targets = [kind / target for kind in kinds for target in (*(f"{stem}.png" for stem in stems), *map(str, names))]
    if not overwrite and (there := [target for target in targets if target.exists()]):
        raise ParameterError(f"{there[0]} is there already: choose another --out, or add --overwrite")
    from transkd_lite.metrics import predict as segment  # heavy, like all below
    from transkd_lite.plots.pictures import label_map, overlay

    model, made = experiment.read_weights(source)
    given = {"height": None, "width": None} | {k: made[k] for k in ("height", "width", "normalize") if k in made}
    given |= {} if size is None else {"height": size[0] or None, "width": size[1] or None}
    seen = experiment.Experiment.from_dict(given)
    numbers = tuple(map(str, range(model.spec.num_classes)))
    space = model.label_space or LabelSpace(numbers, voc_palette(len(numbers) + 1)[1:])
    failed = 0
    for name, stem in zip(names, stems, strict=True):
        try:
            frames = read_frames(root / name)
            for number, frame in enumerate(frames):
                target = f"{name}/{number:05d}.png" if len(frames) > 1 else f"{stem}.png"
                (label,) = segment(model, frame, normalize=seen.normalize, size=seen.size)
                for kind, drawn in zip(kinds, (label_map(label, space), overlay(frame, label, space)), strict=True):
                    drawn.save(content := io.BytesIO(), "PNG")
                    atomic_write(kind / target, content.getvalue())
                shares = sorted(((label == k).mean(), word) for k, word in enumerate(space.names))[:-4:-1]
                typer.echo(f"{target}: {', '.join(f'{word} {share:.0%}' for share, word in shares if share)}")
        except (ValueError, OSError) as error:
            failed += 1
            typer.echo(f"FAILED {root / name}: {error}", err=True)
    at = f"{seen.height} x {seen.width} (height x width)" if seen.size else "their own size"
    typer.echo(f"{len(names) - failed} of {len(names)} are in {out}; the network was given them at {at}")
    raise typer.Exit(bool(failed))


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
    names, numbers = (text.replace(",", " ").split() for text in (methods, seeds))
    if not all(map(str.isdecimal, numbers)):
        raise ParameterError(f"--seeds {seeds!r}: write whole numbers (a seed is 0 or more) with commas between them")
    where: dict[str, Any] = {"runs": runs, "jobs": jobs, "scheduler": scheduler, "echo": typer.echo}
    chosen = profile.load_profile(name, _settings(settings, data_root))
    if smoke:
        chosen = profile.shrink(chosen)
        typer.echo("A smoke run: its scores mean nothing.")
    outcome = batch.reproduce(chosen, methods=names, seeds=list(map(int, numbers)), **where)
    if not outcome.executed and not outcome.errors:
        rendered = "the report was rendered anew" if outcome.report_rendered else "nothing to do"
        typer.echo(f"All {len(outcome.runs)} runs in {outcome.root} are finished: {rendered}.")
    typer.echo("\n".join(["", run_table(outcome), "", score_table(outcome)]))
    if outcome.report is not None and outcome.report.is_file():
        typer.echo(f"\nReport: {outcome.report}{' (of an earlier batch)' * ('report' in outcome.errors)}")
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

    transkd train streets-teacher --save runs/streets-segformer_b1.safetensors

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

    transkd evaluate data/weights/streets128-segformer_b1.safetensors --set val_images=50
    """
    import pandas as pd

    scores = experiment.evaluate_run(source, _settings(settings, data_root), split)
    if as_json:
        typer.echo(json.dumps(scores, indent=2))
        return
    data, (height, width) = scores["data"], scores["data"]["size"]
    size = f"{height} x {width} (height x width of the first), {'' if data['normalize'] else 'not '}normalized"
    typer.echo(f"{data['dataset']}, split {data['split']}: {data['images']} images, {size}")
    iou = pd.DataFrame({name: score["iou"] for name, score in scores.items() if name != "data"}, dtype=float)
    table = (100 * iou).rename_axis(columns="class").to_string(float_format="%.2f", na_rep="absent")
    typer.echo(f"{table}\n{_score_line(scores)}")


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
    if not any(map(is_finished, root.glob("student-*"))):
        raise ParameterError(f"no student has finished in {root}: run `transkd reproduce {name}` first")
    if chosen.report is None and tables is None:
        raise ParameterError(f"profile {name} has no report; --tables DIR saves its tables")
    for path in save_results(root, tables, str(data_root) if data_root else None) if tables is not None else ():
        typer.echo(f"Saved: {path}")
    if chosen.report is not None:
        typer.echo(f"Report: {batch.render_report(chosen, root)}")


@app.command("runs")
def list_run_folders(
    folder: Annotated[Path | None, Argument(metavar="[DIR]", help="Only those below this folder.")] = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List run folders with their state.

    States: finished, running, interrupted, failed, damaged. Below the table stands what is wrong with which.

    Example: transkd runs runs/demo
    """
    found = list_runs(runs := folder or runs)
    if as_json:
        listed = [{**run.metrics, "run": str(run.folder), "state": run.state, "note": run.note} for run in found]
        typer.echo(json.dumps(listed, indent=2))
    elif found:
        rows: list[tuple[str, ...]] = [("run", "state", "mIoU %", "seconds", "step", "precision", "begun")]
        for run in found:
            step = "{step} of {steps}".format_map(run.progress) if run.progress else str(run.metrics.get("steps", "-"))
            told = (str(run.info.get(name) or "-")[:16].replace("T", " ") for name in ("precision", "started"))
            rows.append((str(run.folder.relative_to(runs)), run.state, *batch.scores(run.metrics), step, *told))
        notes = (f"{run.name} ({run.state}): {run.note}" for run in found if run.note)
        typer.echo("\n".join([_align(rows), *notes]))
    else:
        raise ParameterError(f"no run folder below {runs}: pass the folder that reproduce or train wrote to")


@app.command()
def notebooks(copy: Annotated[Path, Option(metavar="DIR", help="A new folder.")]) -> None:
    """Copy the course's notebooks and profiles.

    Example: transkd notebooks --copy course
    """
    if copy.exists():
        raise ParameterError(f"--copy writes a new folder, and {copy} exists: name another")
    typer.echo(f"Copied: {shutil.copytree(profile.NOTEBOOKS, copy)}. Open it with: jupyter lab {copy}")


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
