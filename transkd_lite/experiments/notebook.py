"""A notebook through papermill, strictly: every cell must run, or it is a failure that says where.

papermill is imported only when something has to run.
"""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["NotebookFailed", "NotebookInterrupted", "execute_notebook", "to_html"]

# --- How a notebook fails, and how one becomes a page without code.


class NotebookFailed(RuntimeError):
    """A notebook raised, ended early or did not finish its run."""


class NotebookInterrupted(NotebookFailed):
    """A notebook was asked to stop."""


def to_html(notebook: Path, title: str) -> str:
    """A notebook as a page: one file that asks nothing of the network, without code and `notebook-only` cells.

    What follows the cell tagged `details` is folded. Text whose code, up to the next text, showed nothing is left out.
    """
    import nbformat
    from nbconvert import HTMLExporter

    page = nbformat.read(notebook, as_version=4)
    sections: list[list[Any]] = [[]]
    for cell in page.cells:
        if cell.cell_type == "markdown":
            sections.append([])
        if "notebook-only" not in cell.metadata.get("tags", []):
            sections[-1].append(cell)
    page.cells = [c for cells in sections if len(cells) == 1 or any(c.get("outputs") for c in cells) for c in cells]
    exporter = HTMLExporter(
        template_name="report", extra_template_basedirs=[str(Path(__file__).parent)], embed_images=True,
        exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True,
    )  # fmt: skip
    return exporter.from_notebook_node(page, {"metadata": {"name": title}})[0]


# --- A notebook through papermill, strictly: every cell must run, or it is a failure that says where.

_STARTS = 3  # kernels that start at the same moment can race for a port: such a start is repeated


def execute_notebook(
    notebook: Path, target: Path, parameters: dict[str, Any], environment: Mapping[str, str] | None = None
) -> None:
    """Execute a notebook with papermill, strictly, into `target`.

    environment: variables that its kernel gets, besides those of this process.
    Raises `NotebookInterrupted`: a cell was interrupted, as a batch that is stopped does.
    Raises `NotebookFailed`: a cell raised, the kernel died, or a cell was left out (`sys.exit()` ends a notebook
        early).
    """
    import papermill
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec
    from papermill.exceptions import PapermillExecutionError

    class OwnKernel(AsyncKernelManager):
        """The interpreter of this process, whichever other one the user's Jupyter calls python3."""

        kernel_spec = KernelSpec(**get_kernel_dict(), env=dict(environment or {}))

    paths = [str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, target)]  # papermill formats them
    # It warns about every parameter that is annotated `int | None`; names and types were checked before.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    for attempt in range(1, _STARTS + 1):
        try:
            papermill.execute_notebook(
                *paths, parameters=parameters, kernel_name="python3", progress_bar=False, cwd=str(notebook.parent),
                extra_arguments=["--log-level=50"], kernel_manager_class=OwnKernel,
            )  # fmt: skip
            break
        except PapermillExecutionError as error:
            kind = NotebookInterrupted if error.ename == "KeyboardInterrupt" else NotebookFailed
            raise kind(f"{notebook.name}: cell [{error.exec_count}] raised {error.ename}: {error.evalue}") from error
        except RuntimeError as error:
            if attempt == _STARTS or "before replying" not in str(error):
                raise NotebookFailed(f"{notebook.name}: {error}") from error
            time.sleep(attempt)
    executed = json.loads(target.read_text(encoding="utf-8"))["cells"]
    cells = [cell for cell in executed if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    for number, cell in enumerate(cells, start=1):
        ended = any(output.get("ename") == "SystemExit" for output in cell["outputs"])
        if ended or cell["execution_count"] is None:
            what = f"code cell {number} of {len(cells)} {'left the notebook by sys.exit()' if ended else 'never ran'}"
            raise NotebookFailed(f"{notebook.name}: {what}; the last cell must be reached")
