"""Multiwavelets of a square against their definition: sorted pixels, vanishing moments, dense matrices."""

import numpy as np
import pytest

from spectral.bases.alpert import directions, warped_multiwavelets
from spectral.kernels.rotations import Rotations, apply, cheapest


def matrix(table: Rotations, g: int, area: int) -> np.ndarray:
    """Q of one transform, from its rotations multiplied out as dense matrices."""
    Q = np.eye(area)
    for k in range(table.sizes.shape[1]):
        m = table.sizes[g, k]
        slots = table.slots[g, k, :m]
        step = np.eye(area)
        step[np.ix_(slots, slots)] = table.blocks[g, k, :m, :m]
        Q = step @ Q
    return Q


def warped(width: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.divmod(np.arange(width**2), width)
    return x * np.cos(theta) + y * np.sin(theta), y * np.cos(theta) - x * np.sin(theta)


@pytest.mark.parametrize("width", [4, 8, 16])
@pytest.mark.parametrize("moments", [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_orthonormal_in_every_direction(width: int, moments: tuple[int, int]) -> None:
    table = warped_multiwavelets(width, moments)
    assert len(table.slots) == 2 * width
    for g in range(0, 2 * width, max(1, width // 4)):
        Q = matrix(table, g, width**2)
        np.testing.assert_allclose(Q @ Q.T, np.eye(width**2), atol=1e-12)


@pytest.mark.parametrize("g", [0, 3, 8, 15])
def test_warped_haar_is_the_haar_transform_of_sorted_pixels(g: int) -> None:
    width = 8
    square = np.random.default_rng(g).standard_normal(width**2)
    _, t = warped(width, directions(width)[g])
    a = square[np.argsort(t)]
    expected = []
    while len(a) > 1:
        expected.append((a[::2] - a[1::2]) / 2**0.5)
        a = (a[::2] + a[1::2]) / 2**0.5
    expected.append(a)
    found = square[None].copy()
    apply(found, np.array([g], np.int32), warped_multiwavelets(width), False)
    np.testing.assert_allclose(
        np.sort(np.abs(found[0])), np.sort(np.abs(np.concatenate(expected))), atol=1e-13
    )


@pytest.mark.parametrize("moments", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("g", [0, 5, 11])
def test_polynomials_take_as_many_coefficients_as_they_have_terms(moments: tuple[int, int], g: int) -> None:
    width = 16
    table = warped_multiwavelets(width, moments)
    u, t = warped(width, directions(width)[g])
    rng = np.random.default_rng(0)
    polynomial = sum(
        rng.standard_normal() * (u / 8) ** a * (t / 8) ** b
        for a in range(moments[0])
        for b in range(moments[1])
    )
    c = polynomial[None].copy()
    apply(c, np.array([g], np.int32), table, False)
    assert (np.abs(c) > 1e-10).sum() <= moments[0] * moments[1]
    beyond = ((u / 8) ** moments[0])[None].copy()
    apply(beyond, np.array([g], np.int32), table, False)
    assert (np.abs(beyond) > 1e-10).sum() > moments[0] * moments[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("moments", [(1, 1), (2, 2)])
def test_the_cheapest_transform_is_found(dtype: type, hard: bool, moments: tuple[int, int]) -> None:
    """Against costs from dense matrices, over more squares than go through together, with penalties."""
    width, rng = 4, np.random.default_rng(0)
    table = warped_multiwavelets(width, moments, np.dtype(dtype).name)
    squares = rng.standard_normal((37, width**2)) * np.exp(-0.3 * np.arange(width**2))
    levels, penalties = np.array([0.01, 0.3, 2.0]), np.array([0.0, 0.1, 0.05])
    coefficients = [squares] + [squares @ matrix(table, g, width**2).T for g in range(2 * width)]
    costs = np.empty((2 * width + 1, len(squares), len(levels)))
    for i, c in enumerate(coefficients):
        for s, t in enumerate(levels):
            e = c**2
            costs[i, :, s] = (np.minimum(e, t) if hard else e * t / (e + t)).sum(1) + penalties[s] * (i > 0)
    found, which = cheapest(
        np.ascontiguousarray(squares.T, dtype), table, levels.astype(dtype), penalties.astype(dtype), hard
    )
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(found, costs.min(0), rtol=tolerance)
    chosen = np.take_along_axis(costs, (which + 1)[None].astype(int), axis=0)[0]
    np.testing.assert_allclose(chosen, costs.min(0), rtol=tolerance)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="power of two"):
        warped_multiwavelets(6)
    with pytest.raises(ValueError, match="moments"):
        warped_multiwavelets(8, (0, 1))
