"""Figures: bases, spectra and coefficients, for people who look rather than read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from spectral.base import Result
from spectral.errors import OptionError
from spectral.plots.style import BLUE, DOTS, INK, ORANGE, STYLE, WIDTH, Drawing, plain, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from spectral.results import EigenPairs, FullEigenPairs, SingularTriplets

MOST = 8  # results of a batch in one figure
TOP = 2.1  # inches, of the panel above the vectors

Canvas = Figure | SubFigure
Images = tuple[Tensor | None, ...]
Size = tuple[float, float]

# A text, vectors (k, ..., H, W), and what to write above each.
Grid = tuple[str, Tensor, list[str]]


def eigs(
    pairs: EigenPairs,
    clean: Tensor | None = None,
    noisy: Tensor | None = None,
    denoised: Tensor | None = None,
    title: str = "",
) -> Figure:
    """Images, lambda_k with |<x, e_k>| on twin axes, and a grid of e_k on a diverging map centred on zero.

    Args:
        pairs: the eigenpairs (of grey or colour images, the last two axes being rows and columns); of a batch
            the first images are shown one under another.
        clean, noisy, denoised: images of the solver's input shape, shown where given.
        title: above the figure.

    Raises:
        OptionError: the vectors are no images.
    """

    def draw(canvas: Canvas, one: EigenPairs, images: Images, title: str) -> Size:
        grids = [(f"$e_k$ of the {one.part} part, with $\\lambda_k$", one.vectors, _captions(one.values))]
        return _draw(canvas, one, "\\lambda_k", "e_k", grids, images, title)

    return stacked(draw, pairs, pairs.values.shape[:-1], (clean, noisy, denoised), title)


def svd(
    triplets: SingularTriplets,
    clean: Tensor | None = None,
    noisy: Tensor | None = None,
    denoised: Tensor | None = None,
    title: str = "",
) -> Figure:
    """Images, sigma_k with |<x, v_k>| on twin axes, and grids of right and left singular vectors.

    Arguments and errors are those of `eigs`.
    """

    def draw(canvas: Canvas, one: SingularTriplets, images: Images, title: str) -> Size:
        captions = _captions(one.values)
        grids = [
            ("right singular vectors $v_k$, with $\\sigma_k$", one.right, captions),
            ("left singular vectors $u_k$", one.left, captions),
        ]
        return _draw(canvas, one, "\\sigma_k", "v_k", grids, images, title)

    return stacked(draw, triplets, triplets.values.shape[:-1], (clean, noisy, denoised), title)


def full_eigs(pairs: FullEigenPairs, title: str = "") -> Figure:
    """Eigenvalues in the complex plane, residuals and errors, and grids of real and imaginary parts of v_k.

    Of a complex pair the vector with Im lambda > 0 is shown.  The unit circle is dashed, the bound on what
    was not seen dotted.

    Args:
        pairs: eigenpairs of an operator on images (grey or colour, the last two axes being rows and columns).
        title: above the figure.

    Raises:
        OptionError: the vectors are no images.
    """
    shown = (pairs.values.imag >= 0).nonzero().squeeze(-1)
    turning = (pairs.values.imag > 0).nonzero().squeeze(-1)
    captions = _captions(pairs.values)
    grids = [
        (f"${part}\\, v_k$, with $\\lambda_k$", vectors[index], [captions[i] for i in index])
        for part, vectors, index in (
            ("\\mathrm{Re}", pairs.vectors.real, shown),
            ("\\mathrm{Im}", pairs.vectors.resolve_conj().imag, turning),
        )
        if len(index)
    ]
    figure = Drawing(layout="constrained", dpi=DOTS)
    size, panels = _panels(figure, grids, title)
    figure.set_size_inches(size)
    turned, misses = panels[0].subplots(1, 2, width_ratios=[1.2, 1.0])
    _complex_plane(turned, pairs)
    index = np.arange(1, pairs.k + 1)
    misses.semilogy(index, pairs.residuals, "o-", ms=3, lw=1, color=BLUE, label="residual")
    misses.semilogy(index, pairs.errors, "s-", ms=3, lw=1, color=ORANGE, label="error, first order")
    misses.axhline(float(pairs.tolerance), color="#bbbbbb", lw=0.8, ls="--", label="tolerance")
    misses.set_xlabel("index k", **STYLE)
    misses.set_ylabel("residual, error", **STYLE)
    misses.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(misses)
    plain(turned)
    plain(misses)
    _fill(panels, grids)
    return figure


def stacked(
    draw: Callable[[Canvas, Any, Images, str], Size],
    result: Result,
    batch: tuple[int, ...],
    images: Images,
    title: str,
) -> Figure:
    """A figure of a result, or of the first of a batch's, one under another.

    Args:
        draw: draws one result, with images and a title, and says what size in inches that takes.
        result: of one problem, or of `batch` = (B,).
        batch: () or (B,).
        images: shown with it, with a leading axis where there is a batch.
        title: above the figure.
    """
    figure = Drawing(layout="constrained", dpi=DOTS)
    if not batch:
        figure.set_size_inches(draw(figure, result, images, title))
        return figure
    shown = min(batch[0], MOST)
    width, height = 0.0, 0.0
    for i, canvas in enumerate(figure.subfigures(shown, 1, squeeze=False)[:, 0]):
        name = f"{title}{': ' if title else ''}image {i + 1} of {batch[0]}"
        some = tuple(None if x is None else x[i] for x in images)
        width, tall = draw(canvas, result.image(i), some, name)
        height += tall
    figure.set_size_inches(width, height)
    return figure


def _draw(
    canvas: Canvas,
    spectrum: EigenPairs | SingularTriplets,
    value: str,
    vector: str,
    grids: list[Grid],
    images: Images,
    title: str,
) -> Size:
    size, panels = _panels(canvas, grids, title)
    names = ("clean", "noisy", "denoised")
    shown = [(name, x) for name, x in zip(names, images, strict=True) if x is not None]
    axes = np.atleast_1d(panels[0].subplots(1, len(shown) + 1, width_ratios=[1.0] * len(shown) + [2.2]))
    for axis, (name, x) in zip(axes, shown, strict=False):
        axis.imshow(picture(x), cmap="gray", vmin=0, vmax=1)
        axis.set_title(name, **STYLE)
        axis.set_axis_off()
    _values(axes[-1], spectrum, value)
    if images[0] is not None:
        _coefficients(axes[-1], spectrum.coefficients(images[0]).abs().numpy(), vector)
    _fill(panels, grids)
    return size


def _layout(grids: list[Grid]) -> list[tuple[int, int, float]]:
    """Rows, columns and height of each grid; all have the same columns, so that images are of one size."""
    most = max((len(vectors) for _, vectors, _ in grids), default=0)
    longest = max((len(caption) for *_, captions in grids for caption in captions), default=0)
    room = 10 if longest < 14 else 7  # complex values are wider
    columns = max(6, math.ceil(most / max(1, math.ceil(most / room))))
    shapes = []
    for _, vectors, _ in grids:
        if vectors.ndim < 3:
            shape = tuple(vectors.shape)
            raise OptionError(
                f"a figure takes the spectrum at one image or several; its vectors have shape {shape}"
            )
        rows = max(1, math.ceil(len(vectors) / columns))
        aspect = min(max(vectors.shape[-2] / vectors.shape[-1], 0.5), 2.0)
        shapes.append((rows, columns, 0.25 + rows * (0.9 * WIDTH / columns * aspect + 0.17)))
    return shapes


def _panels(canvas: Canvas, grids: list[Grid], title: str) -> tuple[Size, Any]:
    """The size that a canvas needs, and its panels: one above, and one for each grid."""
    heights = [height for *_, height in _layout(grids)]
    titled(canvas, title)
    panels = canvas.subfigures(1 + len(grids), 1, height_ratios=[TOP, *heights], squeeze=False)[:, 0]
    return (WIDTH, TOP + sum(heights)), panels


def _fill(panels: Any, grids: list[Grid]) -> None:
    for panel, grid, (rows, columns, _) in zip(panels[1:], grids, _layout(grids), strict=True):
        text, vectors, captions = grid
        panel.suptitle(f"{text} (red positive, blue negative; the strongest saturated)", **STYLE)
        _grid(panel.subplots(rows, columns, squeeze=False), vectors, captions)


def _captions(values: Tensor) -> list[str]:
    """Index and value; of complex pairs both signs."""
    turns = [f" \u00b1 {v.imag:.3f}i" if v.imag else "" for v in values.tolist()]
    return [
        f"{i}   {v.real:.3f}{turn}" for i, (v, turn) in enumerate(zip(values.tolist(), turns, strict=True), 1)
    ]


def _complex_plane(axis: Axes, pairs: FullEigenPairs) -> None:
    values, bound = pairs.values.numpy(), float(pairs.completeness.bound)
    axis.axhline(0, color="#dddddd", lw=0.8, zorder=0)
    axis.plot(values.real, values.imag, "o", ms=4, color=BLUE)
    axis.plot(values[pairs.defective].real, values[pairs.defective].imag, "x", ms=8, color=ORANGE)
    # The view is that of the values; imaginary parts, small beside real ones, have a scale of their own.
    axis.margins(0.15)
    left, right = axis.get_xlim()
    height = max(1.2 * np.abs(values.imag).max(initial=0.0), 0.05 * np.abs(values).max(initial=1.0))
    turn = np.exp(1j * np.linspace(0, 2 * np.pi, 2000))
    axis.plot(turn.real, turn.imag, color="#bbbbbb", lw=0.8, ls="--", label="unit circle")
    unseen = f"no other beyond, {pairs.completeness.confidence:.0%}"
    if np.isfinite(bound):
        if pairs.which == "magnitude":
            axis.plot(bound * turn.real, bound * turn.imag, color=ORANGE, lw=0.8, ls=":", label=unseen)
        else:
            axis.axvline(bound, color=ORANGE, lw=0.8, ls=":", label=unseen)
        left, right = min(left, bound), max(right, bound)
    axis.set(xlim=(left, right), ylim=(-height, height))
    _legend(axis)
    axis.set_xlabel("$\\mathrm{Re}\\, \\lambda_k$", **STYLE)
    axis.set_ylabel("$\\mathrm{Im}\\, \\lambda_k$", **STYLE)


def _legend(axis: Axes) -> None:
    """Above the axes, where no line can cross it."""
    close: dict[str, Any] = {"ncols": 3, "columnspacing": 1, "handlelength": 1.5, "borderaxespad": 0}
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=6, frameon=False, **close)


def _values(axis: Axes, spectrum: EigenPairs | SingularTriplets, value: str) -> None:
    index = np.arange(1, spectrum.k + 1)
    axis.errorbar(index, spectrum.values, yerr=spectrum.errors, fmt="o-", ms=3, lw=1, color=BLUE, zorder=3)
    axis.axhline(1, color="#bbbbbb", lw=0.8, ls="--")
    axis.set_xlabel("index k", **STYLE)
    axis.set_ylabel(f"${value}$", color=BLUE, fontsize=8)
    ends = [float(spectrum.values.min()), float(spectrum.values.max())] if spectrum.k else [0.0, 1.0]
    axis.set_ylim(min(0.0, 1.1 * ends[0]), 1.08 * ends[1] if ends[1] > 0 else max(-0.05 * ends[0], 1e-3))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain(axis)


def _coefficients(axis: Axes, size: np.ndarray, vector: str) -> None:
    twin = axis.twinx()
    # Coefficients span decades: bars on a logarithmic axis.
    twin.bar(np.arange(1, len(size) + 1), size, width=0.55, color=ORANGE, alpha=0.45)
    twin.set_yscale("log")
    if (size > 0).any():
        decades = np.log10(size[size > 0])
        twin.set_ylim(10 ** np.floor(decades.min()), 10 ** np.ceil(decades.max()))
    twin.set_ylabel(f"$|\\langle x, {vector}\\rangle|$, intensity", color=ORANGE, fontsize=8)
    twin.tick_params(labelsize=7)
    twin.spines["top"].set_visible(False)
    axis.set_zorder(twin.get_zorder() + 1)
    axis.patch.set_visible(False)


def _grid(axes: np.ndarray, vectors: Tensor, captions: list[str]) -> None:
    for i, axis in enumerate(axes.flat):
        axis.set_axis_off()
        if i < len(vectors):
            e = plane(vectors[i])
            # A few strong pixels, as at a corner, would leave the rest white.
            limit = max(np.quantile(np.abs(e), 0.995), np.abs(e).max() / 5)
            axis.imshow(e, cmap="RdBu_r", vmin=-limit, vmax=limit)
            axis.set_title(captions[i], fontsize=6, color=INK, pad=2)


def plane(x: Tensor) -> np.ndarray:
    """(H, W) from (..., H, W), leading axes averaged."""
    return x.detach().float().cpu().reshape(-1, *x.shape[-2:]).mean(0).numpy()


def picture(x: Tensor) -> np.ndarray:
    """(H, W, 3) in [0, 1] of an image in colour, and `plane` of any other."""
    if x.ndim >= 3 and x.shape[-3] == 3:
        return x.detach().float().cpu().reshape(-1, *x.shape[-3:])[0].movedim(0, -1).clamp(0, 1).numpy()
    return plane(x)
