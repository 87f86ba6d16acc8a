"""Two orthonormal bases and a projected matrix: block Golub-Kahan-Lanczos, without forming A' A.

For A of shape (r, n), orthonormal rows V (p, n) and U (q, r), it holds

    A V' = U' B                    B = U A V', (q, p)
    A' U' = V' B' + X' C + F       X the next right vectors, C their coupling (b, q), F what was left out

so that a singular triplet B z = sigma y, B' y = sigma z gives u = U' y, v = V' z with A v = sigma u exactly
and |A' u - sigma v| = |(C, F) y|.  B is measured, by orthogonalising every product against a whole basis.
A restart keeps the leading triplets, B being diagonal then (Baglama and Reichel 2005).
"""

from __future__ import annotations

import torch
from torch import Tensor

from spectral.linalg.blocks import (
    leading_directions,
    random_complement,
    refilled,
    reserve,
    to_device,
    to_host,
)
from spectral.linalg.krylov import Relation, check_adjoint
from spectral.linalg.svd import svd
from spectral.linalg.unseen import unseen_bound
from spectral.operators.base import LinearOperator


class GolubKahanBasis(Relation):
    """The two bases and the projected matrix B; see the module's text.

    Attributes:
        V: (B, capacity, n), of which the first `columns` rows are the right basis.
        U: (B, capacity, r), of which the first `size` rows are the left basis.
        B: (B, size, columns), float64 on the CPU.
        X, C, F: the next block (B, b, n), its coupling (B, b, size), and what was left out (B, f, size).
        AV, ATU: after `refresh`, A v (B, size, r) and A' u (B, size, n) for the triplets in the basis.
        norm: the largest |A x| seen for a unit x.
    """

    HELD = ("V", "U", "B", "X", "C", "F")
    SHARE = 0.5**0.5

    def __init__(self, A: LinearOperator, first: Tensor, generator: torch.Generator) -> None:
        self.A, self.generator = A, generator
        problems, self.n = len(first), A.domain.dimension
        self.norm = self.lost = 0.0
        self.V = first.new_empty(problems, 0, A.domain.n)
        self.U = first.new_empty(problems, 0, A.codomain.n)
        self.B = torch.zeros(problems, 0, 0, dtype=torch.float64)
        self.F = torch.zeros(problems, 0, 0, dtype=torch.float64)
        self.AV, self.ATU = self.U, self.V
        self._solved = (torch.empty(0),) * 4
        self.X, R = self.orthonormal(first, self.V)
        self.C = R[..., :0]

    @property
    def problems(self) -> int:
        """The number of problems in lock-step."""
        return len(self.B)

    @property
    def rows(self) -> dict[str, int]:
        """See `Relation`."""
        return {"V": self.columns, "U": self.size}

    @property
    def size(self) -> int:
        """q, rows of the left basis."""
        return self.B.shape[-2]

    @property
    def columns(self) -> int:
        """p, rows of the right basis."""
        return self.B.shape[-1]

    @property
    def block(self) -> int:
        """b, vectors that the next expansion multiplies by A; as many or fewer are multiplied by A'."""
        return self.X.shape[1]

    @property
    def exhausted(self) -> bool:
        """Whether there is no next block: the singular values of B are those of A, but for F (`beyond`)."""
        return self.columns > 0 and self.block == 0

    def beyond(self, keep: int, sigma: Tensor) -> Tensor:
        """A bound on all of A's singular values but `keep`; sigma (B,) is that on B's, B being exhausted.

        A = U' (B V + F' Y), Y orthonormal and orthogonal to V, gives A A' = U' (B B' + F' F) U: on what is
        orthogonal to the leading left vectors it is sigma^2 at most, and |F|^2 there; 0 on what U does not
        span.  There is no Y where V is the whole space, and nothing beyond as many values as there are rows.
        """
        if self.columns == self.n or keep == self.A.codomain.dimension:
            return sigma
        leading = self._svd()[1][..., :keep]
        rest = self.F - self.F @ leading @ leading.mT
        return torch.hypot(sigma.clamp(min=0.0), torch.linalg.matrix_norm(rest))

    def expand(self) -> None:
        """Take the next block into the right basis, and its image into the left one: b products of each.

        Raises:
            NotFiniteError: a product holds NaN or infinity.
            NotSymmetricError: the products with A' are not those of A's transpose.
        """
        V, _, B, Y = self.widened()
        q = self.size
        H, Q, R, vanishing = self.measured(self.A.T, Y, V)
        check_adjoint(B[:, q:], H, self.norm, self.A)
        X, R = self.next_block(self.A.domain, Q, R, V, vanishing)
        C = torch.nn.functional.pad(R, (q, 0))
        F = torch.nn.functional.pad(self.F, (0, B.shape[1] - q))
        self.B, self.F, self.X, self.C = B, F, X, C

    def widened(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """V, U and B with the next block in V and its image in U, and what is new of U: b products with A."""
        p, q, b = self.columns, self.size, self.block
        H, Q, R, vanishing = self.measured(self.A, self.X, self.U[:, :q])
        Y, R = self.next_block(self.A.codomain, Q, R, self.U[:, :q], vanishing)
        grown = q + Y.shape[1]
        self.V, self.U = reserve(self.V, p, p + b, self.most), reserve(self.U, q, grown, self.most)
        self.V[:, p : p + b], self.U[:, q:grown] = self.X, Y
        B = torch.zeros(len(self.B), grown, p + b, dtype=torch.float64)
        B[:, :q, :p], B[:, :q, p:], B[:, q:, p:] = self.B, H.mT, R
        return self.V[:, : p + b], self.U[:, :grown], B, Y

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Singular values of B, the largest first, and residuals |A' u - sigma v|, (B, min(p, q)) each."""
        sigma, Y, _ = self._svd()
        if self.exhausted:
            return sigma, torch.zeros_like(sigma)
        return sigma, torch.linalg.vector_norm(torch.cat([self.C, self.F], dim=1) @ Y, dim=1)

    def in_next_block(self, keep: int) -> Tensor:
        """The part of the leading residuals that lies in the next block, (B, keep)."""
        return torch.linalg.vector_norm(self.C @ self._svd()[1][..., :keep], dim=1)

    def restart(self, keep: int) -> None:
        """Keep the leading triplets alone, with the next block; no products."""
        rooms = self.V, self.U
        self.V, self.U, self.B, self.C, self.F = self._compressed(keep)
        self.V, self.U = refilled(rooms[0], self.V), refilled(rooms[1], self.U)

    def restart_afresh(self, keep: int, block: int) -> None:
        """Keep the leading triplets alone and go on from `block` random right vectors orthogonal to them."""
        V, U, B, C, F = self._compressed(keep)
        X = random_complement(self.A.domain, V, min(block, self.n - keep), self.generator)
        F, C, lost = torch.cat([F, C], dim=1), C.new_zeros(len(C), X.shape[1], keep), 0.0
        self.V, self.U, self.B, self.X, self.C, self.F, self.lost = V, U, B, X, C, F, lost

    def refresh(self, keep: int, threshold: float) -> None:
        """Keep the leading triplets alone, measured by fresh products with A and A', in `AV` and `ATU`."""
        # Set first, so that no room of the old bases is held beside the products.
        self.V, self.U, self.B, self.C, self.F = self._compressed(keep)
        V, U = self.V, self.U
        of_right, of_left = self.A.domain, self.A.codomain
        AV, ATU = self.product(self.A, V), self.product(self.A.T, U)
        H, left = of_left.orthogonalise(AV, U)
        _, right = of_right.orthogonalise(ATU, V)
        # What A v has outside U is rounding, and is told with the rest.
        H, rest = to_host(H, of_left.norms(left.double()))
        X, C, F = leading_directions(of_right, right, V, threshold, self.orthonormal)
        B, F = H.mT, torch.cat([F, torch.diag_embed(rest)], dim=1)
        self.V, self.U, self.B, self.X, self.C, self.F, self.AV, self.ATU = V, U, B, X, C, F, AV, ATU

    def unseen(self, keep: int, block: int, failure: float) -> tuple[Tensor, Tensor]:
        """Beyond the leading triplets, since `restart_afresh`: the largest value, and a bound, (B,).

        By the symmetric matrix of A and A', whose eigenvectors (v; u) / sqrt(2) the start sees by v alone.
        """
        B, C = self.B[:, keep:, keep:], self.C[..., keep:]
        q, p = B.shape[-2:]
        T = torch.zeros(len(B), p + q, p + q, dtype=torch.float64)
        T[:, p:, :p], T[:, :p, p:] = B, B.mT
        coupling = torch.nn.functional.pad(C, (p, 0))
        bound = unseen_bound(
            T,
            coupling,
            block=block,
            dimension=self.n - keep,
            failure=failure,
            share=self.SHARE,
            error=self.error,
        )
        seen = torch.linalg.matrix_norm(B, ord=2) if p and q else B.new_zeros(len(B))
        return seen, bound

    def _compressed(self, keep: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """V, U, B, C and F of the leading triplets alone, X being the same."""
        sigma, Y, Z = (part[..., :keep] for part in self._svd())
        U = to_device(Y.mT, self.U) @ self.U[:, : self.size]
        V = to_device(Z.mT, self.V) @ self.V[:, : self.columns]
        return V, U, torch.diag_embed(sigma), self.C @ Y, self.F @ Y

    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """sigma, Y, Z with B = Y diag(sigma) Z', kept until B changes."""
        if self._solved[0] is not self.B:
            Y, sigma, Zh = svd(self.B)
            self._solved = (self.B, sigma, Y, Zh.mT)
        return self._solved[1:]
