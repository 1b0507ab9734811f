"""Strict parameters: names and types are checked before anything runs.

Papermill only warns about a parameter that a notebook does not have, and YAML reads `6e-5` as text. Here both
are errors that say what is wrong, where, and what to write instead. The parameters of a notebook are read
from its cell tagged `parameters`, which by the course's rule holds one annotated literal a line.
"""

import ast
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

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
    from pydantic import TypeAdapter, ValidationError

    for name, value in given.items():
        check_name(name, hints, f"parameter of {where}")
        try:  # as JSON, where a list is a tuple and a whole number a float, but True is no number and "1" neither
            TypeAdapter(hints[name]).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            hint = hints[name] if get_args(hints[name]) else hints[name].__name__
            message = f"{name} = {value!r} in {where} is {type(value).__name__}, but must be {hint}"
            if isinstance(value, str) and (number := re.fullmatch(r"([-+.\d]+)(?:[eE]([-+]?\d+))?", value)):
                mantissa, exponent = number.groups()
                as_float = f"{mantissa}.0e{exponent}" if exponent and "." not in mantissa else ""
                message += (
                    f". YAML reads {value} as text: write {as_float}"
                    if as_float
                    else f". Write {value} without quotes"
                )
            raise ParameterError(message) from error


def read_signature(notebook: Path) -> Signature:
    """Read types and defaults from a notebook's cell tagged `parameters` (none: no parameters).

    Raises:
        ParameterError: the notebook is missing or unreadable, or a line of the cell is not an annotated
            literal.
    """
    if not notebook.is_file():
        near = (path.name for path in notebook.parent.glob("*.ipynb"))
        raise ParameterError(
            f"no notebook {notebook}; that folder has {', '.join(sorted(near)) or 'no notebook'}"
        )
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        tagged = (c["source"] for c in cells if "parameters" in c.get("metadata", {}).get("tags", []))
        lines = ast.parse("".join(next(tagged, []))).body
    except (ValueError, KeyError, SyntaxError) as error:
        raise ParameterError(f"{notebook} is not a readable notebook: {error}") from error
    signature = Signature(notebook.name, {}, {})
    for line in lines:
        try:
            if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value):
                raise ValueError("every line is one annotated literal, such as `steps: int = 100`")
            signature.hints[line.target.id] = _type(line.annotation)
            signature.defaults[line.target.id] = ast.literal_eval(line.value)
        except (ValueError, KeyError) as error:
            raise ParameterError(
                f"{notebook.name}: the parameters cell holds `{ast.unparse(line)}` ({error}); write a literal and "
                f"derive the rest in the next cell, with types of {', '.join(sorted(_TYPES))} and None"
            ) from error
    return signature


def _type(annotation: ast.expr) -> Any:
    """The type that an annotation such as `list[int] | None` names. Raises KeyError for another name."""
    if isinstance(annotation, ast.BinOp):
        return _type(annotation.left) | _type(annotation.right)
    if isinstance(annotation, ast.Subscript):
        items = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return _type(annotation.value)[tuple(map(_type, items))]
    return None if ast.unparse(annotation) == "None" else _TYPES[ast.unparse(annotation)]


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
