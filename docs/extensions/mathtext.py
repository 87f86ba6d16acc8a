"""Formulas as inline SVG by matplotlib's mathtext: no script, no fonts and no network to read a page."""

from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from docutils import nodes
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import text_to_path
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number

SIZE = 12.0  # of the font that outlines are taken from
LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}


def svg(tex: str) -> str:
    """A formula as one path in the colour of the text around it, sized and set on its line in em."""
    one_line = " ".join(tex.split())
    with mpl.rc_context({"mathtext.fontset": "cm"}):
        font = FontProperties(size=SIZE)
        vertices, codes = text_to_path.get_text_path(font, f"${one_line}$", ismath=True)
        width, height, depth = text_to_path.get_text_width_height_descent(f"${one_line}$", font, ismath=True)
    outline = Path(np.asarray(vertices) * np.array([1, -1]) * SIZE / text_to_path.FONT_SCALE, codes)
    parts = [f"{LETTERS[code]}{' '.join(f'{v:.2f}' for v in points)}" for points, code in _drawn(outline)]
    box = f"0 {depth - height:.2f} {width:.2f} {height:.2f}"
    style = f"width:{width / SIZE:.3f}em;height:{height / SIZE:.3f}em;vertical-align:{-depth / SIZE:.3f}em"
    return (
        f'<svg class="formula" role="img" aria-label="{escape(one_line, quote=True)}" viewBox="{box}" '
        f'style="{style}"><path d="{" ".join(parts)}" fill="currentColor"/></svg>'
    )


def _drawn(outline: Path) -> Any:
    for points, code in outline.iter_segments(simplify=False, curves=True):
        yield ([] if code == Path.CLOSEPOLY else points), code


def inline(visitor: Any, node: nodes.math) -> None:
    """A formula within a line."""
    visitor.body.append(svg(node.astext()))
    raise nodes.SkipNode


def display(visitor: Any, node: nodes.math_block) -> None:
    """Formulas between paragraphs, a line of the source each, with their number where there is one."""
    number = get_node_equation_number(visitor, node) if node["number"] else ""
    lines = [line.rstrip("\\") for line in node.astext().splitlines() if line.strip()]
    told = f'<span class="eqno">({number})</span>' if number else ""
    drawn = "".join(f"<div>{svg(line)}</div>" for line in lines)
    visitor.body.append(f'<div class="formulas">{told}{drawn}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Offer it as `html_math_renderer = "mathtext"`."""
    app.add_html_math_renderer("mathtext", (inline, None), (display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
