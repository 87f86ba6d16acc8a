"""The figures of the theory: PSNR curves, M-term decay and structure functions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from benchmarks.theory import mterm, regularity
from benchmarks.theory.oracle_slopes import ALPHAS, Curves
from spectral.plots.style import COLOURS, DOTS, INK, MARKERS, STYLE, WIDTH, Drawing, plain

Array = NDArray[np.floating[Any]]
NAMES = ("db4", "pixel Alpert", "bandlet on db4", "network", "bandlet on db1", "DCT")
LOOKS = {name: (COLOURS[i], MARKERS[i]) for i, name in enumerate(NAMES)} | {"Gaussian reference": (INK, "X")}
SMALL = 6.5  # points, of legends


def psnr_curves(curves: Mapping[int, Curves], title: str) -> Drawing:
    """Output against input PSNR, one panel an alpha."""
    figure, axes = _panels(title, "input PSNR (dB)", "output PSNR (dB)")
    for axis, alpha in zip(axes, ALPHAS, strict=True):
        found = curves[alpha]
        inputs = found.inputs
        for name, output in found.outputs.items():
            slope = np.polyfit(inputs, output.mean(0), 1)[0]
            style = "--" if name == "Gaussian reference" else "-"
            colour, marker = LOOKS.get(name, LOOKS["network"])
            looks = {"marker": marker, "markevery": (0.05, 0.2), "ms": 3, "lw": 1.1, "color": colour}
            axis.plot(inputs, output.mean(0), style, label=f"{name}  {slope:.2f}", **looks)
        limit = f"limit $\\alpha/(\\alpha+1)$ = {alpha / (alpha + 1):.2f}"
        axis.set_title(f"$\\alpha$ = {alpha}, {limit}", loc="left", fontsize=7, color=INK)
        _legend(axis, "slope", "best")
    return figure


def decay(found: Mapping[int, Mapping[str, tuple[Array, Array]]]) -> Drawing:
    """M-term error against M / d, one panel an alpha, the fitted window shaded."""
    error = "relative error |x - x$_M$|$^2$ / |x|$^2$"
    figure, axes = _panels("M-term approximation of C$^\\alpha$ images", "kept coefficients, M / d", error)
    for axis, alpha in zip(axes, ALPHAS, strict=True):
        axis.axvspan(*mterm.WINDOW, color="#f2f2f2", zorder=0)
        for name, (terms, errors) in found[alpha].items():
            p = mterm.exponents(terms, errors).mean()
            fitted = "" if np.isnan(p) else f"  {p:.2f}"
            some = (terms > 0).all(axis=0)
            m, e = (np.exp(np.log(x[:, some]).mean(axis=0)) for x in (terms, errors))
            colour, marker = LOOKS[name]
            axis.loglog(m, e, f"{marker}-", ms=2.5, lw=1, color=colour, label=name + fitted)
        axis.set_title(f"$\\alpha$ = {alpha}", loc="left", fontsize=7, color=INK)
        _legend(axis, "exponent", "lower left")
    return figure


def structure_functions(seed: int) -> Drawing:
    """Structure functions of one contour and one background, beside the power laws h^2H."""
    figure = Drawing(figsize=(WIDTH, 2.9), layout="constrained", dpi=DOTS)
    axes = figure.subplots(1, 2)
    lags = 2 ** np.arange(1, 9)
    for axis, title, make, size, shift in (
        (axes[0], "contours", regularity.contour, 2**14, 0.5),
        (axes[1], "backgrounds", regularity.background, 2**11, 1.0),
    ):
        for i, s in enumerate((1.5, 2.0, 3.0, 5.0)):
            colour, marker = COLOURS[i], MARKERS[i]
            smooth = s - shift
            values = regularity.structure_function(make(size, s, seed, 0), int(np.floor(smooth)) + 2, lags)
            values = values / values[3]
            axis.loglog(lags, values, marker, ms=3.5, color=colour, label=f"exponent {s:g}: H = {smooth:g}")
            axis.loglog(lags, (lags / lags[3]) ** (2 * smooth), "-", lw=1, color=colour)
        axis.axvspan(regularity.LAGS[0], regularity.LAGS[-1], color="#f2f2f2", zorder=0)
        axis.set_title(f"{title}: lines are $h^{{2H}}$", loc="left", **STYLE)
        axis.set_xlabel("lag h (samples)", **STYLE)
        _legend(axis, None, "upper left")
        _plain(axis)
    axes[0].set_ylabel("structure function, 1 at lag 16", **STYLE)
    return figure


def save(figure: Drawing, path: Path) -> None:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _panels(title: str, x: str, y: str) -> tuple[Drawing, list[Axes]]:
    """A panel an alpha, in two rows, on the same axes."""
    figure = Drawing(figsize=(WIDTH, 2.9 * len(ALPHAS) / 2), layout="constrained", dpi=DOTS)
    axes = figure.subplots(len(ALPHAS) // 2, 2, sharex=True, sharey=True)
    figure.suptitle(title, **STYLE)
    figure.supxlabel(x, **STYLE)
    figure.supylabel(y, **STYLE)
    for axis in axes.flat:
        _plain(axis)
    return figure, list(axes.flat)


def _legend(axis: Axes, title: str | None, place: str) -> None:
    axis.legend(title=title, fontsize=SMALL, title_fontsize=SMALL, frameon=False, loc=place, alignment="left")


def _plain(axis: Axes) -> None:
    plain(axis)
    axis.tick_params(which="minor", labelsize=7)
    axis.grid(color="#eeeeee", lw=0.6)
    axis.set_axisbelow(True)
