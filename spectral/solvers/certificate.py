"""What a computed eigenpair is worth: fresh residuals, error bounds, and a bound on what was not seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spectral.linalg.svd import svd
from spectral.operators.base import LinearOperator
from spectral.operators.space import Space
from spectral.solvers.found import RitzTriplets


@dataclass(frozen=True)
class Certified:
    """Eigenpairs after a last Rayleigh-Ritz step on fresh products.

    values (B, k), vectors (B, k, n), residuals |A v - lambda v| (B, k), orthogonality max |V V' - I| (B,).
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    orthogonality: Tensor


@dataclass(frozen=True)
class CertifiedTriplets:
    """Singular triplets after a last Rayleigh-Ritz step on fresh products.

    values (B, k); left (B, k, r), right (B, k, n); their residuals |A v - sigma u| and |A' u - sigma v|
    (B, k); orthogonality (B,), the worse of max |U U' - I| and max |V V' - I|.
    """

    values: Tensor
    left: Tensor
    right: Tensor
    left_residuals: Tensor
    right_residuals: Tensor
    orthogonality: Tensor


def measured_rounding(A: LinearOperator, vectors: Tensor, AV: Tensor, generator: torch.Generator) -> Tensor:
    """What products with the vectors are rounded by, as three further products tell, (B,).

    With c, d of random signs, uniform between 1/2 and 3/2 in magnitude, and a random z of norm 1,

        A (c V + z) = c (A V) + A z,    A (d V - z) = d (A V) - A z

    but for rounding.  Sums of n terms alike, as those of a constant vector, round by up to n eps; z keeps
    them from doing so here, and what shows is c E, E the rounding of A V.  No row of E is longer than
    |E|_F, which is |c E| in the mean square; a row alone shows by half at least.  Told is the sum of both,
    where one may cancel: rows of E may be alike, as those of a star's two ends are, so that signs alone would
    lose them every second time.

    Args:
        A: the operator.
        vectors, AV: (B, k, n), orthonormal, and A v for each.
    """
    B, k, _ = vectors.shape
    z = A.domain.normal(B, 1, generator=generator) / math.sqrt(A.domain.dimension)
    c = 2 * torch.rand(B, 2, k, generator=generator, dtype=torch.float64, device="cpu") - 1
    c = c + 0.5 * c.sign()
    z, c = z.to(vectors), c.to(vectors.device)
    rows = torch.cat([c @ vectors.double() + torch.cat([z, -z], dim=1), z], dim=1).to(vectors.dtype)
    W = A.apply(rows).double()
    Az = W[:, 2:]
    return A.codomain.norms(W[:, :2] - c @ AV.double() - torch.cat([Az, -Az], dim=1)).sum(-1)


def certify(space: Space, vectors: Tensor, AV: Tensor, *, descending: bool, magnitude: bool) -> Certified:
    """Eigenpairs of a symmetric A in the span of `vectors`, and their residuals, from fresh products.

    V and W = A V' are orthonormalised alike, H = V W is diagonalised in float64, and its eigenvectors rotate
    both, so that each residual is |W y - theta V' y| with W straight from the operator.

    Args:
        space: of the vectors.
        vectors: (B, k, n) rows, orthonormal to rounding.
        AV: (B, k, n), A v for each, formed after the vectors were.
        descending: order by decreasing value, or increasing.
        magnitude: order by decreasing magnitude instead.
    """
    V, W = space.orthonormalise(vectors, AV)
    H = space.inner(V, W)
    _, Y = torch.linalg.eigh((H + H.mT) / 2)
    # One at a time, and in place: in float64 each is as large as twice the vectors.
    V = Y.mT @ V
    W = Y.mT @ W
    theta = space.dots(V, W) / space.dots(V, V)
    order = torch.argsort(theta.abs() if magnitude else theta, dim=-1, descending=descending or magnitude)
    theta = theta.gather(-1, order)
    V = V.gather(-2, order.unsqueeze(-1).expand_as(V))
    W = W.gather(-2, order.unsqueeze(-1).expand_as(W))
    residuals = space.norms(W.sub_(theta.unsqueeze(-1) * V))
    del W
    X = V.mul_(leading_sign(space, V)).to(vectors.dtype)
    return Certified(theta, X, residuals, space.overlap(X))


def certify_triplets(A: LinearOperator, found: RitzTriplets) -> CertifiedTriplets:
    """Singular triplets of A between the spans that were found, from fresh products with A and A'.

    With both spans orthonormalised and H = U A V', the singular value decomposition of H rotates vectors and
    products alike.  The sign convention is put on the right vectors.

    Args:
        A: the operator, of which no product is formed.
        found: its vectors orthonormal to rounding, and their products formed after them.
    """
    of_right, of_left = A.domain, A.codomain
    V, AV = of_right.orthonormalise(found.right, found.AV)
    U, AU = of_left.orthonormalise(found.left, found.ATU)
    Y, _, Zh = svd(of_left.inner(U, AV))
    U, AU, V, AV = Y.mT @ U, Y.mT @ AU, Zh @ V, Zh @ AV
    sigma = of_left.dots(U, AV) / (of_left.dots(U, U) * of_right.dots(V, V)).sqrt()
    sigma, order = sigma.clamp(min=0).sort(dim=-1, descending=True)
    U, AU, V, AV = (rows.gather(-2, order.unsqueeze(-1).expand_as(rows)) for rows in (U, AU, V, AV))
    on_left = of_left.norms(AV - sigma.unsqueeze(-1) * U)
    on_right = of_right.norms(AU - sigma.unsqueeze(-1) * V)
    sign = leading_sign(of_right, V)
    U, V = (sign * U).to(found.left.dtype), (sign * V).to(found.right.dtype)
    apart = torch.maximum(of_left.overlap(U), of_right.overlap(V))
    return CertifiedTriplets(sigma, U, V, on_left, on_right, apart)


def leading_sign(space: Space, X: Tensor) -> Tensor:
    """The sign (..., 1) that makes each row's entry of largest magnitude positive, the convention here."""
    return torch.where(space.largest(X) < 0, -1.0, 1.0).to(X.dtype)


def error_bounds(values: Tensor, residuals: Tensor, unseen: Tensor, *, which: str) -> Tensor:
    """|lambda - theta| for each Ritz pair of a symmetric A: min(r, r^2 / gap), (B, k).

    r alone bounds the distance to the nearest eigenvalue.  With rho = |(r_1, ..., r_k)|, the eigenvalues of A
    lie one by one within rho of the Ritz values and of what was not seen (Weyl), so all but one keep a gap
    from theta_i, and Kato and Temple's r^2 / gap holds, at the confidence of `unseen`.

    Args:
        values, residuals: (B, k), of orthonormal vectors.
        unseen: (B,), the completeness bound.
        which: "largest", "smallest" or "magnitude", the side on which nothing was unseen.

    Source: Parlett, The Symmetric Eigenvalue Problem, 11.5 and 11.7.
    """
    k = values.shape[-1]
    if k == 0:
        return residuals
    rho = torch.linalg.vector_norm(residuals, dim=-1, keepdim=True)
    apart = (values.unsqueeze(-1) - values.unsqueeze(-2)).abs()
    apart = apart.masked_fill(torch.eye(k, dtype=torch.bool, device=values.device), math.inf).amin(-1)
    bound = unseen.to(values).unsqueeze(-1)
    beyond = {"largest": values - bound, "smallest": bound - values, "magnitude": values.abs() - bound}[which]
    gap = torch.minimum(apart, beyond) - rho
    return torch.where(gap > residuals, residuals**2 / gap, residuals)
