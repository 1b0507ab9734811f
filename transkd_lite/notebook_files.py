"""Executed notebooks as files: whole or not, fit to be stored in place, and as a page without code."""

import json
import re
from pathlib import Path
from typing import Any

__all__ = ["NotebookFailed", "NotebookInterrupted", "require_whole", "to_html", "without_notes"]

NOTEBOOK_ONLY = (
    "notebook-only"  # tag of the cells that a report leaves out: exercises, links to other notebooks
)


class NotebookFailed(RuntimeError):
    """A notebook raised, ended early or did not finish its run."""


class NotebookInterrupted(NotebookFailed):
    """A notebook was asked to stop."""


def require_whole(name: str, executed: dict[str, Any]) -> None:
    """Refuse a notebook of which a code cell did not run or left early."""
    cells = [
        cell for cell in executed["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()
    ]
    for number, cell in enumerate(cells, start=1):
        ended = any(output.get("ename") == "SystemExit" for output in cell["outputs"])
        if ended or cell["execution_count"] is None:
            how = "left the notebook by sys.exit()" if ended else "never ran"
            raise NotebookFailed(
                f"{name}: code cell {number} of {len(cells)} {how}; the last cell must be reached"
            )


def to_html(notebook: Path) -> str:
    """A notebook as one HTML page without code cells that asks nothing of the network."""
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import TagRemovePreprocessor

    exporter = HTMLExporter(
        exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True, embed_images=True
    )
    exporter.register_preprocessor(TagRemovePreprocessor(remove_cell_tags={NOTEBOOK_ONLY}), enabled=True)
    body, _ = exporter.from_filename(str(notebook))
    # What is left are loaders of MathJax, Mermaid and RequireJS from elsewhere; a report is text, tables and pictures.
    return re.sub(r"<script\b.*?</script>", "", body, flags=re.DOTALL)


def without_notes(executed: dict[str, Any]) -> str:
    """The text of an executed notebook without papermill's own notes, as a clean run in JupyterLab stores it."""
    for holder in (executed, *executed["cells"]):
        for note in ("papermill", "execution"):
            holder["metadata"].pop(note, None)
        if holder["metadata"].get("tags") == []:
            holder["metadata"].pop("tags")
    return json.dumps(executed, indent=1, ensure_ascii=False) + "\n"
