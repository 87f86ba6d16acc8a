"""Norms of A and ratios of them, from |A z|^2 and |A' z|^2 on random probes."""

from __future__ import annotations

import torch
from torch import Tensor

from spectral.errors import ShapeError
from spectral.estimators.probes import sampler
from spectral.estimators.results import Estimate
from spectral.estimators.sampling import Budget, dot, sample
from spectral.operators import LinearOperator


def asymmetry(
    A: LinearOperator,
    *,
    products: int | None = 8,
    rtol: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """|A - A'|_F / |A|_F: 0 for a symmetric operator, sqrt(2) for A' _|_ A, 2 for A' = -A.

    On the same Rademacher z, E |(A - A') z|^2 = |A - A'|_F^2 and E (|A z|^2 + |A' z|^2)/2 = |A|_F^2; the
    error of the root of their ratio is by the delta method.  Two products a probe.

    Args:
        A: a square operator.
        products: how many to spend; with a target, the most.
        rtol: stop once the relative error is below it at `confidence`.
        confidence: of the target.
        seed: of the probes.

    Raises:
        ShapeError: A is not square.
    """
    if A.shape[0] != A.shape[1]:
        raise ShapeError(f"{A!r} is not square: asymmetry compares A with A'")

    def integrand(Z: Tensor) -> Tensor:
        forward, backward = A.apply(Z), A.apply_transpose(Z)
        difference = forward.double() - backward.double()
        size = (dot(forward, forward) + dot(backward, backward)) / 2
        return torch.stack([dot(difference, difference), size], -1)

    budget = Budget(products, rtol, confidence=confidence)
    return sample(A, integrand, sampler(A, seed=seed), budget, cost=2, function=_root_of_ratio)


def _root_of_ratio(traces: Tensor) -> Tensor:
    """sqrt(t_1 / t_2), 0 with gradient 0 where t_1 = 0."""
    numerator, denominator = traces.unbind(-1)
    nonzero = numerator > 0
    ratio = torch.where(nonzero, numerator, 1.0) / torch.where(nonzero, denominator, 1.0)
    return torch.where(nonzero, ratio.sqrt(), 0.0)
