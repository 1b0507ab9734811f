"""Which rows of a table may be compared, and what to call variants of one method.

A method run with other options, another teacher or another learning rate is another row of the comparison, and needs a
name that says so. Another number of steps or labelled images is another budget, in which all methods start anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    varies = [name for name in _BUDGET if name in table and (by_method[name].nunique(dropna=False) > 1).any()]
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
    given = _settings(table)
    usual = {name: _usual(given[name], name) for name in given}
    labels = table["method"].astype(str).copy()
    for _, rows in given.groupby(table["method"], sort=False):
        varies = _telling_apart(rows)
        for index, row in rows[varies].iterrows():
            told = [_phrase(name, row[name]) for name in varies if row[name] != usual[name]]
            if told:
                labels[index] += f" ({', '.join(told)})"
    return table.assign(method=labels)


def _telling_apart(rows: pd.DataFrame) -> list[str]:
    """The parameters that differ between rows of one method, without a learning rate that only follows the others."""
    varies = [name for name in rows if rows[name].nunique() > 1]
    others = [name for name in varies if name != "lr"]
    follows = others and "lr" in varies and (rows.groupby(others)["lr"].nunique() == 1).all()
    return others if follows else varies


def _settings(table: pd.DataFrame) -> pd.DataFrame:
    """Everything that can tell two rows of a method apart, as text; an option that is not given is ""."""
    columns = {name: table[name] for name in TOLD_APART if name in table}
    for column in ("options", "settings"):
        if column in table:
            parsed = [json.loads(text) if isinstance(text, str) else {} for text in table[column]]
            names = dict.fromkeys(name for mapping in parsed for name in mapping)
            for name in names:
                values = [mapping.get(name, "") for mapping in parsed]
                columns[f"{column}.{name}"] = pd.Series(values, table.index, dtype=object)
    return pd.DataFrame({name: values.map(_text) for name, values in columns.items()}, table.index)


def _usual(values: pd.Series, name: str) -> str | None:
    """The value not worth naming: no budget, an option not given, the batch's teacher, or else the most common."""
    if name in _BUDGET:
        return None
    if name == "teacher" and (own := values[values.str.startswith("run:")]).size:
        values = own
    return "" if name.startswith("options.") else str(values.value_counts(sort=False).idxmax())


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
    """The curves of the runs in `rows`, under the labels that these have; by method where the curves name no run."""
    if history.empty:
        return history
    if "run" not in history:
        return history[history["method"].isin(set(rows["method"]))]
    labels: Mapping[str, str] = dict(zip(rows["run"], rows["method"], strict=True))
    known = history[history["run"].isin(set(labels))]
    return known.assign(method=known["run"].map(labels))
