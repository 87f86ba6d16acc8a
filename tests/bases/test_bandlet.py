"""The search against brute force over every quadtree, and what it promises of risks."""

import numpy as np
import pytest

from spectral.bases import BandletFrame, Pixels, Wavelet, pixel_bandlets, wavelet_bandlets
from spectral.bases.alpert import warped_multiwavelets
from spectral.kernels.calpha import synthesize
from spectral.kernels.rotations import apply
from spectral.kernels.shrinkage import risks


def cost(c: np.ndarray, t: float, hard: bool) -> float:
    e = c**2
    return float((np.minimum(e, t) if hard else e * t / (e + t)).sum())


def leaf(square: np.ndarray, t: float, hard: bool, penalty: float, moments: tuple[int, int]) -> float:
    """The cheapest transform of one square, each applied by itself."""
    width = len(square)
    found = [cost(square, t, hard)]
    for g in range(2 * width):
        c = square.reshape(1, -1).copy()
        apply(c, np.array([g], np.int32), warped_multiwavelets(width, moments), False)
        found.append(cost(c, t, hard) + penalty * t)
    return min(found)


def tree(
    square: np.ndarray, t: float, hard: bool, penalties: tuple[float, float], moments: tuple[int, int]
) -> float:
    """The cheapest quadtree, top-down: this square, or the best of its quarters and the split."""
    whole = leaf(square, t, hard, penalties[0], moments)
    half = len(square) // 2
    if half < 4:
        return whole
    quarters = [square[i : i + half, j : j + half] for i in (0, half) for j in (0, half)]
    return min(whole, sum(tree(q, t, hard, penalties, moments) for q in quarters) + penalties[1] * t)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("penalties", [(0.0, 0.0), (1.0, 1 / 7)])
@pytest.mark.parametrize("moments", [(1, 1), (2, 2)])
def test_the_forest_is_the_cheapest(
    hard: bool, penalties: tuple[float, float], moments: tuple[int, int]
) -> None:
    image = synthesize(1, size=32, alpha=2, kind="exact", seed=4)[0].astype(float)[:16]
    frame = BandletFrame(Pixels((16, 32)), moments, 16)
    thresholds = np.array([0.05, 0.5])
    forests = frame.search(
        image[None],
        thresholds,
        cost="hard" if hard else "oracle",
        geometry_penalty=penalties[0],
        split_penalty=penalties[1],
    )
    for s, threshold in enumerate(thresholds):
        expected = sum(tree(image[:, j : j + 16], threshold**2, hard, penalties, moments) for j in (0, 16))
        assert forests.costs[0, s] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("frame", [wavelet_bandlets((80, 80), "db4", 4), pixel_bandlets((80, 80))])
def test_costs_are_the_risks_in_the_basis_chosen(frame: BandletFrame) -> None:
    images = synthesize(2, size=80, alpha=3).astype(float)
    sigmas = np.array([0.5, 0.1, 0.02])
    forests = frame.search(frame.base.analysis(images), sigmas)
    widths = set()
    for i, image in enumerate(images):
        for s, sigma in enumerate(sigmas):
            c = forests.basis(i, s).analysis(image)
            assert risks(c[None], [sigma])[0, 0] == pytest.approx(forests.costs[i, s], rel=1e-10)
        widths |= set(np.unique(np.concatenate([d.ravel() for d in forests.depths])))
    assert len(widths) > 1
    assert (forests.costs <= risks(frame.base.analysis(images), sigmas) * (1 + 1e-12)).all()


def test_float32_chooses_nearly_as_well() -> None:
    frame = wavelet_bandlets((64, 64), "db4", 3)
    c = frame.base.analysis(synthesize(3, size=64, alpha=2).astype(float))
    sigmas = np.array([0.3, 0.03])
    exact, single = frame.search(c, sigmas), frame.search(c.astype(np.float32), sigmas)
    np.testing.assert_allclose(single.costs, exact.costs, rtol=1e-4)


def test_images_and_thresholds_are_independent() -> None:
    frame = pixel_bandlets((32, 32))
    images = synthesize(20, size=32, alpha=2).astype(float)
    together = frame.search(images, [0.3, 0.1])
    alone = frame.search(images[13:14], [0.1])
    assert together.costs[13, 1] == pytest.approx(alone.costs[0, 0], rel=1e-13)
    np.testing.assert_array_equal(together.flows[0][13, ..., 1], alone.flows[0][0, ..., 0])


def test_bands_that_squares_do_not_tile_stay_as_they_are() -> None:
    frame = wavelet_bandlets((80, 80), "db4", 4)
    sides = {rows.stop - rows.start for rows, _ in frame.bands}
    assert sides == {20, 40}
    image = synthesize(1, size=80, alpha=3).astype(float)
    basis = frame.search(frame.base.analysis(image), [0.05]).basis()
    np.testing.assert_array_equal(
        basis.analysis(image)[0, :20, :20], Wavelet((80, 80), "db4", 4).analysis(image)[0, :20, :20]
    )


def test_a_straight_edge_takes_few_coefficients() -> None:
    """Along the flow an edge is one-dimensional: a Haar transform of sorted pixels needs few of them."""
    rows, columns = np.mgrid[:16, :16]
    frame = BandletFrame(Pixels((16, 16)), (1, 1), 16)
    theta = np.pi * 5.5 / 32
    edge = (rows * np.cos(theta) - columns * np.sin(theta) > 3).astype(float)
    basis = frame.search(edge[None], [0.1], cost="hard").basis()
    assert (np.abs(basis.analysis(edge)) > 1e-9).sum() <= 9  # one wavelet a scale and the mean
    assert basis.flows[0].max() >= 0


def test_bad_searches_are_refused() -> None:
    frame = pixel_bandlets((16, 16))
    with pytest.raises(ValueError, match="positive"):
        frame.search(np.zeros((1, 16, 16)), [0.1, 0.0])
    with pytest.raises(ValueError, match=r"\(n, H, W\)"):
        frame.search(np.zeros((16, 16)), [0.1])
