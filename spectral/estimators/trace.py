"""tr A from products with A: Hutchinson, Hutch++, XTrace, XNysTrace, and a choice between them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from spectral.ambient import front_door
from spectral.errors import OptionError, ShapeError
from spectral.estimators.exchangeable import remaining_rank, xnystrace, xtrace
from spectral.estimators.probes import sampler
from spectral.estimators.results import Estimate, student_t
from spectral.estimators.sampling import FEWEST, Budget, Integrand, sample, unit_vectors
from spectral.estimators.sketch import Sketch
from spectral.jacobians.subject import operator_of
from spectral.operators import LinearOperator
from spectral.operators.base import unit_scale
from spectral.options import choice


@front_door
def trace(
    model_or_operator: Any,
    y: Tensor | None = None,
    *,
    method: str = "auto",
    products: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    batched: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Estimate:
    """tr A, or tr J = div f(y), the sum of the eigenvalues.

    It is the same number for J, its symmetric part and its transpose.  Spends `products` products (by default
    100), or stops as soon as |error| <= max(atol, rtol |tr A|) at `confidence`.

    Args:
        model_or_operator: a square operator or matrix, or a model together with y.
        y: the noisy image.
        method: "exact" sums over the n unit vectors; "hutchinson" averages z' A z over Rademacher probes;
            "orthogonal" over rows of one random orthogonal frame, which pays where a budget comes near n;
            "hutch++" (Meyer et al. 2021) takes the trace on a sketched subspace exactly and probes the rest,
            by thirds of a budget, or with a target as much as pays (Persson et al. 2022); "xtrace" lets
            every probe both sketch and test; "xnystrace" the same at half the cost for A = A' >= 0.  "auto"
            sketches with 8 probes, then goes on with XTrace where the effective rank of what the sketch left
            is within reach of the budget, and with probes of the remainder where it is not.  Where the n
            unit vectors cost no more than the budget, or than the target would, all but "hutchinson"
            without a target take those.
        products: products with A (and A') to spend at most, for each problem.
        rtol, atol, confidence: the target.
        seed: of the probes.
        batched: whether the first axis of y counts independent inputs.
        model_kwargs: keywords for the model, {name: value}: label, ...

    Returns:
        The trace, a float, or (B,) for B problems, with its standard error.

    Raises:
        ShapeError: A is not square.
        OptionError: a budget too small for the method (each needs a few probes), or an unknown method.
        NotFiniteError: a product holds NaN or infinity.

    Example:
        >>> A = torch.diag(torch.arange(1.0, 1001.0) ** -2)
        >>> estimate = spectral.trace(A, rtol=0.01)
        >>> low, high = estimate.interval(0.95)
        >>> low < torch.trace(A) < high, estimate.products < 100
        (tensor(True), True)
    """
    A = operator_of(model_or_operator, y, batched, model_kwargs)
    if A.shape[0] != A.shape[1]:
        raise ShapeError(f"{A!r} is not square, so it has no trace")
    choice("method", method, METHODS)
    if products is None and rtol is None and atol is None:
        products = 100
    A = unit_scale(A)
    budget, started = Budget(products, rtol, atol, confidence, scale=lambda: A.scale), A.count
    solve = _exact if method != "hutchinson" and _exact_is_cheap(A, budget) else METHODS[method]
    estimate = budget.concluded(solve(A, budget, seed))
    return dataclasses.replace(estimate.times(A.scale), products=A.count - started)


def _exact_is_cheap(A: LinearOperator, budget: Budget) -> bool:
    """Whether a budget pays for all n unit vectors, or n is below what a sketch takes."""
    n = A.shape[1]
    return _limit(A, budget, 1) >= n and (not budget.has_target or n <= 2 * FEWEST)


def _exact(A: LinearOperator, budget: Budget, seed: int = 0) -> Estimate:
    return unit_vectors(A, _form(A))


def _hutchinson(A: LinearOperator, budget: Budget, seed: int) -> Estimate:
    draw = sampler(A, "rademacher", seed)
    return sample(A, _form(A), draw, budget, cost=1, exact=budget.has_target)


def _orthogonal(A: LinearOperator, budget: Budget, seed: int) -> Estimate:
    n = A.shape[1]
    most = dataclasses.replace(budget, products=min(budget.products or n, n))
    draw = sampler(A, "orthogonal", seed)
    return sample(A, _form(A), draw, most, cost=1, method="orthogonal", population=n)


def _form(A: LinearOperator) -> Integrand:
    return lambda Z: A.domain.dots(Z, A.apply(Z)).unsqueeze(-1)


def _hutchpp(A: LinearOperator, budget: Budget, seed: int) -> Estimate:
    n, limit = A.shape[1], _limit(A, budget, 6)
    sketch = _sketched(A, seed, min(FEWEST, limit // 3, n) if budget.has_target else min(limit // 3, n))
    while budget.has_target and _worth_growing(sketch, budget):
        step = min(sketch.size // 4, (limit - 2 * sketch.size) // 3, n - sketch.size)
        if step < 1:
            break
        sketch.grow(step)
    return _remainder(sketch, budget, seed)


def _xtrace(A: LinearOperator, budget: Budget, seed: int) -> Estimate:
    limit = _limit(A, budget, 6)
    return _grown(_sketched(A, seed, min(FEWEST, limit // 2, A.shape[1])), budget, limit)


def _grown(sketch: Sketch, budget: Budget, limit: int) -> Estimate:
    """XTrace on a sketch that grows until the target is met, or to `limit` products; exact beyond n."""
    while True:
        estimate = xtrace(sketch)
        wanted = math.ceil(1.25 * sketch.size) if budget.has_target else limit // 2
        step = min(wanted, limit // 2) - sketch.size
        if budget.excess(estimate) <= 1 or step < 1:
            return estimate
        if 2 * (sketch.size + step) > sketch.A.shape[1]:
            return _exact(sketch.A, budget)
        sketch.grow(step)


def _xnystrace(A: LinearOperator, budget: Budget, seed: int) -> Estimate:
    if not A.symmetric:
        raise OptionError('xnystrace needs A = A\' >= 0: pass A.gram(), or use method="xtrace"')
    limit = min(_limit(A, budget, 3), A.shape[1])
    draw = sampler(A, "sphere", seed)
    probes = draw(min(FEWEST, limit) if budget.has_target else limit)
    images = A.apply(probes)
    while True:
        estimate = xnystrace(A, probes, images)
        step = min(math.ceil(1.25 * probes.shape[-2]), limit) - probes.shape[-2]
        if budget.excess(estimate) <= 1 or step < 1:
            return estimate
        more = draw(step)
        probes, images = torch.cat([probes, more], -2), torch.cat([images, A.apply(more)], -2)


def _auto(A: LinearOperator, budget: Budget, seed: int) -> Estimate:
    n, limit = A.shape[1], _limit(A, budget, 2)
    pilot = min(FEWEST, min(limit, n) // 4)
    if pilot < 3:  # too few for a sketch to say anything
        return sample(A, _form(A), sampler(A, "rademacher", seed), budget, cost=1)
    sketch = _sketched(A, seed, pilot)
    while budget.excess(estimate := xtrace(sketch)) > 1:
        if not _worth_growing(sketch, budget):
            return _remainder(sketch, budget, seed)
        if not budget.has_target:
            return _grown(sketch, budget, limit)
        step = min(math.ceil(sketch.size / 4), limit // 2 - sketch.size)
        if 2 * (sketch.size + step) > n:
            return _exact(A, budget)
        if step < 1:
            return estimate
        sketch.grow(step)
    return estimate


def _sketched(A: LinearOperator, seed: int, k: int) -> Sketch:
    return Sketch(A, sampler(A, "sphere", seed), k)


def _remainder(sketch: Sketch, budget: Budget, seed: int) -> Estimate:
    """tr H + (n - k) E x' A x / |x|^2, with x uniform in the complement of the sketch, H = Q' A Q."""
    A, k = sketch.A, sketch.size
    n, limit = A.shape[1], _limit(A, budget, 2 * sketch.size + 2)
    if k == n or limit >= n <= _probes_needed(sketch, budget) < _ENDLESS:
        return _exact(A, budget)
    space = A.domain
    H = space.inner64(sketch.basis, sketch.image)
    known = torch.diagonal(H, dim1=-2, dim2=-1).sum(-1)

    def integrand(Z: Tensor) -> Tensor:
        X = sketch.removed(sketch.removed(Z))
        return ((n - k) * space.dots(X, A.apply(X)) / space.dots(X, X)).unsqueeze(-1)

    def total(mean: Tensor) -> Tensor:
        return mean.squeeze(-1) + known

    left = None if budget.products is None else limit - 2 * k
    rest, draw = dataclasses.replace(budget, products=left), sampler(A, "gaussian", seed + 1)
    estimate = sample(A, integrand, draw, rest, cost=1, function=total, method="hutch++", exact=False)
    return _exact(A, budget) if budget.products is None and budget.excess(estimate) > 1 else estimate


def _worth_growing(sketch: Sketch, budget: Budget) -> bool:
    """Whether more columns take more from the remainder's variance than as many probes would average out.

    They do where the remainder's effective rank is below the number of probes it would be given.
    """
    left = _limit(sketch.A, budget, 2) - 2 * sketch.size
    columns = sketch.A.shape[1] // 2 - sketch.size  # beyond which the exact trace is cheaper
    return remaining_rank(sketch) <= min(_probes_needed(sketch, budget), left, columns)


def _probes_needed(sketch: Sketch, budget: Budget) -> int:
    """(t s / target)^2 for the worst problem, s the spread of the remainder's quadratic forms."""
    if not budget.has_target:
        return _ENDLESS
    estimate = xtrace(sketch)  # whose samples have that spread
    per_probe = budget.excess(estimate) / student_t(budget.confidence, estimate.dof)
    needed = (per_probe * student_t(budget.confidence, math.inf)) ** 2 * sketch.size
    return math.ceil(min(needed, _ENDLESS - 1))


def _limit(A: LinearOperator, budget: Budget, least: int) -> int:
    if budget.products is not None and budget.products < least:
        raise OptionError(f"the method needs products >= {least}, got {budget.products}")
    return budget.products if budget.products is not None else _ENDLESS


_ENDLESS = 1 << 53
# (A, budget, seed) -> the estimate; the front door scales A and counts products.
METHODS: dict[str, Callable[[LinearOperator, Budget, int], Estimate]] = {
    "auto": _auto,
    "exact": _exact,
    "hutchinson": _hutchinson,
    "orthogonal": _orthogonal,
    "hutch++": _hutchpp,
    "xtrace": _xtrace,
    "xnystrace": _xnystrace,
}
