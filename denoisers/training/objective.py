"""What training minimises."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from denoisers.networks import Consistency, Denoiser
from denoisers.networks.base import by_image
from denoisers.training.config import TrainConfig
from spectral.errors import OptionError

Loss = Callable[[Callable[..., Tensor], Tensor, Tensor, Tensor, int], Tensor]
"""(f, x, sigma, z, step) -> the mean over images: f the network as called, x (N, C, H, W), sigma (N,)."""

STAGES = 8  # of consistency training, in which the levels compared come closer to one another


def loss_of(config: TrainConfig, network: Denoiser) -> Loss:
    """The loss of a configuration.

    Raises:
        OptionError: the network has no such objective.
    """
    if config.objective == "denoise":
        if isinstance(network, Consistency):
            raise OptionError("a Consistency network is no denoiser: its objective is 'consistency'")
        return lambda f, x, sigma, z, step: denoising_loss(f, network, x, sigma, z, config.emphasis)
    if not isinstance(network, Consistency):
        raise OptionError(
            f"objective 'consistency' trains a Consistency network, not {type(network).__name__}"
        )
    return lambda f, x, sigma, z, step: consistency_loss(f, network, x, sigma, z, step / config.steps)


def denoising_loss(
    f: Callable[..., Tensor],
    network: Denoiser,
    x: Tensor,
    sigma: Tensor,
    z: Tensor,
    emphasis: float = 0.0,
) -> Tensor:
    """Mean over images of w(sigma) sigma^-emphasis |f(x + sigma z) - x|^2, the squares summed over pixels.

    w is the network's `weight`, 1 for those that are not told the level; those that are told it are.
    """
    y = x + by_image(sigma) * z
    estimate = f(y, sigma) if network.told else f(y)
    weight = network.weight(sigma)
    weight = weight * sigma**-emphasis if emphasis else weight
    return (weight * (estimate - x).square().flatten(1).sum(1)).mean()


def consistency_loss(
    f: Callable[..., Tensor], network: Consistency, x: Tensor, t: Tensor, z: Tensor, progress: float
) -> Tensor:
    """Mean over images of (sqrt(|f(x + t z, t) - f(x + r z, r)|^2 + c^2) - c) / (t - r), without slope in r.

    Easy consistency tuning (Geng, Pokle, Luo, Lin and Kolter 2024): r < t on the same path, x the image and
    z its noise; r / t = 1 - n(t) / 2^(a + 1), n(t) = 1 + 8 / (1 + exp(t / 2 s)), s the network's sigma_data,
    cut at sigma_min, where f is the identity.  a counts `STAGES` equal parts of the run, so that r starts
    near 0, where this is denoising, and goes to t, where it is consistency training in continuous time.
    c = 0.00054 sqrt(pixels).

    Args:
        f: the network as it is called.
        network: the network itself.
        x, z: (N, C, H, W).
        t: levels (N,).
        progress: share of the run that is done, in [0, 1).
    """
    stage = math.floor(STAGES * progress)
    ratio = 1 - (1 + 8 * torch.sigmoid(-t * 0.5 / network.sigma_data)) / 2 ** (stage + 1)
    t = t.clamp(min=2 * network.sigma_min)
    r = (ratio * t).clamp(min=network.sigma_min)
    ahead = f(x + by_image(t) * z, t)
    with torch.no_grad():
        # Of the same arithmetic, whose rounding the division below magnifies; the network has no dropout.
        behind = f(x + by_image(r) * z, r)
    c = 0.00054 * math.sqrt(x[0].numel())
    squares = (ahead - behind).square().flatten(1).sum(1)
    return (((squares + c**2).sqrt() - c) / (t - r)).mean()
