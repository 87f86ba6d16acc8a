"""Thick-restart block Lanczos with full reorthogonalisation, locking, and a completeness probe."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectral.operators.base import LinearOperator
from spectral.solvers.certificate import Completeness
from spectral.solvers.checkpoint import Checkpoint
from spectral.solvers.krylov import KrylovBasis, stream
from spectral.solvers.search import Progress, Target, Which, search


@dataclass(frozen=True)
class RitzPairs:
    """What a symmetric solver found, before certification.

    vectors (B, k, n), orthonormal rows in the order of `which`; images (B, k, n), A v for each, formed after
    the solve; products spent, by purpose; `norm`, the largest |A x| seen for a unit x; notes for the user.
    """

    vectors: Tensor
    images: Tensor
    completeness: Completeness
    spent: dict[str, int]
    norm: float
    notes: list[str] = field(default_factory=list)


def lanczos(
    A: LinearOperator,
    k: int = 1,
    *,
    which: Which = "largest",
    above: float | None = None,
    tol: float = 1e-4,
    block: int = 1,
    basis: int | None = None,
    start: Tensor | None = None,
    seed: int = 0,
    max_products: int = 10_000,
    confidence: float = 0.99,
    progress: Callable[[Progress], None] | None = None,
    checkpoint: str | Path | None = None,
) -> RitzPairs:
    """The k extreme eigenpairs of a symmetric operator, with a probe for missed ones.

    Args:
        A: symmetric, in float32 or float64.
        k: the number of pairs, 1 <= k <= n; not used where `above` is given.
        which: "largest" (algebraic), "smallest" or "magnitude".
        above: seek every eigenvalue beyond this value instead of k of them: larger for "largest", smaller
            for "smallest", larger in magnitude for "magnitude".
        tol: a pair has converged when |A v - lambda v| <= tol max |lambda|, the maximum over the pairs found.
        block: vectors a product.
        basis: rows kept before a restart; by default four times the pairs sought, at least 200 more.
        start: (B, m, n), rows whose random combinations start the solve.
        seed: of the random starts.
        max_products: stop there, converged or not.
        confidence: of the completeness statement; 0 to do without the probe.
        progress: called after every test of convergence.
        checkpoint: a file in which the search is kept while it runs, and from which it is resumed where there
            is one; see `spectral.solvers.checkpoint.Checkpoint`.

    Raises:
        NotFiniteError: a product holds NaN or infinity.
        CheckpointError: the file belongs to another problem.

    Source: Wu and Simon (2000) for the thick restart.
    """
    generator = stream(seed)
    target = Target(k, which, above, tol)
    first = first_block(A, block, start, generator)
    return _pairs(
        KrylovBasis(signed(A, target), first, generator, magnitude=target.magnitude),
        target,
        limit=basis,
        block=block,
        max_products=max_products,
        confidence=confidence,
        progress=progress,
        checkpoint=None if checkpoint is None else Checkpoint(checkpoint, A, "lanczos"),
    )


def finish(
    A: LinearOperator,
    rows: Tensor,
    images: Tensor,
    k: int = 1,
    *,
    spent: int,
    which: Which = "largest",
    above: float | None = None,
    tol: float = 1e-4,
    block: int = 1,
    seed: int = 0,
    max_products: int = 10_000,
    confidence: float = 0.99,
    progress: Callable[[Progress], None] | None = None,
) -> RitzPairs:
    """Bring what another method found to the end that all share: go on where a pair is short of tol, probe
    for missed ones, verify by fresh products.

    Args:
        rows: (B, m, n), orthonormal, m >= 1; their span holds what was found.
        images: (B, m, n), A v for each.
        spent: products so far, told as those of the solve.
        seed: of the probe, which must know nothing of the rows: another than that of the first method.

    The other arguments are those of `lanczos`.
    """
    generator = stream(seed)
    target = Target(k, which, above, tol)
    krylov = KrylovBasis(signed(A, target), rows[:, :1], generator, magnitude=target.magnitude)
    krylov.norm = torch.linalg.vector_norm(images, dim=-1).max().item()
    krylov.hold(rows, target.sign * images, 0.3 * tol * krylov.norm)
    return _pairs(
        krylov,
        target,
        limit=None,
        block=block,
        max_products=max_products,
        confidence=confidence,
        progress=progress,
        spent=spent,
    )


def _pairs(krylov: KrylovBasis, target: Target, **options: Any) -> RitzPairs:
    """What the search finds in a basis of `signed(A, target)`, told of A."""
    found = search(krylov, target, **options)
    return RitzPairs(
        vectors=found.gather(lambda basis: basis.V[:, : basis.size]),
        images=target.sign * found.gather(lambda basis: basis.images[:, : basis.size]),
        completeness=Completeness(target.sign * found.unseen, found.confidence, found.spent["completeness"]),
        spent=found.spent,
        norm=found.norm,
        notes=found.notes,
    )


def signed(A: LinearOperator, target: Target) -> LinearOperator:
    """A, or -A where its smallest eigenvalues are sought."""
    return A if target.sign > 0 else target.sign * A


def first_block(A: LinearOperator, block: int, start: Tensor | None, generator: torch.Generator) -> Tensor:
    """(B, block, n): random rows, or random combinations of `start` with a trace of noise."""
    B, n = (A.batch or (1,))[0], A.shape[1]
    noise = torch.randn(B, block, n, generator=generator, dtype=torch.float64, device="cpu")
    if start is not None:
        size = B, block, start.shape[1]
        weights = torch.randn(size, generator=generator, dtype=torch.float64, device="cpu")
        combined = weights @ start.double().cpu()
        size = torch.linalg.vector_norm(combined, dim=-1, keepdim=True)
        # The noise keeps a start that lies in an invariant subspace from confining the solve to it.
        noise = combined + 1e-6 * size * noise / math.sqrt(n)
    return noise.to(A.device, A.dtype)


def fresh_seed(generator: torch.Generator) -> int:
    """A seed for what follows.  A probe from vectors that the solve began with would not see past them."""
    return int(torch.randint(2**62, (), generator=generator, device="cpu").item())
