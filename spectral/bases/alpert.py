"""Warped Haar and Alpert multiwavelets of a square: transforms along straight lines of one direction."""

from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectral.bases.base import Array
from spectral.errors import OptionError
from spectral.kernels.arrays import namespace
from spectral.kernels.cache import cached
from spectral.kernels.rotations import Rotations, dense

Indices = NDArray[np.intp]

_RANK_TOLERANCE = 1e-6
_SLOW_WIDTH = 16  # from here on the build takes longer than reading its result from disk


def directions(width: int) -> Array:
    """The 2w directions theta_i = (i + 1/2) pi / (2w), i < 2w, of a square of width w, in radians."""
    return (np.arange(2 * width) + 0.5) * np.pi / (2 * width)


@lru_cache(maxsize=8)
def warped_multiwavelets(width: int, moments: tuple[int, int] = (1, 1), dtype: str = "float64") -> Rotations:
    """Orthonormal multiwavelets of a w x w square along each of its `directions`.

    In the warped coordinates u = x cos(theta) + y sin(theta), along the direction, and t = -x sin(theta) +
    y cos(theta), across it (x the column, y the row), the pixels are sorted by t, ties by u, and halved
    recursively down to leaves of at most p1 p2 of them. At each node of that tree the polynomials u^a t^b,
    a < p1, b < p2, lie in the sum of the children's polynomials: in the children's orthonormal coordinates, a
    full QR factorisation parts them from their complement, which is the node's wavelets. Moments (1, 1) give
    the warped Haar transform. (Alpert 1993; Le Pennec and Mallat 2005.)

    The last 8 asked for stay in memory (18 MB for w = 32 and moments (2, 2)); those of w >= 16 also on disk
    (spectral/kernels/cache.py).

    Raises OptionError for a width that is not a power of two or moments below 1.
    """
    if width < 2 or width & (width - 1):
        raise OptionError(f"the width of a square must be a power of two, at least 2, got {width}")
    if min(moments) < 1:
        raise OptionError(f"moments must be at least (1, 1), got {moments}")

    def make() -> dict[str, NDArray[Any]]:
        return _table(width, moments)._asdict()

    slow = width >= _SLOW_WIDTH
    made = cached("multiwavelets", make, width=width, moments=moments) if slow else make()
    return Rotations(made["slots"], made["blocks"].astype(dtype), made["sizes"])


def _table(width: int, moments: tuple[int, int]) -> Rotations:
    """The transforms of all directions in float64, shorter rotations filled with zeros."""
    trees = [_tree(width, theta, moments) for theta in directions(width)]
    largest = max(len(slots) for tree in trees for slots, _ in tree)
    table = Rotations(
        np.zeros((len(trees), len(trees[0]), largest), np.int32),
        np.zeros((len(trees), len(trees[0]), largest, largest)),
        np.zeros((len(trees), len(trees[0])), np.int32),
    )
    for g, tree in enumerate(trees):
        for k, (slots, block) in enumerate(tree):
            m = len(slots)
            table.sizes[g, k], table.slots[g, k, :m], table.blocks[g, k, :m, :m] = m, slots, block
    return table


def transforms(width: int, moments: tuple[int, int], like: Any) -> Rotations | Any:
    """The `warped_multiwavelets` for squares of the dtype of `like`, where it lies.

    Rotations for NumPy arrays; matrices (2w, w^2, w^2) on a GPU: 278 kB, 8.7 MB and 273 MB in float32 for w =
    8, 16 and 32.
    """
    xp, dtype = namespace(like), like.dtype.name
    return warped_multiwavelets(width, moments, dtype) if xp is np else _matrices(xp, width, moments, dtype)


@lru_cache(maxsize=4)
def _matrices(xp: ModuleType, width: int, moments: tuple[int, int], dtype: str) -> Any:
    return xp.asarray(dense(warped_multiwavelets(width, moments, dtype), width**2))


def _tree(width: int, theta: float, moments: tuple[int, int]) -> list[tuple[Indices, Array]]:
    """The rotations (slots (m,), block (m, m)) of one direction, leaves first."""
    y, x = np.divmod(np.arange(width**2), width)
    t = y * np.cos(theta) - x * np.sin(theta)
    u = x * np.cos(theta) + y * np.sin(theta)
    rotations: list[tuple[Indices, Array]] = []

    def node(points: Indices) -> tuple[Indices, Array]:
        """Slots (k,) and orthonormal polynomials (points, k) of the node; appends its rotation."""
        if len(points) <= moments[0] * moments[1]:
            slots, children = points, np.eye(len(points))
        else:
            half = len(points) // 2
            (left, p), (right, q) = node(points[:half]), node(points[half:])
            slots = np.concatenate([left, right])
            children = np.zeros((len(points), len(slots)))
            children[:half, : len(left)], children[half:, len(left) :] = p, q
        rank, block = _complete(children.T @ _polynomials(u[points], t[points], moments))
        if len(slots) > 1:
            rotations.append((slots, block))
        return slots[:rank], children @ block[:rank].T

    node(np.lexsort((u, np.round(t, 12))))
    return rotations


def _polynomials(u: Array, t: Array, moments: tuple[int, int]) -> Array:
    """u^a t^b at the points, centred and scaled to [-1, 1], in order of degree: (points, p1 p2)."""
    if moments == (1, 1):
        return np.ones((len(u), 1))
    u, t = _centred(u), _centred(t)
    powers = sorted(((a, b) for a in range(moments[0]) for b in range(moments[1])), key=sum)
    return np.stack([u**a * t**b for a, b in powers], axis=1)


def _centred(v: Array) -> Array:
    v = v - (v.min() + v.max()) / 2
    reach = v.max()
    return v / reach if reach > _RANK_TOLERANCE else np.zeros_like(v)


def _complete(columns: Array) -> tuple[int, Array]:
    """(k, block (m, m)): the first k rows span the columns (m, p), the others their complement.

    Columns within the tolerance of the span of earlier ones are dropped.
    """
    if columns.shape == (2, 1):  # a plane rotation, the whole of the Haar case, at a fraction of a QR's cost
        a, b = columns[:, 0] / np.hypot(*columns[:, 0])
        return 1, np.array([[a, b], [b, -a]])
    least = _RANK_TOLERANCE * np.linalg.norm(columns[:, 0])
    q, r = np.linalg.qr(columns, mode="complete")
    if r.shape[0] < r.shape[1] or np.abs(np.diagonal(r)).min() <= least:
        kept: list[int] = []
        for j in range(columns.shape[1]):
            tail = np.linalg.qr(columns[:, [*kept, j]]).R[-1]
            if len(kept) < len(columns) and abs(tail[-1]) > least:
                kept.append(j)
        columns = columns[:, kept]
        q = np.linalg.qr(columns, mode="complete").Q
    return columns.shape[1], q.T
