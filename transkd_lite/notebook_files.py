"""How a notebook fails, and how one becomes a page without code."""

import re
from pathlib import Path

__all__ = ["NotebookFailed", "NotebookInterrupted", "to_html"]


class NotebookFailed(RuntimeError):
    """A notebook raised, ended early or did not finish its run."""


class NotebookInterrupted(NotebookFailed):
    """A notebook was asked to stop."""


def to_html(notebook: Path) -> str:
    """A notebook as one HTML page that asks nothing of the network, without code and cells tagged `notebook-only`."""
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import TagRemovePreprocessor

    exporter = HTMLExporter(
        exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True, embed_images=True
    )
    exporter.register_preprocessor(TagRemovePreprocessor(remove_cell_tags={"notebook-only"}), enabled=True)
    body, _ = exporter.from_filename(str(notebook))
    # What is left are loaders of MathJax, Mermaid and RequireJS from elsewhere; a report is text, tables and pictures.
    return re.sub(r"<script\b.*?</script>", "", body, flags=re.DOTALL)
