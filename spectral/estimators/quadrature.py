"""Quadrature rules for the measure that an operator has from a vector.

From a unit v, a symmetric S has the measure mu_v = sum_i <v, e_i>^2 delta(lambda_i), whose mean over random v
is the density of the spectrum.  Products S v, S^2 v, ... give its moments, and so rules
mu_v ~ sum_j w_j delta(theta_j), w_j >= 0, sum_j w_j = 1.  All take rows v and go in lock-step.  Each rule
comes with the one that half its products give, which shows how much products still change.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from spectral.errors import NotFiniteError
from spectral.estimators.sampling import finite
from spectral.operators import LinearOperator
from spectral.solvers.window import jackson


class Rule(NamedTuple):
    """Nodes and weights, (*batch, p, m) float64, nodes ascending."""

    nodes: Tensor
    weights: Tensor


Rules = tuple[Rule, Rule]
"""From all products, and from the first half of them."""

Project = Callable[[Tensor], Tensor]


def lanczos_rule(S: LinearOperator, V: Tensor, steps: int, project: Project) -> Rules:
    """The Gauss rule of `steps` nodes for S = S', exact for polynomials of degree 2 steps - 1.

    Nodes are the eigenvalues of the Lanczos matrix, weights the squared first entries of its eigenvectors
    (Golub and Welsch 1969); every new vector is orthogonalised against all before it, twice.

    Args:
        S: the operator.
        V: unit rows (*batch, p, n), inside the range of `project`.
        steps: products for each row.
        project: projection on an invariant subspace, the identity where nothing is deflated.
    """
    T = _tridiagonal(S, V, steps, project)[0]

    def rule(m: int) -> Rule:
        nodes, vectors = torch.linalg.eigh(T[..., :m, :m])
        return Rule(nodes, vectors[..., 0, :].square())

    return rule(steps), rule((steps + 1) // 2)


def golub_kahan_rule(A: LinearOperator, V: Tensor, steps: int, project: Project) -> Rules:
    """The Gauss rule for A' A in singular values, by Golub-Kahan bidiagonalisation A V = U B.

    Nodes are the singular values of B, weights the squared first entries of its right singular vectors: the
    same rule as Lanczos on A' A, without squaring the condition.  Two products a step.
    """
    alpha: list[Tensor] = []
    beta: list[Tensor] = []
    right: list[Tensor] = [V]
    left: list[Tensor] = []
    for step in range(steps):
        W = _apply(A, right[-1])
        U, size = _unit(_orthogonalised(W, left) if left else W, W)
        alpha.append(size)
        left.append(U)
        if step + 1 < steps:
            W = project(_apply(A, U, transposed=True))
            W, size = _unit(_orthogonalised(W, right), W)
            beta.append(size)
            right.append(W)
    B = torch.diag_embed(torch.stack(alpha, -1))
    if beta:
        B = B + torch.diag_embed(torch.stack(beta, -1), 1)

    def rule(m: int) -> Rule:
        _, nodes, vectors = torch.linalg.svd(B[..., :m, :m])
        return Rule(nodes.flip(-1), vectors[..., 0].square().flip(-1))

    return rule(steps), rule((steps + 1) // 2)


def chebyshev_rule(
    S: LinearOperator, V: Tensor, steps: int, project: Project, ends: tuple[Tensor, Tensor]
) -> Rules:
    """The kernel polynomial rule: 2 steps Chebyshev moments, damped by Jackson's kernel, on Chebyshev nodes.

    With X = (S - c)/h inside [-1, 1] and t_k = T_k(X) v, mu_2k = 2 |t_k|^2 - 1 and mu_2k+1 =
    2 <t_k+1, t_k> - mu_1, two moments a product.  Jackson's kernel (Weisse et al. 2006) makes the weights
    non-negative and smooths the density by about pi h / (2 steps).  Memory of three vectors a probe.

    Args:
        S: the operator.
        V: unit rows (*batch, p, n).
        steps: products for each row.
        project: as in `lanczos_rule`.
        ends: (lowest, highest), (*batch,), that enclose the spectrum.

    Raises:
        NotFiniteError: the moments grow, since the ends do not enclose the spectrum.
    """
    low, high = ends
    c, h = ((high + low) / 2)[..., None, None], ((high - low) / 2)[..., None, None]

    def scaled(U: Tensor) -> Tensor:
        return (project(_apply(S, U)) - c.to(U.dtype) * U) / h.to(U.dtype)

    before, now = V, scaled(V)
    first = _dot(now, V)
    moments = [torch.ones_like(first), first]
    for step in range(1, steps + 1):
        moments.append(2 * _dot(now, now) - moments[0])
        if step == steps:
            break
        before, now = now, 2 * scaled(now) - before
        moments.append(2 * _dot(now, before) - first)
    mu = torch.stack(moments, -1)
    if not bool((mu.abs() < 1.01).all()):
        raise NotFiniteError(
            "Chebyshev moments grow: the spectrum reaches beyond the ends that were measured"
        )

    def rule(moments: Tensor) -> Rule:
        count = moments.shape[-1]
        k = torch.arange(count, dtype=torch.float64, device=mu.device)
        damped = moments * torch.as_tensor(jackson(count), device=mu.device)
        damped[..., 1:] *= 2
        angles = (
            math.pi * (torch.arange(2 * count, dtype=torch.float64, device=mu.device) + 0.5) / (2 * count)
        )
        weights = (damped @ torch.cos(k.unsqueeze(-1) * angles) / (2 * count)).clamp(min=0)
        return Rule((c + h * torch.cos(angles)).expand(weights.shape).flip(-1), weights.flip(-1))

    return rule(mu), rule(mu[..., : steps + 1])


class Scouted(NamedTuple):
    """What one Lanczos run found: leading pairs, and where the spectrum seems to end.

    Attributes:
        values: (*batch, k), descending from the top.
        vectors: (*batch, k, n), orthonormal.
        low, high: (*batch,), likely to enclose the spectrum; `chebyshev_rule` finds out.
    """

    values: Tensor
    vectors: Tensor
    low: Tensor
    high: Tensor


def scout(S: LinearOperator, V: Tensor, steps: int, project: Project, most: int) -> Scouted:
    """The largest Ritz pairs, down to the first whose residual exceeds 1e-3 of the range; at most `most`.

    Taking k pairs of residual r out of S moves its other eigenvalues by r at most and by 2 k r in all (they
    are coupled by a perturbation of that norm and rank): nothing that a density of n >> k values shows.  The
    ends are the extreme Ritz values, moved out by their residuals and 2 % of the range.

    Args:
        S: the operator.
        V: one unit row, (*batch, 1, n).
        steps: products.
        project: as in `lanczos_rule`.
        most: pairs at most; problems of a batch get equally many.
    """
    T, last, basis = _tridiagonal(S, V, steps, project)
    nodes, mixing = torch.linalg.eigh(T.squeeze(-3))
    nodes, mixing = nodes.flip(-1), mixing.flip(-1)
    residuals = last * mixing[..., -1, :].abs()
    span = (nodes[..., :1] - nodes[..., -1:]).clamp(min=1e-300)
    vectors = mixing.mT.to(V.dtype) @ torch.cat(basis[:-1], -2)
    # A run that ended early carries zero vectors along: they are no pairs.
    found = (residuals <= 1e-3 * span) & (torch.linalg.vector_norm(vectors, dim=-1) > 0.5)
    k = min(int(found.cumprod(-1).sum(-1).min()), most, nodes.shape[-1] - 1)
    # One run sees a multiple eigenvalue once, so what is left may reach as high as what was found.
    low, high = (nodes - residuals).amin(-1), (nodes + residuals).amax(-1)
    margin = 0.02 * (high - low) + 1e-6 * torch.maximum(high.abs(), low.abs())
    margin = torch.where(margin > 0, margin, 1.0)
    return Scouted(nodes[..., :k], vectors[..., :k, :], low - margin, high + margin)


def _tridiagonal(
    S: LinearOperator, V: Tensor, steps: int, project: Project
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The Lanczos matrix (*batch, p, steps, steps), the last coupling (*batch, p), and the basis."""
    alpha: list[Tensor] = []
    beta: list[Tensor] = []
    basis = [V]
    for _ in range(steps):
        W = project(_apply(S, basis[-1]))
        alpha.append(_dot(W, basis[-1]))
        W, size = _unit(_orthogonalised(W, basis), W)
        beta.append(size)
        basis.append(W)
    T = torch.diag_embed(torch.stack(alpha, -1))
    if steps > 1:
        couplings = torch.stack(beta[:-1], -1)
        T = T + torch.diag_embed(couplings, 1) + torch.diag_embed(couplings, -1)
    return T, beta[-1], basis


def _apply(A: LinearOperator, V: Tensor, transposed: bool = False) -> Tensor:
    product = A.apply_transpose if transposed else A.apply
    return finite(product(V.to(A.dtype))).to(V.dtype)


def _dot(U: Tensor, V: Tensor) -> Tensor:
    return torch.linalg.vecdot(U.double(), V.double())


def _orthogonalised(W: Tensor, basis: list[Tensor]) -> Tensor:
    """Each row without its part along the same row of every earlier block; twice is enough."""
    Q = torch.stack(basis, -2)
    for _ in range(2):
        W = W - torch.einsum("...mn,...m->...n", Q, torch.einsum("...mn,...n->...m", Q, W))
    return W


def _unit(W: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """W / |W| and |W|, or zeros where |W| is rounding beside |before|: the rule then ends, exactly.

    A zero vector adds a node 0 of weight 0, so rows that end early stay in step with the others.
    """
    size, scale = (torch.linalg.vector_norm(X, dim=-1) for X in (W, before))
    alive = size > 10 * torch.finfo(W.dtype).eps * scale
    W = torch.where(alive.unsqueeze(-1), W / torch.where(alive, size, 1.0).unsqueeze(-1), 0.0)
    return W, torch.where(alive, size, 0.0).double()
