"""Strict parameters: names and types are checked before anything runs.

Papermill only warns about a parameter that a notebook does not have, and YAML reads `6e-5` as text. Here both
are errors that say what is wrong, where, and what to write instead. The parameters of a notebook are read
from its cell tagged `parameters`, which by the course's rule holds one annotated literal a line.
"""

import ast
import difflib
import hashlib
import json
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from transkd_lite.runs import STUDENT_FILE

__all__ = [
    "ParameterError",
    "Signature",
    "check_name",
    "check_parameters",
    "content_name",
    "find_file",
    "read_signature",
    "weights_file",
]

_TYPES: dict[str, Any] = {t.__name__: t for t in (bool, dict, float, int, list, str, tuple)} | {"Any": Any}


class ParameterError(ValueError):
    """A name, type or value that a profile, a notebook or a command line should not have; nothing has run yet."""


@dataclass(frozen=True)
class Signature:
    """What a parameters cell declares: types and defaults by name, in the cell's order."""

    source: str
    hints: dict[str, Any]
    defaults: dict[str, Any]


def check_name(name: str, valid: Iterable[str], what: str) -> str:
    """Return `name` if it is one of `valid`, else raise a `ParameterError` that names the nearest valid ones.

    >>> check_name("demo", ["demo", "smoke"], "profile")
    'demo'
    """
    names = sorted(valid)
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ParameterError(f"unknown {what} {name!r}: {hint}Valid: {', '.join(names) or '(none)'}")


def check_parameters(given: Mapping[str, Any], hints: Mapping[str, Any], where: str) -> None:
    """Check that every given parameter exists and has the declared type.

    Args:
        given: parameter values by name.
        hints: declared types by name, as `typing.get_type_hints` gives them.
        where: what the parameters belong to, for the message.

    Raises:
        ParameterError: a name that `hints` lacks, or a value of another type.

    >>> check_parameters({"lr": 1, "steps": 3}, {"lr": float, "steps": int}, "08_train_transkd")
    """
    for name, value in given.items():
        check_name(name, hints, f"parameter of {where}")
        if not _matches(value, hints[name]):
            raise ParameterError(_type_message(name, value, hints[name], where))


def read_signature(notebook: Path) -> Signature:
    """Read types and defaults from a notebook's cell tagged `parameters` (none: no parameters).

    Raises:
        ParameterError: the notebook is missing or unreadable, or a line of the cell is not an annotated
            literal.
    """
    hints: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for line in _parse_cell(notebook):
        if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value):
            raise ParameterError(
                f"{notebook.name}: the parameters cell holds `{ast.unparse(line)}`; every line of it is one "
                "annotated literal, such as `steps: int = 100`"
            )
        hints[line.target.id] = _evaluate_hint(line.annotation, notebook)
        try:
            defaults[line.target.id] = ast.literal_eval(line.value)
        except ValueError as error:
            raise ParameterError(
                f"{notebook.name}: parameter {line.target.id} starts as `{ast.unparse(line.value)}`; write a "
                "literal and derive the rest in the next cell"
            ) from error
    return Signature(notebook.name, hints, defaults)


def _parse_cell(notebook: Path) -> list[ast.stmt]:
    """The statements of the cell tagged `parameters`."""
    if not notebook.is_file():
        near = (path.name for path in notebook.parent.glob("*.ipynb"))
        raise ParameterError(
            f"no notebook {notebook}; that folder has {', '.join(sorted(near)) or 'no notebook'}"
        )
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            if "parameters" in cell.get("metadata", {}).get("tags", []):
                return ast.parse("".join(cell["source"])).body
    except (ValueError, KeyError, SyntaxError) as error:
        raise ParameterError(f"{notebook} is not a readable notebook: {error}") from error
    return []


def _evaluate_hint(annotation: ast.expr, notebook: Path) -> Any:
    """Turn an annotation such as `list[int] | None` into the type it names."""
    try:
        return eval(ast.unparse(annotation), {"__builtins__": {}}, _TYPES)
    except (NameError, TypeError) as error:
        raise ParameterError(
            f"{notebook.name}: annotation `{ast.unparse(annotation)}` of the parameters cell ({error}); "
            f"use {', '.join(sorted(_TYPES))} and None"
        ) from error


def _matches(value: Any, hint: Any) -> bool:
    """Whether a JSON-like value fits a type; a whole number is a float, True is no number, a list is a tuple."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_matches(value, option) for option in args)
    if hint in (None, type(None)):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if (origin or hint) in (list, tuple):
        return isinstance(value, list | tuple) and _items_match(value, origin, args)
    return isinstance(value, origin or hint)


def _items_match(value: list[Any] | tuple[Any, ...], origin: Any, args: tuple[Any, ...]) -> bool:
    """Whether the items of a sequence fit `list[T]`, `tuple[T, ...]` or `tuple[T1, T2]`."""
    if not args:
        return True
    if origin is list or args[-1] is ...:
        return all(_matches(item, args[0]) for item in value)
    return len(value) == len(args) and all(map(_matches, value, args))


def _type_message(name: str, value: Any, hint: Any, where: str) -> str:
    """Say what was expected and what came; for numbers that YAML read as text, how to write them."""
    wanted = getattr(hint, "__name__", None) if not get_args(hint) else str(hint)
    message = f"{name} = {value!r} in {where} is {type(value).__name__}, but must be {wanted or hint}"
    if not isinstance(value, str):
        return message
    try:
        number = float(value)
    except ValueError:
        return message
    mantissa, _, exponent = value.lower().partition("e")
    if exponent and "." not in mantissa:
        return f"{message}. YAML reads {value} as text: write {mantissa}.0e{exponent}"
    return f"{message}. Write {number:g} without quotes"


def find_file(source: str) -> str:
    """A file as given, or under the repository's root; other sources ("timm", "hub:...") come back unchanged.

    Raises:
        ParameterError: there is no such file.
    """
    if source == "timm" or source.startswith("hub:"):
        return source
    for path in (Path(source), Path(__file__).resolve().parents[1] / source):
        if path.is_file():
            return str(path)
    raise ParameterError(
        f"no file of weights {source}: check the path, or train it (see `transkd train --help`)"
    )


def weights_file(source: Path) -> Path:
    """The file of weights that a run folder holds, or that the source is.

    Raises:
        ParameterError: there is no such file.
    """
    file = source / STUDENT_FILE if source.is_dir() else source
    if not file.is_file():
        raise ParameterError(f"no weights at {file}: pass a finished run folder or a .safetensors file")
    return file


def content_name(source: str | None) -> str | None:
    """The digest of a file's content, so that retrained weights make another run; other names as they are."""
    if source is None or source == "timm" or source.startswith(("hub:", "run:")):
        return source
    return "sha256:" + hashlib.sha256(Path(find_file(source)).read_bytes()).hexdigest()[:16]
