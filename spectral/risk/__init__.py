"""Risk of a denoiser from the noisy image alone, and what its Jacobian says of the posterior."""

from spectral.risk.calibration import KLBound, RiskCurve, kl_bound, risk_curve
from spectral.risk.noise import sigma_by_median, sigma_by_residual
from spectral.risk.posterior import PosteriorComponents, posterior
from spectral.risk.sure import Sure, sure

__all__ = [
    "KLBound",
    "PosteriorComponents",
    "RiskCurve",
    "Sure",
    "kl_bound",
    "posterior",
    "risk_curve",
    "sigma_by_median",
    "sigma_by_residual",
    "sure",
]
