"""Execute the course's notebooks from their defaults and store their outputs in place: `make notebooks`.

A name given as an argument, such as `04_cross_selective_fusion`, executes that notebook alone. A file changes only when
every cell has run; papermill's own notes and the state of widgets are taken out again.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from transkd_lite.data.whole import atomic_write
from transkd_lite.experiments.notebook import NotebookFailed, execute_notebook
from transkd_lite.training.config import ParameterError, check_name

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"


def store_outputs(notebook: Path) -> float:
    """Execute a notebook and store its outputs; returns the seconds it took. `NotebookFailed`: it is as before."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder) / notebook.name
        execute_notebook(notebook, aside, {})
        executed = json.loads(aside.read_text(encoding="utf-8"))
    executed["metadata"].pop("widgets", None)  # a widget is dead without its kernel: what it says in text stays
    for cell in (cell for cell in executed["cells"] if "outputs" in cell):
        for output in cell["outputs"]:
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
        bars = [out for out in cell["outputs"] if "%|" in "".join(out.get("data", {}).get("text/plain", ""))]
        cell["outputs"] = [output for output in cell["outputs"] if output not in bars]
    for holder in (executed, *executed["cells"]):
        kept = {name: value for name, value in holder["metadata"].items() if name not in ("papermill", "execution")}
        holder["metadata"] = {name: value for name, value in kept.items() if (name, value) != ("tags", [])}
    atomic_write(notebook, json.dumps(executed, indent=1, ensure_ascii=False) + "\n")
    return time.perf_counter() - start


def main() -> int:
    paths = sorted([*FOLDER.glob("[0-9][0-9]_*.ipynb"), *FOLDER.glob("solutions/*.ipynb")])
    known = {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in paths}
    try:
        names = [check_name(name, known, "notebook") for name in sys.argv[1:] or known]
    except ParameterError as error:
        print(f"error: {error}")
        return 2
    failed = False
    for name in names:
        try:
            print(f"{name}: {store_outputs(known[name]):.0f} s", flush=True)
        except NotebookFailed as error:
            failed = True
            print(f"{name}: FAILED: {error}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
