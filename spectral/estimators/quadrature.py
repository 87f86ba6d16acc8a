"""Quadrature rules for the measure that an operator has from a vector.

From a unit v, a symmetric S has the measure mu_v = sum_i <v, e_i>^2 delta(lambda_i), whose mean over random v
is the density of the spectrum.  Products S v, S^2 v, ... give its moments, and so rules
mu_v ~ sum_j w_j delta(theta_j), w_j >= 0, sum_j w_j = 1.  All take rows v and go in lock-step.  Each rule
comes with the one that half its products give, which shows how much products still change.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from spectral.errors import NotFiniteError
from spectral.estimators.sampling import finite
from spectral.linalg.blocks import reserve, stream, to_device
from spectral.linalg.chebyshev import jackson
from spectral.linalg.golub_kahan import GolubKahanBasis
from spectral.linalg.krylov import KrylovBasis
from spectral.linalg.svd import svd
from spectral.operators import LinearOperator
from spectral.operators.base import Derived, Rows


class Rule(NamedTuple):
    """Nodes and weights, (*batch, p, m) float64, nodes ascending."""

    nodes: Tensor
    weights: Tensor


Rules = tuple[Rule, Rule]
"""From all products, and from the first half of them."""


class Deflated(Derived):
    """A on the complement of orthonormal rows E (*batch, k, n): P A P where A = A', or A P, P = I - E' E."""

    def __init__(self, A: LinearOperator, vectors: Tensor) -> None:
        super().__init__(A, symmetric=A.symmetric)
        self.vectors = vectors

    def without(self, V: Tensor) -> Tensor:
        """P v for each row."""
        E = self.vectors.to(V.dtype)
        return V - self.domain.inner(V, E) @ E if E.shape[-2] else V

    def _apply(self, V: Tensor) -> Tensor:
        W = self.A.apply(self.without(V))
        return self.without(W) if self.symmetric else W

    def _apply_transpose(self, V: Tensor) -> Tensor:
        return self.without(self.A.apply_transpose(V))


class _Apart(Derived):
    """A as the operator of p B problems: a row of each problem's p is one of its own."""

    def __init__(self, A: LinearOperator, p: int) -> None:
        super().__init__(A, batch=((A.batch or (1,))[0] * p,), symmetric=A.symmetric)
        self.p = p

    def _apply(self, V: Tensor) -> Tensor:
        return self._through(self.A.apply, V)

    def _apply_transpose(self, V: Tensor) -> Tensor:
        return self._through(self.A.apply_transpose, V)

    def _through(self, product: Rows, V: Tensor) -> Tensor:
        W = product(V.reshape(-1, self.p * V.shape[1], V.shape[2]))
        return W.reshape(*V.shape[:2], -1)


def lanczos_rule(S: LinearOperator, V: Tensor, steps: int) -> Rules:
    """The Gauss rule of `steps` nodes for S = S', exact for polynomials of degree 2 steps - 1.

    Nodes are the eigenvalues of the Lanczos matrix, weights the squared first entries of its eigenvectors
    (Golub and Welsch 1969).

    Args:
        S: the operator.
        V: unit rows (*batch, p, n), in the complement of what S is deflated by.
        steps: products for each row.
    """
    T = _lanczos(S, V, steps)[0].T.unflatten(0, V.shape[:-1])

    def rule(m: int) -> Rule:
        nodes, vectors = torch.linalg.eigh(T[..., :m, :m])
        return Rule(nodes, vectors[..., 0, :].square())

    return rule(steps), rule((steps + 1) // 2)


def golub_kahan_rule(A: LinearOperator, V: Tensor, steps: int) -> Rules:
    """The Gauss rule for A' A in singular values, by Golub-Kahan bidiagonalisation A V' = U' B.

    Nodes are the singular values of B, weights the squared first entries of its right singular vectors: the
    same rule as Lanczos on A' A, without squaring the condition.  Two products per step.
    """
    basis = GolubKahanBasis(*_starts(A, V))
    for _ in range(steps - 1):
        basis.expand()
    B = basis.widened()[2].unflatten(0, V.shape[:-1])

    def rule(m: int) -> Rule:
        _, nodes, vectors = svd(B[..., :m, :m])
        return Rule(nodes.flip(-1), vectors[..., 0].square().flip(-1))

    return rule(steps), rule((steps + 1) // 2)


def chebyshev_rule(S: LinearOperator, V: Tensor, steps: int, ends: tuple[Tensor, Tensor]) -> Rules:
    """The kernel polynomial rule: 2 steps Chebyshev moments, damped by Jackson's kernel, on Chebyshev nodes.

    With X = (S - c)/h inside [-1, 1] and t_k = T_k(X) v, mu_2k = 2 |t_k|^2 - 1 and mu_2k+1 =
    2 <t_k+1, t_k> - mu_1, two moments a product.  Jackson's kernel (Weisse et al. 2006) makes the weights
    non-negative and smooths the density by about pi h / (2 steps).  Memory of three vectors per probe.

    Args:
        S: the operator.
        V: unit rows (*batch, p, n).
        steps: products for each row.
        ends: (lowest, highest), (*batch,), that enclose the spectrum.

    Raises:
        NotFiniteError: the moments grow, since the ends do not enclose the spectrum.
    """
    low, high = ends
    c, h = ((high + low) / 2)[..., None, None], ((high - low) / 2)[..., None, None]
    S = S.to(V.dtype)

    def scaled(U: Tensor) -> Tensor:
        return (finite(S.apply(U)) - c.to(U.dtype) * U) / h.to(U.dtype)

    before, now = V, scaled(V)
    dots = S.domain.dots
    first = dots(now, V)
    moments = [torch.ones_like(first), first]
    for step in range(1, steps + 1):
        moments.append(2 * dots(now, now) - moments[0])
        if step == steps:
            break
        before, now = now, 2 * scaled(now) - before
        moments.append(2 * dots(now, before) - first)
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


class LeadingPairs(NamedTuple):
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


def leading_pairs(S: LinearOperator, V: Tensor, steps: int, most: int) -> LeadingPairs:
    """The largest Ritz pairs, down to the first whose residual exceeds 1e-3 of the range; at most `most`.

    Taking k pairs of residual r out of S moves its other eigenvalues by r at most and by 2 k r in all (they
    are coupled by a perturbation of that norm and rank): nothing that a density of n >> k values shows.  The
    ends are the extreme Ritz values, moved out by their residuals and 2 % of the range.

    Args:
        S: the operator.
        V: one unit row, (*batch, 1, n).
        steps: products.
        most: pairs at most; problems of a batch get equally many.
    """
    basis, reached = _lanczos(S, V, steps)
    # What the run went on from after it ended is not of its own space: it is no pair, and at no height.
    T = basis.T * (reached.unsqueeze(-1) & reached.unsqueeze(-2))
    nodes, Y = (part.flip(-1) for part in torch.linalg.eigh(T))
    Y = Y * reached.unsqueeze(-1)
    residuals = torch.linalg.vector_norm(basis.C @ Y, dim=1)
    span = (nodes[:, :1] - nodes[:, -1:]).clamp(min=1e-300)
    found = (residuals <= 1e-3 * span) & (Y.square().sum(-2) > 0.5)
    k = min(int(found.cumprod(-1).sum(-1).min()), most, nodes.shape[-1] - 1)
    vectors = to_device(Y[..., :k].mT, V) @ basis.V[:, : basis.size]
    # One run sees a multiple eigenvalue once, so what is left may reach as high as what was found.
    low, high = (nodes - residuals).amin(-1), (nodes + residuals).amax(-1)
    margin = 0.02 * (high - low) + 1e-6 * torch.maximum(high.abs(), low.abs())
    margin = torch.where(margin > 0, margin, 1.0)
    parts = nodes[:, :k], vectors, low - margin, high + margin
    return LeadingPairs(*(part.to(V.device).reshape(S.batch + part.shape[1:]) for part in parts))


def _lanczos(S: LinearOperator, V: Tensor, steps: int) -> tuple[KrylovBasis, Tensor]:
    """A Lanczos basis of `steps` rows for each row of V (*batch, p, n), a problem of its own.

    And which of its rows (B p, steps) are reached from the start: in an invariant subspace a basis goes on
    from a random vector, which has no weight in a rule.
    """
    basis = KrylovBasis(*_starts(S, V))
    basis.V = reserve(basis.V, 0, steps)
    reached = [torch.ones(basis.problems, dtype=torch.bool)]
    for _ in range(steps):
        basis.expand()
        reached.append(reached[-1] & basis.C.flatten(1).any(-1))
    return basis, torch.stack(reached[:-1], -1)


def _starts(A: LinearOperator, V: Tensor) -> tuple[LinearOperator, Tensor, torch.Generator]:
    """What a basis that starts from each row of V is made of."""
    return _Apart(A.to(V.dtype), V.shape[-2]), V.reshape(-1, 1, V.shape[-1]), stream(0)
