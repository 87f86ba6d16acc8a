"""Transforms of squares that are sequences of small rotations: apply one, or find the cheapest of many."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from spectral.kernels.compiled import njit
from spectral.kernels.device import squares as squares_on_device

Floats = NDArray[np.floating[Any]]

_LANES = 16  # squares that go through one rotation together, one per vector lane


class Rotations(NamedTuple):
    """G orthonormal transforms of squares of w x w pixels, each a sequence of K rotations of few entries.

    Rotation k of transform g replaces the entries a[slots[g, k, :m]] of a square, read row by row, by
    blocks[g, k, :m, :m] @ a[slots[g, k, :m]], with m = sizes[g, k]. slots is int32 (G, K, M), blocks floating
    (G, K, M, M), sizes int32 (G, K).
    """

    slots: NDArray[np.int32]
    blocks: Floats
    sizes: NDArray[np.int32]


def dense(table: Rotations, area: int) -> Floats:
    """The matrices (G, w^2, w^2) of the transforms of squares of w^2 = `area` pixels."""
    count = len(table.slots)
    columns = np.tile(np.eye(area, dtype=table.blocks.dtype), (count, 1))
    apply(columns, np.repeat(np.arange(count, dtype=np.int32), area), table, False)
    return np.ascontiguousarray(columns.reshape(count, area, area).swapaxes(1, 2))


def apply(squares: Any, which: NDArray[np.int32], transforms: Rotations | Any, inverse: bool) -> None:
    """Transform which[i] of each row of squares (m, w^2), in place, or its inverse, the transpose.

    transforms: `Rotations`, for squares in NumPy, or matrices (G, w^2, w^2) on the squares' device.
    """
    if isinstance(transforms, Rotations):
        _apply(squares, which, transforms, inverse)
    else:
        squares_on_device.apply(squares, which, transforms, inverse)


@njit(nogil=True)
def _apply(squares, which, table, inverse):  # type: ignore[no-untyped-def]
    slots, blocks, sizes = table
    before = np.empty(slots.shape[2], squares.dtype)
    for i in range(len(squares)):
        g = which[i]
        count = slots.shape[1]
        for step in range(count):
            k = count - 1 - step if inverse else step
            size = sizes[g, k]
            for r in range(size):
                before[r] = squares[i, slots[g, k, r]]
            for r in range(size):
                total = before[0] * (blocks[g, k, 0, r] if inverse else blocks[g, k, r, 0])
                for c in range(1, size):
                    total += before[c] * (blocks[g, k, c, r] if inverse else blocks[g, k, r, c])
                squares[i, slots[g, k, r]] = total


def cheapest(
    squares: Any, transforms: Rotations | Any, levels: Floats, penalties: Floats, hard: bool
) -> tuple[Any, Any]:
    """The cheapest transform of each square at each level: costs (m, S) and transforms (m, S), -1 for none.

    Squares are the COLUMNS of (w^2, m). With e the squared entries of the transformed square, the cost at
    level t is the sum of e t / (e + t) (the oracle shrinkage risk at sigma^2 = t), or of min(e, t) where
    `hard`, plus the penalty (S,) of that level unless the square is left as it is. All floats share one
    dtype. As many threads as torch.get_num_threads() share the squares; where transforms are matrices
    (G, w^2, w^2), the squares' own device does the work, in products with all of them.
    """
    if not isinstance(transforms, Rotations):
        return squares_on_device.cheapest(squares, transforms, levels, penalties, hard)
    m = squares.shape[1]
    costs = np.empty((m, len(levels)), squares.dtype)
    which = np.empty((m, len(levels)), np.int32)
    share = -(-m // (torch.get_num_threads() * _LANES)) * _LANES

    def search(start: int) -> None:
        _cheapest(squares, transforms, levels, penalties, hard, start, min(start + share, m), costs, which)

    starts = range(0, m, share) if m else range(0)
    if len(starts) == 1:
        search(0)
    else:
        with ThreadPoolExecutor(len(starts) or 1) as pool:
            list(pool.map(search, starts))
    return costs, which


@njit(nogil=True, fastmath={"contract"})
def _cheapest(squares, table, levels, penalties, hard, first, stop, costs, which):  # type: ignore[no-untyped-def]
    """Rows first ... stop - 1 of costs and which."""
    slots, blocks, sizes = table
    area = len(squares)
    a = np.zeros((area, _LANES), squares.dtype)
    before = np.empty((slots.shape[2], _LANES), squares.dtype)
    cost = np.empty(_LANES, squares.dtype)
    for start in range(first, stop, _LANES):
        lanes = min(_LANES, stop - start)
        for g in range(-1, len(slots)):
            for p in range(area):
                for lane in range(lanes):
                    a[p, lane] = squares[p, start + lane]
            if g >= 0:
                _rotate_lanes(a, before, slots[g], blocks[g], sizes[g])
            for p in range(area):
                for lane in range(_LANES):
                    a[p, lane] *= a[p, lane]
            for s in range(len(levels)):
                _cost_lanes(a, levels[s], hard, cost)
                for lane in range(lanes):
                    total = cost[lane] if g < 0 else cost[lane] + penalties[s]
                    if g < 0 or total < costs[start + lane, s]:
                        costs[start + lane, s] = total
                        which[start + lane, s] = g


@njit(nogil=True, fastmath={"contract"})
def _rotate_lanes(a, before, slots, blocks, sizes):  # type: ignore[no-untyped-def]
    """All rotations of one transform, on _LANES squares side by side."""
    for k in range(len(slots)):
        size = sizes[k]
        for r in range(size):
            for lane in range(_LANES):
                before[r, lane] = a[slots[k, r], lane]
        for r in range(size):
            row = a[slots[k, r]]
            weight = blocks[k, r, 0]
            for lane in range(_LANES):
                row[lane] = weight * before[0, lane]
            for c in range(1, size):
                weight = blocks[k, r, c]
                for lane in range(_LANES):
                    row[lane] += weight * before[c, lane]


@njit(nogil=True, fastmath={"contract"})
def _cost_lanes(energy, level, hard, cost):  # type: ignore[no-untyped-def]
    cost[:] = 0
    for p in range(len(energy)):
        for lane in range(_LANES):
            e = energy[p, lane]
            if hard:
                cost[lane] += e if e < level else level
            else:
                cost[lane] += e * level / (e + level)
