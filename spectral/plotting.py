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

    from spectral.results import EigenPairs

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
    shape = pairs.vectors.shape[1:]
    if pairs.values.ndim != 1 or len(shape) < 2:
        raise OptionError(f"a figure takes the eigenpairs of one image; these have vectors {tuple(shape)}")
    shown = [
        (name, x) for name, x in (("clean", clean), ("noisy", noisy), ("denoised", denoised)) if x is not None
    ]
    columns = min(10, max(5, pairs.k))
    rows = math.ceil(pairs.k / columns)
    tile = 1.12 * min(max(shape[-2] / shape[-1], 0.5), 2.0)
    height = 0.3 + rows * (tile + 0.2)
    figure = Figure(figsize=(12, 3.5 + height), layout="constrained", dpi=120)
    panels: Any = figure.subfigures(2, 1, height_ratios=[3.4, height])
    top, bottom = panels
    if title:
        figure.suptitle(title, fontsize=10, color=INK)

    axes = np.atleast_1d(top.subplots(1, len(shown) + 1, width_ratios=[1.0] * len(shown) + [2.2]))
    for axis, (name, x) in zip(axes, shown, strict=False):
        axis.imshow(_picture(x), cmap="gray", vmin=0, vmax=1)
        axis.set_title(name, **STYLE)
        axis.set_axis_off()
    _spectrum(axes[-1], pairs, clean)

    grid = np.atleast_2d(bottom.subplots(rows, columns, squeeze=False))
    bottom.suptitle(
        f"$e_k$ of the {pairs.part} part, with $\\lambda_k$ (red positive, blue negative)", **STYLE
    )
    for i, axis in enumerate(grid.flat):
        axis.set_axis_off()
        if i < pairs.k:
            e = _plane(pairs.vectors[i])
            limit = np.abs(e).max()
            axis.imshow(e, cmap="RdBu_r", vmin=-limit, vmax=limit)
            axis.set_title(f"{i + 1}   {pairs.values[i].item():.3f}", fontsize=7, color=INK, pad=2)
    return figure


def _spectrum(axis: Axes, pairs: EigenPairs, clean: Tensor | None) -> None:
    index = np.arange(1, pairs.k + 1)
    axis.errorbar(index, pairs.values, yerr=pairs.errors, fmt="o-", ms=3, lw=1, color=BLUE, zorder=3)
    axis.axhline(1, color="#bbbbbb", lw=0.8, ls="--")
    axis.set_xlabel("k", **STYLE)
    axis.set_ylabel("$\\lambda_k$", color=BLUE, fontsize=9)
    low = min(0.0, float(pairs.values.min()) * 1.1) if pairs.k else 0.0
    axis.set_ylim(low, None)
    axis.tick_params(labelsize=7)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.spines["top"].set_visible(False)
    if clean is not None:
        twin = axis.twinx()
        # Coefficients span decades: bars on a logarithmic axis.
        size = pairs.coefficients(clean).abs().numpy()
        twin.bar(index, size, width=0.55, color=ORANGE, alpha=0.45)
        twin.set_yscale("log")
        if size.max() > 0:
            decades = np.log10(size[size > 0])
            twin.set_ylim(10 ** np.floor(decades.min()), 10 ** np.ceil(decades.max()))
        twin.set_ylabel("$|\\langle x, e_k\\rangle|$", color=ORANGE, fontsize=9)
        twin.tick_params(labelsize=7)
        twin.spines["top"].set_visible(False)
        axis.set_zorder(twin.get_zorder() + 1)
        axis.patch.set_visible(False)


def _picture(x: Tensor) -> np.ndarray:
    """(H, W) or (H, W, 3) in [0, 1] from any image tensor."""
    planes = x.detach().float().cpu().reshape(-1, *x.shape[-2:])
    return (planes.permute(1, 2, 0) if len(planes) == 3 else planes.mean(0)).clamp(0, 1).numpy()


def _plane(e: Tensor) -> np.ndarray:
    """(H, W): a colour vector is shown by the mean of its channels."""
    return e.detach().float().cpu().reshape(-1, *e.shape[-2:]).mean(0).numpy()
