"""Thick-restart block Lanczos with full reorthogonalisation, locking, and a completeness probe."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from spectral.linalg.blocks import fresh_seed, stream
from spectral.linalg.krylov import KrylovBasis
from spectral.operators.base import LinearOperator
from spectral.solvers.control import Control
from spectral.solvers.found import RitzPairs
from spectral.solvers.search import Found, KrylovMethod, search
from spectral.solvers.target import Target


class Lanczos(KrylovMethod[RitzPairs]):
    """Thick-restart block Lanczos: in general the fewest products.

    Attributes:
        block: vectors per product; larger blocks cost more products, and find clusters sooner.
        basis: rows kept before a restart; by default four times the pairs sought, at least 200 more.

    Source: Wu and Simon (2000) for the thick restart.
    """

    name: ClassVar[str] = "lanczos"
    finds: ClassVar[type] = RitzPairs

    def _begun(
        self, A: LinearOperator, target: Target, first: Tensor, generator: torch.Generator
    ) -> KrylovBasis:
        """Of A, or -A where its smallest eigenvalues are sought."""
        return KrylovBasis(signed(A, target), first, generator, magnitude=target.magnitude)

    def _told(self, A: LinearOperator, target: Target, found: Found) -> RitzPairs:
        """The extreme eigenpairs."""
        return RitzPairs(
            vectors=found.rows("V"),
            AV=target.sign * found.rows("AV"),
            **found.told(target.sign),
        )


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
        block: vectors per product.
    """
    method = Lanczos(block)
    krylov = method._begun(A, target, rows[:, :1], stream(control.seed))
    krylov.norm = A.codomain.norms(AV).max().item()
    krylov.hold(rows, target.sign * AV, 0.3 * control.tol * krylov.norm)
    return method._told(A, target, search(krylov, target, control, block=block, spent=spent))


def with_budget(control: Control, generator: torch.Generator, most: int) -> Control:
    """The control of what follows a first method: a seed of its own, and as many products in all."""
    return replace(control, seed=fresh_seed(generator), max_products=most)


def signed(A: LinearOperator, target: Target) -> LinearOperator:
    """A, or -A where its smallest eigenvalues are sought."""
    return A if target.sign > 0 else target.sign * A
