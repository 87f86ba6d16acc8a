"""Figures of the library for sphinx-gallery: they belong to no pyplot, and are a block's last expression."""

from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst


def scrape(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save a block's last expression where it is a figure."""
    shown = block_vars["example_globals"].get("___")
    if not isinstance(shown, Figure):
        return ""
    block_vars["example_globals"]["___"] = None  # or its repr is shown too
    path = next(block_vars["image_path_iterator"])
    shown.savefig(path, dpi=150)
    return figure_rst([path], gallery_conf["src_dir"])


def style(gallery_conf: dict[str, Any], name: str) -> None:
    """Set what pyplot draws in, before each example."""
    import matplotlib.pyplot as plt  # noqa: PLC0415  after sphinx-gallery has chosen a backend

    plt.rcdefaults()
    plt.rcParams.update(
        {
            "figure.constrained_layout.use": True,
            "figure.dpi": 150,
            "savefig.dpi": 150,
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "image.cmap": "gray",
            "axes.prop_cycle": plt.cycler(color=["#1f5fa8", "#d9741a", "#4d8c57", "#8a5a9e", "#777777"]),
        }
    )
