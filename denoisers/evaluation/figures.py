"""Figures of evaluations: PSNR curves, SURE against the truth, two networks and their nearest images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MultipleLocator, NullLocator

from denoisers.evaluation.spread import FEWEST, told
from spectral.errors import OptionError
from spectral.plots.spectra import picture
from spectral.plots.style import BLUE, COLOURS, DOTS, INK, MARKERS, STYLE, WIDTH, Drawing, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from denoisers.evaluation.comparison import Comparison
    from denoisers.evaluation.psnr import PSNRCurve
    from denoisers.evaluation.surecheck import SureCheck

MOST = 12  # samples in a row of a comparison


def curves(
    found: Mapping[str, PSNRCurve], window: tuple[float, float] | None = None, title: str = ""
) -> Figure:
    """Output against input PSNR, with 95 % bands over images, and beside no denoising at all.

    Args:
        found: curves by name.
        window: of input PSNR in dB; in it lines are fitted, drawn, and their slopes told.
        title: above the figure.

    Raises:
        OptionError: no curve, or a window with fewer than two noise levels.
    """
    figure = Drawing(figsize=(4.2, 3.6), layout="constrained", dpi=DOTS)
    axis = figure.subplots()
    if title:
        axis.set_title(title, fontsize=9, color=INK, loc="left")
    curves_on(axis, found, window)
    return figure


def curves_on(axis: Axes, found: Mapping[str, PSNRCurve], window: tuple[float, float] | None = None) -> None:
    """What `curves` draws, on axes of a figure that has others too.

    Raises what `curves` does.
    """
    if not found:
        raise OptionError("a figure takes at least one curve, got none")
    ends = []
    for i, (name, curve) in enumerate(found.items()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        order = curve.sigmas.argsort(descending=True)
        x, y = curve.noisy.mean(1)[order], curve.denoised.mean(1)[order]
        mean = curve.mean()
        if curve.noisy.shape[1] >= FEWEST:
            low, high = (torch.as_tensor(end)[order] for end in mean.interval(0.95))
            axis.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
        axis.plot(x, y, marker, ls="-", ms=3.5, lw=1, color=colour, label=name, zorder=3)
        if window is not None:
            slope = told(curve.slope(*window)).replace("+-", "\u00b1")
            label = f"its line, slope {slope}"
            axis.plot(*curve.line(*window), color=INK, lw=1, ls=(0, (1, 1.5)), label=label, zorder=4)
        ends += [x.min().item(), x.max().item()]
    least, most = min(ends), max(ends)
    axis.plot([least, most], [least, most], color="#999999", lw=0.9, ls="--", label="not denoised", zorder=0)
    axis.set_xlabel("input PSNR (dB)", **STYLE)
    axis.set_ylabel("output PSNR (dB)", **STYLE)
    plain(axis)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(MultipleLocator(5 if most - least > 12 else 2))
    axis.grid(color="#eeeeee", lw=0.6)
    axis.set_axisbelow(True)
    bands = all(curve.noisy.shape[1] >= FEWEST for curve in found.values())
    axis.legend(
        fontsize=7,
        frameon=False,
        loc="lower right",
        title="bands and \u00b1: 95 %" if bands else None,
        title_fontsize=6.5,
        alignment="left",
    )


def sure(found: SureCheck, title: str = "") -> Figure:
    """Mean squared error and SURE against sigma with 95 % bars, and SURE's errors in units of what it states.

    Args:
        found: the check.
        title: above the figure.
    """
    figure = Drawing(figsize=(WIDTH, 3.2), layout="constrained", dpi=DOTS)
    left, right = figure.subplots(1, 2)
    if title:
        figure.suptitle(title, fontsize=9, color=INK)
    curve, count = found.curve, found.curve.mse.shape[1]
    for estimate, name, colour, marker, aside in (
        (found.true, "true", INK, "o", 1 / 1.015),
        (found.sure, "SURE", BLUE, "s", 1.015),
    ):
        mean, half = (torch.as_tensor(x).numpy() for x in (estimate.value, estimate.halfwidth()))
        style = {"fmt": marker, "ms": 3.5, "elinewidth": 1, "capsize": 2, "color": colour, "label": name}
        left.errorbar(aside * curve.sigmas.numpy(), mean, yerr=np.nan_to_num(half), **style)
    left.set_yscale("log")
    # A bar that reaches down to zero says no more than that, and must not set the scale.
    left.set_ylim(0.3 * curve.mse.mean(1).min().item(), None)
    left.set_ylabel("mean squared error per pixel, squared intensity", **STYLE)
    left.set_title(f"mean over {count} image{'s' if count > 1 else ''}, 95 %", loc="left", **STYLE)
    left.legend(fontsize=7, frameon=False, loc="upper left")

    off = (curve.sure - curve.mse) / curve.sure_error
    spread = torch.linspace(-0.04, 0.04, count, dtype=torch.float64).exp() if count > 1 else torch.ones(1)
    right.axhspan(-1.96, 1.96, color=BLUE, alpha=0.12, lw=0)
    right.axhline(0, color="#999999", lw=0.8)
    right.plot((curve.sigmas[:, None] * spread).numpy(), off.numpy(), ".", ms=3, color=BLUE, alpha=0.7)
    right.set_ylabel("(SURE - true) / its stated error", **STYLE)
    share = 100 * found.covered.mean().item()
    right.set_title(f"each image; {share:.0f} % in the band of 95 %", loc="left", **STYLE)
    most = 1.15 * max(3.0, off.abs().max().item())
    right.set_ylim(-most, most)
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_xlim(0.85 * curve.sigmas.min().item(), 1.18 * curve.sigmas.max().item())
        axis.set_xticks(curve.sigmas.tolist(), [f"{sigma:.2g}" for sigma in curve.sigmas])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("noise level $\\sigma$", **STYLE)
        plain(axis)
        axis.tick_params(which="minor", labelsize=7)
    return figure


def comparison(
    found: Comparison,
    centred: bool = False,
    title: str = "",
) -> Figure:
    """Samples of two networks from the same noise, between rows of their nearest training images.

    Between two rows stands the cosine of the image above and the one below.

    Args:
        found: of grey or colour images; at most 12 samples are shown.
        centred: show centred similarities, and the nearest images by these.
        title: above the figure.
    """
    nearby = found.neighbours(centred)
    values = found.similarities(centred)
    rows = [
        ("nearest in\ntraining set of A", nearby[0].images, ""),
        ("drawn by A", found.first.images, "first"),
        ("drawn by B", found.second.images, "between"),
        ("nearest in\ntraining set of B", nearby[1].images, "second"),
    ]
    shown = min(len(found.between), MOST)
    height, width = found.first.images.shape[-2:]
    tall = min(max(height / width, 0.5), 2.0)
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.02, wspace=0.0, hspace=0.0)
    figure = Drawing(layout=layout, dpi=DOTS)
    figure.set_size_inches(1.15 + 0.92 * shown, 4 * (0.92 * tall + 0.17) + (0.45 if title else 0.2))
    if title:
        figure.suptitle(title, fontsize=9, color=INK)
    figure.supxlabel(f"between rows: {'centred ' if centred else ''}cosine similarity", fontsize=7, color=INK)
    grid = figure.subplots(len(rows), shown, squeeze=False)
    for axes, (text, images, above) in zip(grid, rows, strict=True):
        for i, axis in enumerate(axes):
            axis.imshow(picture(images[i]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if above:
                axis.set_title(f"\u2191 {values[above][i]:.3f} \u2193", fontsize=7, color=INK, pad=2)
        axes[0].set_ylabel(text, rotation=0, ha="right", va="center", labelpad=6, **STYLE)
    return figure
