"""Transforms of squares as matrix products: apply one, or find the cheapest of many."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral.kernels.arrays import namespace, on_host

_BLOCK = 2**26  # coefficients formed at a time: 256 MB in float32


def apply(squares: Any, which: NDArray[np.int32], matrices: Any, inverse: bool) -> None:
    """`spectral.kernels.rotations.apply` by the matrices (G, w^2, w^2), on their device."""
    xp = namespace(squares)
    which = on_host(which)
    for g in np.unique(which):
        rows = xp.asarray(np.flatnonzero(which == g))
        matrix = matrices[int(g)]
        squares[rows] = squares[rows] @ (matrix if inverse else matrix.T)


def cheapest(squares: Any, matrices: Any, levels: Any, penalties: Any, hard: bool) -> tuple[Any, Any]:
    """`spectral.kernels.rotations.cheapest` by one product with all the matrices (G, w^2, w^2) a block."""
    xp = namespace(squares)
    count, area = matrices.shape[:2]
    stacked = matrices.reshape(count * area, area)
    costs = xp.empty((squares.shape[1], len(levels)), squares.dtype)
    which = xp.empty(costs.shape, xp.int32)
    step = max(1, _BLOCK // (count * area))
    for start in range(0, squares.shape[1], step):
        part = slice(start, start + step)
        bare = squares[:, part] ** 2
        energy = ((stacked @ squares[:, part]) ** 2).reshape(count, area, -1)
        for s, (level, penalty) in enumerate(zip(levels, penalties, strict=True)):
            best = _cost(xp, energy, float(level), hard) + float(penalty)
            flow, best, still = best.argmin(0), best.min(0), _cost(xp, bare, float(level), hard)
            costs[part, s] = xp.minimum(best, still)
            which[part, s] = xp.where(best < still, flow, -1)
    return costs, which


def _cost(xp: Any, energy: Any, level: float, hard: bool) -> Any:
    """The cost of squares (..., w^2, m): (..., m)."""
    each = xp.minimum(energy, level) if hard else energy * level / (energy + level)
    return each.sum(-2)
