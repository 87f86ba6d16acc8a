"""The noise level of an image, from its wavelet coefficients or from a blind denoiser's residual."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectral.errors import NotFiniteError, OptionError
from spectral.estimators import Estimate, trace
from spectral.estimators.results import plain
from spectral.jacobians import jacobian
from spectral.jacobians.keywords import keywords_of
from spectral.risk.level import takes_sigma

_MEDIAN = 0.6744897501960817  # of |N(0, 1)|
_DENSITY = 0.6355492740476823  # of |N(0, 1)| at its median


def sigma_by_median(y: Tensor, *, batched: bool = False) -> Estimate:
    """sigma = median |c| / 0.6745 over the finest diagonal wavelet coefficients c (Donoho, Johnstone 1994).

    db2, periodic.  Only noise is assumed to reach that band, so fine texture reads as noise: the estimate
    then is too large, which the standard error (of a median of Gaussians, 1.17 sigma/sqrt(N), N
    coefficients) does not contain.

    Args:
        y: noisy image (..., H, W), H, W >= 4; all leading axes are pooled.
        batched: whether the first axis counts separate images instead.

    Returns:
        sigma in the units of y, a float, or (B,).

    Raises:
        OptionError: y is no image.
        NotFiniteError: y holds NaN or infinity.
    """
    if not isinstance(y, Tensor):
        raise OptionError(f"y must be a tensor, got {type(y).__name__}: torch.as_tensor(y)")
    if y.ndim < 2 + batched or min(y.shape[-2:]) < 4:
        raise OptionError(
            f"the median rule takes images (..., H, W) of 4 pixels or more, got {tuple(y.shape)}"
        )
    if not torch.isfinite(y).all():
        raise NotFiniteError("y holds NaN or infinity")
    import pywt  # noqa: PLC0415  not for those who take no wavelets

    detail = pywt.dwt2(y.detach().cpu().double().numpy(), "db2", mode="periodization", axes=(-2, -1))[1][2]
    flat = np.abs(detail).reshape(len(y) if batched else 1, -1)
    sigma = torch.as_tensor(np.median(flat, axis=-1) / _MEDIAN)
    sigma = sigma if batched else sigma[0]
    count = flat.shape[-1]
    relative = 1 / (2 * math.sqrt(count) * _DENSITY * _MEDIAN)
    return Estimate(plain(sigma), plain(relative * sigma), count, 0, "median", math.inf)


def sigma_by_residual(
    model: Any,
    y: Tensor,
    *,
    products: int | None = None,
    seed: int = 0,
    batched: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Estimate:
    """sigma^2 = |y - f(y)|^2 / (d - tr J), of a denoiser that is not told sigma.

    An optimal f has MSE sigma^2 tr J (Miyasawa), and E |y - f|^2 = MSE - 2 sigma^2 tr J + sigma^2 d (SURE): d
    less the degrees of freedom that f spends on the image.  A denoiser that leaves structure in the residual
    makes it too large.

    Args:
        model: the denoiser.
        y: the noisy image.
        products: for tr J (default 100).
        seed: of the probes.
        batched: whether the first axis of y counts separate images.
        model_kwargs: keywords for the model, {name: value}: label, ...

    Returns:
        sigma; its standard error contains that of the trace and of |noise|^2, sqrt(2/(d - tr J)) relative.

    Raises:
        OptionError: tr J >= d, so nothing of the image is residual; or the model has a parameter sigma that
            nothing sets.
    """
    keywords = keywords_of(model_kwargs)
    if "sigma" not in keywords and takes_sigma(model):
        raise OptionError(
            "the model has a parameter sigma, and this rule is for a denoiser that is not told it: use "
            'sigma_by_median, or fix it by model_kwargs={"sigma": ...}'
        )
    A = jacobian(model, y, batched=batched, model_kwargs=keywords)
    divergence = trace(A, products=products or 100, seed=seed)
    value, error = (torch.as_tensor(x, dtype=torch.float64) for x in (divergence.value, divergence.stderr))
    freedom = A.shape[1] - value
    if bool((freedom <= 0).any()):
        raise OptionError(
            "tr J exceeds d: the residual of this denoiser says nothing of sigma; give sigma itself"
        )
    residual = (y - A.output).double().reshape(*A.batch, -1).square().sum(-1)
    sigma = (residual / freedom).sqrt()
    relative = (2 / freedom + (error / freedom).square()).sqrt() / 2
    return Estimate(
        plain(sigma), plain(sigma * relative), divergence.samples, divergence.products, "residual", math.inf
    )
