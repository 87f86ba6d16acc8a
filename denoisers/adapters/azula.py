"""Denoisers of the package azula, q(x | x_t) with a mean; the package itself is not imported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from denoisers.adapters.diffusion import Condition, Diffusion
from denoisers.adapters.schedule import ByTime
from spectral.errors import ModelOutputError


def from_azula(
    denoiser: Any,
    *,
    condition: Condition | None = None,
    units: tuple[float, float] | None = (-1.0, 1.0),
    first: float = 0.0,
    last: float = 1.0,
) -> Diffusion:
    """f(y, sigma) = E[x | y] from q(w | z_t), z_t = alpha_t w + sigma_t n, by the denoiser's own schedule.

    The time t with sigma_t / alpha_t = (high - low) sigma is found by bisection. A denoiser that clips its
    mean has J = 0 where it does.

    Args:
        denoiser: denoiser(z, t, **condition) with a `mean`, and `denoiser.schedule(t)` -> (alpha, sigma).
        condition: keywords for it.
        units: what 0 and 1 are to the network; None for latents.
        first, last: times between which it is used.

    Raises:
        OptionError: sigma / alpha does not rise with time.
    """
    schedule = ByTime(_Functions(denoiser.schedule), first, last)
    return Diffusion(Mean(denoiser), schedule, "sample", units=units, condition=condition)


class Mean(nn.Module):
    """The mean of a denoiser's posterior, told one time where all images have the same."""

    def __init__(self, denoiser: Any) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, z: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """q(w | z_t).mean."""
        posterior = self.denoiser(z, t[0] if t.stride(0) == 0 or len(t) == 1 else t, **condition)
        mean = getattr(posterior, "mean", None)
        if not isinstance(mean, Tensor):
            raise ModelOutputError(f"{type(self.denoiser).__name__} returned no posterior with a mean")
        return mean


class _Functions:
    """t -> (alpha, sigma) as numbers."""

    def __init__(self, schedule: Any) -> None:
        self.schedule = schedule

    def __call__(self, time: float) -> tuple[float, float]:
        alpha, sigma = self.schedule(torch.tensor(time, dtype=torch.float64))
        return float(alpha), float(sigma)
