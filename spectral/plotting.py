"""Figures: bases, spectra and coefficients, for people who look rather than read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from spectral.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from spectral.results import EigenPairs, SingularTriplets

BLUE, ORANGE, INK = "#1f5fa8", "#d9741a", "#333333"
STYLE: dict[str, Any] = {"fontsize": 8, "color": INK}


def eigs(
    pairs: EigenPairs,
    clean: Tensor | None = None,
    noisy: Tensor | None = None,
    denoised: Tensor | None = None,
    title: str = "",
) -> Figure:
    """Images, lambda_k with |<x, e_k>| on twin axes, and a grid of e_k on a diverging map centred on zero.

    Args:
        pairs: the eigenpairs of one image (grey or colour, the last two axes being rows and columns).
        clean, noisy, denoised: images of the solver's input shape, shown where given.
        title: above the figure.

    Raises:
        OptionError: the pairs are of several images, or of vectors that are no images.
    """
    grids = [(f"$e_k$ of the {pairs.part} part, with $\\lambda_k$", pairs.vectors)]
    return _figure(pairs, "\\lambda_k", "e_k", grids, (clean, noisy, denoised), title)


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
    grids = [
        ("right singular vectors $v_k$, with $\\sigma_k$", triplets.right),
        ("left singular vectors $u_k$", triplets.left),
    ]
    return _figure(triplets, "\\sigma_k", "v_k", grids, (clean, noisy, denoised), title)


def _figure(
    spectrum: EigenPairs | SingularTriplets,
    value: str,
    vector: str,
    grids: list[tuple[str, Tensor]],
    images: tuple[Tensor | None, ...],
    title: str,
) -> Figure:
    if spectrum.values.ndim != 1 or any(vectors.ndim < 3 for _, vectors in grids):
        shape = tuple(grids[0][1].shape)
        raise OptionError(f"a figure takes the spectrum of one image; its vectors have shape {shape}")
    rows = max(1, math.ceil(spectrum.k / 10))
    columns = max(5, math.ceil(spectrum.k / rows))
    aspect = grids[0][1].shape[-2] / grids[0][1].shape[-1]
    height = 0.3 + rows * (1.12 * min(max(aspect, 0.5), 2.0) + 0.2)
    figure = Figure(figsize=(12, 3.5 + len(grids) * height), layout="constrained", dpi=120)
    if title:
        figure.suptitle(title, fontsize=10, color=INK)
    panels: Any = figure.subfigures(1 + len(grids), 1, height_ratios=[3.4, *[height] * len(grids)])
    names = ("clean", "noisy", "denoised")
    shown = [(name, x) for name, x in zip(names, images, strict=True) if x is not None]
    axes = np.atleast_1d(panels[0].subplots(1, len(shown) + 1, width_ratios=[1.0] * len(shown) + [2.2]))
    for axis, (name, x) in zip(axes, shown, strict=False):
        axis.imshow(_picture(x), cmap="gray", vmin=0, vmax=1)
        axis.set_title(name, **STYLE)
        axis.set_axis_off()
    _values(axes[-1], spectrum, value)
    if images[0] is not None:
        _coefficients(axes[-1], spectrum.coefficients(images[0]).abs().numpy(), vector)
    for panel, (text, vectors) in zip(panels[1:], grids, strict=True):
        panel.suptitle(f"{text} (red positive, blue negative)", **STYLE)
        _grid(panel.subplots(rows, columns, squeeze=False), vectors, spectrum.values)
    return figure


def _values(axis: Axes, spectrum: EigenPairs | SingularTriplets, value: str) -> None:
    index = np.arange(1, spectrum.k + 1)
    axis.errorbar(index, spectrum.values, yerr=spectrum.errors, fmt="o-", ms=3, lw=1, color=BLUE, zorder=3)
    axis.axhline(1, color="#bbbbbb", lw=0.8, ls="--")
    axis.set_xlabel("k", **STYLE)
    axis.set_ylabel(f"${value}$", color=BLUE, fontsize=9)
    axis.set_ylim(min(0.0, float(spectrum.values.min()) * 1.1) if spectrum.k else 0.0, None)
    axis.tick_params(labelsize=7)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.spines["top"].set_visible(False)


def _coefficients(axis: Axes, size: np.ndarray, vector: str) -> None:
    twin = axis.twinx()
    # Coefficients span decades: bars on a logarithmic axis.
    twin.bar(np.arange(1, len(size) + 1), size, width=0.55, color=ORANGE, alpha=0.45)
    twin.set_yscale("log")
    if (size > 0).any():
        decades = np.log10(size[size > 0])
        twin.set_ylim(10 ** np.floor(decades.min()), 10 ** np.ceil(decades.max()))
    twin.set_ylabel(f"$|\\langle x, {vector}\\rangle|$", color=ORANGE, fontsize=9)
    twin.tick_params(labelsize=7)
    twin.spines["top"].set_visible(False)
    axis.set_zorder(twin.get_zorder() + 1)
    axis.patch.set_visible(False)


def _grid(axes: np.ndarray, vectors: Tensor, values: Tensor) -> None:
    for i, axis in enumerate(axes.flat):
        axis.set_axis_off()
        if i < len(vectors):
            e = _plane(vectors[i])
            limit = np.abs(e).max()
            axis.imshow(e, cmap="RdBu_r", vmin=-limit, vmax=limit)
            axis.set_title(f"{i + 1}   {values[i].item():.3f}", fontsize=7, color=INK, pad=2)


def _picture(x: Tensor) -> np.ndarray:
    """(H, W) or (H, W, 3) in [0, 1] from any image tensor."""
    planes = x.detach().float().cpu().reshape(-1, *x.shape[-2:])
    return (planes.permute(1, 2, 0) if len(planes) == 3 else planes.mean(0)).clamp(0, 1).numpy()


def _plane(e: Tensor) -> np.ndarray:
    """(H, W): a colour vector is shown by the mean of its channels."""
    return e.detach().float().cpu().reshape(-1, *e.shape[-2:]).mean(0).numpy()
