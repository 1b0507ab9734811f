"""The course's notebooks keep their promises of form; nothing is run here."""

import ast
import json
import re
import statistics
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import papermill
import pytest

from transkd_lite.experiments.experiment import read_signature

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SOLUTIONS = sorted((FOLDER / "solutions").glob("*.ipynb"))
CLOSING = ["Result against expectation", "Exercises", "Takeaways", "Limits", "Next"]
MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:work|root|home|tmp|Users)/\w+")

course = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
every = pytest.mark.parametrize("path", [*NOTEBOOKS, *SOLUTIONS], ids=lambda p: f"{p.parent.name}/{p.stem}")


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def prose(path):
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def test_the_course_is_here():
    assert len(NOTEBOOKS) >= 8


@every
def test_notebook_is_valid_small_and_of_kernel_python3(path):
    nbformat.validate(json.loads(path.read_text()))
    assert read(path).metadata.kernelspec.name == "python3"
    assert path.stat().st_size <= 1_000_000


@every
def test_stored_outputs_are_of_one_clean_run(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


@every
def test_no_path_of_a_machine_is_stored(path):
    assert not MACHINE_PATH.findall(path.read_text())


@every
def test_every_picture_has_alternative_text(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                assert re.search(r'<img alt="[^"]{20,}"', "".join(data.get("text/html", ""))), cell.source


@course
def test_it_opens_with_a_question_and_a_table(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert re.match(rf"# {path.stem[:2]} \S", first.source)
    assert re.search(r"\*\*[^*]+\?\*\*", first.source)
    assert re.search(r"\| needs \| minutes.*\| outputs \| paper", first.source)


@course
def test_parameters_are_annotated_literals_one_a_line(path):
    (cell,) = [c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]
    lines = [line for line in cell.source.splitlines() if line.strip()]
    for line, node in zip(lines, ast.parse(cell.source).body, strict=True):
        assert isinstance(node, ast.AnnAssign)
        ast.literal_eval(node.value)
        _, _, comment = line.partition("  # ")
        assert comment, f"say what it is and its unit: {line}"
        assert "=" not in comment, f"papermill misreads a second '=': {line}"


@every
def test_papermills_help_lists_every_parameter_and_what_it_was_given_is_checked(path):
    names = read_signature(path)
    assert list(papermill.inspect_notebook(path)) == list(names)
    source = "\n".join(cell.source for cell in code_cells(path))
    assert re.search(r"(from_notebook|check_injected)\(globals\(\)", source)


@course
def test_size_of_cells_and_of_prose(path):
    lengths = [len(cell.source.splitlines()) for cell in code_cells(path)]
    others = [
        len(cell.source.splitlines()) for cell in code_cells(path) if "parameters" not in cell.metadata.get("tags", [])
    ]
    assert 8 <= len(lengths) <= 30
    assert max(lengths) <= 40
    assert statistics.median(others) <= 8
    words = len(re.findall(r"\w[\w'-]*", re.sub(r"\$\$?.+?\$\$?|\(\S+\)", " ", prose(path), flags=re.S)))
    assert 800 <= words <= 2000


@course
def test_claims_are_checked_and_facts_compared(path):
    cells = code_cells(path)
    checks = [cell.source for cell in cells if cell.source.startswith("# check:")]
    assert all("assert" in source for source in checks)
    if path.stem[:2] not in ("00", "12"):  # one begins, the other reports; both define nothing
        assert len(checks) >= 3
        assert sum("nbval-check-output" in cell.metadata.get("tags", []) for cell in cells) >= 3


@every
def test_imports_and_parameters_are_folded(path):
    for number, cell in enumerate(code_cells(path)):
        if number == 0 or "parameters" in cell.metadata.get("tags", []):
            assert "hide-input" in cell.metadata.get("tags", []), cell.source  # in the book
            assert cell.metadata.get("jupyter", {}).get("source_hidden"), cell.source  # in JupyterLab


@course
def test_it_closes_with_result_exercises_takeaways_limits_and_next(path):
    headings = re.findall(r"^## (.+)$", prose(path), flags=re.M)
    assert headings[-len(CLOSING) :] == CLOSING
    assert 3 <= len(headings) - len(CLOSING) - ("Parameters" in headings) <= 6
    assert f"solutions/{path.stem}.ipynb" in prose(path)
    assert (FOLDER / "solutions" / path.name).is_file()


@every
def test_links_to_other_notebooks_lead_somewhere(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)#:]+\.ipynb)\)", text):
        assert (path.parent / target).is_file(), target


def test_diagrams_stand_alone_are_described_small_and_alike():
    looks = set()
    for path in sorted((FOLDER / "figures").glob("*.svg")):
        name, root = path.name, ElementTree.parse(path).getroot()
        tags = {element.tag.rpartition("}")[2]: element for element in reversed(list(root.iter()))}
        assert root.get("viewBox", "").startswith("0 0 760 "), name
        assert tags["title"].text, name
        assert len(tags["desc"].text) > 100, name
        assert not {"script", "foreignObject", "image"} & {*tags}, name
        links = re.findall(r"""(?:href|src)="([^"]*)"|url\(([^)]*)\)|(@import)""", path.read_text())
        assert all("".join(link).startswith("#") for link in links), name
        assert path.stat().st_size < 25_000, name
        looks.add(tags["style"].text)
    assert len(looks) == 1


@every
def test_notebooks_call_the_library(path):
    assert "transkd_lite" in "\n".join(cell.source for cell in code_cells(path))
