"""The search that every Krylov solver here makes: converge, probe for what was missed, verify.

A small residual proves an eigenpair, not that it is one of the top k: a Krylov space from one start holds a
single vector of each eigenspace, so members of clusters are missed.  When the wanted pairs have converged
the search locks them, starts again from random vectors in their complement, and looks for anything larger.
If it finds something it goes on, with twice as many vectors; if not, it says how large a missed value
could be, and at what confidence (`spectral.solvers.certificate.Completeness`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

WIDEST_PROBE = 16
REFRESHES = 8
POLISHES = 3
STAGES = ("solve", "completeness", "residuals")


class Basis(Protocol):
    """What the search asks of a Krylov basis; Ritz pairs come in order of preference, the best first."""

    n: int
    eps: float
    norm: float

    @property
    def size(self) -> int:
        """Pairs in the basis."""

    @property
    def block(self) -> int:
        """Products the next expansion takes."""

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans the whole space, and the Ritz pairs are exact."""

    def expand(self) -> None:
        """Multiply the next block and take it in."""

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values and residuals, (B, size) each."""

    def in_next_block(self, keep: int) -> Tensor:
        """The part of the leading residuals that further expansion will reduce, (B, keep)."""

    def restart(self, keep: int) -> None:
        """Keep the leading pairs and the next block."""

    def restart_afresh(self, keep: int, block: int) -> None:
        """Keep the leading pairs, and go on from random vectors in their complement."""

    def refresh(self, keep: int, threshold: float) -> None:
        """Keep the leading pairs, their residuals measured by fresh products."""

    def unseen(self, keep: int, block: int, failure: float) -> tuple[Tensor, Tensor]:
        """The largest value seen in the complement, and a bound on all that it holds, (B,) each."""


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


@dataclass(frozen=True)
class Found:
    """How a search ended: the bound (B,) on what was not seen, its confidence, products by purpose, notes."""

    unseen: Tensor
    confidence: float
    spent: dict[str, int]
    notes: list[str]


def search(
    basis: Basis,
    target: Target,
    *,
    limit: int | None,
    block: int,
    max_products: int,
    confidence: float,
    progress: Callable[[Progress], None] | None,
    spent: int = 0,
) -> Found:
    """Bring the wanted pairs into `basis`, alone and verified; the bases' text says what stands in it then.

    Args:
        basis: at its start.
        target: what is wanted.
        limit: rows before a restart; by default four times the pairs sought, and at least 200 more.
        block: vectors a probe starts from.
        max_products: stop there, converged or not.
        confidence: of the bound on what was not seen.
        progress: called after every test of convergence.
        spent: products that brought the basis here.
    """
    solve = _Solve(basis, target, limit, max_products, progress)
    solve.spent["solve"] = spent
    unseen, sure = _run(solve, block, confidence)
    _verify(solve)
    return Found(unseen, sure, solve.spent, solve.notes)


@dataclass
class _Solve:
    """A basis, what is sought in it, and what that has cost."""

    basis: Basis
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
        rows = self.limit_asked or max(4 * wanted, wanted + 200)
        return min(self.basis.n, max(rows, wanted + 3 * self.basis.block + 2))

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
    failure = 1 - confidence
    try:
        while _converge(solve):
            if solve.basis.exhausted:
                return remaining(solve.target, solve.basis.ritz()[0]), 1.0
            # Each further probe may fail too: halved chances keep their sum below 1 - confidence.
            failure /= 2
            unseen = _probe(solve, block, failure)
            if unseen is not None and not solve.basis.exhausted:
                return unseen, confidence if torch.isfinite(unseen).all() else 0.0
            if unseen is None:
                block = min(2 * block, WIDEST_PROBE)
    except KeyboardInterrupt:
        solve.notes.append("interrupted")
    else:
        solve.notes.append(f"stopped at max_products={solve.max_products}")
    return torch.full((len(solve.basis.ritz()[0]),), math.inf, dtype=torch.float64), 0.0


def _converge(solve: _Solve) -> bool:
    """Expand the basis until every wanted pair has converged; False when the products ran out."""
    basis, target = solve.basis, solve.target
    untested, refreshes = 0, 0
    while True:
        # An eigenproblem of 64 rows is nothing beside a product; one of thousands is not, and waits a while.
        if basis.exhausted or (basis.size and untested >= basis.size // 64):
            untested = 0
            theta, residual = basis.ritz()
            wanted = target.wanted(theta)
            threshold = target.threshold(theta, solve.rounding)
            solve.tell("solve", residual[:, :wanted], threshold)
            enough = target.all_in_view(theta, residual, wanted)
            if basis.exhausted or (enough and bool((residual[:, :wanted] <= threshold).all())):
                return True
            reducible = basis.in_next_block(wanted)
            if enough and refreshes < REFRESHES and bool((reducible <= 0.3 * threshold).all()):
                # Only what earlier probes left out of the basis stands in the way: measure it afresh.
                refreshes += 1
                solve.spent["solve"] += wanted
                basis.refresh(wanted, 0.3 * threshold.min().item())
                continue
            if basis.size + basis.block > solve.limit(wanted):
                keep = wanted + (solve.limit(wanted) - wanted - basis.block) // 2
                basis.restart(keep)
        if solve.out_of_products:
            return False
        solve.expand("solve")
        untested += basis.block


def _probe(solve: _Solve, block: int, failure: float) -> Tensor | None:
    """Lock the wanted pairs and look for a larger eigenvalue in their complement.

    Returns the bound (B,) on what was not seen, or None where an eigenvalue beyond the wanted ones turned up.
    """
    basis, target = solve.basis, solve.target
    theta, residual = basis.ritz()
    wanted = target.wanted(theta)
    bar = target.bar(theta, residual, wanted) + solve.rounding
    basis.restart_afresh(wanted, block)
    most = solve.spent["completeness"] + max(64, solve.spent["solve"] // 2)
    unseen = torch.full_like(bar, math.inf)
    while solve.spent["completeness"] + block <= most and not basis.exhausted and not solve.out_of_products:
        solve.expand("completeness")
        solve.tell("completeness", residual[:, :wanted], target.threshold(theta, solve.rounding))
        seen, unseen = basis.unseen(wanted, block, failure)
        if bool((seen > bar).any()):
            return None
        if bool((unseen <= bar).all()):
            break
    return unseen


def _verify(solve: _Solve) -> None:
    """Measure the wanted pairs' residuals anew, and go on where one turns out above the threshold."""
    for left in reversed(range(POLISHES + 1)):
        theta, _ = solve.basis.ritz()
        wanted = solve.target.wanted(theta)
        if wanted == 0:
            return solve.basis.restart(0)
        threshold = solve.target.threshold(theta, solve.rounding)
        solve.spent["residuals"] += wanted
        solve.basis.refresh(wanted, 0.3 * threshold.min().item())
        if left == 0 or solve.notes or bool((solve.basis.ritz()[1] <= threshold).all()):
            return None
        if not _converge(solve):
            solve.notes.append(f"stopped at max_products={solve.max_products}")
    return None


def remaining(target: Target, theta: Tensor) -> Tensor:
    """The first eigenvalue not wanted, (B,); theta (B, n) is the whole spectrum in order of preference."""
    wanted = target.wanted(theta)
    if wanted == theta.shape[-1]:
        return torch.full((len(theta),), 0.0 if target.magnitude else -math.inf, dtype=theta.dtype)
    return target.height(theta[:, wanted])
