"""A method asked without a front door: what it found, before certification."""

from typing import Any

from spectral.operators import LinearOperator
from spectral.solvers import Control, Method, Target

MOST = 100_000  # products, which no table reaches


def solve(
    method: Method[Any],
    A: LinearOperator,
    k: int = 1,
    *,
    which: Any = "largest",
    above: float | None = None,
    between: tuple[float, float] | None = None,
    **control: Any,
) -> Any:
    """The k extreme pairs of A, or all beyond or inside of thresholds, by one method."""
    return method.solve(A, Target(k, which, above, between), Control(**{"max_products": MOST, **control}))
