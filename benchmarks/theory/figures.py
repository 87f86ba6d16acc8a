"""The figures of the theory: PSNR curves, M-term decay and structure functions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.theory import mterm, regularity
from benchmarks.theory.oracle_slopes import ALPHAS, Curves

Array = NDArray[np.floating[Any]]
COLOURS = {
    "DCT": "#8c8c8c",
    "db4": "#2c7fb8",
    "bandlet on db4": "#1a9850",
    "bandlet on db1": "#a6d96a",
    "pixel Alpert": "#d95f02",
    "Gaussian reference": "#222222",
}
NETWORK = "#c51b7d"


def psnr_curves(curves: Mapping[int, Curves], title: str) -> Figure:
    """Output against input PSNR, one panel an alpha."""
    figure, axes = _panels(len(ALPHAS), title)
    for axis, alpha in zip(axes, ALPHAS, strict=True):
        found = curves[alpha]
        inputs = found.inputs
        for name, output in found.outputs.items():
            slope = np.polyfit(inputs, output.mean(0), 1)[0]
            style = "--" if name == "Gaussian reference" else "-"
            axis.plot(
                inputs,
                output.mean(0),
                style,
                color=COLOURS.get(name, NETWORK),
                lw=1.6,
                label=f"{name}  {slope:.2f}",
            )
        axis.set_title(
            f"$\\alpha$ = {alpha}: limit $\\alpha/(\\alpha+1)$ = {alpha / (alpha + 1):.2f}", fontsize=10
        )
        axis.set_xlabel("input PSNR (dB)")
        axis.legend(title="slope", fontsize=7, title_fontsize=7, frameon=False, loc="best", alignment="left")
    axes[0].set_ylabel("output PSNR (dB)")
    return figure


def decay(found: Mapping[int, Mapping[str, tuple[Array, Array]]]) -> Figure:
    """M-term error against M / d, one panel an alpha, the fitted window shaded."""
    figure, axes = _panels(len(ALPHAS), "M-term approximation of C$^\\alpha$ images")
    for axis, alpha in zip(axes, ALPHAS, strict=True):
        axis.axvspan(*mterm.WINDOW, color="#f2f2f2", zorder=0)
        for name, (terms, errors) in found[alpha].items():
            p = mterm.exponents(terms, errors).mean()
            fitted = "" if np.isnan(p) else f"  {p:.2f}"
            some = (terms > 0).all(axis=0)
            m, e = (np.exp(np.log(x[:, some]).mean(axis=0)) for x in (terms, errors))
            axis.loglog(m, e, "o-", ms=3, lw=1.4, color=COLOURS[name], label=name + fitted)
        axis.set_title(f"$\\alpha$ = {alpha}", fontsize=10)
        axis.set_xlabel("kept coefficients, M / d")
        axis.legend(
            title="exponent", fontsize=7, title_fontsize=7, frameon=False, loc="lower left", alignment="left"
        )
    axes[0].set_ylabel("relative error |x - x$_M$|$^2$ / |x|$^2$")
    return figure


def structure_functions(seed: int) -> Figure:
    """Structure functions of one contour and one background, beside the power laws h^2H."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", dpi=130)
    lags = 2 ** np.arange(1, 9)
    for axis, title, make, size, shift in (
        (axes[0], "contours", regularity.contour, 2**14, 0.5),
        (axes[1], "backgrounds", regularity.background, 2**11, 1.0),
    ):
        for colour, s in zip(plt.cm.viridis(np.linspace(0, 0.85, 4)), (1.5, 2.0, 3.0, 5.0), strict=True):
            smooth = s - shift
            values = regularity.structure_function(make(size, s, seed, 0), int(np.floor(smooth)) + 2, lags)
            values = values / values[3]
            axis.loglog(lags, values, "o", ms=4, color=colour, label=f"exponent {s:g}: H = {smooth:g}")
            axis.loglog(lags, (lags / lags[3]) ** (2 * smooth), "-", lw=1, color=colour)
        axis.axvspan(regularity.LAGS[0], regularity.LAGS[-1], color="#f2f2f2", zorder=0)
        axis.set_title(f"{title}: lines are $h^{{2H}}$", fontsize=10)
        axis.set_xlabel("lag h (samples)")
        axis.legend(fontsize=7, frameon=False)
        _plain(axis)
    axes[0].set_ylabel("structure function, 1 at lag 16")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    figure, axes = plt.subplots(
        1, count, figsize=(3.4 * count, 4.6), layout="constrained", dpi=130, sharey=True
    )
    figure.suptitle(title, fontsize=11)
    for axis in axes:
        _plain(axis)
    return figure, list(axes)


def _plain(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#eeeeee", lw=0.6)
    axis.set_axisbelow(True)
