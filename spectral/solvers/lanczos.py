"""Thick-restart block Lanczos with full reorthogonalisation, locking, and a completeness probe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from spectral.linalg.blocks import first_block, fresh_seed, stream
from spectral.linalg.krylov import KrylovBasis
from spectral.operators.base import LinearOperator
from spectral.solvers.checkpoint import Checkpoint
from spectral.solvers.control import Control
from spectral.solvers.found import Completeness, RitzPairs
from spectral.solvers.method import Method
from spectral.solvers.search import search
from spectral.solvers.target import Target


@dataclass(frozen=True, eq=False)
class Lanczos(Method[RitzPairs]):
    """Thick-restart block Lanczos: in general the fewest products.

    Attributes:
        block: vectors a product; larger blocks cost more products, and find clusters sooner.
        basis: rows kept before a restart; by default four times the pairs sought, at least 200 more.

    Source: Wu and Simon (2000) for the thick restart.
    """

    name: ClassVar[str] = "lanczos"
    finds: ClassVar[type] = RitzPairs
    keeps: ClassVar[bool] = True

    block: int = 1
    basis: int | None = None

    def solve(self, A: LinearOperator, target: Target, control: Control) -> RitzPairs:
        """The extreme eigenpairs of a symmetric A, with a probe for missed ones; see `Method.solve`."""
        generator = stream(control.seed)
        block = min(self.block, A.shape[1])
        first = first_block(A, block, control.start, generator)
        krylov = KrylovBasis(signed(A, target), first, generator, magnitude=target.magnitude)
        kept = None if control.checkpoint is None else Checkpoint(control.checkpoint, A, self.name)
        return _pairs(krylov, target, control, block=block, limit=self.basis, checkpoint=kept)


def finish(
    A: LinearOperator,
    rows: Tensor,
    AV: Tensor,
    target: Target,
    control: Control,
    *,
    spent: int,
    block: int = 1,
) -> RitzPairs:
    """Bring what another method found to the end that all share: go on where a pair is short of tol, probe
    for missed ones, verify by fresh products.

    Args:
        A: symmetric.
        rows: (B, m, n), orthonormal, m >= 1; their span holds what was found.
        AV: (B, m, n), A v for each.
        target: what is sought.
        control: its seed is that of the probe, which must know nothing of the rows: another than that of the
            first method.
        spent: products so far, told as those of the solve.
        block: vectors a product.
    """
    generator = stream(control.seed)
    krylov = KrylovBasis(signed(A, target), rows[:, :1], generator, magnitude=target.magnitude)
    krylov.norm = A.codomain.norms(AV).max().item()
    krylov.hold(rows, target.sign * AV, 0.3 * control.tol * krylov.norm)
    return _pairs(krylov, target, control, block=block, spent=spent)


def with_budget(control: Control, generator: torch.Generator, most: int) -> Control:
    """The control of what follows a first method: a seed of its own, and as many products in all."""
    return replace(control, seed=fresh_seed(generator), max_products=most)


def _pairs(krylov: KrylovBasis, target: Target, control: Control, **options: Any) -> RitzPairs:
    """What the search finds in a basis of `signed(A, target)`, told of A."""
    found = search(krylov, target, control, **options)
    return RitzPairs(
        vectors=found.gather(lambda basis: basis.V[:, : basis.size]),
        AV=target.sign * found.gather(lambda basis: basis.AV[:, : basis.size]),
        completeness=Completeness(target.sign * found.unseen, found.confidence, found.spent["completeness"]),
        spent=found.spent,
        norm=found.norm,
        notes=found.notes,
    )


def signed(A: LinearOperator, target: Target) -> LinearOperator:
    """A, or -A where its smallest eigenvalues are sought."""
    return A if target.sign > 0 else target.sign * A
