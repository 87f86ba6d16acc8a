"""Thick-restart block Lanczos with full reorthogonalisation, locking, and a completeness probe.

A small residual proves an eigenpair, not that it is one of the top k: a Krylov space from one start holds a
single vector of each eigenspace, so members of clusters are missed.  When the wanted pairs have converged
the solver locks them, starts again from random vectors in their complement, and looks for anything larger.
If it finds something it goes on, with twice as many vectors; if not, it says how large a missed eigenvalue
could be, and at what confidence (`spectral.solvers.certificate.Completeness`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from spectral.operators.base import LinearOperator
from spectral.solvers.certificate import Completeness, unseen_bound
from spectral.solvers.krylov import KrylovBasis

Which = Literal["largest", "smallest", "magnitude"]

WIDEST_PROBE = 16
REFRESHES = 8
POLISHES = 3
STAGES = ("solve", "completeness", "residuals")


@dataclass(frozen=True)
class Progress:
    """Where a solve stands, handed to `progress` after every test of convergence."""

    stage: str
    products: int
    wanted: int
    converged: int
    worst_residual: float
    threshold: float


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


@dataclass(frozen=True)
class Target:
    """Which pairs are sought, among Ritz pairs in the order of preference, and when they are good enough."""

    k: int
    above: float | None
    magnitude: bool
    tol: float

    def wanted(self, theta: Tensor) -> int:
        """How many of the leading Ritz values (B, size) are sought."""
        if self.above is None:
            return min(self.k, theta.shape[-1])
        return int((self.height(theta) > self.above).sum(-1).max())

    def all_in_view(self, theta: Tensor, residual: Tensor, wanted: int) -> bool:
        """Whether there are k pairs; with `above`, whether the next pair is sure to stay below it."""
        if self.above is None:
            return wanted == self.k
        if wanted == theta.shape[-1]:
            return False
        return bool((self.height(theta[:, wanted]) + residual[:, wanted] <= self.above).all())

    def height(self, theta: Tensor) -> Tensor:
        """What the order is by: the value, or its magnitude."""
        return theta.abs() if self.magnitude else theta

    def threshold(self, theta: Tensor, rounding: float) -> Tensor:
        """tol max |theta| over the wanted pairs, (B, 1); not below the rounding error of a product."""
        largest = theta[:, : self.wanted(theta)].abs()
        if largest.shape[-1] == 0:
            return torch.full((len(theta), 1), math.inf, dtype=theta.dtype)
        return (self.tol * largest.amax(-1, keepdim=True)).clamp(min=rounding)

    def bar(self, theta: Tensor, residual: Tensor, wanted: int) -> Tensor:
        """What an eigenvalue must exceed to have been missed, (B,)."""
        if self.above is not None:
            return torch.full((len(theta),), self.above, dtype=theta.dtype)
        return self.height(theta[:, wanted - 1]) + residual[:, wanted - 1]


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
        basis: rows kept before a restart; by default four times the pairs sought, at least 150 more.
        start: (B, m, n), rows whose random combinations start the solve.
        seed: of the random starts.
        max_products: stop there, converged or not.
        confidence: of the completeness statement.
        progress: called after every test of convergence.

    Raises:
        NotFiniteError: a product holds NaN or infinity.

    Source: Wu and Simon (2000) for the thick restart.
    """
    # The smallest eigenvalues of A are the largest of -A: below, only the largest are sought.
    sign = -1.0 if which == "smallest" else 1.0
    target = Target(k, None if above is None else sign * above, which == "magnitude", tol)
    seeker = -1.0 * A if which == "smallest" else A
    generator = torch.Generator().manual_seed(seed)
    first = _first_block(seeker, block, start, generator)
    solve = _Solve(KrylovBasis(seeker, first, generator), target, basis, max_products, progress)
    unseen = _run(solve, block, confidence)

    images = _verify(solve)
    return RitzPairs(
        vectors=solve.basis.V[:, : solve.basis.size],
        images=sign * images,
        completeness=Completeness(sign * unseen[0], unseen[1], solve.spent["completeness"]),
        spent=solve.spent,
        norm=solve.basis.norm,
        notes=solve.notes,
    )


@dataclass
class _Solve:
    """A basis, what is sought in it, and what that has cost."""

    basis: KrylovBasis
    target: Target
    limit_asked: int | None
    max_products: int
    progress: Callable[[Progress], None] | None
    spent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    notes: list[str] = field(default_factory=list)

    @property
    def rounding(self) -> float:
        return 10 * self.basis.eps * self.basis.norm

    @property
    def out_of_products(self) -> bool:
        return sum(self.spent.values()) + self.basis.block > self.max_products

    def limit(self, wanted: int) -> int:
        """Rows the basis may have before a restart, with room for what is kept and two blocks."""
        rows = self.limit_asked or max(4 * wanted, wanted + 150)
        return min(self.basis.n, max(rows, wanted + 3 * self.basis.block + 2))

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.basis.ritz(self.target.magnitude)

    def expand(self, stage: str) -> None:
        self.spent[stage] += self.basis.block
        self.basis.expand()

    def tell(self, stage: str, residual: Tensor, threshold: Tensor) -> None:
        if self.progress is not None:
            converged = int((residual <= threshold).sum(-1).min())
            worst = residual.max().item() if residual.numel() else 0.0
            wanted = residual.shape[-1] if self.target.above is not None else self.target.k
            total = sum(self.spent.values())
            self.progress(Progress(stage, total, wanted, converged, worst, threshold.min().item()))


def _run(solve: _Solve, block: int, confidence: float) -> tuple[Tensor, float]:
    """Alternate the two stages; return the bound on unseen eigenvalues (B,) and its confidence."""
    nothing = torch.full((len(solve.basis.V),), math.inf, dtype=torch.float64), 0.0
    failure = 1 - confidence
    try:
        while _converge(solve):
            if solve.basis.exhausted:
                return remaining(solve.target, solve.ritz()[0]), 1.0
            # Each further probe may fail too: halved chances keep their sum below 1 - confidence.
            failure /= 2
            unseen = _probe(solve, block, failure)
            if unseen is not None and not solve.basis.exhausted:
                return unseen, confidence if torch.isfinite(unseen).all() else 0.0
            if unseen is None:
                block = min(2 * block, WIDEST_PROBE)
    except KeyboardInterrupt:
        solve.notes.append("interrupted")
        return nothing
    solve.notes.append(f"stopped at max_products={solve.max_products}")
    return nothing


def _converge(solve: _Solve) -> bool:
    """Expand the basis until every wanted pair has converged; False when the products ran out."""
    basis, target = solve.basis, solve.target
    untested, refreshes = 0, 0
    while True:
        # An eigenproblem of 64 rows is nothing beside a product; one of thousands is not, and waits a while.
        if basis.exhausted or (basis.size and untested >= basis.size // 64):
            untested = 0
            theta, Y, residual = solve.ritz()
            wanted = target.wanted(theta)
            threshold = target.threshold(theta, solve.rounding)
            solve.tell("solve", residual[:, :wanted], threshold)
            enough = target.all_in_view(theta, residual, wanted)
            if basis.exhausted or (enough and bool((residual[:, :wanted] <= threshold).all())):
                return True
            in_basis = torch.linalg.vector_norm(basis.C @ Y[..., :wanted], dim=1)
            if enough and refreshes < REFRESHES and bool((in_basis <= 0.3 * threshold).all()):
                # Only what earlier probes left out of the basis stands in the way: measure it afresh.
                refreshes += 1
                solve.spent["solve"] += wanted
                basis.refresh(theta[:, :wanted], Y[..., :wanted], 0.3 * threshold.min().item())
                continue
            if basis.size + basis.block > solve.limit(wanted):
                keep = wanted + (solve.limit(wanted) - wanted - basis.block) // 2
                basis.restart(theta[:, :keep], Y[..., :keep])
        if solve.out_of_products:
            return False
        solve.expand("solve")
        untested += basis.block


def _probe(solve: _Solve, block: int, failure: float) -> Tensor | None:
    """Lock the wanted pairs and look for a larger eigenvalue in their complement.

    Returns the bound (B,) on what was not seen, or None where an eigenvalue beyond the wanted ones turned up.
    """
    basis, target = solve.basis, solve.target
    theta, Y, residual = solve.ritz()
    wanted = target.wanted(theta)
    bar = target.bar(theta, residual, wanted) + solve.rounding
    basis.restart_afresh(theta[:, :wanted], Y[..., :wanted], block)
    most = solve.spent["completeness"] + max(64, solve.spent["solve"] // 2)
    unseen = torch.full_like(bar, math.inf)
    while solve.spent["completeness"] + block <= most and not basis.exhausted and not solve.out_of_products:
        solve.expand("completeness")
        solve.tell("completeness", residual[:, :wanted], target.threshold(theta, solve.rounding))
        T, C = basis.T[:, wanted:, wanted:], basis.C[..., wanted:]
        extremes = torch.linalg.eigvalsh(T)[:, [0, -1]]
        seen = extremes.abs().amax(-1) if target.magnitude else extremes[:, 1]
        if bool((seen > bar).any()):
            return None
        chance = {"block": block, "dimension": basis.n - wanted}
        if target.magnitude:
            ends = [unseen_bound(s * T, s * C, failure=failure / 2, **chance) for s in (1, -1)]
            unseen = torch.maximum(*ends)
        else:
            unseen = unseen_bound(T, C, failure=failure, **chance)
        if bool((unseen <= bar).all()):
            break
    return unseen


def _verify(solve: _Solve) -> Tensor:
    """Form A v anew for each wanted pair, and go on where a residual turns out above the threshold."""
    for left in reversed(range(POLISHES + 1)):
        theta, Y, _ = solve.ritz()
        wanted = solve.target.wanted(theta)
        if wanted == 0:
            solve.basis.restart(theta[:, :0], Y[..., :0])
            return solve.basis.V[:, :0]
        threshold = solve.target.threshold(theta, solve.rounding)
        solve.spent["residuals"] += wanted
        images = solve.basis.refresh(theta[:, :wanted], Y[..., :wanted], 0.3 * threshold.min().item())
        done = bool((solve.ritz()[2] <= threshold).all())
        if done or left == 0 or solve.notes:
            break
        if not _converge(solve):
            solve.notes.append(f"stopped at max_products={solve.max_products}")
    return images


def remaining(target: Target, theta: Tensor) -> Tensor:
    """The first eigenvalue not wanted, (B,); theta (B, n) is the whole spectrum in order of preference."""
    wanted = target.wanted(theta)
    if wanted == theta.shape[-1]:
        return torch.full((len(theta),), 0.0 if target.magnitude else -math.inf, dtype=theta.dtype)
    return target.height(theta[:, wanted])


def _first_block(A: LinearOperator, block: int, start: Tensor | None, generator: torch.Generator) -> Tensor:
    """(B, block, n): random rows, or random combinations of `start` with a trace of noise."""
    B, n = (A.batch or (1,))[0], A.shape[0]
    noise = torch.randn(B, block, n, generator=generator, dtype=torch.float64)
    if start is not None:
        weights = torch.randn(B, block, start.shape[1], generator=generator, dtype=torch.float64)
        combined = weights @ start.double().cpu()
        size = torch.linalg.vector_norm(combined, dim=-1, keepdim=True)
        # The noise keeps a start that lies in an invariant subspace from confining the solve to it.
        noise = combined + 1e-6 * size * noise / math.sqrt(n)
    return noise.to(A.device, A.dtype)
