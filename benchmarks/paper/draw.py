"""Parts of the figures: images, eigenvectors and PSNR curves on axes that are there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from spectral.plots.style import INK, STYLE, Drawing, plain

DOTS = 110  # an inch: pages of docs are read on screens


def canvas(width: float, height: float) -> Drawing:
    """An empty figure, in inches."""
    return Drawing(figsize=(width, height), layout="constrained", dpi=DOTS)


def image(axis: Axes, x: Tensor, title: str = "") -> None:
    """A grey image, black at 0 and white at 1."""
    axis.imshow(x.detach().cpu().reshape(x.shape[-2:]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    _bare(axis, title)


def vector(axis: Axes, e: Tensor, title: str = "") -> None:
    """An eigenvector, red where it is positive and blue where it is negative."""
    plane = e.detach().cpu().reshape(e.shape[-2:])
    most = float(plane.abs().max()) or 1.0
    axis.imshow(plane, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    _bare(axis, title)


def labelled(axis: Axes, x: str, y: str, title: str = "") -> None:
    """Labels, and no more frame than is needed."""
    axis.set_xlabel(x, **STYLE)
    axis.set_ylabel(y, **STYLE)
    if title:
        axis.set_title(title, loc="left", **STYLE)
    plain(axis)
    axis.grid(color="#eeeeee", lw=0.6)
    axis.set_axisbelow(True)


def legend(axis: Axes, place: str = "best", title: str | None = None) -> None:
    """Without a frame."""
    axis.legend(fontsize=7, frameon=False, loc=place, title=title, title_fontsize=7, alignment="left")


def row_name(axis: Axes, text: str) -> None:
    """What a row of images shows, to the left of its first."""
    axis.set_ylabel(text, rotation=0, ha="right", va="center", labelpad=6, **STYLE)


def off(axes: Sequence[Axes] | np.ndarray) -> None:
    """Axes with nothing on them."""
    for axis in np.ravel(np.asarray(axes)):
        axis.set_axis_off()


def _bare(axis: Axes, title: str) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    if title:
        axis.set_title(title, fontsize=7, color=INK, pad=2)
