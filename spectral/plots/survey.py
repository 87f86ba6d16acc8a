"""Figures of surveys: spectra over images, at every noise level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from spectral.errors import OptionError
from spectral.plots.style import STYLE, Drawing, plain, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from spectral.survey import Level, Survey

BAND = 0.18
SHOWN = 5  # values drawn against sigma


def summary(survey: Survey, title: str = "") -> Figure:
    """Values by index with a line a noise level, some of them against sigma, and the effective rank.

    Lines are medians over the images, bands reach from the lower to the upper quartile.

    Args:
        survey: with a result at least.
        title: above the figure.

    Raises:
        OptionError: there is no result.
    """
    levels = survey.levels()
    if not levels:
        raise OptionError(f"{survey.folder} holds no results to draw")
    symbol = "\\lambda" if survey.request["part"] == "symmetric" else "\\sigma"
    ranks = bool(torch.isfinite(torch.stack([level.effective_rank for level in levels])).any())
    several = len(levels) > 1
    panels = 1 + several + (several and ranks)
    figure = Drawing(layout="constrained", dpi=120, figsize=(0.6 + 3.6 * panels, 3.5))
    count = max(level.images for level in levels)
    of = f"{count} images" if count > 1 else "1 image"
    titled(figure, f"{title}{', ' if title else ''}{of}: median and quartiles")
    axes = np.atleast_1d(figure.subplots(1, panels))
    _by_index(axes[0], levels, symbol)
    if several:
        _by_level(axes[1], levels, symbol)
    if several and ranks:
        _ranks(axes[2], levels)
    for axis in axes:
        plain(axis)
    return figure


def _by_index(axis: Axes, levels: list[Level], symbol: str) -> None:
    for level, colour in zip(levels, _colours(len(levels)), strict=True):
        index = np.arange(1, level.values.shape[1] + 1)
        _line(axis, index, level.values, colour, f"$\\sigma$ = {level.sigma:g}", len(index) < 40)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("$k$", **STYLE)
    axis.set_ylabel(f"${symbol}_k$", **STYLE)
    axis.legend(fontsize=7, frameon=False)


def _by_level(axis: Axes, levels: list[Level], symbol: str) -> None:
    k = levels[0].values.shape[1]
    shown = sorted({round(i) for i in np.geomspace(1, k, min(SHOWN, k))})
    values = torch.stack([level.values for level in levels], -1)  # (3, k, levels)
    for i, colour in zip(shown, _colours(len(shown)), strict=True):
        _line(axis, _sigmas(levels), values[:, i - 1], colour)
        end = levels[-1].sigma, values[1, i - 1, -1].item()
        beside: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        axis.annotate(f"${symbol}_{{{i}}}$", end, color=colour, fontsize=8, **beside)
    _log_axis(axis, levels)
    axis.set_ylabel(f"${symbol}_k$", **STYLE)


def _ranks(axis: Axes, levels: list[Level]) -> None:
    ranks = torch.stack([level.effective_rank for level in levels], -1)
    _line(axis, _sigmas(levels), ranks, _colours(2)[0])
    _log_axis(axis, levels)
    axis.set_ylabel("effective rank of $(J + J')/2$", **STYLE)


def _line(
    axis: Axes,
    x: np.ndarray,
    quartiles: torch.Tensor,
    colour: object,
    label: str | None = None,
    dots: bool = True,
) -> None:
    low, median, high = quartiles.numpy()
    axis.fill_between(x, low, high, color=colour, alpha=BAND, lw=0)
    axis.plot(x, median, "o-" if dots else "-", color=colour, lw=1.2, ms=3, label=label)


def _log_axis(axis: Axes, levels: list[Level]) -> None:
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(_sigmas(levels).tolist()))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axis.set_xlabel("$\\sigma$", **STYLE)


def _sigmas(levels: list[Level]) -> np.ndarray:
    return np.array([level.sigma for level in levels])


def _colours(count: int) -> list[tuple[float, ...]]:
    return [tuple(colormaps["viridis"](v)) for v in np.linspace(0.1, 0.8, count)]
