"""Randomised block Krylov: the best pairs that a fixed number of products gives, and what they are worth.

From b random vectors X the span of X, A X, A^2 X, ... is built and the best Ritz pairs in it are taken.
Where b >= k, O(log n / sqrt(eps)) steps capture all but a factor 1 + eps of what the best k vectors would,
whatever the gaps (Musco and Musco 2015): values come out well even where vectors cannot be told apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from spectral.errors import OptionError
from spectral.operators.base import LinearOperator
from spectral.solvers.control import Control
from spectral.solvers.found import RitzPairs, RitzTriplets
from spectral.solvers.golub_kahan import GolubKahan
from spectral.solvers.krylov import KrylovBasis, stream
from spectral.solvers.lanczos import finish, first_block, signed, with_budget
from spectral.solvers.method import Method
from spectral.solvers.search import INTERRUPTED
from spectral.solvers.target import Target

PROBE_SHARE = 5


@dataclass(frozen=True, eq=False)
class Randomized(Method[RitzPairs]):
    """Randomised block Krylov: the extreme eigenpairs as well as a number of products can tell.

    Of the products one a pair measures its residual and a fifth looks for missed pairs; where the pairs reach
    tol early, more does.  The basis is never restarted: it takes `products` rows of n numbers at most.  Pairs
    need not have reached tol: the notes say what they reached, and the completeness bound is infinite where
    nothing was left for a probe.

    Attributes:
        block: b; by default k, at most a quarter of the products.
        products: the most that are formed, at least 2 k + 2, fewer where all is done; by default the
            control's `max_products`, which must be given then.

    Source: Musco and Musco, Randomized block Krylov methods, NeurIPS 2015.
    """

    name: ClassVar[str] = "randomized"
    finds: ClassVar[type] = RitzPairs

    block: int | None = None
    products: int | None = None

    def solve(self, A: LinearOperator, target: Target, control: Control) -> RitzPairs:
        """The extreme eigenpairs of a symmetric A; see `Method.solve`.

        Raises:
            OptionError: too few products, or none given.
        """
        products = _products(self.products, control)
        width = min(_block(products, target, self.block), A.shape[1])
        generator = stream(control.seed)
        first = first_block(A, width, control.start, generator)
        basis = KrylovBasis(signed(A, target), first, generator, magnitude=target.magnitude)
        stop = []
        try:
            _grow(basis, target, products, control)
        except KeyboardInterrupt:
            if not basis.size:
                raise
            stop = [INTERRUPTED]
        wanted, reached = _reached(basis, target)
        spent = basis.size
        if not basis.exhausted:
            # With `above`, one pair below it shows that no other is in view.
            basis.restart(min(basis.size, wanted if target.counted else wanted + 1))
        rows = basis.V[:, : basis.size].contiguous()
        images = basis.T.to(rows) @ rows + basis.C.mT.to(rows) @ basis.X
        # The search that follows takes the pairs as good as they are, and goes on only for those missed.
        rest = with_budget(control, generator, spent if stop else products - wanted)
        rest = replace(rest, tol=max(control.tol, 1.5 * reached))
        found = finish(A, rows, target.sign * images, target, rest, spent=spent)
        short = f"the budget's share for solving ended at {reached:.1e} max |lambda|"
        return replace(found, notes=stop or [*([short] if reached > control.tol else []), *found.notes])


@dataclass(frozen=True, eq=False)
class RandomizedSVD(Method[RitzTriplets]):
    """The same for singular triplets; a product is one with A and one with A'.

    What the triplets leave of the budget looks for missed ones.

    Attributes:
        block, products: as in `Randomized`.

    Source: Musco and Musco, Randomized block Krylov methods, NeurIPS 2015.
    """

    name: ClassVar[str] = "randomized"
    finds: ClassVar[type] = RitzTriplets

    block: int | None = None
    products: int | None = None

    def solve(self, A: LinearOperator, target: Target, control: Control) -> RitzTriplets:
        """The largest singular triplets of A (r, n); see `Method.solve`.

        Raises:
            OptionError: too few products, or none given.
        """
        products = _products(self.products, control)
        width = min(_block(products, target, self.block), *A.shape)
        most = products - (target.k if target.counted else 1)
        return GolubKahan(width, products).solve(A, target, replace(control, max_products=most))


def _products(own: int | None, control: Control) -> int:
    products = own or control.max_products
    if products is None:
        raise OptionError('method="randomized" spends a fixed number of products: pass max_products')
    return products


def _block(products: int, target: Target, asked: int | None) -> int:
    """b such that k rows and as many measured residuals fit into the products."""
    fewest = 2 * target.k + 2 if target.counted else 4
    if products < fewest:
        raise OptionError(f"products must be at least {fewest}, for so many pairs; got {products}")
    width = asked or (target.k if target.counted else 8)
    return min(width, products // 4, products + 2 - fewest)


def _grow(basis: KrylovBasis, target: Target, products: int, control: Control) -> None:
    """Expand until all is found or this stage's share is spent."""
    while True:
        basis.expand()
        theta, residual = basis.ritz()
        wanted = target.wanted(theta, basis.rounding)
        tolerance = target.tolerance(theta, control.tol, basis.rounding)
        short = residual[:, :wanted]
        control.report(target, "solve", basis.size, short, tolerance)
        done = target.all_in_view(theta, residual, wanted, basis.rounding) and bool(
            (short <= tolerance).all()
        )
        left = products - basis.size - wanted
        least = target.k if target.counted else 1
        spent = basis.size >= least and left < basis.block + products // PROBE_SHARE
        if basis.exhausted or done or spent:
            return


def _reached(basis: KrylovBasis, target: Target) -> tuple[int, float]:
    """How many pairs are sought among those in the basis, and their worst residual over max |lambda|."""
    theta, residual = basis.ritz()
    wanted = target.wanted(theta, basis.rounding)
    scale = theta.abs()[:, : max(wanted, 1)].amax(-1, keepdim=True).clamp(min=1e-300)
    return wanted, (residual[:, :wanted] / scale).max().item() if wanted else 0.0
