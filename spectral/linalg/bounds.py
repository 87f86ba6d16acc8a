"""Where the eigenvalues of a symmetric operator are, from a few Lanczos steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from spectral.linalg.blocks import first_block, stream
from spectral.linalg.krylov import KrylovBasis
from spectral.linalg.unseen import unseen_bound
from spectral.operators.base import LinearOperator

BOUND_STEPS = 60


@dataclass(frozen=True)
class SpectralBounds:
    """What a few Lanczos steps tell: safe bounds, and where the eigenvalues are.

    low, high: no eigenvalue lies beyond, at the confidence asked for.  theta (B, s): Ritz values;
    count (B, s): the number of eigenvalues about each, n times the weight that random vectors have there.
    basis: what they were read from.
    """

    low: float
    high: float
    theta: Tensor
    count: Tensor
    basis: KrylovBasis

    @property
    def products(self) -> int:
        """What it cost."""
        return self.basis.size

    @property
    def exact(self) -> bool:
        """Whether the steps spanned the whole space."""
        return self.basis.exhausted

    @property
    def flat(self) -> bool:
        """Whether all eigenvalues are one to rounding, or near it: no polynomial tells them apart."""
        return self.high - self.low <= 1e3 * self.basis.rounding

    @property
    def rows(self) -> Tensor:
        """(B, s, n), orthonormal: the Krylov basis."""
        return self.basis.V[:, : self.basis.size].contiguous()

    @property
    def AV(self) -> Tensor:
        """A v for each of `rows`, from the basis's relation: no products."""
        rows, basis = self.rows, self.basis
        return basis.T.to(rows) @ rows + basis.C.mT.to(rows) @ basis.X

    def between(self, low: float, high: float) -> float:
        """How many eigenvalues to expect in there, at most among the problems."""
        inside = (self.theta > low) & (self.theta < high)
        return (self.count * inside).sum(-1).max().item()

    def quantile(self, k: float) -> float:
        """A value above which k eigenvalues are expected, in each problem."""
        theta, order = self.theta.sort(dim=-1, descending=True)
        reached = (self.count.gather(-1, order).cumsum(-1) < k).sum(-1, keepdim=True)
        return theta.gather(-1, reached.clamp(max=theta.shape[-1] - 1)).min().item()

    def of(self, which: Literal["largest", "smallest", "magnitude"]) -> SpectralBounds:
        """That of A, -A or A^2, whose largest eigenvalues are the ones sought."""
        if which == "largest":
            return self
        if which == "smallest":
            return replace(self, low=-self.high, high=-self.low, theta=-self.theta)
        return replace(self, low=0.0, high=max(self.low**2, self.high**2), theta=self.theta**2)


def spectral_bounds(
    A: LinearOperator, *, seed: int = 0, failure: float = 1e-3, most: int = 2 * BOUND_STEPS
) -> SpectralBounds:
    """`SpectralBounds` of a symmetric operator, the bounds failing with probability `failure` at most.

    A Krylov space of two random vectors grows until the bounds lie within a twentieth of the spectrum's width
    of the Ritz values, or for 60 steps, or `most` products.  With X_1 its start and T y = theta y, the count
    about theta is n |y_1|^2 / 2, y_1 the part of y in X_1 (Lanczos quadrature of the density).
    """
    generator = stream(seed)
    block = max(1, min(2, A.shape[1], most))
    basis = KrylovBasis(A, first_block(A, block, None, generator), generator)
    low = high = torch.empty(0)
    steps = max(1, min(BOUND_STEPS, most // block))
    for step in range(1, steps + 1):
        basis.expand()
        theta, Y = torch.linalg.eigh(basis.T)
        if basis.exhausted:
            low, high = theta[:, 0], theta[:, -1]
            break
        if step % 4 and step < steps:
            continue
        high, low = (
            sign
            * unseen_bound(
                sign * basis.T,
                basis.C,
                block=block,
                dimension=A.shape[1],
                failure=failure / 2,
                error=basis.error,
            )
            for sign in (1, -1)
        )
        spread = theta[:, -1] - theta[:, 0]
        if bool(((high - theta[:, -1]).maximum(theta[:, 0] - low) <= 0.05 * spread).all()):
            break
    count = A.shape[1] / block * Y[:, :block].square().sum(-2)
    return SpectralBounds(low.min().item(), high.max().item(), theta, count, basis)
