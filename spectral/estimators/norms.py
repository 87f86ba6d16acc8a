"""Norms of A and ratios of them, from |A z|^2 and |A' z|^2 on random probes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spectral.ambient import front_door
from spectral.errors import ShapeError
from spectral.estimators.probes import sampler
from spectral.estimators.results import Estimate
from spectral.estimators.sampling import Budget, sample
from spectral.jacobians.subject import operator_of
from spectral.operators.base import UnitScale, unit_scale


@front_door
def asymmetry(
    model_or_operator: Any,
    y: Tensor | None = None,
    *,
    products: int | None = None,
    rtol: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    batched: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Estimate:
    """|A - A'|_F / |A|_F: 0 for a symmetric operator, sqrt(2) for A' _|_ A, 2 for A' = -A.

    On the same Rademacher z, E |(A - A') z|^2 = |A - A'|_F^2 and E (|A z|^2 + |A' z|^2)/2 = |A|_F^2; the
    error of the root of their ratio is by the delta method.  Two products per probe.

    Args:
        model_or_operator: a square operator or matrix, or a model together with y.
        y: the noisy image.
        products: how many to spend, 8 where nothing is said; with a target, the most.
        rtol: stop once the relative error is below it at `confidence`.
        confidence: of the target.
        seed: of the probes.
        batched: whether the first axis of y counts independent inputs.
        model_kwargs: keywords for the model, {name: value}: label, ...

    Raises:
        ShapeError: A is not square.
    """
    A = _square(model_or_operator, y, batched, model_kwargs)

    dots = A.domain.dots

    def integrand(Z: Tensor) -> Tensor:
        forward, backward = A.apply(Z), A.apply_transpose(Z)
        difference = forward.double() - backward.double()
        size = (dots(forward, forward) + dots(backward, backward)) / 2
        return torch.stack([dots(difference, difference), size], -1)

    budget = Budget(_default(products, rtol, 8), rtol, confidence=confidence)
    found = sample(A, integrand, sampler(A, seed=seed), budget, cost=2, function=_root_of_ratio)
    # Eigenpairs keep their asymmetry as value and stderr, and Student's interval holds for it.
    return dataclasses.replace(budget.concluded(found), skewness=0.0)


@front_door
def frobenius_norm(
    model_or_operator: Any,
    y: Tensor | None = None,
    *,
    products: int | None = None,
    rtol: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    batched: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Estimate:
    """|A|_F = sqrt(E |A z|^2), the root of the sum of squared singular values.  One product per probe.

    Arguments as of `asymmetry`; spends 100 products where nothing is said.  A need not be square.
    """
    A = unit_scale(operator_of(model_or_operator, y, batched, model_kwargs))
    budget = Budget(_default(products, rtol), rtol, confidence=confidence)

    def integrand(Z: Tensor) -> Tensor:
        image = A.apply(Z)
        return A.codomain.dots(image, image).unsqueeze(-1)

    found = sample(A, integrand, sampler(A, seed=seed), budget, cost=1, function=_root)
    return budget.concluded(found).times(A.scale)


@front_door
def effective_rank(
    model_or_operator: Any,
    y: Tensor | None = None,
    *,
    products: int | None = None,
    rtol: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    batched: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Estimate:
    """(sum lambda)^2 / sum lambda^2 = (tr S)^2 / |S|_F^2 of the symmetric part S = (A + A')/2.

    It is k for k equal eigenvalues beside zeros: how many dimensions a denoiser keeps.  Both sums come from
    the same z, z' S z and |S z|^2; two products per probe, one where A is known to be symmetric.

    Arguments as of `asymmetry`; spends 100 products where nothing is said.

    Raises:
        ShapeError: A is not square.
    """
    A = _square(model_or_operator, y, batched, model_kwargs)
    budget = Budget(_default(products, rtol), rtol, confidence=confidence)

    dots = A.domain.dots

    def integrand(Z: Tensor) -> Tensor:
        image = A.apply(Z)
        if not A.symmetric:
            image = (image + A.apply_transpose(Z)) / 2
        return torch.stack([dots(Z, image), dots(image, image)], -1)

    def rank(traces: Tensor) -> Tensor:
        size = traces[..., 1]
        return torch.where(size > 0, traces[..., 0].square() / torch.where(size > 0, size, 1.0), 0.0)

    cost = 1 if A.symmetric else 2
    return budget.concluded(sample(A, integrand, sampler(A, seed=seed), budget, cost=cost, function=rank))


def _square(x: Any, y: Tensor | None, batched: bool, model_kwargs: Mapping[str, Any] | None) -> UnitScale:
    A = operator_of(x, y, batched, model_kwargs)
    if A.shape[0] != A.shape[1]:
        raise ShapeError(f"{A!r} is not square, so it has no symmetric part")
    return unit_scale(A)


def _default(products: int | None, rtol: float | None, usual: int = 100) -> int | None:
    return usual if products is None and rtol is None else products


def _root(traces: Tensor) -> Tensor:
    """sqrt(t), 0 with gradient 0 where t = 0."""
    nonzero = traces[..., 0] > 0
    return torch.where(nonzero, torch.where(nonzero, traces[..., 0], 1.0).sqrt(), 0.0)


def _root_of_ratio(traces: Tensor) -> Tensor:
    """sqrt(t_1 / t_2), 0 with gradient 0 where t_1 = 0."""
    nonzero = traces[..., 0] > 0
    return _root((traces[..., 0] / torch.where(nonzero, traces[..., 1], 1.0)).unsqueeze(-1))
