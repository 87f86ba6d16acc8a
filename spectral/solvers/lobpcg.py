"""LOBPCG: vectors, their last step and their preconditioned residuals, improved together.

With X the current vectors, P the directions of the last step and W preconditioned residuals, each step takes
the best vectors in the span of all three (Knyazev 2001).  The three are all but dependent near the end, which
is what breaks plain codes.  Here W is made orthogonal to the others twice and its dependent directions are
dropped; P is formed from coefficients orthonormal to those of X (Hetmaniuk and Lehoucq 2006; Duersch et al.
2018); and the overlaps that rounding leaves are measured at each step and divided out.

Pairs that have converged are locked softly: they stay in the span but are multiplied no more.  Of the others
the best `block` are, and no more: each product then goes where the span is about to converge, as in the
generalised Davidson method with a restart by the last step (Stathopoulos and Saad 1998).  With `block` as
large as X this is Knyazev's method, which takes up to three times the products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from spectral.errors import NotFiniteError, OptionError
from spectral.linalg.blocks import (
    first_block,
    orthonormal_block,
    random_complement,
    stream,
    to_device,
    to_host,
)
from spectral.linalg.krylov import check_adjoint, largest
from spectral.linalg.unseen import rounding
from spectral.operators.base import LinearOperator, Rows
from spectral.operators.space import Space
from spectral.operators.subspace import Subspace
from spectral.solvers.control import Control
from spectral.solvers.found import RitzPairs
from spectral.solvers.lanczos import finish, signed, with_budget
from spectral.solvers.method import Method
from spectral.solvers.search import INTERRUPTED
from spectral.solvers.target import Target

PATIENCE = 150


@dataclass(frozen=True, eq=False)
class LOBPCG(Method[RitzPairs]):
    """LOBPCG: the method for problems with a good preconditioner or a good start.

    Without either `Lanczos` needs fewer products.  Where it stagnates, or a third of the space would be
    needed, Lanczos goes on from its vectors.

    Attributes:
        block: residuals multiplied at a step, those of the best pairs short of tol.
        width: vectors iterated on, at least k; by default two more, guards that hasten the last ones.
        preconditioner: rows -> rows, (B, m, n) or, where A has no batch axis, (m, n): an approximation of
            (A - lambda)^-1, symmetric and positive on the side that is sought, up to its sign.

    Sources: Knyazev, SIAM J. Sci. Comput. 23 (2001); Duersch, Shao, Yang and Gu, SIAM J. Sci. Comput. 40
    (2018).
    """

    name: ClassVar[str] = "lobpcg"
    finds: ClassVar[type] = RitzPairs

    block: int = 1
    width: int | None = None
    preconditioner: Rows | None = None

    def solve(self, A: LinearOperator, target: Target, control: Control) -> RitzPairs:
        """The extreme eigenpairs of a symmetric A, with a probe for missed ones; see `Method.solve`.

        Raises:
            OptionError: width is below k.
        """
        width, most = self._width(A, target, control.budget), control.budget
        generator = stream(control.seed)
        first = _first_rows(A, width, control.start, generator)[:, :most].contiguous()
        block = min(self.block, A.shape[1])
        iterate = _Iterate(
            signed(A, target), target, control.tol, first, width, block, self.preconditioner, generator
        )
        note = None
        try:
            note = _improve(iterate, control)
        except KeyboardInterrupt:
            note, most = INTERRUPTED, iterate.spent
        rest, AV = with_budget(control, generator, most), target.sign * iterate.AV
        found = finish(A, iterate.rows, AV, target, rest, spent=iterate.spent, block=block)
        notes = [INTERRUPTED] if note == INTERRUPTED else [*([note] if note else []), *found.notes]
        return replace(found, norm=max(found.norm, iterate.norm), notes=notes)

    def within(self, part: Subspace) -> Self:
        """The same with the preconditioner between coordinates, E' T E."""
        if self.preconditioner is None:
            return self
        return replace(self, preconditioner=part.around(self.preconditioner))

    def _width(self, A: LinearOperator, target: Target, most: int) -> int:
        """How many vectors to iterate on; guards are what a small budget can spare."""
        n, k = A.shape[1], target.k if target.counted else 1
        if k > min(n, self.width or n):
            raise OptionError(
                f"k = {k} pairs take as many vectors: width, {self.width}, and the length, {n}, must be no "
                "smaller"
            )
        width = min(n, self.width or (k + 2 if target.counted else 8))
        return max(k, min(width, most))


def _improve(iterate: _Iterate, control: Control) -> str | None:
    """Step until the wanted pairs have converged; what stopped it, where something else did."""
    best, waited = math.inf, 0
    while True:
        wanted, tolerance = iterate.wanted, iterate.tolerance
        residual = iterate.residual[:, :wanted]
        control.report(iterate.target, "solve", iterate.spent, residual, tolerance)
        # What is left to gain, in powers of e.
        over = residual / tolerance.clamp(min=torch.finfo(residual.dtype).tiny)
        left = over.clamp(min=1).log().sum().item()
        if (left == 0 and iterate.all_in_view) or not iterate.has_room:
            return None
        if iterate.spent + iterate.block > control.budget:
            return None
        best, waited = (left, 0) if left < best - 1 else (best, waited + 1)
        if waited > PATIENCE + iterate.width:
            return "LOBPCG gained nothing any more, and Lanczos went on"
        try:
            iterate.step()
        except _DependentRows:
            return "LOBPCG's rows were no longer orthogonal, and Lanczos went on"


class _DependentRows(Exception):  # noqa: N818  no error: Lanczos goes on
    """Rounding has made the rows dependent: residuals that are nothing but rounding point anywhere."""


@dataclass
class _Part:
    """Rows (B, s, n), A times each, and which of them are vectors at all (B, s): others are zero."""

    rows: Tensor
    AV: Tensor
    real: Tensor

    def join(self, other: _Part) -> _Part:
        return _Part(
            torch.cat([self.rows, other.rows], dim=1),
            torch.cat([self.AV, other.AV], dim=1),
            torch.cat([self.real, other.real], dim=1),
        )

    def combined(self, Y: Tensor, real: Tensor) -> _Part:
        """Y' S and Y' A S, for coefficients Y (B, s, t)."""
        Y = to_device(Y.mT, self.rows)
        return _Part(Y @ self.rows, Y @ self.AV, real)


class _Iterate:
    """X and P of the largest eigenvalues (or magnitudes), with A times each; see the module's text.

    Attributes:
        theta, residual: (B, x), of X in order of preference.
        width: the rows that X is to have.
        block: residuals multiplied at a step.
        spent: products.
        norm: the largest |A x| seen for a unit x.
    """

    def __init__(
        self,
        A: LinearOperator,
        target: Target,
        tol: float,
        first: Tensor,
        width: int,
        block: int,
        preconditioner: Rows | None,
        generator: torch.Generator,
    ) -> None:
        self.A, self.target, self.tol, self.width, self.block = A, target, tol, width, block
        self.preconditioner = preconditioner
        self.generator, self.norm, self.spent = generator, 0.0, 0
        self.theta = self.residual = first.new_zeros(first.shape[:2], dtype=torch.float64, device="cpu")
        self.span = _Part(first[:, :0], first[:, :0], torch.empty(len(first), 0, dtype=torch.bool))
        self._multiply(first, torch.ones(first.shape[:2], dtype=torch.bool))

    @property
    def rows(self) -> Tensor:
        """X, (B, x, n)."""
        return self.span.rows[:, : self.theta.shape[1]].contiguous()

    @property
    def AV(self) -> Tensor:
        """A x for each x."""
        return self.span.AV[:, : self.theta.shape[1]].contiguous()

    @property
    def wanted(self) -> int:
        """How many of X are sought."""
        return self.target.wanted(self.theta, self.rounding)

    @property
    def rounding(self) -> float:
        """Residuals below this are rounding of a product."""
        return rounding(self.A.eps, self.norm)

    @property
    def tolerance(self) -> Tensor:
        """What residuals must reach, (B, 1)."""
        return self.target.tolerance(self.theta, self.tol, self.rounding)

    @property
    def all_in_view(self) -> bool:
        """Whether X holds as many pairs as are sought; with `above`, whether the next is sure to be below."""
        return self.target.all_in_view(self.theta, self.residual, self.wanted, self.rounding)

    @property
    def has_room(self) -> bool:
        """Whether X, P and W fit into the space."""
        return 3 * self.width <= self.A.shape[1]

    def step(self) -> None:
        """Multiply the preconditioned residuals of the best pairs short of tol, and choose anew.

        Raises:
            _DependentRows: nothing is changed but what was spent.
        """
        if self.target.above is not None and 2 * self.wanted > self.width:
            self.width = min(2 * self.width, self.span.rows.shape[1])
        short = (self.residual > self.tolerance).any(0).nonzero()[: self.block, 0]
        chosen = short.to(self.A.device, non_blocking=True)
        X, AX = self.rows[:, chosen], self.AV[:, chosen]
        W = AX - to_device(self.theta[:, short, None], X) * X
        if self.preconditioner is not None:
            W = self._preconditioned(W)
        W, real = _independent(self.A.domain, W, self.span.rows)
        if W.shape[1] == 0:  # what was found is invariant
            W = random_complement(self.A.domain, self.span.rows, 1, self.generator)
            real = torch.ones(W.shape[:2], dtype=torch.bool)
        self._multiply(W, real)

    def _preconditioned(self, W: Tensor) -> Tensor:
        assert self.preconditioner is not None
        W = self.preconditioner(W) if self.A.batch else self.preconditioner(W[0])[None]
        if not torch.isfinite(W).all():
            raise NotFiniteError("the preconditioner gave NaN or infinity: check it on one residual")
        return W

    def _multiply(self, rows: Tensor, real: Tensor) -> None:
        """Rayleigh-Ritz in the span with rows added: the best are X, and what new rows gave them is P."""
        space = self.A.domain
        new = _Part(rows, self.A.apply(rows), real)
        self.spent += rows.shape[1]
        S = self.span.join(new)
        norms, T, G = to_host(space.norms(new.AV), space.inner(S.AV, S.rows), space.inner(S.rows, S.rows))
        self.norm = max(self.norm, largest(norms, self.A))
        check_adjoint(T, T.mT, self.norm, self.A)
        # Rows that are no vectors are kept apart by a value that no eigenvalue has.
        void = torch.diag_embed(torch.where(S.real, 0.0, 1.0)).double()
        L, failed = torch.linalg.cholesky_ex((G + G.mT) / 2 + void)
        if failed.any() or L.diagonal(dim1=-2, dim2=-1).amin() < 0.5:  # of orthogonal rows it is 1
            raise _DependentRows
        T = torch.linalg.solve_triangular(L, (T + T.mT) / 2, upper=False)
        T = torch.linalg.solve_triangular(L, T.mT, upper=False) + 4 * max(self.norm, 1.0) * void
        theta, Y = torch.linalg.eigh((T + T.mT) / 2)
        empty = (Y.square() * (~S.real).unsqueeze(-1)).sum(-2) > 0.5
        height = self.target.height(theta).masked_fill(empty, -math.inf)
        order = torch.argsort(height, dim=-1, descending=True)[:, : self.width]
        Y = Y.gather(-1, order.unsqueeze(-2).expand(-1, Y.shape[1], -1))

        given = Y.clone()
        given[:, : self.theta.shape[1]] = 0
        Z, real = _independent(Space(Y.shape[1]), given.mT, Y.mT)
        both = torch.linalg.solve_triangular(L.mT, torch.cat([Y, Z.mT], dim=-1), upper=True)
        theta, x = theta.gather(-1, order), order.shape[1]
        span = S.combined(both, torch.cat([torch.ones(order.shape, dtype=torch.bool), real], dim=-1))
        R = span.AV[:, :x] - to_device(theta.unsqueeze(-1), span.AV) * span.rows[:, :x]
        (residual,) = to_host(space.norms(R))
        # All at once, so that an interruption leaves what there was.
        self.theta, self.span, self.residual = theta, span, residual


def _independent(space: Space, W: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal rows (B, r, n) that span W less its part in the orthonormal rows `held`; which are real.

    Twice, W is freed of `held` and replaced by the singular directions of what is left, but for those that
    rounding cannot tell from dependent ones.  Problems of a rank below the largest get rows of zeros.

    Source: Stathopoulos and Wu, SIAM J. Sci. Comput. 23 (2002), for the directions from W W'.
    """
    eps = torch.finfo(W.dtype).eps
    # Residuals at the end are tiny beside the vectors that they are to be freed of.
    W = W / space.norms(W).unsqueeze(-1).clamp(min=torch.finfo(W.dtype).tiny)
    real = torch.ones(W.shape[:2], dtype=torch.bool)
    for _ in range(2):
        W = W - space.inner(W, held) @ held
        (gram,) = to_host(space.inner(W.double(), W.double()))
        size = gram.diagonal(dim1=-2, dim2=-1).sqrt()
        # A row that lay in `held` has left nothing but rounding.
        scale = torch.where(size > 100 * eps, 1 / size, 0.0)
        power, U = torch.linalg.eigh(scale.unsqueeze(-1) * gram * scale.unsqueeze(-2))
        real = power > 100 * eps * power.shape[-1]
        rank = int(real.sum(-1).max())
        power, U, real = (part.flip(-1)[..., :rank] for part in (power, U, real))
        weights = torch.where(real, power.clamp(min=eps).rsqrt(), 0.0).unsqueeze(-2) * U
        W = to_device((scale.unsqueeze(-1) * weights).mT, W) @ W
    return W, real


def _first_rows(A: LinearOperator, width: int, start: Tensor | None, generator: torch.Generator) -> Tensor:
    """(B, m, n) orthonormal: the rows of `start`, and random ones up to `width`."""
    noise = first_block(A, width, None, generator)
    if start is not None:
        given = start.to(noise) / A.domain.norms(start).unsqueeze(-1).to(noise).clamp(min=1e-30)
        noise = torch.cat([given, noise[:, : max(0, width - given.shape[1])]], dim=1)
    eps = torch.finfo(noise.dtype).eps
    return orthonormal_block(A.domain, noise, noise[:, :0], 100 * eps, generator)[0]
