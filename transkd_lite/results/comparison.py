"""What a batch of runs says: means with their spread, differences with intervals, gains by class and by budget.

A difference between two methods is taken seed by seed: the two runs of a pair share the student's initial weights, the
labelled images and the order of the batches, so what differs is the method, and what is left of chance. With few seeds
the interval of the mean difference is Student's (n - 1 degrees of freedom): wide, and honestly so. The bootstrap's
stands beside it (`statistics` says what each is worth).
"""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from transkd_lite.data.labels import LabelSpace, label_space
from transkd_lite.data.transforms import resize_labels
from transkd_lite.data.whole import STUDENT_FILE, atomic_write, fingerprint, verified
from transkd_lite.experiments.experiment import Experiment
from transkd_lite.metrics import SegMetrics, evaluate_by, match_sizes, predict
from transkd_lite.models.weights import load_model
from transkd_lite.results import statistics, tables
from transkd_lite.training.folder import read_run

__all__ = [
    "Gallery", "beside_the_paper", "best_first", "budget_gains", "claims", "class_gains", "gains_by", "load_gallery",
    "load_references", "paired_differences", "per_class", "published", "reference_scores", "save_results",
    "scene_scores", "score_blocks", "score_conditions", "score_curves", "scoreboard", "scores_in_words", "strip",
    "summary", "time_to_reach", "verdict",
]  # fmt: skip


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Runs, mean, standard deviation (n - 1), lowest and highest mIoU for every method, best mean first."""
    groups = table.groupby("method", sort=False)["miou"]
    return groups.agg(runs="count", mean="mean", sd="std", low="min", high="max").sort_values("mean", ascending=False)


def best_first(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table sorted by their methods' mean mIoU, best first; those of one method keep their order."""
    return table.set_index("method").loc[summary(table).index].reset_index()


def paired_differences(table: pd.DataFrame, baseline: str = "none") -> pd.DataFrame:
    """Mean difference of every other method to `baseline`, seed by seed, with its 95% intervals.

    table: one row a run; one run for each method and seed.
    baseline: the method to compare with.
    Returns columns method, baseline, pairs, mean; low, high (Student); boot_low, boot_high (bootstrap over seeds); p
    (two-sided paired t-test), p_holm (p corrected for the number of methods), superiority (probability that a run
    of the method beats one of the baseline). Intervals and p are nan with fewer than two pairs.
    Raises `ValueError`: the baseline is not in the table; see `score_blocks`, too.
    """
    scores = score_blocks(table)
    if baseline not in scores:
        raise ValueError(f"baseline {baseline!r} has no run here: choose one of {', '.join(scores)}")
    rows = []
    for method in scores.columns.drop(baseline):
        difference = (scores[method] - scores[baseline]).dropna()
        means = (*statistics.student_interval(difference), *statistics.bootstrap_interval(difference)[1:])
        better = statistics.probability_of_superiority(scores[method], scores[baseline])
        rows.append((method, baseline, len(difference), *means, statistics.paired_t(difference), better))
    names = ["method", "baseline", "pairs", "mean", "low", "high", "boot_low", "boot_high", "p", "superiority"]
    out = pd.DataFrame(rows, columns=names)
    out.insert(names.index("superiority"), "p_holm", statistics.holm(out["p"]))
    return out


def score_blocks(table: pd.DataFrame) -> pd.DataFrame:
    """mIoU of every seed (rows) and method (columns): the blocks that ranks and differences are taken of.

    Raises `ValueError`: a method has two runs of one seed.
    """
    if table.duplicated(["method", "seed"]).any():
        raise ValueError("a method has one run of a seed, here are several: choose a budget, or tables.label_variants")
    scores = table.pivot(index="seed", columns="method", values="miou")
    return scores[table["method"].unique()].rename_axis(columns=None)


def per_class(table: pd.DataFrame) -> pd.DataFrame:
    """Mean IoU of every class (rows, in the data's order) for every method (columns)."""
    means = table.set_index("method").filter(regex="^iou_").groupby(level=0, sort=False).mean().T
    return means.rename(index=lambda name: name.removeprefix("iou_"))


def gains_by(table: pd.DataFrame, group: str, baseline: str = "none") -> pd.DataFrame:
    """What every method gains over `baseline` for each value of a column alone, seed by seed, with Student's interval.

    table: columns method, seed, miou and `group`, such as "condition" of `score_conditions`.
    group: the column.
    baseline: the method to compare with.
    Returns columns `group`, method, pairs, mean, low, high in [-1, 1]; intervals are nan with fewer than two pairs.
    With many rows some intervals exclude zero by luck alone: 1 in 20 at 95%.
    """
    gains = {value: paired_differences(rows, baseline) for value, rows in table.groupby(group, sort=False)}
    return pd.concat(gains, names=[group]).reset_index()[[group, "method", "pairs", "mean", "low", "high"]]


def class_gains(table: pd.DataFrame, baseline: str = "none") -> pd.DataFrame:
    """`gains_by` class, in the data's order, of a table with a column `iou_<class>` for each."""
    scores = table.set_index(["method", "seed"]).filter(regex="^iou_").rename(columns=lambda c: c.removeprefix("iou_"))
    rows = scores.melt(var_name="class", value_name="miou", ignore_index=False)
    return gains_by(rows.reset_index(), "class", baseline)


def budget_gains(batches: Mapping[str, pd.DataFrame], baseline: str = "none") -> pd.DataFrame:
    """The difference of every method to `baseline` in every budget of several tables: what more steps or labels do.

    batches: name -> rows of students, one protocol; a budget (see `tables.cells`) without the baseline is left out.
    baseline: the method to compare with.
    Returns the columns of `paired_differences`, and batch, dataset, train_images, steps, baseline_miou.
    """
    parts = []
    for name, table in batches.items():
        for rows in map(tables.label_variants, tables.cells(table).values()):
            alone = rows[rows["method"] == baseline]
            if len(alone) and rows["method"].nunique() > 1:
                budget = alone.iloc[0][["dataset", "train_images", "steps"]].to_dict() | {"batch": name}
                parts.append(paired_differences(rows, baseline).assign(**budget, baseline_miou=alone["miou"].mean()))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def verdict(differences: pd.DataFrame) -> str:
    """What the runs say in Markdown: each of the `paired_differences`, largest first, by whether it excludes zero."""
    rows = differences.sort_values("mean", ascending=False)
    sure, known = statistics.excludes_zero(rows["low"], rows["high"]), rows["low"].notna()
    found = {
        "Distinguishable from {}": rows[sure],
        "Not distinguishable from {}": rows[~sure & known],
        "One seed, which says nothing about chance, beside {}": rows[~known],
    }
    lines, told = [], "**{}** {:+.1f} ({:+.1f} to {:+.1f})".format
    for head, part in found.items():
        for base, own in part.groupby("baseline", sort=False):
            points = 100 * own.set_index("method")[["mean", "low", "high"]]
            gains = [told(*row).removesuffix(" (+nan to +nan)") for row in points.itertuples()]
            unit = "points, 95% interval" if own["low"].notna().any() else "points"
            lines.append(f"- {head.format(base)} ({unit}): {', '.join(gains)}.")
    return "\n".join(lines)


def scores_in_words(table: pd.DataFrame, teacher: float | None) -> str:
    """The mean of each method, best first, as a sentence in Markdown; teacher: its mIoU in [0, 1], if it was scored."""
    told = "**{}** {:.1f} ± {:.1f}".format
    means = [told(m, 100 * row["mean"], 100 * row["sd"]).removesuffix(" ± nan") for m, row in summary(table).iterrows()]
    text = f"mIoU in %, mean ± standard deviation over seeds: {'; '.join(means)}."
    return text if teacher is None else f"{text} The teacher reaches {100 * teacher:.1f}."


# --- The published numbers, and ours beside them: never mixed, each cell with its origin.


def published() -> pd.DataFrame:
    """The paper's own numbers (mIoU in %), with their source: a table to set beside, never to mix with, ours.

    Its column `method` is the row's name here.
    """
    return tables.read_table("paper")


def beside_the_paper(table: pd.DataFrame, teacher: float | None, teacher_name: str = "") -> pd.DataFrame:
    """The paper's rows with what was measured here beside them; a row that was not run says so.

    table: the students' rows of one protocol.
    teacher: the teacher's mIoU in [0, 1], if it was scored.
    teacher_name: which network taught here, for it need not be the paper's.
    """
    paper, scores = published(), table.groupby("method")["miou"]
    here = {name: f"measured, {100 * own.mean():.2f} (mean of {own.count()})" for name, own in scores}
    if teacher is not None:
        here["teacher"] = f"measured, {100 * teacher:.2f}" + (f" ({teacher_name})" if teacher_name else "")
    columns = {"cityscapes_miou": "published, Cityscapes", "acdc_miou": "published, ACDC"}
    shown = paper.set_index("network")[[*columns]].map("published, {:.2f}".format).rename(columns=columns).reset_index()
    return shown.assign(**{"measured here": paper["method"].map(here).fillna("not run")})


def claims(table: pd.DataFrame, teacher: float | None = None) -> pd.DataFrame:
    """The paper's claims that these runs can test, each with the published figures, ours, and whether it holds.

    A difference is claimed where Cityscapes shows one; the interval is Student's, 95%, over seeds. "holds" and "does
    not hold" ask for an interval that leaves out zero, or, for a share of the gap, the share published for Cityscapes.
    Gain and gap vary together, both with the student alone: the interval of their ratio is that of its linear part.

    table: the students' rows of one protocol and one budget, methods by their plain names.
    teacher: the teacher's mIoU in [0, 1]; without it no share of the gap is computed.
    Returns columns claim, unit, cityscapes, acdc, mean, low, high, verdict; a claim without its runs is left out.
    """
    paper = published().set_index("method")[["cityscapes_miou", "acdc_miou"]].T
    scores = 100 * score_blocks(table)
    here = [name for name in paper.drop(columns="teacher") if name in scores]  # none first
    rows = []
    for lower, upper in combinations(here, 2):
        found = statistics.student_interval(scores[upper] - scores[lower])
        rows.append((f"{upper} above {lower}", "points", *(paper[upper] - paper[lower]).round(2), *found))
    for method in here[1:] if teacher is not None and "none" in here else []:
        there = 100 * (paper[method] - paper["none"]) / (paper["teacher"] - paper["none"])
        gain, gap = scores[method] - scores["none"], 100 * (teacher - scores["none"] / 100)
        share = gain.mean() / gap.mean()
        found = statistics.student_interval(100 * (share + (gain - share * gap) / gap.mean()))
        rows.append((f"{method} closes more of the gap than published", "%", *there.round(1), *found))
    out = pd.DataFrame(rows, columns=["claim", "unit", "cityscapes", "acdc", "mean", "low", "high"])
    claimed = out["cityscapes"].where(out["unit"] == "%", 0)
    judged = [out["low"].isna(), out["low"] > claimed, out["high"] < claimed]
    return out.assign(verdict=np.select(judged, ["one seed: not decided", "holds", "does not hold"], "not decided"))


# --- How a score grows with steps and with time, from runs that were scored on the way (`eval_every`).
#
# A method that costs more a step must be compared by the clock too.


def score_curves(history: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Mean score of every method at every step at which its runs were scored, the last one included.

    history: curves of a batch with `val_miou`, under the labels of `table` (see `tables.label_history`).
    table: rows of students, one protocol and one budget; their scores are the curves' last points.
    Returns columns method, step, mean, low, high (over seeds), runs, seconds (of training, the median over seeds, for
    one run may have shared its machine); methods in the table's order.
    """
    points = history.dropna(subset="val_miou")
    ends = table.rename(columns={"steps": "step", "wall_s": "seconds", "miou": "val_miou"})
    groups = pd.concat([points, ends[ends["run"].isin(points["run"])]], join="inner").groupby(["method", "step"])
    curves = groups["val_miou"].agg(mean="mean", low="min", high="max", runs="count")
    curves = curves.assign(seconds=groups["seconds"].median()).reset_index()
    order = list(table["method"].unique())
    return curves.sort_values("method", kind="stable", key=lambda names: names.map(order.index))


def time_to_reach(curves: pd.DataFrame, target: float) -> pd.DataFrame:
    """The first scored step, and the seconds until then, at which a method's mean is at least `target`.

    Returns: index method; columns step, seconds, mean; nan in all three where a method never gets there.
    """
    reached = curves[curves["mean"] >= target].sort_values("step").groupby("method", sort=False).first()
    return reached[["step", "seconds", "mean"]].reindex(curves["method"].unique())


# --- Scores of a batch's networks under each condition alone, such as fog, night, rain and snow of streets and ACDC.
#
# A run's `metrics.json` holds its scores over all validation images. The networks lie beside it, so that their scores
# under each condition can be taken afterwards; the table of them ships with the others in `data/results`.

COLUMNS = ("run", "method", "seed", "condition", "images", "miou")


def _experiment(folder: Path, data_root: str | None) -> Experiment:
    """A finished run's, to open its data where they lie now; its teacher need not be here any more."""
    parameters = read_run(folder).info["parameters"] | {"method": "none", "options": {}, "teacher": None}
    return Experiment.from_dict(parameters | ({"data_root": data_root} if data_root else {}))


def score_conditions(
    batch: tables.Batch, rows: pd.DataFrame | None = None, data_root: str | None = None
) -> pd.DataFrame:
    """Score the students of a folder of runs on each condition of their validation images ("full" protocol).

    A progress bar appears on stderr when it takes more than five seconds.

    batch: runs whose folder is here.
    rows: only the runs of these rows of its table; all students by default.
    data_root: where the data set lies, for those that need it.
    Returns columns run, method, seed, condition, images, miou: a row for each run and condition; no row for a run whose
    network is gone, and none where the data have no column "condition".
    Raises `ValueError`: the batch is a shipped table, without networks.
    """
    if batch.root is None:
        raise ValueError(f"{batch.name} holds no networks: pass the folder of its runs, such as runs/demo")
    found = []
    rows = tables.students(batch.table) if rows is None else rows
    for run in tqdm(rows.itertuples(), "scores by condition", len(rows), unit="network", delay=5):
        weights = batch.root / run.run / STUDENT_FILE
        if weights.is_file():
            experiment = _experiment(weights.parent, data_root)
            data = experiment.open_split("val", experiment.val_images)
            if "condition" in data.column_names:
                images = pd.Series(data["condition"]).value_counts()
                scores = evaluate_by(load_model(weights), data, normalize=experiment.normalize)
                found += [(run.run, run.method, run.seed, k, int(images[k]), score.miou) for k, score in scores.items()]
    return pd.DataFrame(found, columns=list(COLUMNS))


# --- What a batch looks like: the same validation images segmented by its networks, and the files that stay of it.

STUDENTS = ("none", "kd", "transkd-base", "transkd-gl", "transkd-ea")
SHIPPED = {m: f"streets128-segformer_b0-{m}" for m in STUDENTS} | {"teacher": "streets128-segformer_b1"}


class Gallery(NamedTuple):
    """N pictures uint8 (H, W, 3), their label space, and N maps (H, W) of train ids for each row.

    The rows: "label", the students from the lowest mean score to the highest, "teacher".
    """

    images: list[Any]
    rows: dict[str, list[NDArray[np.uint8]]]
    space: LabelSpace


def load_gallery(batch: tables.Batch, num_images: int = 5, data_root: str | None = None) -> Gallery | None:
    """Segment the first validation images by the teacher and by the first seed's student of every method.

    batch: the runs; for a shipped table of streets, the networks that come with the course are used.
    num_images: how many images.
    data_root: where the data set lies, for those that need it.
    Returns none where no weights are here.
    """
    first, networks = batch.table.iloc[0], {}
    if batch.root is not None:
        rows = best_first(tables.students(batch.table.sort_values("seed", kind="stable"))).drop_duplicates("method")
        named = pd.concat([rows[::-1], tables.teachers(batch.table).assign(method="teacher")[:1]])
        networks = {row.method: batch.root / row.run / STUDENT_FILE for row in named.itertuples()}
        experiment = _experiment(batch.root / first["run"], data_root)
    elif first["dataset"] == "streets":
        networks = {name: tables.DATA / "weights" / f"{file}.safetensors" for name, file in SHIPPED.items()}
        experiment = Experiment.from_dict({"height": int(first["height"]), "width": int(first["width"])})
    networks = {name: path for name, path in networks.items() if path.is_file()}
    if not networks:
        return None
    data = experiment.open_split("val", num_images)
    images = [sample["image"] for sample in data]
    maps = {"label": [np.asarray(sample["label"]) for sample in data]}
    for name, path in networks.items():
        own = experiment if batch.root is None else _experiment(path.parent, data_root)
        maps[name] = predict(load_model(path), images, normalize=own.normalize)
    return Gallery(images, maps, label_space(data))


def strip(gallery: Gallery) -> dict[str, Any]:
    """The first scene as pictures (H, W, 3) for `plots.maps`: image, label, predictions in the gallery's order.

    Of more than three students only none, kd and transkd-base.
    """
    few = {"label", *STUDENTS[:3], "teacher"} if len(gallery.rows) > 5 else gallery.rows
    shown = {name: gallery.space.colorize(maps[0]) for name, maps in gallery.rows.items() if name in few}
    return {"image": gallery.images[0]} | shown


def _confusions(answers: Any, labels: Any, num_classes: int) -> NDArray[np.int64]:
    """(N, K + 1, K + 1) of N maps each: the last column counts the answers that are no class."""
    known = [np.minimum(np.asarray(answer), num_classes) for answer in answers]
    return statistics.image_confusions(known, labels, num_classes + 1)


def _miou(confusion: NDArray[np.int64]) -> float:
    return SegMetrics(torch.tensor(confusion[:-1, :-1]), torch.tensor(confusion[:-1, -1])).miou


def scene_scores(gallery: Gallery) -> pd.DataFrame:
    """mIoU in [0, 1] of every network (columns) on every picture alone (rows), over the classes that are there."""
    labels, num = gallery.rows["label"], gallery.space.num_classes
    networks = {name: maps for name, maps in gallery.rows.items() if name != "label"}
    return pd.DataFrame({name: map(_miou, _confusions(maps, labels, num)) for name, maps in networks.items()})


def reference_scores(train: Any, val: Any) -> dict[str, float]:
    """mIoU in [0, 1], protocol "full", of answers that no network gives: the ends of every scale.

    blind: one map for all images, at each position the class that is most frequent there in the labels of `train`; left
        out where these differ in size.
    oracle: the true label at a quarter of its size, enlarged again as a network's logits are.
    train, val: data sets of one label space.
    """
    num, found, counts = label_space(val).num_classes, dict[str, Any](), dict[torch.Size, Any]()

    def quarter(sample: Any) -> torch.Tensor:
        label = torch.tensor(np.asarray(sample["label"]))[None]
        small = resize_labels(label, [-(-side // 4) for side in label.shape[1:]])
        return (small == torch.arange(num)[:, None, None]).float()[None]

    for maps in map(quarter, train):
        counts[maps.shape] = counts.get(maps.shape, 0) + maps
    blind = {"blind": (counts.popitem()[1] + 1e-3).log()} if len(counts) == 1 else {}
    for sample in val:
        label = torch.tensor(np.asarray(sample["label"]))[None]
        for name, logits in (blind | {"oracle": quarter(sample)}).items():
            answer = match_sizes(logits, label, "full")[0].argmax(1)
            found[name] = found.get(name, 0) + _confusions(answer, label, num)[0]
    return {name: _miou(confusion) for name, confusion in found.items()}


def load_references(batch: tables.Batch, data_root: str | None = None) -> dict[str, float]:
    """`reference_scores` of a batch's data: for a shipped table those that were saved with it, none where it has none.

    data_root: where the data set of a folder of runs lies, for those that need it.
    """
    if batch.root is None:
        saved = tables.read_table(f"results/{batch.name.partition(' ')[0]}_references", ("name", "miou"))
        return dict(zip(saved["name"], saved["miou"], strict=True))
    first = batch.root / tables.students(batch.table)["run"].iloc[0]
    return reference_scores(*_experiment(first, data_root).open_data())


def scoreboard(batch: tables.Batch, *methods: str) -> pd.DataFrame:
    """The students' mean scores, the lowest first, between the blind guess, the teacher and the oracle.

    batch: rows of one budget and protocol; a shipped table, or runs whose data need no path.
    methods: only these students, and `none`.
    Returns index method (blind, the students, teacher, oracle); columns "mIoU in %", "±" (standard deviation over
    seeds), "gap closed in %": how far a mean is on the way from the student alone to the teacher.
    """
    students = tables.label_variants(tables.students(batch.table))
    shown = students[students["method"].isin(["none", *methods])] if methods else students
    rows, ends = summary(shown)[::-1], load_references(batch)
    scores = pd.concat([
        pd.Series({"blind": ends.get("blind")}), rows["mean"],
        pd.Series({"teacher": tables.teachers(batch.table)["miou"].mean(), "oracle": ends.get("oracle")}),
    ]).astype(float)  # fmt: skip
    closed = 100 * ((scores - scores["none"]) / (scores["teacher"] - scores["none"]))[rows.index.drop("none")]
    columns = {"mIoU in %": 100 * scores, "±": 100 * rows["sd"], "gap closed in %": closed}
    return pd.DataFrame(columns).reindex(scores.index).rename_axis("method")


def save_results(root: Path, folder: Path, data_root: str | None = None) -> list[Path]:
    """Save what stays of the batch of a folder of runs: files of `folder` that begin with its name.

    .csv and _history.csv, which `tables.load_batch` reads where the run folders are not; _networks.csv, which names the
    trained networks, which are not shipped, with size and checksum; _references.csv, the scores of no network; the
    figure of the scores as .png; the first scene segmented by every network as _strip.png; and for streets, whose
    validation scenes need no files, _conditions.csv.
    """
    from transkd_lite import plots

    batch = tables.load_batch(root)
    gallery = load_gallery(batch, 1, data_root)
    runs, best = best_first(tables.label_variants(tables.students(batch.table))), tables.teachers(batch.table)["miou"]
    networks = [root / run / STUDENT_FILE for run in batch.table["run"].unique()]
    sums = [(p.parent.name, p.name, *fingerprint(verified(p)).values()) for p in networks if p.is_file()]
    references = load_references(batch, data_root)
    figure = plots.methods(runs, reference=references | ({} if best.empty else {"teacher": best.iloc[0]}))
    files: dict[str, str | bytes] = {
        ".csv": batch.table.to_csv(index=False),
        "_history.csv": batch.history.to_csv(index=False, float_format="%.6g"),
        "_networks.csv": pd.DataFrame(sums, columns=["run", "file", "bytes", "sha256"]).to_csv(index=False),
        "_references.csv": pd.Series(references, name="miou").rename_axis("name").to_csv(),
        ".png": plots.to_png(figure),
    }
    if gallery is not None:
        files["_strip.png"] = plots.to_png(plots.maps(strip(gallery), columns=3))
    if batch.table["dataset"].iloc[0] == "streets" and len(scores := score_conditions(batch)):
        files["_conditions.csv"] = scores.to_csv(index=False)
    return [atomic_write(folder / f"{batch.name}{end}", content) for end, content in files.items()]
