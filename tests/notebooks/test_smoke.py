"""Every notebook of the course runs under papermill with the smoke profile's sizes, wherever it is called from."""

import json
import sys
from pathlib import Path

import nbformat
import pytest

from transkd_lite.experiments.experiment import read_signature
from transkd_lite.experiments.notebook import execute_notebook
from transkd_lite.experiments.profile import load_profile

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SMALL = {**load_profile("smoke").parameters, "repeats": 1, "num_batches": 1}
KEPT = ("lr", "height", "width")  # as the notebook has them: what is shown needs them

pytestmark = [pytest.mark.notebook, pytest.mark.timeout(600)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_small(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hints = read_signature(path)[0]
    given = {name: value for name, value in SMALL.items() if name in hints and name not in KEPT}
    execute_notebook(path, tmp_path / path.name, given)  # raises where a cell fails or is left out
    cells = nbformat.read(tmp_path / path.name, as_version=4).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
    assert any("injected-parameters" in cell.metadata.get("tags", []) for cell in cells) == bool(given)


def test_a_notebook_runs_in_this_interpreter_whatever_jupyter_prefers_and_whatever_its_folder_is_called(
    tmp_path, monkeypatch
):
    kernel = {"argv": ["false", "{connection_file}"], "display_name": "another", "language": "python"}
    (tmp_path / "kernels" / "python3").mkdir(parents=True)
    (tmp_path / "kernels" / "python3" / "kernel.json").write_text(json.dumps(kernel))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    folder = tmp_path / "{a} %s 'b\" $c$"
    folder.mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import sys\nprint(sys.executable)")])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "in.ipynb")
    execute_notebook(folder / "in.ipynb", folder / "out.ipynb", {})
    (cell,) = nbformat.read(folder / "out.ipynb", as_version=4).cells
    assert cell.outputs[0].text.strip() == sys.executable
