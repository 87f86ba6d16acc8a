"""Integrand x sampler -> Estimate: the mean of quadratic forms over probes, stopped by one budget.

An integrand q maps a probe z to p quadratic forms z' M_j z, so that E q(z) = (tr M_1, ..., tr M_p) and the
sum of q over the n unit vectors is the same, exactly.  What is estimated is a smooth function g of those
traces; its standard error is that of the mean of grad g . (q(z_i) - mean) (the delta method).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spectral.errors import NotFiniteError, OptionError
from spectral.estimators.probes import Sampler
from spectral.estimators.results import Estimate, plain, student_t
from spectral.operators import LinearOperator
from spectral.options import number, whole

Integrand = Callable[[Tensor], Tensor]
"""Rows (*batch, m, n) -> float64 samples (*batch, m, p)."""

FEWEST = 8  # samples before a target may stop a run: below, the variance itself is too uncertain
CHUNK = 1 << 24  # entries of a block of probes


@dataclass(frozen=True)
class Budget:
    """When to stop: at `products`, or once |error| <= max(atol, rtol |value|) at `confidence`.

    Attributes:
        products: products with A and A' to spend at most; None for no limit.
        rtol, atol: the target; None for no target (then all of `products` is spent).
        confidence: the level of the interval that must fit the target.
        scale: what estimates are to be multiplied by before `atol` is asked of them, read when products were
            formed.

    Raises:
        OptionError: a limit is not positive and finite, or nothing is limited.
    """

    products: int | None = None
    rtol: float | None = None
    atol: float | None = None
    confidence: float = 0.95
    scale: Callable[[], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.products is None and not self.has_target:
            raise OptionError("say when to stop: products=, rtol= or atol=")
        for name, read in (("products", whole), ("rtol", number), ("atol", number)):
            limit = getattr(self, name)
            if limit is not None and read(name, limit) <= 0:
                raise OptionError(f"{name} must be positive, got {limit}")
        student_t(self.confidence, 1)

    @property
    def has_target(self) -> bool:
        """Whether an accuracy was asked for."""
        return self.rtol is not None or self.atol is not None

    def excess(self, estimate: Estimate) -> float:
        """The interval's halfwidth over the target's, of the worst problem: met where <= 1."""
        if not self.has_target:
            return math.inf
        width = torch.as_tensor(estimate.halfwidth(self.confidence), dtype=torch.float64)
        target = (self.rtol or 0.0) * torch.as_tensor(estimate.value, dtype=torch.float64).abs()
        if self.atol is not None:
            target = target.clamp(
                min=self.atol if self.scale is None else self.atol / self.scale().to(target)
            )
        return torch.where(width == 0, 0.0, width / target).max().item()

    def concluded(self, estimate: Estimate, excess: float | None = None) -> Estimate:
        """The estimate a run ended with, at the confidence asked for; noted where it missed the target.

        excess: where it is not that of the estimate as it stands.
        """
        over = self.excess(estimate) if excess is None else excess
        notes = [*estimate.notes]
        if self.has_target and not over <= 1:
            most = "all products" if self.products is None else f"products={self.products}"
            notes.append(f"{most} did not reach the target: the error is {over:.2g} times it")
        return replace(estimate, confidence=self.confidence, notes=notes)


def sample(
    A: LinearOperator,
    integrand: Integrand,
    draw: Sampler,
    budget: Budget,
    *,
    cost: int,
    function: Callable[[Tensor], Tensor] | None = None,
    method: str = "hutchinson",
    exact: bool = True,
    population: float = math.inf,
) -> Estimate:
    """g(E q(z)) from as many probes as the budget asks for.

    Args:
        A: the operator inside `integrand`; its count is read.
        integrand: q, rows (*batch, m, n) -> (*batch, m, p).
        draw: the probes.
        budget: when to stop.
        cost: products per probe.
        function: g, (*batch, p) -> (*batch,); by default p = 1 and g(t) = t.
        method: name for the result.
        exact: whether the n unit vectors may stand in for the probes where the budget, or what the target is
            found to need, pays for n of them; the error then is rounding alone.
        population: how many samples there are, drawn without replacement.

    Raises:
        OptionError: the budget does not pay for two probes.
        NotFiniteError: a product holds NaN or infinity.
    """
    n, started = A.shape[1], A.count
    limit = n if budget.products is None else budget.products // cost
    if exact and limit >= n and not budget.has_target:
        return unit_vectors(A, integrand, function)
    if limit < 2:
        raise OptionError(f"a standard error needs two probes of {cost} products: products >= {2 * cost}")

    samples: list[Tensor] = []
    wanted, taken = min(FEWEST, limit) if budget.has_target else limit, 0
    while True:
        samples += _drawn(integrand, draw, wanted - taken, A)
        taken = wanted
        spent = A.count - started
        estimate = summary(torch.cat(samples, -2), function, spent, method, population, A.eps)
        excess = budget.excess(estimate)
        if excess <= 1 or taken >= limit:
            return estimate
        # The error falls as 1/sqrt(samples); growing at most fourfold keeps a lucky variance from deciding.
        wanted = min(limit, max(taken + 1, math.ceil(min(excess**2, 4.0) * taken)))
        if exact and excess**2 * taken >= n and limit >= n:
            return unit_vectors(A, integrand, function, spent)


def unit_vectors(
    A: LinearOperator,
    integrand: Integrand,
    function: Callable[[Tensor], Tensor] | None = None,
    spent: int = 0,
) -> Estimate:
    """g(sum_i q(e_i)) over the n unit vectors e_i: exact but for rounding, A.eps of the value."""
    n, started = A.shape[1], A.count
    total: Tensor | float = 0.0
    for first in range(0, n, 64):
        E = A.domain.units(range(first, min(first + 64, n)), *A.batch).to(A.device, A.dtype)
        total = total + integrand(E).sum(-2)
    value = _apply(function, torch.as_tensor(total))
    products, stderr = A.count - started + spent, A.eps * value.abs()
    return Estimate(plain(value), plain(stderr), n, products, "exact", math.inf)


def summary(
    samples: Tensor,
    function: Callable[[Tensor], Tensor] | None,
    products: int,
    method: str,
    population: float = math.inf,
    eps: float = 0.0,
) -> Estimate:
    """g of the mean of `samples` (*batch, m, p), with its standard error by the delta method.

    With d_i = grad g . (q_i - mean), stderr^2 = sum d_i^2 / (m (m - 1)) (1 - m / population) + (eps g)^2,
    with m - 1 degrees of freedom; the last factor is that of draws without replacement, eps the rounding of
    a product, relative.

    Raises:
        NotFiniteError: a sample is NaN or infinite.
    """
    m = finite(samples).shape[-2]
    mean = samples.mean(-2)
    deviations = samples - mean.unsqueeze(-2)
    if function is None:
        value, influence = mean.squeeze(-1), deviations.squeeze(-1)
    else:
        with torch.enable_grad():
            mean = mean.detach().requires_grad_()
            value = function(mean)
            (gradient,) = torch.autograd.grad(value.sum(), mean)
        value, influence = value.detach(), (deviations * gradient.unsqueeze(-2)).sum(-1)
    variance = influence.square().sum(-1).div(m * (m - 1)).mul(1 - m / population)
    stderr = (variance + (eps * value).square()).sqrt()
    skew = plain(skewness(influence))
    return Estimate(plain(value), plain(stderr), m, products, method, m - 1, skewness=skew)


def skewness(samples: Tensor) -> Tensor:
    """That of the mean of m samples: theirs over sqrt(m), (*batch, m) -> (*batch,); 0 where all are equal.

    With deviations d_i from the mean, sum d_i^3 / (sum d_i^2)^(3/2).
    """
    deviations = samples - samples.mean(-1, keepdim=True)
    squares = deviations.square().sum(-1)
    return deviations.pow(3).sum(-1) / torch.where(squares > 0, squares, 1.0) ** 1.5


def finite(products: Tensor) -> Tensor:
    """The tensor itself.

    Raises:
        NotFiniteError: it holds NaN or infinity.
    """
    if not torch.isfinite(products).all():
        raise NotFiniteError("a product with the operator holds NaN or infinity")
    return products


def _drawn(integrand: Integrand, draw: Sampler, m: int, A: LinearOperator) -> list[Tensor]:
    rows = max(1, CHUNK // (A.shape[1] * math.prod(A.batch)))
    return [integrand(draw(min(rows, m - done))) for done in range(0, m, rows)]


def _apply(function: Callable[[Tensor], Tensor] | None, totals: Tensor) -> Tensor:
    return totals.squeeze(-1) if function is None else function(totals)
