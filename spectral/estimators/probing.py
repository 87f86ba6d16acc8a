"""diag A of images from probes on sub-lattices, where pixels far apart hardly act on each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from spectral.estimators.probes import sampler
from spectral.estimators.results import Estimate
from spectral.estimators.sampling import CHUNK, finite
from spectral.operators import LinearOperator

_WINDOW = 7  # pixels over which variances are pooled


def probing(A: LinearOperator, shape: tuple[int, ...], products: int, seed: int) -> Estimate:
    """diag A for images: z * A z, z random signs on every a-th row and b-th column of one channel.

    The c a b classes of pixels make one sweep, in which each pixel is measured once, with variance
    sum A_pq^2 over the other pixels q of its class alone; Hutchinson's probes for as many products have
    sum A_pq^2 / (c a b) over all q != p.  Where A_pq falls with distance the first is smaller; else they are
    equal on average.  (Probing: Tang and Saad 2012; with random signs it has no bias.)

    At least two sweeps are made, a and b as large as that allows.  Variances are pooled over 7x7 pixels,
    which takes them to vary slowly: an interval then holds on average over a neighbourhood.

    Args:
        A: of images, n = prod(shape).
        shape: of an image, (..., H, W); leading axes are channels.
        products: at least 2 c, c the number of channels.
        seed: of the signs.

    Returns:
        Value and stderr (*batch, n).
    """
    height, width = shape[-2:]
    channels = math.prod(shape[:-2])
    classes = products // (2 * channels)
    a = min(math.isqrt(classes), height)
    b = min(classes // a, width)
    sweeps = products // (channels * a * b)
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    label = (row % a) * b + column % b + a * b * torch.arange(channels).reshape(-1, 1, 1)
    label = label.flatten().to(A.device)

    draw = sampler(A, "rademacher", seed)
    samples = torch.stack([_sweep(A, draw(1), label, channels * a * b) for _ in range(sweeps)])
    mean = samples.mean(0)
    squares = (samples - mean).square().sum(0) / (sweeps - 1)
    planes = squares.reshape(-1, 1, height, width)
    pooled = avg_pool2d(planes, _WINDOW, 1, _WINDOW // 2, count_include_pad=False).reshape(squares.shape)
    # Neighbours are of other classes, so of other products: their deviations are nearly independent.
    dof = (sweeps - 1) * min(_WINDOW, height) * min(_WINDOW, width)
    spent = sweeps * channels * a * b
    return Estimate(mean, (pooled / sweeps).sqrt(), sweeps, spent, "probing", dof)


def _sweep(A: LinearOperator, signs: Tensor, label: Tensor, classes: int) -> Tensor:
    """z * A z with every pixel in its own class: (*batch, n) for signs (*batch, 1, n)."""
    found = torch.zeros_like(signs[..., 0, :], dtype=torch.float64)
    rows = max(1, min(64, CHUNK // signs.numel()))
    for part in torch.arange(classes, device=label.device).split(rows):
        Z = signs * (label == part.unsqueeze(-1)).to(signs.dtype)
        found += (Z.double() * finite(A.apply(Z))).sum(-2)
    return found
