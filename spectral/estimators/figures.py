"""Figures of what estimators return: densities and risk curves with their error bands, images with scales."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

from spectral.errors import OptionError
from spectral.estimators.results import Density
from spectral.plotting import BLUE, INK, ORANGE, STYLE


def density(result: Density, threshold: float | None = None, title: str = "") -> Figure:
    """The smoothed density on a logarithmic axis with its 95 % band, beside the count above t.

    Known values are drawn as ticks.

    Args:
        result: of one problem.
        threshold: marked in both panels, with the count above it.
        title: above the figure.

    Raises:
        OptionError: the density is of several problems.
    """
    if result.nodes.ndim != 2:
        raise OptionError("a figure takes the density of one problem")
    low, high = result.ends
    pad = 0.04 * (high - low) + 1e-9
    grid = torch.linspace(low - pad, high + pad, 600, dtype=torch.float64)
    name = "\\lambda" if result.part == "symmetric" else "\\sigma"
    figure = Figure(figsize=(10, 3.6), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    if title:
        figure.suptitle(title, fontsize=10, color=INK)

    floor = 0.2 / result.n / (high - low)  # a fifth of one value spread over the range
    _band(left, grid, *_interval(result.curve(grid)), floor=floor)
    left.plot(grid.numpy(), _array(result.curve(grid).value).clip(min=floor), color=BLUE, lw=1.2)
    if result.known.numel():
        ticks = np.full(len(result.known), 2 * floor)
        left.plot(_array(result.known), ticks, "|", color=ORANGE, ms=8, label="known")
        left.legend(fontsize=7, frameon=False)
    left.set_yscale("log")
    left.set_ylim(floor, None)
    left.set_ylabel("density", **STYLE)

    counts = result.count_above(grid)
    _band(right, grid, *_interval(counts), floor=0.5)
    right.plot(grid.numpy(), _array(counts.value).clip(min=0.5), color=BLUE, lw=1.2)
    right.set_yscale("log")
    right.set_ylabel(f"values above ${name}$", **STYLE)
    for axis in (left, right):
        axis.set_xlabel(f"${name}$", **STYLE)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        if threshold is not None:
            axis.axvline(threshold, color="#999999", lw=0.8, ls="--")
    if threshold is not None:
        count = result.count_above(threshold)
        right.set_title(f"{count.value:.1f} $\\pm$ {count.halfwidth():.1f} above {threshold:g}", **STYLE)
    return figure


def images(panels: list[tuple[str, Tensor]], title: str = "") -> Figure:
    """Grey images side by side, each with its own scale.

    Args:
        panels: names and images (..., H, W), leading axes averaged.
        title: above the figure.
    """
    planes = [(name, x.detach().double().cpu().reshape(-1, *x.shape[-2:]).mean(0)) for name, x in panels]
    height, width = planes[0][1].shape
    figure = Figure(
        figsize=(3.4 * len(planes), 3.2 * min(max(height / width, 0.5), 2) + 0.4),
        layout="constrained",
        dpi=120,
    )
    if title:
        figure.suptitle(title, fontsize=10, color=INK)
    for axis, (name, x) in zip(np.atleast_1d(figure.subplots(1, len(planes))), planes, strict=True):
        shown = axis.imshow(x.numpy(), cmap="gray")
        axis.set_title(name, **STYLE)
        axis.set_axis_off()
        figure.colorbar(shown, ax=axis, shrink=0.8).ax.tick_params(labelsize=6)
    return figure


def strip(rows: list[tuple[str, Tensor]], title: str = "") -> Figure:
    """Rows of images on one grey scale from 0 to 1: traversals along posterior components.

    Args:
        rows: names and strips (count, ..., H, W), as `PosteriorComponents.traversal` returns them.
        title: above the figure.
    """
    count = len(rows[0][1])
    figure = Figure(figsize=(1.5 * count, 1.6 * len(rows) + 0.3), layout="constrained", dpi=120)
    if title:
        figure.suptitle(title, fontsize=10, color=INK)
    grid = figure.subplots(len(rows), count, squeeze=False)
    for axes, (name, images_) in zip(grid, rows, strict=True):
        for axis, x in zip(axes, images_, strict=True):
            plane = x.detach().double().cpu().reshape(-1, *x.shape[-2:]).mean(0)
            axis.imshow(plane.numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
        axes[0].set_title(name, loc="left", **STYLE)
    return figure


def risk(curve: Any, title: str = "") -> Figure:
    """A `RiskCurve`: root mean squared error, SURE and sigma^2 tr J against sigma, with 95 % bands."""
    figure = Figure(figsize=(5, 3.8), layout="constrained", dpi=120)
    axis = figure.subplots()
    if title:
        figure.suptitle(title, fontsize=10, color=INK)
    sigmas = _array(curve.sigmas)
    for name, label, colour, style in (
        ("mse", "true error", INK, "o-"),
        ("sure", "SURE, from y alone", BLUE, "s--"),
        ("bayes", "$\\sigma^2$ tr J, if f were optimal", ORANGE, "^:"),
    ):
        estimate = curve.mean(name)
        low, high = (np.sqrt(bound.clip(min=1e-12)) for bound in _interval(estimate))
        axis.fill_between(sigmas, low, high, color=colour, alpha=0.15, lw=0)
        axis.plot(
            sigmas, estimate.value.clamp(min=1e-12).sqrt(), style, color=colour, ms=4, lw=1, label=label
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    # A band that reaches down to zero says no more than that, and must not set the scale.
    axis.set_ylim(0.5 * curve.mean("mse").value.clamp(min=1e-12).sqrt().min().item(), None)
    axis.set_xticks(sigmas, [f"{sigma:g}" for sigma in sigmas])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("noise level $\\sigma$", **STYLE)
    axis.set_ylabel("root mean squared error per pixel", **STYLE)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    return figure


def _array(x: Any) -> np.ndarray:
    return torch.as_tensor(x).detach().double().cpu().numpy()


def _interval(estimate: Any) -> tuple[np.ndarray, np.ndarray]:
    low, high = estimate.interval(0.95)
    return _array(low), _array(high)


def _band(axis: Any, grid: Tensor, low: np.ndarray, high: np.ndarray, floor: float) -> None:
    axis.fill_between(grid.numpy(), low.clip(min=floor), high.clip(min=floor), color=BLUE, alpha=0.2, lw=0)
