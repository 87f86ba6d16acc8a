"""Chebyshev filtering: eigenpairs at an end of the spectrum, or inside it, by Lanczos on a polynomial p(A).

p is a Chebyshev window with Jackson's damping (`spectral.linalg.chebyshev`), so that the eigenvalues sought
are the largest ones of p(A).  A filter is an operator like any other: the search, the probe for what was
missed and the verification are those of `Lanczos`, and what the probe says of p(A) is told of A through p's
monotone sides (Fang and Saad 2012: filtered Lanczos).  Subspace iteration with the same filter would need a
block as wide as the answer and several passes; Lanczos takes fewer products with the filter, and a block of
any width.

A product with p(A) takes as many with A as p's degree: at an end of the spectrum Lanczos on A itself always
needs fewer.  What a filter saves there is vectors to hold and to orthogonalise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from spectral.errors import OptionError
from spectral.linalg.blocks import fresh_seed, stream
from spectral.linalg.bounds import BOUND_STEPS, SpectralBounds, spectral_bounds
from spectral.linalg.chebyshev import ChebyshevFilter, Window
from spectral.linalg.krylov import product
from spectral.linalg.unseen import rounding
from spectral.operators.base import LinearOperator
from spectral.operators.space import Space
from spectral.solvers.control import Control
from spectral.solvers.dense import DENSE_AT_MOST, Dense
from spectral.solvers.found import Completeness, RitzPairs
from spectral.solvers.lanczos import Lanczos, finish
from spectral.solvers.method import Method
from spectral.solvers.search import INTERRUPTED, STAGES
from spectral.solvers.target import EDGE, Target, Which

PRODUCTS_A_PAIR = 5  # of Lanczos, to an end of an interval


@dataclass(frozen=True, eq=False)
class Chebyshev(Method[RitzPairs]):
    """Eigenpairs through a Chebyshev filter, at an end of the spectrum or in an interval.

    A few Lanczos steps bound the spectrum, at a known confidence, and tell how many eigenvalues to expect.
    Without `degree`, what the ways would take in products is compared, and where forming the matrix is
    cheaper, or for an interval Lanczos from the nearer end, that is done and told in the notes.

    Attributes:
        block: vectors per product.
        degree: of p; by default the lowest at which p falls to 0.9 at the ends of what is sought; lowered
            where it would fall below 0.1.

    Sources: Fang and Saad, SIAM J. Sci. Comput. 34 (2012), for filtered Lanczos; Weisse et al., Rev. Mod.
    Phys. 78 (2006), for Jackson's damping.
    """

    name: ClassVar[str] = "chebyshev"
    finds: ClassVar[type] = RitzPairs
    inside: ClassVar[bool] = True

    block: int = 1
    degree: int | None = None

    def solve(self, A: LinearOperator, target: Target, control: Control) -> RitzPairs:
        """Pairs of a symmetric A in the order of `which`, with a probe for missed ones; see `Method.solve`.

        With `target.between` from the largest down, `tol` relative to max(|low|, |high|), and
        `completeness.bound` is a depth: no eigenvalue but those returned lies in [low + bound, high - bound].

        Raises:
            OptionError: the interval is empty or asked of a batch, or degree is below 2.
        """
        if self.degree is not None and self.degree < 2:
            raise OptionError(f"degree is that of the filter, at least 2; got {self.degree}")
        solve = _Solve(A, target, control, self.degree, min(self.block, A.shape[1]))
        between = target.between
        if between is None:
            return solve.at_end()
        if A.batch or not between[0] < between[1]:
            raise OptionError(
                f"between is (low, high), low < high, of one problem, not a batch; got {between}"
            )
        return solve.inside(*between)


def filter_for(A: LinearOperator, low: float, high: float) -> ChebyshevFilter:
    """The filter that `Chebyshev` would take for an interval, its spectrum bounded."""
    return Window(spectral_bounds(A), low, high, None).filter(A)


@dataclass(frozen=True)
class _Solve:
    """An operator, and what both kinds of question about it share; see `Chebyshev`."""

    A: LinearOperator
    target: Target
    control: Control
    degree: int | None
    block: int

    def at_end(self) -> RitzPairs:
        """The k extreme pairs, or all beyond a value: found by the filter, brought to an end on A itself."""
        target, known = self.target, self.bounds()
        k, above = target.k, target.above
        seen = known.of(target.which)
        span = seen.high - seen.low
        rows, AV, spent, interrupted = known.rows, known.AV, known.products, False
        if above is None:
            low, expected = seen.quantile(1.5 * k + 5), float(k)
        else:
            low = {"largest": above, "smallest": -above, "magnitude": above * abs(above)}[target.which]
            expected = seen.between(low, math.inf)
        if not (known.exact or known.flat) and seen.low + 1e-3 * span < low < seen.high:
            window = Window(seen, min(low, seen.high - 1e-3 * span), math.inf, self.degree)
            seeker = {"largest": self.A, "smallest": -1.0 * self.A, "magnitude": self.A.gram()}[target.which]
            cost = window.degree * (2 if target.magnitude else 1)
            if self.degree is None and self.formed(spent) <= cost * _applications(expected):
                found = Dense().solve(self.A, target, self.control)
                found.spent["solve"] += spent
                return replace(
                    found, notes=["by forming the matrix, expected to take fewer products than a filter"]
                )
            error = self.control.tol * seen.theta.abs().amax(-1).min().item()
            # A few pairs from beyond the edge show that all within it are in view.
            sought = Target(k) if above is None else Target(above=0.98 * window.edge)
            found = self.filtered(window, seeker, cost, error, spent, sought)
            spent += sum(found.spent.values())
            interrupted = INTERRUPTED in found.notes
            if found.vectors.shape[1]:
                rows, AV = found.vectors, product(self.A, found.vectors)[0]
                spent += rows.shape[1]
        most = spent if interrupted else self.control.budget
        rest = replace(self.control, seed=self.seeds[2], max_products=most)
        found = finish(self.A, rows, AV, target, rest, spent=spent, block=self.block)
        return replace(found, notes=[INTERRUPTED]) if interrupted else found

    def inside(self, low: float, high: float) -> RitzPairs:
        """All pairs in an interval, and those that rounding cannot tell from its ends, the cheapest way."""
        known = self.bounds()
        error = EDGE * known.basis.rounding
        if known.exact:
            theta = known.theta[0]
            Y = torch.linalg.eigh(known.basis.T)[1][..., (theta > low - error) & (theta < high + error)]
            found = self.as_they_are(Y.mT.to(known.rows) @ known.rows, 1.0)
        elif high + error <= known.low or known.high <= low - error:
            found = self.as_they_are(known.rows[:, :0], self.control.confidence)
        else:
            found = self.cheapest(known, low - error, high + error)
        found.spent["solve"] += known.products
        found = replace(found, norm=max(known.basis.norm, found.norm))
        error = 2 * EDGE * rounding(self.A.eps, found.norm)
        return _ritz_between(self.A.domain, found, low - error, high + error)

    def cheapest(self, known: SpectralBounds, low: float, high: float) -> RitzPairs:
        """Rows that span the pairs in an interval, by the way that promises the fewest products."""
        margin = 1e-6 * (known.high - known.low)
        filtered = not known.flat and (known.low + margin < low or high < known.high - margin)
        if not filtered or self.degree is None:
            ends: dict[Which, float] = {
                "largest": known.between(low, math.inf),
                "smallest": known.between(-math.inf, high),
            }
            end = min(ends, key=lambda which: ends[which])
            from_end = PRODUCTS_A_PAIR * ends[end] + 100
            window = Window(known, low, high, None) if filtered else None
            by_filter = window.degree * _applications(known.between(low, high)) if window else math.inf
            if self.formed(known.products) <= min(from_end, by_filter):
                return self.by_forming(low, high)
            if from_end <= by_filter:
                return self.from_end(known, low, high, end)
        return self.by_filter(known, low, high)

    # The ways to an interval, each with rows that span it, and the depth in `completeness`

    def by_filter(self, known: SpectralBounds, low: float, high: float) -> RitzPairs:
        """The largest pairs of p(A)."""
        window = Window(known, low, high, self.degree)
        error = self.control.tol * max(abs(low), abs(high))
        sought = Target(above=window.edge - 1e-3)
        found = self.filtered(window, self.A, window.degree, error, known.products, sought)
        confidence = min(self.control.confidence, found.completeness.confidence)
        rows = self.as_they_are(found.vectors, confidence)
        rows.completeness.bound[0] = window.depth(found.completeness.bound.item())
        rows.spent["solve"] = found.spent["solve"] + found.spent["residuals"]
        rows.spent["completeness"] = found.completeness.products * window.degree
        return replace(rows, notes=found.notes)

    def from_end(self, known: SpectralBounds, low: float, high: float, which: Which) -> RitzPairs:
        """All pairs from an end of the spectrum to the far end of the interval, by Lanczos."""
        size, largest = max(abs(low), abs(high)), max(abs(known.low), abs(known.high))
        control = replace(
            self.control,
            tol=min(1.0, self.control.tol * size / largest) if largest else self.control.tol,
            seed=self.seeds[1],
            max_products=self.control.budget - known.products,
        )
        beyond = Target(which=which, above=low if which == "largest" else high)
        found = Lanczos(self.block).solve(self.A, beyond, control)
        bound = found.completeness.bound
        depth = (bound - low if which == "largest" else high - bound).clamp(min=0)
        end = "top" if which == "largest" else "bottom"
        return replace(
            found,
            completeness=replace(found.completeness, bound=depth),
            notes=[*found.notes, f"by Lanczos from the {end}, expected to take fewer products than a filter"],
        )

    def by_forming(self, low: float, high: float) -> RitzPairs:
        """The matrix itself."""
        M = self.A.dense().double()
        theta, Y = torch.linalg.eigh((M + M.mT) / 2)
        rows = self.A.domain.own(Y[:, (theta > low) & (theta < high)].mT.to(self.A.dtype))[None]
        found = self.as_they_are(rows.contiguous(), 1.0)
        found.spent["solve"] = self.A.shape[0]
        return replace(found, notes=["by forming the matrix, expected to take fewer products than a filter"])

    # What they are made of

    @property
    def seeds(self) -> list[int]:
        """For the bounds, the search and what follows: a probe must not start where the solve began."""
        generator = stream(self.control.seed)
        return [fresh_seed(generator) for _ in range(3)]

    def formed(self, spent: int) -> float:
        """Products that form the matrix; infinite where it is too large to hold, or more than are left."""
        n = self.A.shape[0]
        return n if n <= min(DENSE_AT_MOST, self.control.budget - spent) else math.inf

    def bounds(self) -> SpectralBounds:
        """Bounds that take a tenth of the chance of error."""
        failure, most = (1 - self.control.confidence) / 10, min(2 * BOUND_STEPS, self.control.budget)
        return spectral_bounds(self.A, seed=self.seeds[0], failure=failure, most=most)

    def filtered(
        self, window: Window, seeker: LinearOperator, cost: int, error: float, spent: int, sought: Target
    ) -> RitzPairs:
        """The pairs of p(seeker) that are sought, to a residual of `error` in A; spent counts A's.

        Of w pairs found each takes one product more with p(A), to be verified, and one with A; k are sought,
        or there are no more than products that sought them.
        """
        tell = self.control.progress
        left = self.control.budget - spent
        share = (left - sought.k) // cost - sought.k if sought.counted else left // (2 * cost + 1)
        control = replace(
            self.control,
            tol=min(0.1, max(error / window.stretch, 20 * self.A.eps * math.sqrt(window.degree))),
            seed=self.seeds[1],
            max_products=max(0, share),
            confidence=1 - 0.9 * (1 - self.control.confidence),
            progress=tell and (lambda now: tell(replace(now, products=spent + cost * now.products))),
        )
        found = Lanczos(self.block).solve(window.filter(seeker), sought, control)
        for stage in found.spent:
            found.spent[stage] *= cost
        stopped = [note for note in found.notes if note.startswith("stopped")]
        notes = [f"stopped at max_products={self.control.budget}"] if stopped else found.notes
        return replace(found, notes=notes)

    def as_they_are(self, rows: Tensor, confidence: float) -> RitzPairs:
        """Rows with fresh products, nothing unseen inside the interval."""
        complete = Completeness(torch.zeros(len(rows), dtype=torch.float64), confidence, 0)
        spent = dict.fromkeys(STAGES, 0) | {"residuals": rows.shape[1]}
        return RitzPairs(rows, product(self.A, rows)[0], complete, spent, 0.0)


def _applications(pairs: float) -> float:
    """Products with a filter that as many pairs take, by experience: solve, probe and verification."""
    return 7 * pairs + 30


def _ritz_between(space: Space, found: RitzPairs, low: float, high: float) -> RitzPairs:
    """The Ritz pairs of A from low to high in the span of the rows, from the largest down."""
    V, W = space.orthonormalise(found.vectors, found.AV)
    H = space.inner(V, W)
    theta, Y = torch.linalg.eigh((H + H.mT) / 2)
    Y = Y[..., (theta[0] > low) & (theta[0] < high)].flip(-1).mT
    vectors, AV = ((Y @ part).to(found.vectors.dtype) for part in (V, W))
    return replace(found, vectors=vectors, AV=AV)
