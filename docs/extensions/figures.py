"""Figures for sphinx-gallery: of the library, which belong to no pyplot, and of pyplot, framed."""

from textwrap import indent
from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst, matplotlib_scraper


def scrape(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save pyplot's figures, and a block's last expression where it is one."""
    pages = matplotlib_scraper(block, block_vars, gallery_conf)
    shown = block_vars["example_globals"].get("___")
    if isinstance(shown, Figure):
        block_vars["example_globals"]["___"] = None  # or its repr is shown too
        path = next(block_vars["image_path_iterator"])
        shown.savefig(path, dpi=150)
        pages += figure_rst([path], gallery_conf["src_dir"])
    # On a phone a figure scrolls within its frame, and not the page with it.
    return f"\n.. container:: figure-frame\n\n{indent(pages, '    ')}\n" if pages.strip() else ""


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
