"""An orthonormal Krylov basis that grows by blocks, is compressed at restarts, and never loses its relation.

For a symmetric A of shape (n, n) and a basis of orthonormal rows V (size, n) it holds

    A V' = V' T + X' C + F        T = V A V'    symmetric, (size, size)
                                  X             the next block, orthonormal and orthogonal to V, (b, n)
                                  C = X A V'    its coupling, (b, size)
                                  F             residuals left out of the basis, kept as their coefficients

so that a Ritz pair T y = theta y, v = V' y has the residual |A v - theta v| = |(C, F) y|.  T is measured by
orthogonalising every product against the whole basis, twice, so no short recurrence has to be trusted; a
thick restart, a locked pair and a fresh random block all keep the same relation (Wu and Simon 2000).
Everything carries a leading axis of B independent problems.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spectral.errors import NotFiniteError
from spectral.operators.base import LinearOperator


class KrylovBasis:
    """The basis V, its projected matrix T, and the next block X; see the module's text.

    Attributes:
        V: (B, capacity, n), of which the first `size` rows are the basis.
        T: (B, size, size), float64 on the CPU.
        X: (B, b, n), the next block; b = 0 once the basis spans the whole space.
        C: (B, b, size), float64 on the CPU.
        F: (B, f, size), float64 on the CPU.
        norm: the largest |A x| seen for a unit x, a lower bound of |A|.
    """

    def __init__(self, A: LinearOperator, first: Tensor, generator: torch.Generator) -> None:
        self.A, self.generator = A, generator
        B, _, self.n = first.shape
        self.V = first.new_empty(B, 0, self.n)
        self.T = torch.zeros(B, 0, 0, dtype=torch.float64)
        self.F = torch.zeros(B, 0, 0, dtype=torch.float64)
        self.norm = 0.0
        self.eps = torch.finfo(first.dtype).eps
        self.X, R = self._next_block(first, self.V)
        self.C = R[..., :0]

    @property
    def size(self) -> int:
        """Rows of the basis."""
        return self.T.shape[-1]

    @property
    def block(self) -> int:
        """b, the number of vectors the next expansion multiplies."""
        return self.X.shape[1]

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans the whole space, so that T is A itself."""
        return self.size == self.n

    def expand(self) -> None:
        """Multiply the next block by A and take it into the basis: b products.

        Raises:
            NotFiniteError: a product holds NaN or infinity.
        """
        e, b = self.size, self.block
        W = self.product(self.X)
        self._reserve(e + b)
        self.V[:, e : e + b] = self.X
        basis = self.V[:, : e + b]
        H, W = _orthogonalise(W, basis)
        T = torch.zeros(len(self.T), e + b, e + b, dtype=torch.float64)
        T[:, :e, :e] = self.T
        T[:, e:, :] = H
        T[:, :e, e:] = H[..., :e].mT
        T[:, e:, e:] = (H[..., e:] + H[..., e:].mT) / 2
        F = torch.zeros(*self.F.shape[:2], e + b, dtype=torch.float64)
        F[..., :e] = self.F

        X, R = self._next_block(W, basis)
        C = torch.zeros(len(T), X.shape[1], e + b, dtype=torch.float64)
        C[..., e:] = R
        # All at once, so that an interruption leaves the relation as it was.
        self.T, self.F, self.X, self.C = T, F, X, C

    def ritz(self, magnitude: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values (B, size), their coordinates (B, size, size) in columns, and residuals (B, size).

        Ordered from the largest value down, or from the largest magnitude.
        """
        theta, Y = torch.linalg.eigh(self.T)
        order = torch.argsort(theta.abs() if magnitude else theta, dim=-1, descending=True)
        theta = theta.gather(-1, order)
        Y = Y.gather(-1, order.unsqueeze(-2).expand_as(Y))
        if self.exhausted:
            return theta, Y, torch.zeros_like(theta)
        left_out = torch.cat([self.C, self.F], dim=1) @ Y
        return theta, Y, torch.linalg.vector_norm(left_out, dim=1)

    def vectors(self, Y: Tensor) -> Tensor:
        """Ritz vectors V' y as rows, (B, p, n), for the p columns of Y."""
        return Y.mT.to(self.V) @ self.V[:, : self.size]

    def restart(self, theta: Tensor, Y: Tensor) -> None:
        """Keep the Ritz pairs (theta, Y) alone, with the next block: a thick restart, no products."""
        kept = Y.shape[-1]
        self.V[:, :kept] = self.vectors(Y)
        self.T = torch.diag_embed(theta)
        self.C, self.F = self.C @ Y, self.F @ Y

    def restart_afresh(self, theta: Tensor, Y: Tensor, block: int) -> None:
        """Keep the Ritz pairs alone and go on from `block` random vectors orthogonal to them.

        From there the new part of the basis is a Krylov space of P A P, P the projector on the complement of
        the pairs kept; what coupled them to the old next block is left out, and remembered in F.
        """
        self.restart(theta, Y)
        self.F = torch.cat([self.F, self.C], dim=1)
        block = min(block, self.n - self.size)
        self.X = _complement(self._random(block), self.V[:, : self.size]).contiguous()
        self.C = torch.zeros(len(self.T), block, self.size, dtype=torch.float64)

    def refresh(self, theta: Tensor, Y: Tensor, threshold: float) -> Tensor:
        """Keep the pairs alone, and measure their residuals by fresh products, which replace C and F.

        The next block is made of the residuals' leading directions, those above `threshold`.  Returns the
        products, A v for each row v now in the basis, (B, kept, n).
        """
        kept = Y.shape[-1]
        self.restart(theta, Y)
        V = self.V[:, :kept]
        AV = self.product(V)
        H, W = _orthogonalise(AV, V)
        self.T = (H + H.mT) / 2
        gram = (W.double() @ W.double().mT).cpu()
        power, U = torch.linalg.eigh(gram)
        significant = int((power > threshold**2).sum(-1).max())
        block = min(max(1, significant), self.n - kept)
        self.X, _ = self._next_block(U.flip(-1)[..., :block].mT.to(W) @ W, V)
        self.C = (self.X.double() @ W.double().mT).cpu()
        rest = gram.diagonal(dim1=-2, dim2=-1) - (self.C**2).sum(1)
        self.F = torch.diag_embed(rest.clamp(min=0).sqrt())
        return AV

    def product(self, X: Tensor) -> Tensor:
        """A x for each row, (B, b, n), checked to be finite.

        Raises:
            NotFiniteError: it is not.
        """
        W = self.A.apply(X) if self.A.batch else self.A.apply(X[0])[None]
        norm = torch.linalg.vector_norm(W, dim=-1).max().item()
        if not norm < float("inf"):
            raise NotFiniteError(
                f"product {self.A.count} with {self.A!r} holds NaN or infinity: the operator overflows, "
                "or its model has no derivative at y"
            )
        self.norm = max(self.norm, norm)
        return W

    def _reserve(self, rows: int) -> None:
        """Room for `rows` rows, growing by half so that no more is taken than the solve needs."""
        if rows > self.V.shape[1]:
            grown = self.V.new_empty(
                len(self.V), min(self.n, max(rows, self.V.shape[1] * 3 // 2, 32)), self.n
            )
            grown[:, : self.size] = self.V[:, : self.size]
            self.V = grown

    def _next_block(self, W: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
        """X orthonormal and R with W = R' X, for W (B, b, n) orthogonal to the rows held.

        Directions that vanish to rounding (an invariant subspace was found) are replaced by random ones,
        which R does not couple to; so the basis can always grow until it spans the space.
        """
        block = min(W.shape[1], self.n - held.shape[1])
        Q, R = torch.linalg.qr(W.mT)
        U, S, Zh = torch.linalg.svd(R.double().cpu())
        X = (U.mT.to(W) @ Q.mT)[:, :block]
        vanished = S[:, :block] <= 10 * self.eps * self.norm
        R = (S.unsqueeze(-1) * Zh)[:, :block]
        if vanished.any():
            X = torch.where(vanished.to(X.device)[..., None], self._random(block), X)
            R = R.masked_fill(vanished[..., None], 0)
        # What is left of W is orthogonal to the basis only to the rounding of its largest direction.
        if bool((S[:, :block] < 0.01 * S[:, :1]).any()) or vanished.any():
            X = _complement(X, held)
        return X.contiguous(), R

    def _random(self, rows: int) -> Tensor:
        X = torch.randn(len(self.V), rows, self.n, generator=self.generator, dtype=torch.float64)
        return X.to(self.V)


def _complement(X: Tensor, held: Tensor) -> Tensor:
    """Orthonormal rows, each X's row less its part in the rows held and in those before it."""
    for _ in range(3):
        Q, R = torch.linalg.qr((X - (X @ held.mT) @ held).mT)
        X = Q.mT * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)
    return X


def _orthogonalise(W: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients H = W basis' (float64, CPU) and the rest of W, by classical Gram-Schmidt done twice."""
    first = W @ basis.mT
    W = W - first @ basis
    second = W @ basis.mT
    return first.double().cpu() + second.double().cpu(), W - second @ basis
