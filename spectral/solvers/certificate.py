"""What a computed eigenpair is worth: fresh residuals, error bounds, and a bound on what was not seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Completeness:
    """With probability at least `confidence`, no eigenvalue outside those returned lies beyond `bound`.

    bound (B,) or (): larger than it for "largest", smaller for "smallest", larger in magnitude for
    "magnitude"; infinite, with confidence 0, where no probe was made.  products: what it cost.
    The chance is over the probe's random starts, not over operators.
    """

    bound: Tensor
    confidence: float
    products: int


@dataclass(frozen=True)
class Certified:
    """Eigenpairs after a last Rayleigh-Ritz step on fresh products.

    values (B, k), vectors (B, k, n), residuals |A v - lambda v| (B, k), orthogonality max |V V' - I| (B,).
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    orthogonality: Tensor


def certify(vectors: Tensor, images: Tensor, *, descending: bool, magnitude: bool) -> Certified:
    """Eigenpairs of a symmetric A in the span of `vectors`, and their residuals, from fresh products.

    With V the vectors, W = A V', G = V V' and H = V W in float64, the pencil H y = theta G y is solved; its
    vectors combine V and W alike, so each residual is |W y - theta V' y| with W straight from the operator.

    Args:
        vectors: (B, k, n) rows, orthonormal to rounding.
        images: (B, k, n), A v for each, formed after the vectors were.
        descending: order by decreasing value, or increasing.
        magnitude: order by decreasing magnitude instead.
    """
    if vectors.shape[1] == 0:
        none = vectors.new_zeros(vectors.shape[:2], dtype=torch.float64)
        return Certified(none, vectors, none, vectors.new_zeros(len(vectors), dtype=torch.float64))
    V, W = vectors.double(), images.double()
    H = V @ W.mT
    L = torch.linalg.cholesky(V @ V.mT)
    half = torch.linalg.solve_triangular(L, (H + H.mT) / 2, upper=False)
    theta, Z = torch.linalg.eigh(torch.linalg.solve_triangular(L, half.mT, upper=False))
    order = torch.argsort(theta.abs() if magnitude else theta, dim=-1, descending=descending or magnitude)
    theta = theta.gather(-1, order)
    Z = Z.gather(-1, order.unsqueeze(-2).expand_as(Z))
    Y = torch.linalg.solve_triangular(L.mT, Z, upper=True)
    X, AX = Y.mT @ V, Y.mT @ W
    residuals = torch.linalg.vector_norm(AX - theta.unsqueeze(-1) * X, dim=-1)
    X = (X * leading_sign(X)).to(vectors.dtype)
    overlap = X.double() @ X.double().mT - torch.eye(X.shape[1], dtype=torch.float64, device=X.device)
    return Certified(theta, X, residuals, overlap.abs().amax((-2, -1)))


def leading_sign(X: Tensor) -> Tensor:
    """The sign (..., 1) that makes each row's entry of largest magnitude positive, the convention here."""
    lead = X.gather(-1, X.abs().argmax(-1, keepdim=True))
    return torch.where(lead < 0, -1.0, 1.0).to(X.dtype)


def error_bounds(values: Tensor, residuals: Tensor, unseen: Tensor, *, which: str) -> Tensor:
    """|lambda - theta| for each Ritz pair of a symmetric A: min(r, r^2 / gap), (B, k).

    r alone bounds the distance to the nearest eigenvalue.  Where the rest of the spectrum is known to keep a
    `gap` from theta (the other pairs by their own residuals, what was not seen by `unseen`), Kato and
    Temple's r^2 / gap holds, at the confidence of `unseen`.

    Args:
        values, residuals: (B, k).
        unseen: (B,), the completeness bound.
        which: "largest", "smallest" or "magnitude", the side on which nothing was unseen.

    Source: Parlett, The Symmetric Eigenvalue Problem, 11.7.
    """
    k = values.shape[-1]
    if k == 0:
        return residuals
    apart = (values.unsqueeze(-1) - values.unsqueeze(-2)).abs() - residuals.unsqueeze(-2)
    apart = apart.masked_fill(torch.eye(k, dtype=torch.bool, device=values.device), math.inf).amin(-1)
    bound = unseen.to(values).unsqueeze(-1)
    to_unseen = {"largest": values - bound, "smallest": bound - values, "magnitude": values.abs() - bound}[
        which
    ]
    gap = torch.minimum(apart, to_unseen)
    return torch.where(gap > residuals, residuals**2 / gap, residuals)


def krylov_bound(
    low: Tensor,
    high: Tensor,
    *,
    steps: int,
    block: int,
    dimension: int,
    failure: float,
    magnitude: bool,
) -> Tensor:
    """An upper bound on the largest eigenvalue of a symmetric operator, from extreme Ritz values.

    After m Lanczos steps from a uniformly random start on n dimensions, with theta_1 >= ... >= theta_m,

        P( lambda_1 - theta_1 > eps (lambda_1 - lambda_n) ) <= 1.648 sqrt(n) exp(-sqrt(eps) (2 m - 1)),

    and likewise at the lower end.  Where both ends hold,

        lambda_1 <= theta_1 + eps (theta_1 - theta_m) / (1 - 2 eps).

    A block of b independent starts fails only if each does: probability p^b.  m must be fixed beforehand,
    not chosen by what the Ritz values show.

    Args:
        low, high: (B,), the extreme Ritz values of the block Krylov space.
        steps: m.
        block: b.
        dimension: n.
        failure: the probability left to both ends together.
        magnitude: bound the largest magnitude instead.

    Returns:
        (B,); infinite where m is too small to say anything, the larger Ritz value where the space is spanned.

    Source: Kuczynski and Wozniakowski, SIAM J. Matrix Anal. Appl. 13 (1992), theorem 4.2.
    """
    if steps * block >= dimension:
        eps = 0.0
    else:
        eps = (_krylov_exponent(block, dimension, failure) / (2 * steps - 1)) ** 2
    if eps >= 0.5:
        return torch.full_like(high, math.inf)
    slack = eps * (high - low) / (1 - 2 * eps)
    return torch.maximum((high + slack).abs(), (low - slack).abs()) if magnitude else high + slack


def krylov_steps(relative_gap: float, *, block: int, dimension: int, failure: float) -> int:
    """m for which `krylov_bound` exceeds theta_1 by at most relative_gap (theta_1 - theta_m)."""
    if relative_gap <= 0:
        return dimension
    eps = relative_gap / (1 + 2 * relative_gap)
    return math.ceil((_krylov_exponent(block, dimension, failure) / math.sqrt(eps) + 1) / 2)


def _krylov_exponent(block: int, dimension: int, failure: float) -> float:
    """sqrt(eps) (2 m - 1) at which each end fails with probability `failure` / 2."""
    one_start = (failure / 2) ** (1 / block)
    return math.log(1.648 * math.sqrt(dimension) / one_start)
