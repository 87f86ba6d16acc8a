"""Rounding of products, and how far out an eigenvalue can hide from one Krylov space."""

from __future__ import annotations

import math

import scipy
import torch
from torch import Tensor

SLACK = 10.0


def rounding(eps: float, norm: float) -> float:
    """Residuals below this are rounding of a product: `SLACK` eps |A|, eps its relative rounding."""
    return SLACK * eps * norm


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
