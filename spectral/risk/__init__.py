"""Risk of a denoiser from the noisy image alone, and what its Jacobian says of the posterior."""

from spectral.risk.noise import sigma_by_median, sigma_by_residual
from spectral.risk.sure import Sure, sure

__all__ = ["Sure", "sigma_by_median", "sigma_by_residual", "sure"]
