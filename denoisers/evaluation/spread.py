"""Means over images, with the error that the spread between images tells."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spectral.estimators import Estimate
from spectral.estimators.results import plain, with_error

FEWEST = 3
"""Images whose spread is told: of two, Student's interval at 95 % is 13 standard errors to either side."""


def over_images(each: Tensor, method: str = "images") -> Estimate:
    """The mean over the last axis of (..., N), with stderr = std / sqrt(N) and N - 1 degrees of freedom.

    Its intervals are Student's, of images drawn independently. Of one image stderr is NaN.
    """
    count = each.shape[-1]
    each = each.double()
    mean = each.mean(-1)
    stderr = each.std(-1) / math.sqrt(count) if count > 1 else torch.full_like(mean, math.nan)
    return Estimate(plain(mean), plain(stderr), count, 0, method, count - 1)


def told(estimate: Estimate, digits: int = 3) -> str:
    """`value +- half of the 95 % interval`, or the value alone of fewer than `FEWEST`, or equal, images."""
    half = float(estimate.halfwidth())
    known = half > 0 and estimate.dof >= FEWEST - 1
    return with_error(float(estimate), half) if known else f"{float(estimate):.{digits}f}"


def parts(estimate: Estimate) -> list[Estimate]:
    """The entries of an estimate (S,), each by itself."""
    values, errors = torch.as_tensor(estimate.value), torch.as_tensor(estimate.stderr)
    rest = (estimate.samples, estimate.products, estimate.method, estimate.dof)
    return [Estimate(v, e, *rest) for v, e in zip(values.tolist(), errors.tolist(), strict=True)]
