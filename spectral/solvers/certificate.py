"""What a computed eigenpair is worth: fresh residuals, error bounds, and a bound on what was not seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

from spectral.base import Result


@dataclass(frozen=True)
class Completeness(Result):
    """With probability at least `confidence`, no eigenvalue outside those returned lies beyond `bound`.

    To be exact: S has no eigenvalue beyond `bound` on the orthogonal complement of the vectors the probe
    locked, so at most k of its eigenvalues lie beyond it.
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


SLACK = 10.0


def rounding(eps: float, norm: float) -> float:
    """Residuals below this are rounding of a product: `SLACK` eps |A|, eps its relative rounding."""
    return SLACK * eps * norm


def measured_rounding(
    apply: Callable[[Tensor], Tensor], vectors: Tensor, images: Tensor, generator: torch.Generator
) -> Tensor:
    """What products with the vectors are rounded by, as three further products tell, (B,).

    With signs c and a random z of norm 1,

        A (c V +- z) = c (A V) +- A z

    but for rounding.  Sums of n terms alike, as those of a constant vector, round by up to n eps; z keeps
    them from doing so here, and what shows is c E, E the rounding of the images.  No row of E is longer than
    |E|_F, which is |c E| in the mean square.  Told is the sum of both differences, where one may cancel.

    Args:
        apply: rows (B, m, n) -> A v.
        vectors, images: (B, k, n), orthonormal, and A v for each.
    """
    B, k, n = vectors.shape
    z = torch.randn(B, 1, n, generator=generator, dtype=torch.float64, device="cpu") / math.sqrt(n)
    c = torch.randint(2, (B, 1, k), generator=generator, dtype=torch.float64, device="cpu") * 2 - 1
    z, c = z.to(vectors), c.to(vectors.device)
    ends = c @ vectors.double()
    rows = torch.cat([ends + z, ends - z, z], dim=1).to(vectors.dtype)
    apart = apply(rows).double() - torch.cat([c, c, 0 * c], dim=1) @ images.double()
    return (apart[:, 0] - apart[:, 2]).norm(dim=-1) + (apart[:, 1] + apart[:, 2]).norm(dim=-1)


def certify(vectors: Tensor, images: Tensor, *, descending: bool, magnitude: bool) -> Certified:
    """Eigenpairs of a symmetric A in the span of `vectors`, and their residuals, from fresh products.

    V and W = A V' are orthonormalised alike, H = V W is diagonalised in float64, and its eigenvectors rotate
    both, so that each residual is |W y - theta V' y| with W straight from the operator.

    Args:
        vectors: (B, k, n) rows, orthonormal to rounding.
        images: (B, k, n), A v for each, formed after the vectors were.
        descending: order by decreasing value, or increasing.
        magnitude: order by decreasing magnitude instead.
    """
    V, W = orthonormalised(vectors, images)
    H = V @ W.mT
    _, Y = torch.linalg.eigh((H + H.mT) / 2)
    X, AX = Y.mT @ V, Y.mT @ W
    # Rayleigh quotients by pairwise sums: those of a matrix product round by up to n eps.
    theta = (X * AX).sum(-1) / X.square().sum(-1)
    order = torch.argsort(theta.abs() if magnitude else theta, dim=-1, descending=descending or magnitude)
    theta = theta.gather(-1, order)
    X, AX = (rows.gather(-2, order.unsqueeze(-1).expand_as(rows)) for rows in (X, AX))
    residuals = torch.linalg.vector_norm(AX - theta.unsqueeze(-1) * X, dim=-1)
    X = (X * leading_sign(X)).to(vectors.dtype)
    return Certified(theta, X, residuals, _overlap(X))


def certify_triplets(right: Tensor, left: Tensor, images: tuple[Tensor, Tensor]) -> CertifiedTriplets:
    """Singular triplets of A between the spans of `right` and `left`, from fresh products with A and A'.

    With both spans orthonormalised and H = U A V', the singular value decomposition of H rotates vectors and
    products alike.  The sign convention is put on the right vectors.

    Args:
        right, left: (B, k, n) and (B, k, r) rows, orthonormal to rounding.
        images: A v (B, k, r) and A' u (B, k, n) for each, formed after the vectors were.
    """
    V, AV = orthonormalised(right, images[0])
    U, AU = orthonormalised(left, images[1])
    Y, _, Zh = torch.linalg.svd(U @ AV.mT)
    U, AU, V, AV = Y.mT @ U, Y.mT @ AU, Zh @ V, Zh @ AV
    # By pairwise sums: those of a matrix product round by up to n eps.
    sigma = (U * AV).sum(-1) / (U.square().sum(-1) * V.square().sum(-1)).sqrt()
    sigma, order = sigma.clamp(min=0).sort(dim=-1, descending=True)
    U, AU, V, AV = (rows.gather(-2, order.unsqueeze(-1).expand_as(rows)) for rows in (U, AU, V, AV))
    on_left, on_right = (
        torch.linalg.vector_norm(image - sigma.unsqueeze(-1) * vector, dim=-1)
        for image, vector in ((AV, U), (AU, V))
    )
    sign = leading_sign(V)
    U, V = (sign * U).to(left.dtype), (sign * V).to(right.dtype)
    return CertifiedTriplets(sigma, U, V, on_left, on_right, torch.maximum(_overlap(U), _overlap(V)))


def orthonormalised(V: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    """L^-1 V and L^-1 W in float64, V V' = L L'."""
    V, W = V.double(), W.double()
    L = torch.linalg.cholesky(V @ V.mT)
    return torch.linalg.solve_triangular(L, V, upper=False), torch.linalg.solve_triangular(L, W, upper=False)


def _overlap(X: Tensor) -> Tensor:
    """max |X X' - I|, (B,); 0 for no rows."""
    gram = X.double() @ X.double().mT - torch.eye(X.shape[1], dtype=torch.float64, device=X.device)
    return gram.abs().flatten(1).amax(-1) if X.shape[1] else gram.new_zeros(len(X))


def leading_sign(X: Tensor) -> Tensor:
    """The sign (..., 1) that makes each row's entry of largest magnitude positive, the convention here."""
    lead = X.gather(-1, X.abs().argmax(-1, keepdim=True))
    return torch.where(lead < 0, -1.0, 1.0).to(X.dtype)


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


def unseen_bound(
    T: Tensor,
    C: Tensor,
    *,
    block: int,
    dimension: int,
    failure: float,
    share: float = 1.0,
    error: float = 0.0,
) -> Tensor:
    """An upper bound on the largest eigenvalue of a symmetric operator, from one block Krylov space.

    Let the space grow from `block` orthonormal rows X_1, uniformly random in n dimensions, with
    A V' = V' T + X_{m+1}' C.  For a unit eigenvector u of mu, s = X_{m+1} u and w = V u obey

        w = (mu - T)^{-1} C' s,        |w|^2 + |s|^2 <= 1,

    so that |X_1 u|, the length of w's first block, is at most

        g(mu) = max |G_1 s| over s' (1 + G' G) s <= 1,     G = (mu - T)^{-1} C',  G_1 its first block of rows.

    But |X_1 u|^2 is a Beta(b/2, (n - b)/2) variable, and falls below delta^2 with probability `failure`
    alone: otherwise mu lies where g(mu) >= delta.  For b = 1, g is about 1 / |p(mu)|, p the Lanczos
    polynomial.  Nothing else is random, so the space may be stopped by what it shows.

    Products are rounded: A V' = V' T + X_{m+1}' C + E, |E' u| <= e, adds (mu - T)^{-1} E' u to w, and

        |X_1 u| <= (1 + e / (mu - theta_1)) g(mu) + e |first b rows of (mu - T)^{-1}|.

    A start holds about 1 / sqrt(n) of u, so that a product of it may lose in rounding what is many times as
    large as e: mu may exceed theta_1 by e / delta however small C is.

    Args:
        T: (B, s, s) float64, the projected matrix, its first `block` rows those of the start.
        C: (B, c, s), the coupling to the next block; no rows where the space is spanned.
        block: b.
        dimension: n.
        failure: probability that the bound does not hold.
        share: norm of u's part in the space that the start is drawn from; 1 where that is the whole space.
        error: e.

    Returns:
        (B,), the largest mu that cannot be excluded; at least the largest Ritz value.

    Source: van Dorsselaer, Hochstenbach and van der Vorst, SIAM J. Matrix Anal. Appl. 22 (2000), for b = 1.
    """
    theta, Z = torch.linalg.eigh(T)
    high = theta[:, -1]
    if C.shape[1] == 0 or block >= dimension:
        return high + error
    delta = share * least_share(block, dimension, failure)
    first, last = Z[:, :block], C @ Z
    # g(mu) <= |C| / (mu - theta_1), and the rows of the inverse are no longer than 1 / (mu - theta_1).
    reach = (torch.linalg.vector_norm(C, dim=(-2, -1)) + 2 * error) / delta
    top = torch.where(reach > 0, reach, 1.0)
    bottom = 1e-14 * top
    for _ in range(2):
        # From the top down, the first mu of the grid that is possible; the one above it is not.
        grid = torch.linspace(0, 1, 128, dtype=torch.float64)
        above = top.unsqueeze(-1) * (bottom / top).unsqueeze(-1) ** grid
        distance = above.unsqueeze(-1) + (high.unsqueeze(-1) - theta).unsqueeze(1)
        longest = _longest_start(distance, first, last)
        if error:
            inverse = first.unsqueeze(1) / distance.unsqueeze(-2)
            lost = error * torch.linalg.eigvalsh(inverse @ inverse.mT)[..., -1].clamp(min=0).sqrt()
            longest = (1 + error / distance[..., -1]) * longest + lost
        possible = longest >= delta
        index = torch.where(possible.any(-1), possible.int().argmax(-1), len(grid) - 1).clamp(min=1)
        top, bottom = (above.gather(-1, i.unsqueeze(-1)).squeeze(-1) for i in (index - 1, index))
    return high + torch.where(reach > 0, top, 0.0)


def least_share(block: int, dimension: int, failure: float) -> float:
    """delta: |X u| of a unit u is below with probability `failure`, X `block` random orthonormal rows."""
    if block >= dimension:
        return 1.0
    return math.sqrt(scipy.special.betaincinv(block / 2, (dimension - block) / 2, failure))


def _longest_start(distance: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """g of `unseen_bound`, (B, g), in the eigenbasis of T.

    distance (B, g, s) holds mu - theta, first (B, b, s) and last (B, c, s) the eigenvectors' first block and
    their coupling C.  With (I; G) = (Q_1; Q_2) R, g is the norm of Q_2's first block.
    """
    G = last.mT.unsqueeze(1) / distance.unsqueeze(-1)
    eye = torch.eye(last.shape[1], dtype=G.dtype).expand(*G.shape[:2], -1, -1)
    Q, _ = torch.linalg.qr(torch.cat([eye, G], dim=-2))
    return torch.linalg.matrix_norm(first.unsqueeze(1) @ Q[..., last.shape[1] :, :], ord=2)
