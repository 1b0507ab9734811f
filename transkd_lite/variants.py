"""Which rows of a table may be compared, and what to call variants of one method.

A method run with other options, another teacher or another learning rate is another row of the comparison, and needs a
name that says so. Another number of steps or labelled images is another budget, in which all methods start anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

__all__ = ["TOLD_APART", "cells", "label_history", "label_variants"]

_BUDGET = ("dataset", "student", "train_images", "steps", "batch_size", "height", "width")
TOLD_APART = (*_BUDGET, "lr", "augment", "precision", "teacher")


def cells(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split students into the budgets in which they may be compared; the one with most runs first.

    A budget is data set, student, number of labelled images, steps, batch size and image size. It splits the table
    only where some method was run at several; a method that always had its own (the paper's student alone) stays
    beside the others.

    Returns:
        Label such as "steps 300, train_images 128" -> rows; one entry with the label "one budget" if there is but one.
    """
    by_method = table.groupby("method", sort=False)
    varies = [name for name in _BUDGET if (by_method[name].nunique(dropna=False) > 1).any()]
    if not varies:
        return {"one budget": table}
    groups = table.groupby(varies, sort=False, dropna=False)
    parts = {
        ", ".join(_phrase(name, _text(value)) for name, value in zip(varies, key, strict=True)): rows
        for key, rows in groups
    }
    return dict(sorted(parts.items(), key=lambda item: -len(item[1])))


def label_variants(table: pd.DataFrame) -> pd.DataFrame:
    """Give rows of one method with other options, settings or budgets labels such as "transkd-base (fusion abf)".

    A parameter is named where it differs between rows of one method and is not the usual one: for options, which is
    not to be given; for the teacher, the batch's own; for all else, the value that most rows have. No budget is usual:
    where a method has several (see `cells`), every one is named. The learning rate, which a search may have chosen for
    each variant, is named only where nothing else differs. A table without variants comes back as it was.

    Args:
        table: rows of students, one protocol.
    """
    parts = [table[list(TOLD_APART)]]
    for column in (name for name in ("options", "settings") if name in table):
        parsed = [json.loads(text) if isinstance(text, str) else {} for text in table[column]]
        parts.append(pd.DataFrame(parsed, table.index, dtype=object).add_prefix(f"{column}."))
    given = pd.concat(parts, axis=1).map(_text)
    usual = {name: values.value_counts(sort=False).idxmax() for name, values in given.items()}
    usual |= {name: "" for name in given if name.startswith("options.")} | dict.fromkeys(_BUDGET)
    if (own := given["teacher"].str.startswith("run:")).any():
        usual["teacher"] = given["teacher"][own].value_counts(sort=False).idxmax()
    labels = table["method"].astype(str).copy()
    for _, rows in given.groupby(table["method"], sort=False):
        varies = [name for name in rows if rows[name].nunique() > 1]
        others = [name for name in varies if name != "lr"]
        if others and (rows.groupby(others)["lr"].nunique() == 1).all():
            varies = others
        for index, row in rows[varies].iterrows():
            if told := [_phrase(name, row[name]) for name in varies if row[name] != usual[name]]:
                labels[index] += f" ({', '.join(told)})"
    return table.assign(method=labels)


def _text(value: Any) -> str:
    """A value to compare and to name: numbers short, a file by its name alone."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) and value.endswith(".safetensors"):
        return Path(value).stem
    return str(value)


def _phrase(name: str, text: str) -> str:
    return f"{name.rpartition('.')[2]} {text.removeprefix('run:') or 'none'}"


def label_history(history: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The curves, or scores by condition, of the runs in `rows`, under the labels that these have."""
    if history.empty:
        return history
    labels = rows.set_index("run")["method"]
    known = history[history["run"].isin(labels.index)]
    return known.assign(method=known["run"].map(labels))
