"""diag A from products: Hutchinson's estimator (Bekas, Kokiopoulou, Saad 2007), probing, XDiag."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from spectral.ambient import front_door
from spectral.errors import OptionError, ShapeError
from spectral.estimators.exchangeable import Reduced, inflation, remaining_rank
from spectral.estimators.probes import sampler
from spectral.estimators.probing import probing
from spectral.estimators.results import Estimate
from spectral.estimators.sampling import CHUNK, FEWEST, Budget, finite, unit_vectors
from spectral.estimators.sketch import Sketch
from spectral.jacobians.subject import operator_of
from spectral.operators import LinearOperator
from spectral.operators.base import unit_scale
from spectral.operators.space import Space
from spectral.options import choice

Method = Literal["auto", "exact", "hutchinson", "probing", "xdiag"]

_PIXELS = 256  # entries on which XDiag's error bar is calibrated


@front_door
def diagonal(
    model_or_operator: Any,
    y: Tensor | None = None,
    *,
    method: Method = "auto",
    products: int | None = None,
    rtol: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    batched: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Estimate:
    """diag A; of a denoiser, d f_i / d y_i at every pixel i, as an image.

    "hutchinson" averages z * A z over Rademacher probes (entrywise product): variance sum_j!=i A_ij^2 a
    probe.  "probing", for images, lets only pixels far apart share a probe (`probing`).  "xdiag" (Epperly,
    Tropp, Webber 2024) averages, over probes i, diag(Q_i Q_i' A) + omega_i * (I - Q_i Q_i') A omega_i with
    Q_i the sketch of A by the other probes; it wins where the spectrum decays within the budget.  "auto"
    finds out from 8 probes whether it does, and else takes "probing" for a model's image and a budget,
    Hutchinson for other operators and for a target.

    Spends `products` products (by default 100), or stops once |error|_2 <= rtol |diag A|_2 at `confidence`;
    where the budget pays for all n unit vectors the answer is exact.

    Args:
        model_or_operator: a square operator or matrix, or a model together with y.
        y: the noisy image.
        method: see above.
        products: products with A and A' to spend at most, for each problem.
        rtol, confidence: the target.
        seed: of the probes.
        batched: whether the first axis of y counts independent inputs.
        model_kwargs: keywords for the model, {name: value}: label, ...

    Returns:
        Value and stderr of the shape of y, or (*batch, n) for an operator; of an image whose rows lie in
        several processes, those that lie here, and "probing" is not offered.

    Raises:
        ShapeError: A is not square.
        OptionError: the budget is below 2 products (6 for xdiag), or an unknown method.
        NotFiniteError: a product holds NaN or infinity.
    """
    A = operator_of(model_or_operator, y, batched, model_kwargs)
    if A.shape[0] != A.shape[1]:
        raise ShapeError(f"{A!r} is not square, so it has no diagonal")
    if products is None and rtol is None:
        products = 100
    shape: tuple[int, ...] = tuple(getattr(A, "input_shape", ())) or (A.domain.n,)
    budget, started = Budget(products, rtol, confidence=confidence), A.count
    estimate = diagonal_of(A, shape, method, budget, seed)
    return dataclasses.replace(estimate, products=A.count - started)


def diagonal_of(
    A: LinearOperator, shape: tuple[int, ...], method: Method, budget: Budget, seed: int
) -> Estimate:
    """`diagonal` of an operator whose vectors have the given shape; value and stderr (*batch, *shape)."""
    A = unit_scale(A)
    found = _diagonal(A, shape, method, budget, seed)
    found = budget.concluded(found, _excess(A.domain, budget, found)).times(A.scale)
    value, stderr = (torch.as_tensor(x).reshape(*A.batch, *shape) for x in (found.value, found.stderr))
    return dataclasses.replace(found, value=value, stderr=stderr)


def _diagonal(
    A: LinearOperator, shape: tuple[int, ...], method: Method, budget: Budget, seed: int
) -> Estimate:
    n, limit = A.shape[1], budget.products or 1 << 53
    choice("method", method, ("auto", "exact", "hutchinson", "probing", "xdiag"))
    if method == "exact" or (method != "hutchinson" and limit >= n and not budget.has_target):
        return _exact(A)
    if method == "probing":
        if A.domain.ranks is not None:
            raise OptionError('probing is for an image in one process: take "hutchinson" or "xdiag"')
        if not _fits_probing(A, shape, budget):
            raise OptionError(
                f"probing takes images and a budget of 8 products per channel or more; got vectors of shape "
                f"{shape} and {'a target' if budget.has_target else f'{limit} products'}"
            )
        return probing(A, shape, limit, seed)
    pilot = min(FEWEST, min(limit, n) // 4)
    if method == "hutchinson" or (method == "auto" and pilot < 3):
        return _hutchinson(A, budget, seed)
    if limit < 6:
        raise OptionError(f"xdiag needs products >= 6, got {limit}")
    sketch = Sketch(A, sampler(A, "rademacher", seed), max(pilot, min(3, n)), transposed=True)
    while True:
        estimate = xdiag(sketch)
        excess = _excess(A.domain, budget, estimate)
        wanted = math.ceil(1.25 * sketch.size) if budget.has_target else limit // 2
        step, left = min(wanted, limit // 2) - sketch.size, limit - 2 * sketch.size
        if excess <= 1 or step < 1:
            return estimate
        rest = dataclasses.replace(budget, products=left if budget.products else None)
        image = _fits_probing(A, shape, rest)
        # Probing does the work of several times as many of Hutchinson's probes.
        if method == "auto" and remaining_rank(sketch) > min(
            left // 4 if image else left, excess**2 * sketch.size
        ):
            return probing(A, shape, left, seed + 1) if image else _hutchinson(A, rest, seed + 1)
        if 2 * (sketch.size + step) > n:
            return _exact(A)
        sketch.grow(step)


def _fits_probing(A: LinearOperator, shape: tuple[int, ...], budget: Budget) -> bool:
    if A.domain.ranks is not None:  # its classes are told by places in the whole image
        return False
    if len(shape) < 2 or min(shape[-2:]) < 2 or budget.products is None or budget.has_target:
        return False
    return budget.products >= 8 * math.prod(shape[:-2])


def _exact(A: LinearOperator) -> Estimate:
    return unit_vectors(A, lambda Z: Z.double() * A.apply(Z), lambda total: total)


def _hutchinson(A: LinearOperator, budget: Budget, seed: int) -> Estimate:
    """Mean of z * A z with a running variance: memory of a few images, whatever the number of probes."""
    n, draw = A.shape[1], sampler(A, "rademacher", seed)
    limit = n if budget.products is None else budget.products
    if limit < 2:
        raise OptionError("a standard error needs two probes: products >= 2")
    rows = max(1, min(64, CHUNK // (n * math.prod(A.batch))))
    taken, wanted = 0, min(FEWEST, limit) if budget.has_target else limit
    mean = torch.zeros(*A.batch, A.domain.n, dtype=torch.float64, device=A.device)
    squares = torch.zeros_like(mean)
    while True:
        while taken < wanted:
            Z = draw(min(rows, wanted - taken))
            new, m = Z.double() * finite(A.apply(Z)), Z.shape[-2]
            # Chan, Golub and LeVeque's update of a mean and a sum of squared deviations.
            middle = new.mean(-2)
            shift = middle - mean
            squares += (new - middle.unsqueeze(-2)).square().sum(-2) + shift.square() * (
                taken * m / (taken + m)
            )
            mean, taken = mean + shift * (m / (taken + m)), taken + m
        stderr = (squares / (taken * (taken - 1))).sqrt()
        estimate = Estimate(mean, stderr, taken, taken, "hutchinson", taken - 1)
        excess = _excess(A.domain, budget, estimate)
        if excess <= 1 or taken >= limit:
            return _exact(A) if budget.products is None and excess > 1 else estimate
        wanted = min(limit, max(taken + 1, math.ceil(min(excess**2, 4.0) * taken)))
        if budget.products is None and excess**2 * taken >= n:
            return _exact(A)


def xdiag(sketch: Sketch) -> Estimate:
    """diag A by XDiag from a sketch with k >= 3 Rademacher probes and image A' Q, 2k products.

    The standard error is the samples', inflated as XTrace's by the covariance that they share, here pooled
    over 256 entries.
    """
    reduced, k = Reduced.of(sketch), sketch.size
    mean, squares = _moments(xdiag_samples(sketch, reduced))
    rounding = sketch.A.eps * mean.abs()
    factor = inflation(xdiag_pairs(sketch, reduced), pooled=True).unsqueeze(-1)
    stderr = (squares / (k * (k - 1)) * factor + rounding.square()).sqrt()
    return Estimate(mean, stderr, k, 2 * k, "xdiag", k - 1)


def xdiag_samples(sketch: Sketch, reduced: Reduced) -> Tensor:
    """d_i = diag(Q Q' A) - (Q s_i) * (A' Q s_i) + omega_i * (Q s_i) (s_i' r_i), (*batch, k, n).

    Without omega_i the sketch loses Q s_i, S and R as in `Reduced`.
    """
    lost, image = _combined(reduced.S, sketch.basis), _combined(reduced.S, sketch.image)
    whole = (sketch.basis.double() * sketch.image.double()).sum(-2, keepdim=True)
    along = (reduced.S * reduced.R).sum(-2).unsqueeze(-1)
    return whole - lost * image + sketch.probes.double() * lost * along


def xdiag_pairs(sketch: Sketch, reduced: Reduced) -> Tensor:
    """The same without omega_l too, at up to 256 evenly spaced entries p: (*batch, p, k, k) for i, l.

    The sketch then loses s_i and e = (s_l - g s_i)/sqrt(1 - g^2), g = s_i' s_l.
    """
    n = sketch.A.domain.n
    at = torch.linspace(0, n - 1, min(n, _PIXELS), device=sketch.A.device).round().long()
    Q, Z, omega = (X[..., at].double() for X in (sketch.basis, sketch.image, sketch.probes))
    q, z = _combined(reduced.S, Q).mT, _combined(reduced.S, Z).mT
    g = (reduced.S.mT @ reduced.S).unsqueeze(-3)
    c = (1 - g.square()).clamp(min=1e-14).sqrt()
    q1, z1 = q.unsqueeze(-1), z.unsqueeze(-1)
    q2, z2 = (q.unsqueeze(-2) - g * q1) / c, (z.unsqueeze(-2) - g * z1) / c
    r1 = (reduced.S * reduced.R).sum(-2)[..., None, :, None]
    test = omega.mT.unsqueeze(-1) * (q1 * r1 - q2 * g * r1 / c)
    return (Q * Z).sum(-2)[..., None, None] - q1 * z1 - q2 * z2 + test


def _combined(S: Tensor, rows: Tensor) -> Tensor:
    return S.mT @ rows.double()


def _moments(samples: Tensor) -> tuple[Tensor, Tensor]:
    mean = samples.mean(-2)
    return mean, (samples - mean.unsqueeze(-2)).square().sum(-2)


def _excess(space: Space, budget: Budget, estimate: Estimate) -> float:
    """`Budget.excess` of |diag|_2, whose error is that of all entries together."""
    value, stderr = (space.norms(torch.as_tensor(x)) for x in (estimate.value, estimate.stderr))
    return budget.excess(dataclasses.replace(estimate, value=value, stderr=stderr))
