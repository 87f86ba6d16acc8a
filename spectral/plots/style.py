"""How figures look: colours that no colour blindness confuses, letters that printers take, a page's width."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

BLUE, ORANGE, INK = "#1f5fa8", "#d9741a", "#333333"
# Further lines.  Any two are 30 or more apart in CIELAB, to trichromats and dichromats alike.
COLOURS = (BLUE, ORANGE, "#60c1f2", "#5a1a3a", "#d8bf8c", "#8c6b5b")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # seven to six colours: 42 lines before two are alike
STYLE: dict[str, Any] = {"fontsize": 8, "color": INK}

WIDTH = 7.0  # inches: both columns of a page, so that letters keep their size in print
DOTS = 200  # an inch

# Letters as TrueType: publishers refuse matplotlib's usual Type 3.
LETTERS: dict[Any, Any] = {"pdf.fonttype": 42, "ps.fonttype": 42}


class Drawing(Figure):
    """A figure that notebooks show, whatever else of matplotlib has been imported, and that printers take."""

    def savefig(self, fname: Any, **options: Any) -> None:
        """As matplotlib's, with letters embedded as TrueType in PDF and PostScript."""
        with mpl.rc_context(LETTERS):
            super().savefig(fname, **options)

    def _repr_png_(self) -> bytes:
        """Itself, as PNG."""
        png = io.BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()


def titled(canvas: Any, title: str) -> None:
    """Put a title, if there is one, above a figure or a panel."""
    if title:
        canvas.suptitle(title, fontsize=10, color=INK)


def plain(axis: Any) -> None:
    """Small numbers, and no frame above and beside."""
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
