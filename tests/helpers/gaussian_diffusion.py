"""Exact predictors of a diffusion model of x ~ N(m, C), in every parametrisation, and what f must be."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

SHAPE = (1, 3, 3)
D = 9


def prior() -> tuple[Tensor, Tensor]:
    """m (9,) and C (9, 9), float64, of images in [0, 1]."""
    generator = torch.Generator().manual_seed(3)
    m = torch.rand(D, generator=generator, dtype=torch.float64)
    A = torch.randn(D, D, generator=generator, dtype=torch.float64)
    return m, 0.02 * (A @ A.T) + 1e-3 * torch.eye(D, dtype=torch.float64)


class Exact(nn.Module):
    """F(z, t) = the conditional mean, given z = alpha w + sigma n, of what is predicted; w = low + width x.

    level: t -> (alpha, sigma).
    """

    def __init__(
        self, prediction: str, level: Callable[[float], tuple[float, float]], low: float, width: float
    ) -> None:
        super().__init__()
        m, C = prior()
        self.prediction, self.level = prediction, level
        self.m, self.C = low + width * m, width**2 * C

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        times = t.tolist()
        if len(set(times)) == 1:
            return self._at(z, times[0])
        return torch.cat([self._at(z[i : i + 1], times[i]) for i in range(len(z))])

    def _at(self, z: Tensor, t: float) -> Tensor:
        alpha, sigma = self.level(t)
        flat, eye = z.reshape(-1, D).double(), torch.eye(D, dtype=torch.float64)
        gain = alpha * self.C @ torch.linalg.inv(alpha**2 * self.C + sigma**2 * eye)
        w = self.m + (flat - alpha * self.m) @ gain.T
        n = (flat - alpha * w) / sigma
        out = {
            "epsilon": n,
            "v": alpha * n - sigma * w,
            "edm": sigma * w - alpha * n,
            "sample": w,
            "flow": n - w,
            "score": -n / sigma,
        }[self.prediction]
        return out.reshape(z.shape).to(z)


def denoised(y: Tensor, sigma: float) -> Tensor:
    """m + C (C + sigma^2 I)^-1 (y - m)."""
    m, _ = prior()
    return (m + (y.reshape(-1, D).double() - m) @ shrinkage(sigma).T).reshape(y.shape)


def shrinkage(sigma: float) -> Tensor:
    """J = C (C + sigma^2 I)^-1."""
    _, C = prior()
    return C @ torch.linalg.inv(C + sigma**2 * torch.eye(D, dtype=torch.float64))
