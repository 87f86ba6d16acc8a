"""Krylov-Schur: eigenpairs of an operator that need not be symmetric, with a probe for missed ones.

The basis is that of `spectral.linalg.krylov`, A V' = V' T + X' C + F, with T = V A V' measured and no longer
symmetric.  Its real Schur form takes the place of Ritz vectors: a restart keeps the leading Schur vectors,
which stay orthonormal however far A is from normal, and never parts a complex pair (Stewart 2002).  For an
eigenpair T y = theta y, |y| = 1, v = V' y has the residual |A v - theta v| = |(C, F) y|, so theta is an
eigenvalue of A + E for an |E| of as much.  How far theta moves for that is the eigenvalue's condition.  Where
eigenvectors are nearly parallel, small residuals do not make their span invariant: the residuals |(C, F) z|
of the Schur vectors must be small too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from spectral.errors import NotFiniteError
from spectral.linalg.blocks import first_block, stream, to_device
from spectral.linalg.krylov import KrylovBasis
from spectral.linalg.resolvent import unseen_height
from spectral.linalg.schur import RealSchur
from spectral.linalg.unseen import rounding
from spectral.operators.base import LinearOperator
from spectral.solvers.control import Control
from spectral.solvers.dense import Formed
from spectral.solvers.found import Completeness, SchurPairs
from spectral.solvers.lanczos import signed
from spectral.solvers.search import INTERRUPTED, Found, KrylovMethod
from spectral.solvers.target import ComplexTarget, Target


class KrylovSchurBasis(KrylovBasis):
    """A Krylov basis of one operator that need not be symmetric; see the module's text.

    T is not symmetric here.

    Attributes:
        target: what is sought; Schur vectors beyond need not converge.
        conditions: after `refresh`, 1 / |w^H v| of each eigenvalue kept, w and v the unit eigenvectors of the
            larger T before: lower bounds of the conditions in A, (size,).
    """

    SHARE = 0.2  # as `unseen_height` counts it

    def __init__(
        self, A: LinearOperator, first: Tensor, generator: torch.Generator, target: ComplexTarget
    ) -> None:
        super().__init__(A, first, generator, magnitude=target.magnitude)
        self.target = target
        self.conditions = np.ones(0)
        self._form: tuple[Tensor, RealSchur, np.ndarray] | None = None
        self._lead = (self.C, self.C)
        self._bounded, self._bound = 0, math.inf

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values, complex, and residuals, (1, size) each, from the highest down; pairs are adjacent.

        Of the wanted ones, the larger of the residuals of eigenvector and Schur vector.
        """
        form, order = self._schur()
        theta = torch.from_numpy(form.values[order])[None]
        if self.exhausted:
            return theta, torch.zeros_like(theta.real)
        wanted = self.target.wanted(theta, self.rounding)
        return theta, self._residuals(torch.cat([self.C, self.F], dim=1), wanted)

    def in_next_block(self, keep: int) -> Tensor:
        """The part of the leading pairs' residuals that lies in the next block, (1, keep)."""
        return self._residuals(self.C, keep)[:, :keep]

    def restart(self, keep: int) -> None:
        """Keep the leading Schur vectors alone, with the next block; one more where `keep` parts a pair."""
        super().restart(keep)

    def restart_afresh(self, keep: int, block: int) -> None:
        """Keep the leading Schur vectors, and go on from random vectors in their complement."""
        self._bounded, self._bound = 0, math.inf
        super().restart_afresh(keep, block)

    def refresh(self, keep: int, threshold: float) -> None:
        """Keep the leading Schur vectors alone, their residuals measured by fresh products, in `AV`."""
        form, order = self._schur()
        conditions = form.conditions[order[: self._whole(form, order, keep)]]
        super().refresh(keep, threshold)
        self.conditions = conditions

    def unseen(self, keep: int, block: int, failure: float) -> tuple[Tensor, Tensor]:
        """Beyond the leading pairs, since `restart_afresh`: what surely lies there, and a bound, (1,) each.

        The first is the greatest height of a Ritz value less its residual: far from normality Ritz values
        stand out beyond the spectrum until they converge.
        """
        T, C = self.T[0, keep:, keep:], self.C[:, :, keep:]
        form = RealSchur.of(T.numpy(), self.rounding)
        height = self.target.height(torch.from_numpy(form.values))
        seen = (height - self._norms(C, form, np.arange(len(T)))[0]).max().reshape(1)
        # Any earlier bound still holds, and a bound takes longer than a product of a small matrix.
        if len(T) >= 1.1 * self._bounded:
            bound = unseen_height(
                T.numpy(),
                C[0].numpy(),
                block=block,
                dimension=self.n - keep,
                failure=failure,
                magnitude=self.magnitude,
                error=self.error,
            )
            self._bounded, self._bound = len(T), min(self._bound, bound)
        return seen, torch.tensor([self._bound], dtype=torch.float64)

    def _compressed(self, keep: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """V, T, C and F of the leading Schur vectors alone, X being the same."""
        form, order = self._schur()
        form = form.leading(order[: self._whole(form, order, keep)])
        keep = self._whole(form, np.arange(self.size), keep)
        Z = torch.from_numpy(form.Z[:, :keep].copy())
        V = to_device(Z.mT, self.V) @ self.V[:, : self.size]
        return V, torch.from_numpy(form.T[:keep, :keep].copy())[None], self.C @ Z, self.F @ Z

    def _bordered(self, H: Tensor, held: int) -> Tensor:
        """T of the first rows held and b more, H (1, b, held + b) the coefficients of their products."""
        T = torch.zeros(1, H.shape[-1], H.shape[-1], dtype=torch.float64)
        if held:
            T[:, :held, :held], T[:, held:, :held] = self.T, self.C
        T[:, :, held:] = H.mT
        return T

    def _schur(self) -> tuple[RealSchur, np.ndarray]:
        """The Schur form of T, and its eigenvalues' indices in order of preference; kept until T changes."""
        if self._form is None or self._form[0] is not self.T:
            form = RealSchur.of(self.T[0].numpy(), self.rounding)
            self._form = (self.T, form, form.order(self._height))
        return self._form[1:]

    def _residuals(self, rows: Tensor, wanted: int) -> Tensor:
        """|rows y| of the eigenvectors y, (1, size); of those wanted, or |rows z| of the Schur vectors z."""
        norms = self._norms(rows, *self._schur())
        norms[:, :wanted] = torch.maximum(
            norms[:, :wanted], torch.linalg.vector_norm(rows @ self._leading(wanted), dim=1)
        )
        return norms

    def _leading(self, wanted: int) -> Tensor:
        """The leading Schur vectors of T in order, (size, wanted); kept until T changes."""
        if self._lead[0] is not self.T or self._lead[1].shape[1] != wanted:
            form, order = self._schur()
            lead = form.leading(order[:wanted])
            inner = RealSchur(lead.T[:wanted, :wanted], np.eye(wanted)).ordered(self._height)
            self._lead = (self.T, torch.from_numpy(lead.Z[:, :wanted] @ inner.Z))
        return self._lead[1]

    def _height(self, values: np.ndarray) -> np.ndarray:
        return np.abs(values) if self.magnitude else values.real

    @staticmethod
    def _whole(form: RealSchur, order: np.ndarray, keep: int) -> int:
        """keep, or one more where the pair's second value would be left out."""
        return keep + int(0 < keep < len(order) and form.values[order[keep - 1]].imag > 0)

    @staticmethod
    def _norms(rows: Tensor, form: RealSchur, order: np.ndarray) -> Tensor:
        """|rows y| for the eigenvectors y at the indices `order`, (1, len(order))."""
        return torch.from_numpy(np.linalg.norm(rows[0].numpy() @ form.vectors[:, order], axis=0))[None]


class KrylovSchur(KrylovMethod[SchurPairs]):
    """Krylov-Schur: the invariant subspace of extreme eigenvalues of an operator that need not be symmetric.

    The completeness bound is on real parts, or on moduli for "magnitude", of the eigenvalues of (1 - Q' Q) A
    on the complement of the subspace found: those of A + E that are not in it, where |E| is the residual
    |A Q' - Q' T| (`spectral.linalg.resolvent`).  Left vectors take a second solve with A' ("left" in
    `spent`, but for its residuals); either has half of `max_products`, and the second's checkpoint has
    ".left" added.

    Attributes:
        block: vectors per product.
        basis: rows kept before a restart, as in `Lanczos`.

    Source: Stewart, SIAM J. Matrix Anal. Appl. 23 (2002).
    """

    name: ClassVar[str] = "krylov-schur"
    finds: ClassVar[type] = SchurPairs

    def least(self, target: Target, n: int) -> int:
        """Those of both solves, where there are two."""
        once = super().least(target, n)
        return 2 * once + 1 if getattr(target, "left", False) else once

    def solve(self, A: LinearOperator, target: Target, control: Control) -> SchurPairs:
        """The invariant subspace, with a probe for more eigenvalues; see `Method.solve`.

        Args:
            A: square, without a batch axis.
            target: a `ComplexTarget`.
            control: as always.

        Raises:
            TransposeMissingError: left vectors are sought of an operator without products with A'.
        """
        assert isinstance(target, ComplexTarget)
        second = target.left and not A.symmetric
        share = replace(control, max_products=(control.budget - 1) // 2) if second else control
        if second:
            A.apply_transpose(first_block(A, 1, None, stream(0))[0])  # where there is none, before any work
        right = super().solve(A, target, share)
        return self._with_left(A, target, share, right) if second else _mirrored(right, target)

    def _begun(
        self, A: LinearOperator, target: ComplexTarget, first: Tensor, generator: torch.Generator
    ) -> KrylovSchurBasis:
        """Of A, or -A where the smallest real parts are sought."""
        return KrylovSchurBasis(signed(A, target), first, generator, target)

    def _told(self, A: LinearOperator, target: ComplexTarget, found: Found) -> SchurPairs:
        """The invariant subspace of one side."""
        return SchurPairs(
            vectors=found.rows("V"),
            AV=target.sign * found.rows("AV"),
            **found.told(target.sign),
            conditions=found.groups[0].basis.conditions,
            eps=A.eps,
        )

    def _with_left(
        self, A: LinearOperator, target: ComplexTarget, share: Control, right: SchurPairs
    ) -> SchurPairs:
        """Both sides; where A is near symmetric, its left vectors are near the right ones."""
        if INTERRUPTED in right.notes:
            return replace(right, notes=[*right.notes, "left vectors were not solved for"])
        path = share.checkpoint
        again = replace(
            share,
            start=right.vectors if right.vectors.shape[1] else None,
            seed=share.seed + 1,
            checkpoint=None if path is None else f"{path}.left",
        )
        other = self.solve(A.T, replace(target, left=False), again)
        measured = right.spent["residuals"] + other.spent["residuals"]
        spent = right.spent | {
            "residuals": measured,
            "left": 1 + other.spent["solve"] + other.spent["completeness"],
        }
        notes = [*right.notes, *(f"left vectors: {note}" for note in other.notes)]
        return replace(right, left=other, spent=spent, notes=notes)


@dataclass(frozen=True, eq=False)
class DenseSchur(Formed[SchurPairs]):
    """The same by LAPACK's real Schur form in float64; the bound is the next eigenvalue, at confidence 1."""

    finds: ClassVar[type] = SchurPairs

    def solve(self, A: LinearOperator, target: Target, control: Control) -> SchurPairs:
        """The invariant subspace of a square A; see `Method.solve`.  `target` is a `ComplexTarget`."""
        assert isinstance(target, ComplexTarget)
        M = A.dense().double()
        right = _dense_schur(A, M, target)
        if not target.left or A.symmetric:
            return _mirrored(right, target)
        return replace(right, left=_dense_schur(A.T, M.mT, target))


def _mirrored(right: SchurPairs, target: ComplexTarget) -> SchurPairs:
    """With left vectors where they are sought, of a symmetric operator: its right ones."""
    return replace(right, left=right if target.left else None)


def _dense_schur(A: LinearOperator, M: Tensor, target: ComplexTarget) -> SchurPairs:
    if not M.isfinite().all():
        raise NotFiniteError(f"the matrix of {A!r} holds NaN or infinity")
    matrix = target.sign * M.cpu().numpy()
    norm = float(np.linalg.norm(matrix, 2))
    error = rounding(A.eps, norm)
    form = RealSchur.of(matrix, error)
    order = form.order(lambda values: target.height(torch.from_numpy(values)).numpy())
    theta = torch.from_numpy(form.values[order])[None]
    wanted = target.wanted(theta, error)
    Z = form.leading(order[:wanted]).Z[:, :wanted]
    Q = A.domain.own(torch.from_numpy(Z.T.copy()).to(A.device, A.dtype)[None]).contiguous()
    return SchurPairs(
        vectors=Q,
        AV=A.apply(Q),
        completeness=Completeness(target.sign * target.remaining(theta, error), 1.0, 0),
        spent={"solve": A.shape[1], "residuals": wanted},
        norm=norm,
        conditions=form.conditions[order[:wanted]],
        eps=A.eps,
    )
