"""Every notebook of the course runs under papermill with parameters other than its own, wherever it is called from.

The notebooks of the profile `smoke` are run so by `test_end_to_end`; from its defaults nbval runs each.
"""

import ast
import json
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

from transkd_lite.experiments.notebook import execute_notebook
from transkd_lite.experiments.profile import load_profile, plan

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
SMOKE = load_profile("smoke")
# At most half of what the notebook has; sizes and rates are its own, for what is shown needs them.
SMALL = {"train_images": 16, "val_images": 8, "batch_size": 4, "steps": 6, "repeats": 1, "num_batches": 1}
READERS = ("11_compare_methods", "12_reproduction_report")  # they train nothing; their parameter is a table
IN_THE_BATCH = {run.notebook.stem for run in plan(SMOKE)}
SMALL_HERE = sorted({path.stem for path in FOLDER.glob("[0-9][0-9]_*.ipynb")} - IN_THE_BATCH - set(READERS))

pytestmark = [pytest.mark.notebook, pytest.mark.timeout(600)]


@pytest.mark.parametrize("name", SMALL_HERE)
def test_a_notebook_runs_small(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, out = FOLDER / f"{name}.ipynb", tmp_path / "small.ipynb"
    own = {name: ast.literal_eval(found["default"]) for name, found in papermill.inspect_notebook(path).items()}
    given = {name: min(most, max(1, own[name] // 2)) for name, most in SMALL.items() if name in own}
    assert given
    execute_notebook(path, out, given)  # raises where a cell fails or is left out
    cells = nbformat.read(out, as_version=4).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
    assert any("injected-parameters" in cell.metadata.get("tags", []) for cell in cells)


@pytest.mark.parametrize("name", READERS)
def test_a_shipped_table_of_photographs_is_read_like_that_of_the_scenes(name, tmp_path):
    """Its images have the size of their files and all of them are used: those columns of the table are empty."""
    out = tmp_path / "read.ipynb"
    execute_notebook(FOLDER / f"{name}.ipynb", out, {"table": "camvid-long"})
    text = out.read_text()
    assert "camvid-long (shipped tables)" in text
    assert "one budget: 45" in text or ("as they are" in text and "45 runs" in text)


def test_a_table_of_one_network_is_reported_without_comparisons(tmp_path):
    out = tmp_path / "read.ipynb"
    execute_notebook(FOLDER / "12_reproduction_report.ipynb", out, {"table": "streets-student"})
    assert "1 methods, seeds: 1, 1 runs. Scored by the protocol *full*" in out.read_text()


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
