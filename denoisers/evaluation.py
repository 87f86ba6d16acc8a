"""How well a denoiser does: peak signal-to-noise ratios."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectral.errors import OptionError, ShapeError

CHUNK_PIXELS = 1 << 20  # pixels denoised at a time


@dataclass(frozen=True)
class PSNR:
    """One row of a table: noise level, and mean PSNR in dB over the images before and after denoising."""

    sigma: float
    noisy: float
    denoised: float


def psnr(x: Tensor, xhat: Tensor) -> Tensor:
    """-10 log10 of the mean squared error of each image: dB with peak 1, nothing clipped.

    x and xhat: (N, ...), the same shape, images in [0, 1]. Returns float64 (N,), infinite where they agree.
    Raises ShapeError where the shapes differ.
    """
    if x.shape != xhat.shape:
        raise ShapeError(
            f"images and estimates must have the same shape, got {tuple(x.shape)}, {tuple(xhat.shape)}"
        )
    error = (x.double() - xhat.double()).square().flatten(1).mean(1)
    return -10 * error.log10()


def add_noise(images: Tensor, sigma: float, seed: int) -> Tensor:
    """images + sigma z, where z depends on the seed and the shape alone: the same at every sigma.

    Raises OptionError for sigma <= 0.
    """
    if not sigma > 0:
        raise OptionError(f"sigma must be positive, got {sigma}")
    z = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return images + sigma * z.to(images)


def psnr_table(
    model: Callable[[Tensor], Tensor],
    images: Tensor | NDArray[np.float32],
    sigmas: Sequence[float],
    seed: int = 0,
) -> list[PSNR]:
    """The mean over images of each image's PSNR, before and after denoising, one row a noise level.

    model: noisy (N, C, H, W) -> denoised, in evaluation mode if it is a module. images: (N, C, H, W) in
    [0, 1]. Raises OptionError for sigma <= 0.
    """
    clean = torch.as_tensor(images)
    rows = []
    for sigma in sigmas:
        noisy = add_noise(clean, sigma, seed)
        rows.append(PSNR(sigma, _mean_psnr(clean, noisy), _mean_psnr(clean, denoise(model, noisy))))
    return rows


@torch.no_grad()
def denoise(model: Callable[[Tensor], Tensor], noisy: Tensor) -> Tensor:
    """model(noisy), in chunks of images that bound the memory."""
    count = max(1, CHUNK_PIXELS // noisy[0].numel())
    return torch.cat([model(chunk) for chunk in noisy.split(count)])


def _mean_psnr(x: Tensor, xhat: Tensor) -> float:
    return float(psnr(x, xhat).mean())
