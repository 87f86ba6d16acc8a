"""Figures of what estimators return: densities and risk curves with their error bands, images with scales."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from spectral.errors import OptionError
from spectral.estimators.results import Density
from spectral.plots.spectra import Canvas, Images, Size, picture, plane, stacked
from spectral.plots.style import BLUE, DOTS, INK, ORANGE, STYLE, WIDTH, Drawing, plain, titled

if TYPE_CHECKING:
    from spectral.risk import PosteriorComponents, RiskCurve


def density(result: Density, threshold: float | None = None, title: str = "") -> Figure:
    """The smoothed density on a logarithmic axis with its 95 % band, beside the count above t.

    Known values are drawn as ticks.

    Args:
        result: the density; of a batch the first are shown one under another.
        threshold: marked in both panels, with the count above it.
        title: above the figure.
    """

    def draw(canvas: Canvas, one: Density, _: Images, title: str) -> Size:
        return _density(canvas, one, threshold, title)

    return stacked(draw, result, result.nodes.shape[:-2], (), title)


def _density(canvas: Canvas, result: Density, threshold: float | None, title: str) -> Size:
    low, high = result.ends
    pad = max(0.04 * (high - low), result.span - (high - low))
    grid = torch.linspace(low - pad, high + pad, 600, dtype=torch.float64)
    name = "\\lambda" if result.part == "symmetric" else "\\sigma"
    left, right = canvas.subplots(1, 2)
    titled(canvas, title)

    floor = 0.2 / result.n / result.span  # a fifth of one value spread over the range
    _band(left, grid, *_interval(result.curve(grid)), floor=floor)
    left.plot(grid.numpy(), _array(result.curve(grid).value).clip(min=floor), color=BLUE, lw=1.2)
    if result.deflated.numel():
        ticks = np.full(len(result.deflated), 2 * floor)
        left.plot(_array(result.deflated), ticks, "|", color=ORANGE, ms=8, label="taken out, and exact")
        left.legend(fontsize=7, frameon=False)
    left.set_yscale("log")
    if result.method != "exact":
        left.set_title("bands: 95 %", loc="left", **STYLE)
    left.set_ylim(floor, None)
    left.set_ylabel(f"density, per unit of ${name}$", **STYLE)

    counts = result.count_above(grid)
    _band(right, grid, *_interval(counts), floor=0.5)
    right.plot(grid.numpy(), _array(counts.value).clip(min=0.5), color=BLUE, lw=1.2)
    right.set_yscale("log")
    right.set_ylim(0.5, None)  # no value: the axis
    right.set_ylabel(f"values above ${name}$", **STYLE)
    for axis in (left, right):
        axis.set_xlabel(f"${name}$", **STYLE)
        plain(axis)
        if threshold is not None:
            axis.axvline(threshold, color="#999999", lw=0.8, ls="--")
    if threshold is not None:
        count = result.count_above(threshold)
        right.set_title(f"{count.value:.1f} $\\pm$ {count.halfwidth():.1f} above {threshold:g}", **STYLE)
    return WIDTH, 2.6


def images(panels: list[tuple[str, Tensor]], title: str = "", signed: tuple[str, ...] = ()) -> Figure:
    """Grey images side by side, each with its own scale; one with negative entries where `signed` names it.

    Args:
        panels: names and images (..., H, W), leading axes averaged.
        title: above the figure.
        signed: names of those shown on a diverging map centred on zero.
    """
    figure = Drawing(layout="constrained", dpi=DOTS)
    figure.set_size_inches(_images(figure, panels, title, signed))
    return figure


def _images(
    canvas: Canvas,
    panels: list[tuple[str, Tensor]],
    title: str,
    signed: tuple[str, ...] = (),
    coloured: str = "",
) -> Size:
    planes = [(name, picture(x) if name == coloured else plane(x)) for name, x in panels]
    height, width = planes[0][1].shape[:2]
    titled(canvas, title)
    for axis, (name, x) in zip(np.atleast_1d(canvas.subplots(1, len(planes))), planes, strict=True):
        most = np.abs(x).max()
        scale = {"cmap": "RdBu_r", "vmin": -most, "vmax": most} if name in signed else {"cmap": "gray"}
        shown = axis.imshow(x, **scale)
        axis.set_title(name, **STYLE)
        axis.set_axis_off()
        if x.ndim == 2:
            canvas.colorbar(shown, ax=axis, shrink=0.8).ax.tick_params(labelsize=6)
    return WIDTH, 0.8 * WIDTH / max(len(planes), 2) * min(max(height / width, 0.5), 2) + 0.4


def strip(rows: list[tuple[str, Tensor]], title: str = "") -> Figure:
    """Rows of images on one grey scale from 0 to 1: traversals along posterior components.

    Args:
        rows: names and strips (count, ..., H, W), as `PosteriorComponents.traversal` returns them.
        title: above the figure.
    """
    figure = Drawing(layout="constrained", dpi=DOTS)
    figure.set_size_inches(_strip(figure, rows, title))
    return figure


def _strip(canvas: Canvas, rows: list[tuple[str, Tensor]], title: str, signed: Tensor | None = None) -> Size:
    """`strip`, each row after an image of `signed` (rows, ..., H, W), red and blue, where that is given."""
    before = 0 if signed is None else 1
    count = len(rows[0][1]) + before
    titled(canvas, title)
    # A panel a row: a name above the first image alone would widen its column.
    panels = canvas.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for k, (panel, (name, images_)) in enumerate(zip(panels, rows, strict=True)):
        panel.suptitle(name, x=0.01, ha="left", **STYLE)
        axes = panel.subplots(1, count, squeeze=False)[0]
        for axis, x in zip(axes[before:], images_, strict=True):
            axis.imshow(picture(x), cmap="gray", vmin=0, vmax=1)
        if signed is not None:
            e = plane(signed[k])
            axes[0].imshow(e, cmap="RdBu_r", vmin=-np.abs(e).max(), vmax=np.abs(e).max())
        for axis in axes:
            axis.set_axis_off()
    return WIDTH, (WIDTH / count + 0.22) * len(rows)


def posterior(components: PosteriorComponents, title: str = "") -> Figure:
    """Mean and pixel deviations, above the first four components, each before a walk from the mean along it.

    Args:
        components: of images (grey or colour, in [0, 1]); of a batch the first are shown one under another.
        title: above the figure.

    Raises:
        OptionError: the mean is no image.
    """
    if components.mean.ndim - (components.pairs.values.ndim - 1) < 2:
        raise OptionError(f"a figure takes images (..., H, W); got a mean {tuple(components.mean.shape)}")

    def draw(canvas: Canvas, one: PosteriorComponents, _: Images, title: str) -> Size:
        walks = [
            (f"$e_{k + 1}$, and from -3 to 3 standard deviations of {size:.3g} along it", one.traversal(k))
            for k, size in enumerate(one.deviations[:4].tolist())
        ]
        titled(canvas, title)
        ratios = [3.2, 1.1 * len(walks)]
        above, below = canvas.subfigures(2, 1, height_ratios=ratios, squeeze=False)[:, 0]
        panels = [("E[x | y], intensity", one.mean), ("deviation, intensity", one.pixel_deviation)]
        top = _images(above, panels, "", coloured="E[x | y], intensity")
        width, height = _strip(below, walks, "", one.pairs.vectors)
        return width, top[1] + height

    return stacked(draw, components, components.pairs.values.shape[:-1], (), title)


def risk(curve: RiskCurve, title: str = "") -> Figure:
    """A `RiskCurve`: root mean squared error, SURE and sigma sqrt(tr J / d) by sigma, 95 % bands."""
    figure = Drawing(figsize=(4.5, 3.4), layout="constrained", dpi=DOTS)
    axis = figure.subplots()
    titled(figure, title)
    sigmas = _array(curve.sigmas)
    # A band that reaches down to zero says no more than that: it neither sets the scale nor falls as a cliff.
    bottom = 0.5 * torch.as_tensor(curve.mean("mse").value).clamp(min=1e-12).sqrt().min().item()
    for name, label, colour, style in (
        ("mse", "true error", INK, "o-"),
        ("sure", "SURE, from y alone", BLUE, "s--"),
        ("bayes", "$\\sigma \\sqrt{\\mathrm{tr}\\,J / d}$, if f were optimal", ORANGE, "^:"),
    ):
        estimate = curve.mean(name)
        low, high = (np.sqrt(bound.clip(min=bottom**2)) for bound in _interval(estimate))
        axis.fill_between(sigmas, low, high, color=colour, alpha=0.15, lw=0)
        root = torch.as_tensor(estimate.value).clamp(min=1e-12).sqrt()
        axis.plot(sigmas, root, style, color=colour, ms=4, lw=1, label=label)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(bottom, None)
    axis.set_xticks(sigmas, [f"{sigma:g}" for sigma in sigmas])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("noise level $\\sigma$", **STYLE)
    axis.set_ylabel("root mean squared error per pixel, intensity", **STYLE)
    plain(axis)
    axis.legend(fontsize=8, frameon=False, title="bands: 95 %", title_fontsize=7)
    return figure


def _array(x: Any) -> np.ndarray:
    return torch.as_tensor(x).detach().double().cpu().numpy()


def _interval(estimate: Any) -> tuple[np.ndarray, np.ndarray]:
    low, high = estimate.interval(0.95)
    return _array(low), _array(high)


def _band(axis: Any, grid: Tensor, low: np.ndarray, high: np.ndarray, floor: float) -> None:
    axis.fill_between(grid.numpy(), low.clip(min=floor), high.clip(min=floor), color=BLUE, alpha=0.2, lw=0)
