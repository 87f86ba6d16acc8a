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

Rows live on A's device and small matrices on the CPU.  The host waits for a GPU once a product, for all that
it is to know of it (`Relation.measured`), and for no copy to the device.
"""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from spectral.errors import NotFiniteError, NotSymmetricError
from spectral.linalg.blocks import (
    leading_directions,
    next_block,
    orthonormal_block,
    random_complement,
    refilled,
    reserve,
    to_device,
    to_host,
)
from spectral.linalg.unseen import SLACK, least_share, rounding, unseen_bound
from spectral.operators.base import LinearOperator
from spectral.operators.space import Space


class Relation:
    """What every basis here is: tensors with an axis of problems, of which some can be selected, and kept.

    A subclass names in HELD the tensors that make up its relation, of which those in SIDES hold vectors of
    A's domain or codomain, in `rows` how many rows of each basis count, and in SHARE the norm of the part of
    an eigenvector that a random start sees; it has an operator A on vectors of length n, a generator, the
    largest |A x| seen so far, `norm`, and in `lost` the norm of all that products since `restart_afresh` held
    of directions too short to go on from.  What changes the relation
    computes all of it first and sets it in one statement, writing in place only beyond the rows that
    count: an interruption, which falls between calls, then leaves the old relation or the new one.
    """

    HELD: ClassVar[tuple[str, ...]]
    SIDES: ClassVar[dict[str, str]] = {"V": "domain", "X": "domain", "U": "codomain"}
    SHARE: ClassVar[float] = 1.0

    A: LinearOperator
    X: Tensor
    n: int
    generator: torch.Generator
    norm: float
    lost: float
    most: int | None = None  # rows at which it is to be restarted, where that is known

    @property
    def rounding(self) -> float:
        """Residuals below this are rounding of a product."""
        return rounding(self.A.eps, self.norm)

    @property
    def vanishing(self) -> float:
        """Directions below this are rounding of the basis's own arithmetic, and lead nowhere.

        What a coarser product leaves above it is measured like all else, and so the relation holds.
        """
        return rounding(torch.finfo(self.A.dtype).eps, self.norm)

    @property
    def error(self) -> float:
        """What the relation may be off by: eps |A|, and what was lost."""
        return math.hypot(self.rounding / SLACK, self.lost)

    def resolution(self, keep: int, block: int, failure: float) -> float:
        """How far `unseen` must stay above all that a probe from `block` vectors saw, however long it is."""
        return self.error / (self.SHARE * least_share(block, self.n - keep, failure))

    @property
    def rows(self) -> dict[str, int]:
        """Rows that count, of tensors with room for more."""
        raise NotImplementedError

    def measured(self, A: LinearOperator, X: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """H, Q and R of A x for each row less its part in `basis`, A X' = basis' H' + Q' R; and its rounding.

        A is the operator or its transpose, X (B, b, n), basis (B, size, r); H (B, b, size) and R (B, b, b)
        float64 on the CPU, Q (B, b, r).  Of R nothing below the rounding (B, 1), which is that of these
        products and not of |A|, can be trusted.

        Raises:
            NotFiniteError: a product holds NaN or infinity.
        """
        space, W = A.codomain, A.apply(X)
        norms = space.norms(W)
        H, W = space.orthogonalise(W, basis)
        Q, R = space.qr(W)
        norms, H, R = to_host(norms, H, R)
        self.norm = max(self.norm, largest(norms, self.A))
        longest = norms.amax(-1, keepdim=True) if X.shape[1] else norms.new_zeros(len(norms), 1)
        return H, Q, R, rounding(torch.finfo(self.A.dtype).eps, 1.0) * longest

    def next_block(
        self, space: Space, Q: Tensor, R: Tensor, held: Tensor, vanishing: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`next_block` with this basis's generator; what vanishes is added to `lost`."""
        X, R, lost = next_block(space, Q, R, held, vanishing, self.generator)
        self.lost = math.hypot(self.lost, lost)
        return X, R

    def orthonormal(self, W: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
        """`orthonormal_block` of vectors that A takes, with this basis's generator and scale."""
        return orthonormal_block(self.A.domain, W, held, self.vanishing, self.generator)

    def product(self, A: LinearOperator, X: Tensor) -> Tensor:
        """A x for each row, A or its transpose, and a note of the largest norm seen.

        Raises:
            NotFiniteError: a product holds NaN or infinity.
        """
        W, norm = product(A, X)
        self.norm = max(self.norm, norm)
        return W

    def beyond(self, keep: int, theta: Tensor) -> Tensor:
        """A bound on all of A's eigenvalues but `keep`; theta (B,) is that on the exhausted relation's."""
        return theta

    def held(self) -> dict[str, Tensor]:
        """The tensors of the relation, without the room."""
        rows = self.rows
        tensors = {name: getattr(self, name) for name in self.HELD}
        return {name: t[:, : rows[name]] if name in rows else t for name, t in tensors.items()}

    def select(self, index: Tensor) -> Self:
        """The basis of some of the problems alone, index (b,) ascending; its random numbers are its own."""
        part = copy.copy(self)
        part.generator = torch.Generator().manual_seed(
            int(torch.randint(2**62, (), generator=self.generator, device="cpu").item())
        )
        held = self.held()
        if len(index) < len(held["X"]):
            part.A = self.A.select(index)
            for name, t in held.items():
                setattr(part, name, t[index.to(t.device)])
        return part

    def state(self) -> dict[str, Tensor]:
        """All that `restored` needs."""
        plain = {name: torch.tensor(getattr(self, name), dtype=torch.float64) for name in ("norm", "lost")}
        return self.held() | plain | {"generator": self.generator.get_state()}

    def restored(self, state: dict[str, Tensor]) -> Self:
        """A basis of the same operator as it was at `state`."""
        part = copy.copy(self)
        part.generator = torch.Generator()
        part.generator.set_state(state["generator"])
        part.norm, part.lost = state["norm"].item(), state["lost"].item()
        for name in self.HELD:
            setattr(part, name, state[name].to(getattr(self, name).device))
        return part


class KrylovBasis(Relation):
    """The basis V, its projected matrix T, and the next block X; see the module's text.

    Attributes:
        V: (B, capacity, n), of which the first `size` rows are the basis.
        T: (B, size, size), float64 on the CPU.
        X: (B, b, n), the next block; b = 0 once the basis spans the whole space.
        C: (B, b, size), float64 on the CPU.
        F: (B, f, size), float64 on the CPU.
        AV: (B, size, n) after `refresh`, A v for each v in the basis.
        norm: the largest |A x| seen for a unit x, a lower bound of |A|.
    """

    HELD = ("V", "T", "X", "C", "F")

    def __init__(
        self, A: LinearOperator, first: Tensor, generator: torch.Generator, *, magnitude: bool = False
    ) -> None:
        self.A, self.generator, self.magnitude = A, generator, magnitude
        B, self.n = len(first), A.domain.dimension
        self.V = first.new_empty(B, 0, first.shape[-1])
        self.T = torch.zeros(B, 0, 0, dtype=torch.float64)
        self.F = torch.zeros(B, 0, 0, dtype=torch.float64)
        self.AV = self.V
        self._solved = (torch.empty(0), torch.empty(0), torch.empty(0))
        self.norm = self.lost = 0.0
        self.X, R = self.orthonormal(first, self.V)
        self.C = R[..., :0]

    @property
    def problems(self) -> int:
        """B, the problems in lock-step."""
        return len(self.T)

    @property
    def size(self) -> int:
        """Rows of the basis."""
        return self.T.shape[-1]

    @property
    def rows(self) -> dict[str, int]:
        """See `Relation`."""
        return {"V": self.size}

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
            NotSymmetricError: A is not symmetric.
        """
        e, b = self.size, self.block
        self.V = reserve(self.V, e, e + b, self.most)
        self.V[:, e : e + b] = self.X
        basis = self.V[:, : e + b]
        H, Q, R, vanishing = self.measured(self.A, self.X, basis)
        T, F = self._bordered(H, e), torch.nn.functional.pad(self.F, (0, b))
        X, R = self.next_block(self.A.domain, Q, R, basis, vanishing)
        C = torch.nn.functional.pad(R, (e, 0))
        self.T, self.F, self.X, self.C = T, F, X, C

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values and residuals, (B, size) each, from the largest value (or magnitude) down."""
        theta, Y = self._eigh()
        if self.exhausted:
            return theta, torch.zeros_like(theta)
        return theta, torch.linalg.vector_norm(torch.cat([self.C, self.F], dim=1) @ Y, dim=1)

    def in_next_block(self, keep: int) -> Tensor:
        """The part of the leading pairs' residuals that lies in the next block, (B, keep)."""
        return torch.linalg.vector_norm(self.C @ self._eigh()[1][..., :keep], dim=1)

    def restart(self, keep: int) -> None:
        """Keep the leading Ritz pairs alone, with the next block: a thick restart, no products."""
        room = self.V
        self.V, self.T, self.C, self.F = self._compressed(keep)
        self.V = refilled(room, self.V)

    def restart_afresh(self, keep: int, block: int) -> None:
        """Keep the leading pairs alone and go on from `block` random vectors orthogonal to them.

        From there the new part of the basis is a Krylov space of P A P, P the projector on the complement of
        the pairs kept; what coupled them to the old next block is left out, and remembered in F.
        """
        V, T, C, F = self._compressed(keep)
        X = random_complement(self.A.domain, V, min(block, self.n - V.shape[1]), self.generator)
        F, C, lost = torch.cat([F, C], dim=1), C.new_zeros(len(C), X.shape[1], V.shape[1]), 0.0
        self.V, self.T, self.X, self.C, self.F, self.lost = V, T, X, C, F, lost

    def refresh(self, keep: int, threshold: float) -> None:
        """Keep the leading pairs alone, and measure their residuals by fresh products, held in `AV`.

        The next block is made of the residuals' leading directions, those above `threshold`; C and F are
        replaced.
        """
        # Set first, so that no room of the old basis is held beside the products.
        self.V, self.T, self.C, self.F = self._compressed(keep)
        self.hold(self.V, self.product(self.A, self.V), threshold)

    def hold(self, V: Tensor, AV: Tensor, threshold: float) -> None:
        """Take orthonormal rows V (B, m, n) with their products AV as the whole basis; see `refresh`."""
        space = self.A.domain
        H, W = space.orthogonalise(AV, V)
        (H,) = to_host(H)
        T = self._bordered(H, 0)
        X, C, F = leading_directions(space, W, V, threshold, self.orthonormal)
        self.V, self.AV, self.T, self.X, self.C, self.F = V, AV, T, X, C, F

    def unseen(self, keep: int, block: int, failure: float) -> tuple[Tensor, Tensor]:
        """Beyond the leading pairs, since `restart_afresh`: the largest Ritz value, and a bound, (B,)."""
        T, C = self.T[:, keep:, keep:], self.C[..., keep:]
        chance: dict[str, Any] = {"block": block, "dimension": self.n - keep, "error": self.error}
        if not self.magnitude:
            return torch.linalg.eigvalsh(T)[:, -1], unseen_bound(T, C, failure=failure, **chance)
        ends = [unseen_bound(s * T, s * C, failure=failure / 2, **chance) for s in (1, -1)]
        return torch.linalg.eigvalsh(T).abs().amax(-1), torch.maximum(*ends)

    def _compressed(self, keep: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """V, T, C and F of the leading pairs alone, X being the same."""
        theta, Y = self._eigh()
        Y = Y[..., :keep]
        V = to_device(Y.mT, self.V) @ self.V[:, : self.size]
        return V, torch.diag_embed(theta[:, :keep]), self.C @ Y, self.F @ Y

    def _bordered(self, H: Tensor, held: int) -> Tensor:
        """T of the first rows held and b more, H (B, b, held + b) the coefficients of their products.

        Raises:
            NotSymmetricError: they contradict those of the rows held.
        """
        if held and not self.F.shape[1]:
            check_adjoint(H[..., :held], self.C, self.norm, self.A)
        T = torch.nn.functional.pad(self.T[:, :held, :held], (0, H.shape[1], 0, H.shape[1]))
        T[:, held:, :held], T[:, :held, held:] = H[..., :held], H[..., :held].mT
        T[:, held:, held:] = (H[..., held:] + H[..., held:].mT) / 2
        return T

    def _eigh(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of T in order of preference, and eigenvectors in columns; kept until T changes."""
        if self._solved[0] is not self.T:
            theta, Y = torch.linalg.eigh(self.T)
            order = torch.argsort(theta.abs() if self.magnitude else theta, dim=-1, descending=True)
            Y = Y.gather(-1, order.unsqueeze(-2).expand_as(Y))
            self._solved = (self.T, theta.gather(-1, order), Y)
        return self._solved[1:]


def product(A: LinearOperator, X: Tensor) -> tuple[Tensor, float]:
    """A x for each row of (B, b, n), and the largest norm of one.

    Raises:
        NotFiniteError: a product holds NaN or infinity.
    """
    W = A.apply(X)
    return W, largest(A.codomain.norms(W), A)


def largest(norms: Tensor, A: LinearOperator) -> float:
    """The largest norm of a product with A; 0 where there was none.

    Raises:
        NotFiniteError: one is NaN or infinity.
    """
    norm = norms.max().item() if norms.numel() else 0.0
    if not norm < float("inf"):
        raise NotFiniteError(
            f"product {A.count} with {A!r} holds NaN or infinity: the operator overflows, "
            "or its model has no derivative at y"
        )
    return norm


def check_adjoint(forward: Tensor, backward: Tensor, norm: float, A: LinearOperator) -> None:
    """Refuse an operator whose coefficients <x, A v> and <A' x, v>, both measured on the way, differ grossly.

    Small differences are the precision's, and show in the residuals.

    Raises:
        NotSymmetricError: they differ by more than 5 % of |A|, or what products in half precision round.
    """
    apart = (forward - backward).abs().max().item() if forward.numel() else 0.0
    if apart > max(0.05 * norm, rounding(A.eps, norm)):
        fault = "is not symmetric" if A.symmetric else "and its transpose contradict each other"
        raise NotSymmetricError(
            f"{A!r} {fault}: <x, A v> and <A' x, v> differ by {apart:.1e}, where |A| is {norm:.1e}; or it is "
            "not linear: solve its symmetric part, or correct its products"
        )
