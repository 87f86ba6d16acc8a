"""C^alpha images against an image-by-image definition, published figures and measured regularity."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denoisers.images import calpha
from denoisers.images.calpha import synthesize


def draws(seed, i, contour_samples, size):
    """Uniform noise of contour and backgrounds on [-1, 1], and three scalars on [0, 1], of one image."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, i], dtype=np.uint64)))
    contour = 2 * rng.random(contour_samples) - 1
    grounds = 2 * rng.random((2, size, size)) - 1
    return contour, grounds, rng.random(3)


def filtered(noise, exponent):
    """|k|^-exponent on integer frequencies by the full complex transform."""
    k = [np.fft.fftfreq(n, 1 / n) for n in noise.shape]
    radius = np.sqrt(sum(g**2 for g in np.meshgrid(*k, indexing="ij")))
    radius[radius == 0] = 1
    return np.fft.ifftn(np.fft.fftn(noise) * radius**-exponent).real


def unit(x):
    return (x - x.min()) / (x.max() - x.min())


def released_rows(contour, alpha):
    n = len(contour)
    return np.clip(np.round(n * filtered(contour, alpha)) + n // 2, 0, n)


def naive_released(seed, i, size, alpha, beta):
    contour, grounds, (low, high, coin) = draws(seed, i, size, size)
    rows = released_rows(contour, alpha)
    hard = np.array([[float(r < rows[c]) for c in range(size)] for r in range(size)])
    mask = np.zeros((size, size))
    for r in range(size):
        for c in range(size):
            mask[r, c] = (hard[r, c] + hard[r - 1, c] + hard[r, c - 1] + hard[r - 1, c - 1]) / 4
    bright = low + (1 - low) * unit(filtered(grounds[0], beta))
    dark = high * unit(filtered(grounds[1], beta))
    above, below = (bright, dark) if coin < 0.5 else (dark, bright)
    return mask * above + (1 - mask) * below


def naive_exact(seed, i, size, alpha, beta):
    contour, grounds, (_, _, coin) = draws(seed, i, 8 * size, size)
    offset = draws(seed, i, 8 * size, size)[2][0]
    curve = filtered(contour, alpha + 0.5)
    curve = 0.1 * (curve - curve.mean()) / curve.std()
    curve *= min(1, 0.42 / np.abs(curve).max())
    height = size * (0.5 + (0.1 * offset - 0.05) + curve)
    mask = np.zeros((size, size))
    for r in range(size):
        for c in range(size):
            parts = [min(max(h - r, 0), 1) for h in height[8 * c : 8 * c + 8]]
            mask[r, c] = sum(parts) / 8
    bright = 0.6 + 0.4 * unit(filtered(grounds[0], beta + 1))
    dark = 0.4 * unit(filtered(grounds[1], beta + 1))
    above, below = (bright, dark) if coin < 0.5 else (dark, bright)
    return mask * above + (1 - mask) * below


NAIVE = {"released": naive_released, "exact": naive_exact}
KINDS = st.sampled_from(["released", "exact"])


@settings(max_examples=20, deadline=None)
@given(KINDS, st.integers(2, 21), st.floats(0, 5), st.none() | st.floats(0, 5), st.integers(0, 2**64 - 1))
def test_images_are_the_naive_definition(kind, size, alpha, beta, seed):
    images = synthesize(2, size=size, alpha=alpha, beta=beta, kind=kind, seed=seed)
    expected = [NAIVE[kind](seed, i, size, alpha, alpha if beta is None else beta) for i in range(2)]
    np.testing.assert_allclose(images[:, 0], expected, atol=2e-6)


@settings(max_examples=10, deadline=None)
@given(KINDS, st.integers(0, 9), st.integers(0, 2**63))
def test_an_image_does_not_depend_on_how_many_are_asked(kind, n, seed):
    few = synthesize(n, size=12, alpha=2, kind=kind, seed=seed)
    many = synthesize(9, size=12, alpha=2, kind=kind, seed=seed)
    assert few.shape == (n, 1, 12, 12)
    np.testing.assert_array_equal(few, many[:n])


def test_blocks_join_without_a_seam():
    images = synthesize(calpha.BLOCK + 2, size=8, alpha=1, seed=3)
    np.testing.assert_allclose(images[calpha.BLOCK, 0], naive_released(3, calpha.BLOCK, 8, 1, 1), atol=2e-6)


@pytest.mark.parametrize("kind", ["released", "exact"])
@pytest.mark.parametrize("alpha", [1, 5])
def test_images_are_in_range_and_differ_by_seed(kind, alpha):
    images = synthesize(32, size=40, alpha=alpha, kind=kind, seed=1)
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert len(np.unique(images.reshape(32, -1), axis=0)) == 32
    assert not np.array_equal(images, synthesize(32, size=40, alpha=alpha, kind=kind, seed=2))


def test_exact_images_keep_both_regions_apart():
    images = synthesize(64, size=40, alpha=3, kind="exact")[:, 0]
    top, bottom = images[:, 0], images[:, -1]
    assert np.all((np.minimum(top, bottom) <= 0.4 + 1e-6) & (np.maximum(top, bottom) >= 0.6 - 1e-6))


@pytest.mark.parametrize(("alpha", "rows"), [(1, 10.6), (5, 9.0)])
def test_released_contours_spread_as_published(alpha, rows):
    contours = [released_rows(draws(11, i, 80, 80)[0], alpha) for i in range(1500)]
    assert np.std(contours) == pytest.approx(rows, abs=0.3)


def test_contours_that_leave_the_image_are_clipped_and_not_wrapped():
    contours = np.array([40 * filtered(draws(5, i, 40, 40)[0], 1) + 20 for i in range(400)])
    images = synthesize(400, size=40, alpha=1, beta=50, seed=5)[:, 0]
    leaving = np.flatnonzero((np.round(contours) < 0).any(1) | (np.round(contours) > 40).any(1))
    assert len(leaving) > 5
    for i in leaving:
        np.testing.assert_allclose(images[i], naive_released(5, i, 40, 1, 50), atol=2e-6)


def regularity(differences):
    """H in E |second difference at lag h|^2 = C h^(2 H), from {lag: differences}."""
    lags = np.array(sorted(differences))
    energy = [np.mean(differences[lag] ** 2) for lag in lags]
    return np.polyfit(np.log(lags), np.log(energy), 1)[0] / 2


def second_differences(x, axis):
    return {h: np.roll(x, h, axis) - 2 * x + np.roll(x, -h, axis) for h in (4, 8, 16, 32)}


@pytest.mark.parametrize("exponent", [1.5, 2.0])
def test_hoelder_exponents_follow_the_spectral_ones(exponent):
    rng = np.random.default_rng(0)
    line = calpha._filter_1d(rng.uniform(-1, 1, (100, 4096)), exponent)
    assert regularity(second_differences(line, 1)) == pytest.approx(exponent - 0.5, abs=0.05)
    plane = calpha._filter_2d(rng.uniform(-1, 1, (8, 1024, 1024)), exponent + 0.5)
    assert regularity(second_differences(plane, 1)) == pytest.approx(exponent - 0.5, abs=0.05)


@pytest.mark.parametrize(
    "bad",
    [
        {"n": -1},
        {"size": 1},
        {"alpha": -1},
        {"alpha": float("nan")},
        {"beta": -0.5},
        {"kind": "released "},
        {"seed": -1},
        {"seed": 2**64},
    ],
)
def test_bad_arguments_are_named(bad):
    arguments = {"n": 1, "size": 8, "alpha": 1.0, **bad}
    with pytest.raises(ValueError, match=next(iter(bad))):
        synthesize(arguments.pop("n"), **arguments)
