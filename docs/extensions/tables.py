"""Cells of tables that hold a sentence are marked, so that only numbers are kept on one line."""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

LONG = 28  # characters


def mark(app: Sphinx, doctree: nodes.document) -> None:
    """Give long cells the class "long"."""
    for entry in doctree.findall(nodes.entry):
        if len(entry.astext()) > LONG:
            entry["classes"].append("long")


def setup(app: Sphinx) -> dict[str, Any]:
    """Mark them as pages are read."""
    app.connect("doctree-read", mark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
