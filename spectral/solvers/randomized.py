"""Randomised block Krylov: the best pairs that a fixed number of products gives, and what they are worth.

From b random vectors X the span of X, A X, A^2 X, ... is built and the best Ritz pairs in it are taken.
Where b >= k, O(log n / sqrt(eps)) steps capture all but a factor 1 + eps of what the best k vectors would,
whatever the gaps (Musco and Musco 2015): values come out well even where vectors cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from spectral.errors import OptionError
from spectral.operators.base import LinearOperator
from spectral.solvers.golub_kahan import RitzTriplets, golub_kahan
from spectral.solvers.krylov import KrylovBasis, stream
from spectral.solvers.lanczos import RitzPairs, finish, first_block, fresh_seed, signed
from spectral.solvers.search import INTERRUPTED, Progress, Target, Which

PROBE_SHARE = 5


def randomized(
    A: LinearOperator,
    k: int = 1,
    *,
    products: int,
    which: Which = "largest",
    above: float | None = None,
    tol: float = 1e-4,
    block: int | None = None,
    start: Tensor | None = None,
    seed: int = 0,
    confidence: float = 0.99,
    progress: Callable[[Progress], None] | None = None,
) -> RitzPairs:
    """The k extreme eigenpairs of a symmetric operator, as well as a number of products can tell.

    Of the products one a pair measures its residual and a fifth looks for missed pairs; where the pairs reach
    tol early, more does.  The basis is never restarted: it takes `products` rows of n numbers at most.

    Args:
        A: symmetric, in float32 or float64.
        products: the most that are formed, at least 2 k + 2; fewer where all is done.
        tol: stop early where |A v - lambda v| <= tol max |lambda|; tiny values spend the whole budget.
        block: b; by default k, at most a quarter of the products.
        k, which, above, start, seed, confidence, progress: as in `lanczos`.

    Returns:
        Pairs that need not have reached tol: the notes say what they reached, and `completeness.bound` is
        infinite where nothing was left for a probe.

    Raises:
        OptionError: too few products.
        NotFiniteError: a product holds NaN or infinity.
        NotSymmetricError: A is not symmetric.

    Source: Musco and Musco, Randomized block Krylov methods, NeurIPS 2015.
    """
    width = min(_block(products, k if above is None else None, block), A.shape[1])
    target = Target(k, which, above, tol)
    generator = stream(seed)
    first = first_block(A, width, start, generator)
    basis = KrylovBasis(signed(A, target), first, generator, magnitude=target.magnitude)
    stop = []
    try:
        _grow(basis, target, products, progress)
    except KeyboardInterrupt:
        if not basis.size:
            raise
        stop = [INTERRUPTED]
    wanted, reached = _reached(basis, target)
    spent = basis.size
    if not basis.exhausted:
        # With `above`, one pair below it shows that no other is in view.
        basis.restart(min(basis.size, wanted if above is None else wanted + 1))
    rows = basis.V[:, : basis.size].contiguous()
    images = basis.T.to(rows) @ rows + basis.C.mT.to(rows) @ basis.X
    # The search that follows takes the pairs as good as they are, and goes on only for those missed.
    accepted = max(tol, 1.5 * reached)
    found = finish(
        A,
        rows,
        target.sign * images,
        k,
        spent=spent,
        which=which,
        above=above,
        tol=accepted,
        seed=fresh_seed(generator),
        max_products=spent if stop else products - wanted,
        confidence=confidence,
        progress=progress,
    )
    notes = [f"the budget's share for solving ended at {reached:.1e} max |lambda|"] if reached > tol else []
    return replace(found, notes=stop or [*notes, *found.notes])


def randomized_svd(
    A: LinearOperator,
    k: int = 1,
    *,
    products: int,
    above: float | None = None,
    tol: float = 1e-4,
    block: int | None = None,
    start: Tensor | None = None,
    seed: int = 0,
    confidence: float = 0.99,
    progress: Callable[[Progress], None] | None = None,
) -> RitzTriplets:
    """The k largest singular triplets of A (r, n), as well as a number of products can tell.

    A product is one with A and one with A'.  What the triplets leave of the budget looks for missed ones.
    The arguments are those of `randomized` and `golub_kahan`.

    Raises:
        OptionError: too few products.
        NotFiniteError: a product holds NaN or infinity.

    Source: Musco and Musco, Randomized block Krylov methods, NeurIPS 2015.
    """
    width = min(_block(products, k if above is None else None, block), *A.shape)
    return golub_kahan(
        A,
        k,
        above=above,
        tol=tol,
        block=width,
        basis=products,
        start=start,
        seed=seed,
        max_products=products - (k if above is None else 1),
        confidence=confidence,
        progress=progress,
    )


def _block(products: int, k: int | None, asked: int | None) -> int:
    """b such that k rows and as many measured residuals fit into the products."""
    fewest = 4 if k is None else 2 * k + 2
    if products < fewest:
        raise OptionError(f"products must be at least {fewest}, for so many pairs; got {products}")
    return min(asked or k or 8, products // 4, products + 2 - fewest)


def _grow(
    basis: KrylovBasis, target: Target, products: int, progress: Callable[[Progress], None] | None
) -> None:
    """Expand until all is found or this stage's share is spent."""
    while True:
        basis.expand()
        theta, residual = basis.ritz()
        wanted = target.wanted(theta, basis.rounding)
        threshold = target.threshold(theta, basis.rounding)
        short = residual[:, :wanted]
        if progress is not None:
            progress(target.standing("solve", basis.size, short, threshold))
        done = target.all_in_view(theta, residual, wanted, basis.rounding) and bool(
            (short <= threshold).all()
        )
        left = products - basis.size - wanted
        least = 1 if target.above is not None else target.k
        spent = basis.size >= least and left < basis.block + products // PROBE_SHARE
        if basis.exhausted or done or spent:
            return


def _reached(basis: KrylovBasis, target: Target) -> tuple[int, float]:
    """How many pairs are sought among those in the basis, and their worst residual over max |lambda|."""
    theta, residual = basis.ritz()
    wanted = target.wanted(theta, basis.rounding)
    scale = theta.abs()[:, : max(wanted, 1)].amax(-1, keepdim=True).clamp(min=1e-300)
    return wanted, (residual[:, :wanted] / scale).max().item() if wanted else 0.0
