"""Peak signal-to-noise ratios: of images, in a table, and as curves whose slopes tell the regularity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denoisers.chunks import denoise
from denoisers.evaluation.spread import over_images, parts, told
from spectral.base import Result
from spectral.errors import OptionError, ShapeError
from spectral.estimators import Estimate
from spectral.risk.level import takes_sigma

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PSNR:
    """One row of a table: noise level, and mean PSNR in dB over the images before and after denoising."""

    sigma: float
    noisy: float
    denoised: float


@dataclass(frozen=True, eq=False, repr=False)
class PSNRCurve(Result):
    """Output PSNR against input PSNR, noise level by noise level and image by image.

    Attributes:
        sigmas: (S,), noise levels, float64.
        noisy, denoised: (S, N), PSNR in dB before and after denoising.
    """

    sigmas: Tensor
    noisy: Tensor
    denoised: Tensor

    def mean(self, name: Literal["noisy", "denoised"] = "denoised") -> Estimate:
        """The mean over images, (S,) in dB, with its standard error over images; NaN of one image."""
        return over_images(getattr(self, name))

    def slope(self, low: float = -math.inf, high: float = math.inf) -> Estimate:
        """d output / d input PSNR for the levels with low <= -20 log10 sigma <= high, in dB.

        A line is fitted to each image by least squares, and the slope is the mean over images; its interval
        is Student's, mean +- t std / sqrt(N) with N - 1 degrees of freedom, NaN of one image. It speaks of
        other images of the same source, and knows nothing of how far a curve is from a line: see `misfit`.

        Of C^alpha images the optimum is alpha / (alpha + 1) (eq. 13 of arXiv 2310.02557), with C^alpha in the
        sense of that equation.

        Raises:
            OptionError: fewer than two different levels lie in the window.
        """
        inside = self._inside(low, high)
        if len(self.sigmas[inside].unique()) < 2:
            raise OptionError(
                f"a slope takes at least two noise levels, and {int(inside.sum())} of {len(self.sigmas)} "
                f"have an input PSNR in [{low:g}, {high:g}] dB"
            )
        x = self.noisy[inside] - self.noisy[inside].mean(0)
        each = (x * self.denoised[inside]).sum(0) / x.square().sum(0)
        return over_images(each, "least squares, image by image")

    def line(self, low: float = -math.inf, high: float = math.inf) -> tuple[Tensor, Tensor]:
        """The mean of the images' fitted lines at the levels of the window: input and output PSNR, in dB.

        Raises what `slope` does.
        """
        slope, inside = float(self.slope(low, high)), self._inside(low, high)
        x, y = self.noisy[inside].mean(1), self.denoised[inside].mean(1)
        x, order = x.sort()
        return x, y[order].mean() + slope * (x - x.mean())

    def misfit(self, low: float = -math.inf, high: float = math.inf) -> float:
        """Root mean square distance of the mean curve to its line over the levels of the window, in dB.

        Raises what `slope` does.
        """
        _, line = self.line(low, high)
        inside = self._inside(low, high)
        order = self.noisy[inside].mean(1).argsort()
        return float((self.denoised[inside].mean(1)[order] - line).square().mean().sqrt())

    def plot(self, window: tuple[float, float] | None = None, title: str = "") -> Figure:
        """The curve with a 95 % band and the line fitted in the window; see `evaluation.figures.curves`."""
        from denoisers.evaluation.figures import curves  # noqa: PLC0415  matplotlib takes a second to import

        return curves({"denoised": self}, window, title)

    def _inside(self, low: float, high: float) -> Tensor:
        level = -20 * self.sigmas.log10()
        return (level >= low - 1e-9) & (level <= high + 1e-9)

    def __repr__(self) -> str:
        lines = [f"PSNRCurve({self.noisy.shape[1]} images; dB)", "   sigma     noisy  denoised"]
        noisy, means = self.noisy.mean(1).tolist(), parts(self.mean())
        for sigma, before, after in zip(self.sigmas.tolist(), noisy, means, strict=True):
            lines.append(f"{sigma:8.4f}  {before:8.2f}  {told(after, 2)}")
        if len(self.sigmas.unique()) > 1:
            lines.append(f"   slope  {told(self.slope())}")
        return "\n".join(lines)


def psnr(x: Tensor, xhat: Tensor) -> Tensor:
    """-10 log10 of the mean squared error of each image: dB with peak 1, nothing clipped.

    x and xhat: (N, ...), the same shape, images in [0, 1]. Returns float64 (N,) where x lies, infinite where
    they agree.
    Raises ShapeError where the shapes differ.
    """
    if x.shape != xhat.shape:
        raise ShapeError(
            f"images and estimates must have the same shape, got {tuple(x.shape)}, {tuple(xhat.shape)}"
        )
    error = (x.double() - xhat.to(x.device, torch.float64)).square().flatten(1).mean(1)
    return -10 * error.log10()


def add_noise(images: Tensor, sigma: float, seed: int) -> Tensor:
    """images + sigma z, where z depends on the seed and the shape alone: the same at every sigma.

    Raises OptionError for sigma <= 0, and for images of whole numbers.
    """
    if not sigma > 0:
        raise OptionError(f"sigma must be positive, got {sigma}")
    if not images.is_floating_point():
        raise OptionError(f"images are floats in [0, 1], got {images.dtype}: divide them by their white")
    z = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return images + sigma * z.to(images)


def psnr_table(
    model: Callable[..., Tensor],
    images: Tensor | NDArray[np.float32],
    sigmas: Sequence[float],
    seed: int = 0,
    *,
    sigma_keyword: str | None = None,
) -> list[PSNR]:
    """The mean over images of each image's PSNR, before and after denoising, one row a noise level.

    model: noisy (N, C, H, W) -> denoised; modules are put into evaluation mode. images: (N, C, H, W) in
    [0, 1]. sigma_keyword: as of `psnr_curve`. Raises OptionError for sigma <= 0.
    """
    if not len(sigmas):
        return []
    return rows_of(psnr_curve(model, images, sigmas, seed, sigma_keyword=sigma_keyword))


def psnr_curve(
    model: Callable[..., Tensor],
    images: Tensor | NDArray[np.float32],
    sigmas: Sequence[float],
    seed: int = 0,
    *,
    sigma_keyword: str | None = None,
) -> PSNRCurve:
    """PSNR of each image before and after denoising, at each noise level, with the same z at all of them.

    model: noisy (N, C, H, W) -> denoised, on any device; modules are put into evaluation mode. images:
    (N, C, H, W) in [0, 1], independent draws if the errors are to be believed. sigma_keyword: the model's
    keyword for the noise level; None for "sigma" where it has a parameter of that name, and for a blind
    denoiser otherwise. Raises OptionError for no image, images of whole numbers, no sigma, or sigma <= 0.
    """
    if not len(sigmas):
        raise OptionError("a curve takes at least one noise level, got none")
    if sigma_keyword is None and takes_sigma(model):
        sigma_keyword = "sigma"
    clean = torch.as_tensor(images)
    if not len(clean):
        raise OptionError("a curve takes at least one image, got none")
    before, after = [], []
    for sigma in sigmas:
        noisy = add_noise(clean, sigma, seed)
        f = model if sigma_keyword is None else partial(model, **{sigma_keyword: sigma})
        before.append(psnr(clean, noisy).cpu())
        after.append(psnr(clean, denoise(f, noisy)).cpu())
    levels = torch.tensor([float(s) for s in sigmas], dtype=torch.float64)
    return PSNRCurve(levels, torch.stack(before), torch.stack(after))


def rows_of(curve: PSNRCurve) -> list[PSNR]:
    """A curve's means over images, one row a noise level."""
    means = (curve.sigmas, curve.noisy.mean(1), curve.denoised.mean(1))
    return [PSNR(*row) for row in zip(*(m.tolist() for m in means), strict=True)]
