"""Tables of measured results: made from run folders, saved, read back by name, and their rows told apart.

One row a run and protocol. The tables in `data/results` are made here and read here, so that every figure of the
report comes from the same columns, whether the runs lie on this disk or not.
"""

import json
import os
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from transkd_lite.data.whole import COURSE, HISTORY_FILE, DamagedRunError, read_json, verified
from transkd_lite.metrics import PROTOCOLS
from transkd_lite.training.folder import BATCH_FILE, Run, list_runs

__all__ = [
    "DATA", "TOLD_APART", "Batch", "cells", "in_words", "label_history", "label_variants",
    "load_batch", "origin", "read_table", "results_table", "shipped_tables", "students", "teachers", "training_curves",
]  # fmt: skip

# --- Which rows of a table may be compared, and what to call variants of one method.
#
# A method run with other options, another teacher or another learning rate is another row of the comparison,
# and needs a name that says so. Another number of steps or labelled images is another budget, in which all
# methods start anew.

_BUDGET = ("dataset", "student", "train_images", "steps", "batch_size", "height", "width")
TOLD_APART = (*_BUDGET, "lr", "augment", "precision", "teacher")


def cells(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split students into the budgets in which they may be compared; the one with most runs first.

    A budget is data set, student, number of labelled images, steps, batch size and image size. It splits the table
    only where some method was run at several; a method that always had its own (the paper's student alone) stays
    beside the others.

    Returns label such as "steps 300, train_images 128" -> rows; one entry with the label "one budget" if there is but
    one.
    """
    varies = list(table.groupby("method")[[*_BUDGET]].nunique(dropna=False).max().loc[lambda most: most > 1].index)
    if not varies:
        return {"one budget": table}
    groups = table.groupby(varies, sort=False, dropna=False)
    parts = {", ".join(map(_phrase, varies, key)): rows for key, rows in groups}
    return dict(sorted(parts.items(), key=lambda item: -len(item[1])))


def label_variants(table: pd.DataFrame) -> pd.DataFrame:
    """Give rows of one method with other options, settings or budgets labels such as "transkd-base (fusion abf)".

    A parameter is named where it differs between rows of one method and is not the usual one: for options, which is
    not to be given; for the teacher, the batch's own; for the learning rate, that of most rows of the method; for all
    else, the value that most rows have. No budget is usual: where a method has several (see `cells`), every one is
    named. The learning rate, which a search may have chosen for each variant, is named only where nothing else differs.
    A table without variants comes back as it was.

    table: rows of students, one protocol.
    """
    parts = [table[list(TOLD_APART)]]
    for column in table.columns.intersection(["options", "settings"], sort=False):
        parsed = [json.loads(text) if isinstance(text, str) else {} for text in table[column]]
        parts.append(pd.DataFrame(parsed, table.index, dtype=object).add_prefix(f"{column}."))
    given = pd.concat(parts, axis=1).map(_text)
    usual = {name: values.value_counts(sort=False).idxmax() for name, values in given.items()}
    usual |= {name: "" for name in given if name.startswith("options.")} | dict.fromkeys(_BUDGET)
    if (own := given["teacher"].str.startswith("run:")).any():
        usual["teacher"] = given["teacher"][own].value_counts(sort=False).idxmax()
    labels = table["method"].astype(str).copy()
    for _, rows in given.groupby(table["method"], sort=False):
        usual["lr"] = rows["lr"].value_counts().reindex(given["lr"].value_counts().index).idxmax()
        varies = [name for name in rows if rows[name].nunique() > 1]
        others = [name for name in varies if name != "lr"]
        if others and (rows.groupby(others)["lr"].nunique() == 1).all():
            varies = others
        for index, row in rows[varies].iterrows():
            if told := [_phrase(name, row[name]) for name in varies if row[name] != usual[name]]:
                labels[index] += f" ({', '.join(told)})"
    return table.assign(method=labels)


def _text(value: Any) -> str:
    """A value to compare and to name: numbers short, a file by its name alone, "" for None and nan."""
    if value is None or value != value:
        return ""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return Path(text).stem if text.endswith(".safetensors") else text


def _phrase(name: str, value: Any) -> str:
    return f"{name.rpartition('.')[2]} {_text(value).removeprefix('run:') or 'none'}"


def label_history(history: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The curves, or scores by condition, of the runs in `rows`, under the labels that these have."""
    return history.assign(method=history["run"].map(rows.set_index("run")["method"])).dropna(subset="method")


# --- Tables of measured results: made from run folders, saved, and read back by name.

DATA = COURSE / "data"
_CURVES = ("step", "loss", "ce", "method", "seed", "run")
_COLUMNS = """dataset protocol teacher student method options train_images seed steps batch_size lr augment height width
    precision threads teacher_cache initial_values device torch commit run wall_s settings miou pixel_accuracy"""
# Parameters of a run that have a column of their own, or do not say how it was trained.
_KNOWN = "network method options seed epochs deterministic compile data_root device"


class Batch(NamedTuple):
    """The finished runs of one batch: their table, their training curves, and the folder they lie in, if it is here."""

    name: str
    table: pd.DataFrame
    history: pd.DataFrame
    root: Path | None = None


def load_batch(source: str | os.PathLike[str]) -> Batch:
    """Read a folder of run folders, or a shipped table by its name.

    source: `runs/demo`, or a name of `shipped_tables` such as "demo"; a folder of that name goes first.
    Raises `FileNotFoundError`: nothing finished lies there, with the tables that exist. Raises `DamagedRunError`: one
    of the runs is not as it was when it finished.
    """
    name = Path(source).name
    if Path(source).is_dir() or os.fspath(source) != name:
        return Batch(name, results_table(source), training_curves(source), Path(source))
    table = read_table(f"results/{name}")
    if table.empty:
        known = ", ".join(shipped_tables()["table"])
        advice = f"run `transkd reproduce {name}` and pass run_dir, or name one of {known}"
        raise FileNotFoundError(f"no folder of runs and no shipped table {name!r}: {advice}")
    return Batch(f"{name} (shipped tables)", table, read_table(f"results/{name}_history", _CURVES))


def read_table(name: str, columns: tuple[str, ...] = (), **options: Any) -> pd.DataFrame:
    """The file `data/<name>.csv`, in which "none" is a method; an empty table with `columns` where there is no file."""
    path = DATA / f"{name}.csv"
    if not path.is_file():
        return pd.DataFrame(columns=list(columns))
    return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"threads": str}, **options)


def shipped_tables() -> pd.DataFrame:
    """One line for every table in `data/results`: table, dataset, methods, seeds, runs, commit, torch, device."""
    lines = []
    for path in sorted((DATA / "results").glob("*.csv")):
        if "protocol" in read_table(f"results/{path.stem}", nrows=0):
            rows = students(read_table(f"results/{path.stem}"))
            told = rows[["dataset", "commit", "torch", "device"]].assign(commit=rows["commit"].str[:8])
            words = {name: ", ".join(map(str, values.dropna().unique())) or "unknown" for name, values in told.items()}
            counts = {"methods": rows["method"].nunique(), "seeds": rows["seed"].nunique(), "runs": len(rows)}
            lines.append({"table": path.stem, **counts, **words})
    return pd.DataFrame(lines, columns=["table", "dataset", "methods", "seeds", "runs", "commit", "torch", "device"])


WORDS = {
    "mean": "difference, points", "low": "95% from", "high": "to", "boot_low": "bootstrap from", "boot_high": "to ",
    "p_holm": "p, corrected", "superiority": "chance that one run is better", "sd": "standard deviation",
}  # fmt: skip


def in_words(table: pd.DataFrame, decimals: int | None = None, **words: str) -> pd.DataFrame:
    """A table for people: its columns' names in words, those of `words` in others; numbers with so many `decimals`.

    With `decimals` cells are texts, and one without a number is empty.
    """
    shown = table if decimals is None else table.map(f"{{:.{decimals}f}}".format).replace("nan", "")
    return shown.rename(columns=lambda name: (WORDS | words).get(name, str(name).replace("_", " ")))


def origin(table: pd.DataFrame) -> pd.DataFrame:
    """Where the rows come from: runs for each commit, version of torch, device, precision and number of threads."""
    shown = table.drop_duplicates("run").filter(["commit", "torch", "device", "precision", "threads"]).fillna("unknown")
    return shown.assign(commit=shown["commit"].str[:8]).groupby(list(shown), sort=False).size().reset_index(name="runs")


def training_curves(root: str | os.PathLike[str]) -> pd.DataFrame:
    """The curves of every finished student run, with its method, seed and name.

    Step, loss, cross entropy and each term of the method unweighted; where a run was scored on the way, `val_miou`
    in [0, 1] and `seconds` of training since the first step, scoring and saving not counted.
    """
    parts = []
    for run in _finished(root):
        path = verified(run.folder / HISTORY_FILE)
        if run.name.startswith("student-") and path.is_file():
            given, history = run.info.get("parameters", {}), pd.read_csv(path)
            terms = [name for name in history if f"weight_{name}" in history]
            kept = history[["step", "loss", "ce", *terms]]
            if "val_miou" in history:
                images = given.get("batch_size", 1) * history["step"].diff().fillna(history["step"])
                seconds = (images / history["images_per_s"]).cumsum().round(2)
                kept = kept.assign(val_miou=history["val_miou"], seconds=seconds)
            parts.append(kept.assign(method=given.get("method"), seed=given.get("seed"), run=run.name))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(_CURVES))


def results_table(root: str | os.PathLike[str]) -> pd.DataFrame:
    """One row for every finished training run below `root` and every protocol.

    root: a folder of run folders, such as `runs/demo`.
    Returns columns dataset, protocol, teacher, student, method, options (JSON), train_images, seed, steps, batch_size,
    lr, augment, height, width, precision, threads, teacher_cache (whether the teacher's answers were kept: memory, file
    or off), initial_values (of the heads: published), device, torch, commit, run, wall_s, miou, pixel_accuracy and one
    `iou_<class>` each; scores in [0, 1]. A teacher's row has method "none" and a run named `teacher-…`. Where the
    students differ in parameters that have no column, `settings` (JSON) before miou holds those.
    Raises `FileNotFoundError`: no finished training run lies below `root`.
    """
    runs = _finished(root)
    trained = [run.info.get("parameters", {}) for run in runs if run.name.startswith("student-")]
    texts = pd.DataFrame([{k: json.dumps(v, sort_keys=True) for k, v in given.items()} for given in trained])
    varying = list(texts.columns[texts.nunique() > 1].difference([*TOLD_APART, *_KNOWN.split()], sort=False))
    rows = []
    for run, protocol in product(runs, PROTOCOLS):
        if scores := run.metrics.get(protocol):
            info, given, threads = run.info, run.info.get("parameters", {}), run.info.get("threads")
            found = {"method": "none", **given, **info, **run.metrics, **scores, "protocol": protocol, "run": run.name}
            found |= {"student": given.get("network"), "steps": info.get("num_steps") or given.get("steps")}
            found |= {"torch": info.get("versions", {}).get("torch"), "threads": threads and str(threads)}
            found["options"] = json.dumps(given.get("options", {}), sort_keys=True)
            found["settings"] = json.dumps({name: given.get(name) for name in varying}, sort_keys=True)
            row = {name: found.get(name) for name in _COLUMNS.split() if name != "settings" or varying}
            rows.append(row | {f"iou_{name}": value for name, value in scores["iou"].items()})
    if not rows:
        raise FileNotFoundError(f"{root} holds no finished training run: make some with `transkd reproduce PROFILE`")
    return pd.DataFrame(rows)


def _finished(root: str | os.PathLike[str]) -> list[Run]:
    """The finished runs of the current batch (its `batch.json` names them), the student alone before the others."""
    named = read_json(Path(root) / BATCH_FILE).get("runs")
    listed = [run for run in list_runs(root) if named is None or run.name in named]
    if damaged := [run.note for run in listed if run.state == "damaged"]:
        raise DamagedRunError(damaged[0])
    runs = [run for run in listed if run.state == "finished"]
    return sorted(runs, key=lambda run: run.info.get("parameters", {}).get("method", "none") != "none")


def students(table: pd.DataFrame, protocol: str = "full") -> pd.DataFrame:
    """The rows of one protocol without the teachers', in the table's order."""
    return table[(table["protocol"] == protocol) & ~table["run"].str.startswith("teacher-")]


def teachers(table: pd.DataFrame, protocol: str = "full") -> pd.DataFrame:
    """The teachers' rows of one protocol."""
    return table[(table["protocol"] == protocol) & table["run"].str.startswith("teacher-")]
