"""Thick-restart block Golub-Kahan-Lanczos: singular triplets without forming A' A.

For A of shape (r, n), orthonormal rows V (p, n) and U (q, r), it holds

    A V' = U' B                    B = U A V', (q, p)
    A' U' = V' B' + X' C + F       X the next right vectors, C their coupling (b, q), F what was left out

so that a singular triplet B z = sigma y, B' y = sigma z gives u = U' y, v = V' z with A v = sigma u exactly
and |A' u - sigma v| = |(C, F) y|.  B is measured, by orthogonalising every product against a whole basis.
A restart keeps the leading triplets, B being diagonal then (Baglama and Reichel 2005).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spectral.operators.base import LinearOperator
from spectral.solvers.certificate import Completeness, unseen_bound
from spectral.solvers.checkpoint import Checkpoint
from spectral.solvers.control import Control
from spectral.solvers.found import RitzTriplets
from spectral.solvers.krylov import (
    Relation,
    check_adjoint,
    fetched,
    leading_directions,
    orthogonalise,
    orthonormal_block,
    product,
    random_complement,
    reserve,
    sent,
    stream,
)
from spectral.solvers.lanczos import first_block
from spectral.solvers.method import Method
from spectral.solvers.search import search
from spectral.solvers.target import Target


class GolubKahanBasis(Relation):
    """The two bases and the projected matrix B; see the module's text.

    Attributes:
        V: (B, capacity, n), of which the first `columns` rows are the right basis.
        U: (B, capacity, r), of which the first `size` rows are the left basis.
        B: (B, size, columns), float64 on the CPU.
        X, C, F: the next block (B, b, n), its coupling (B, b, size), and what was left out (B, f, size).
        images: after `refresh`, A v and A' u for the triplets in the basis, (B, size, r) and (B, size, n).
        norm: the largest |A x| seen for a unit x.
    """

    HELD = ("V", "U", "B", "X", "C", "F")
    SHARE = 0.5**0.5

    def __init__(self, A: LinearOperator, first: Tensor, generator: torch.Generator) -> None:
        self.A, self.generator = A, generator
        problems, _, self.n = first.shape
        self.r = A.shape[0]
        self.norm = self.lost = 0.0
        self.V = first.new_empty(problems, 0, self.n)
        self.U = first.new_empty(problems, 0, self.r)
        self.B = torch.zeros(problems, 0, 0, dtype=torch.float64)
        self.F = torch.zeros(problems, 0, 0, dtype=torch.float64)
        self.images = (self.U, self.V)
        self._solved = (torch.empty(0),) * 4
        self.X, R = self.next_block(first, self.V)
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
        """Whether nothing couples the bases to the rest, so that the singular values of B are those of A."""
        return self.columns > 0 and self.block == 0

    def expand(self) -> None:
        """Take the next block into the right basis, and its image into the left one: b products of each.

        Raises:
            NotFiniteError: a product holds NaN or infinity.
            NotSymmetricError: the products with A' are not those of A's transpose.
        """
        p, q, b = self.columns, self.size, self.block
        H, Q, R, vanishing = self.measured(self.A.apply, self.X, self.U[:, :q])
        Y, R = self.turned(Q, R, self.U[:, :q], vanishing)
        grown = q + Y.shape[1]
        self.V, self.U = reserve(self.V, p, p + b), reserve(self.U, q, grown)
        self.V[:, p : p + b], self.U[:, q:grown] = self.X, Y
        B = torch.zeros(len(self.B), grown, p + b, dtype=torch.float64)
        B[:, :q, :p], B[:, :q, p:], B[:, q:, p:] = self.B, H.mT, R

        V = self.V[:, : p + b]
        H, Q, R, vanishing = self.measured(self.A.apply_transpose, Y, V)
        check_adjoint(B[:, q:], H, self.norm, self.A)
        X, R = self.turned(Q, R, V, vanishing)
        C = torch.nn.functional.pad(R, (q, 0))
        F = torch.nn.functional.pad(self.F, (0, grown - q))
        self.B, self.F, self.X, self.C = B, F, X, C

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
        self.V, self.U, self.B, self.C, self.F = self._compressed(keep)

    def restart_afresh(self, keep: int, block: int) -> None:
        """Keep the leading triplets alone and go on from `block` random right vectors orthogonal to them."""
        V, U, B, C, F = self._compressed(keep)
        X = random_complement(V, min(block, self.n - keep), self.generator)
        F, C, lost = torch.cat([F, C], dim=1), C.new_zeros(len(C), X.shape[1], keep), 0.0
        self.V, self.U, self.B, self.X, self.C, self.F, self.lost = V, U, B, X, C, F, lost

    def refresh(self, keep: int, threshold: float) -> None:
        """Keep the leading triplets alone, measured by fresh products with A and A', held in `images`."""
        V, U = self._compressed(keep)[:2]
        images = self._product(self.A.apply, V), self._product(self.A.apply_transpose, U)
        H, left = orthogonalise(images[0], U)
        _, right = orthogonalise(images[1], V)
        # What A v has outside U is rounding, and is told with the rest.
        H, rest = fetched(H, torch.linalg.vector_norm(left.double(), dim=-1))
        X, C, F = leading_directions(right, V, threshold, self.next_block)
        B, F = H.mT, torch.cat([F, torch.diag_embed(rest)], dim=1)
        self.V, self.U, self.images, self.B, self.X, self.C, self.F = V, U, images, B, X, C, F

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
        return torch.linalg.matrix_norm(B, ord=2), bound

    def _compressed(self, keep: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """V, U, B, C and F of the leading triplets alone, X being the same."""
        sigma, Y, Z = (part[..., :keep] for part in self._svd())
        U = sent(Y.mT, self.U) @ self.U[:, : self.size]
        V = sent(Z.mT, self.V) @ self.V[:, : self.columns]
        return V, U, torch.diag_embed(sigma), self.C @ Y, self.F @ Y

    def next_block(self, W: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
        """`orthonormal_block` with this basis's generator and scale."""
        return orthonormal_block(W, held, self.vanishing, self.generator)

    def _product(self, apply: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
        W, norm = product(apply, X, self.A)
        self.norm = max(self.norm, norm)
        return W

    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """sigma, Y, Z with B = Y diag(sigma) Z', kept until B changes."""
        if self._solved[0] is not self.B:
            Y, sigma, Zh = torch.linalg.svd(self.B, full_matrices=False)
            self._solved = (self.B, sigma, Y, Zh.mT)
        return self._solved[1:]


@dataclass(frozen=True, eq=False)
class GolubKahan(Method[RitzTriplets]):
    """Thick-restart block Golub-Kahan-Lanczos: singular triplets, J' J never formed.

    A product is counted as one with A and one with A'.

    Attributes:
        block: vectors a product.
        basis: rows of either side kept before a restart, as in `Lanczos`.

    Source: Baglama and Reichel, SIAM J. Sci. Comput. 27 (2005).
    """

    name: ClassVar[str] = "golub-kahan"
    finds: ClassVar[type] = RitzTriplets
    keeps: ClassVar[bool] = True

    block: int = 1
    basis: int | None = None

    def solve(self, A: LinearOperator, target: Target, control: Control) -> RitzTriplets:
        """The largest singular triplets of A (r, n), with a probe for missed ones; see `Method.solve`.

        `control.start` holds right vectors.
        """
        generator, block = stream(control.seed), min(self.block, *A.shape)
        krylov = GolubKahanBasis(A, first_block(A, block, control.start, generator), generator)
        kept = None if control.checkpoint is None else Checkpoint(control.checkpoint, A, self.name)
        found = search(krylov, target, control, block=block, limit=self.basis, checkpoint=kept)
        return RitzTriplets(
            right=found.gather(lambda basis: basis.V[:, : basis.size]),
            left=found.gather(lambda basis: basis.U[:, : basis.size]),
            images=(
                found.gather(lambda basis: basis.images[0][:, : basis.size]),
                found.gather(lambda basis: basis.images[1][:, : basis.size]),
            ),
            completeness=Completeness(found.unseen, found.confidence, found.spent["completeness"]),
            spent=found.spent,
            norm=found.norm,
            notes=found.notes,
        )
