"""What every basis owes: Q Q' = I, reconstruction, both precisions, any leading axes, clear refusals."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.bases import DCT, Basis, Hartley, Pixels, Wavelet, pixel_bandlets, wavelet_bandlets
from spectral.bases.bandlet import BandletBasis, BandletFrame
from spectral.errors import OptionError, ShapeError


def adapted(frame: BandletFrame, seed: int = 0) -> BandletBasis:
    """A basis that uses every width: chosen for an image of edges and noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: frame.base.shape[0], : frame.base.shape[1]]
    angle = rng.uniform(0, np.pi)
    image = (np.cos(angle) * rows + np.sin(angle) * columns > frame.base.shape[0] / 2).astype(float)
    image += 0.05 * rng.standard_normal(image.shape)
    return frame.search(frame.base.analysis(image[None]), [0.2]).basis()


BASES: dict[str, Callable[[], Basis]] = {
    "pixels": lambda: Pixels((7, 9)),
    "dct": lambda: DCT((12, 9)),
    "hartley": lambda: Hartley((11, 8)),
    "haar": lambda: Wavelet((16, 24), "haar"),
    "db4": lambda: Wavelet((40, 40), "db4"),
    "db4, filters longer than the signal": lambda: Wavelet((8, 4), "db4"),
    "db6": lambda: Wavelet((32, 16), "db6", 2),
    "sym8": lambda: Wavelet((32, 32), "sym8", 3),
    "bandlets on db4": lambda: adapted(wavelet_bandlets((32, 48), "db4", 2)),
    "pixel Alpert": lambda: adapted(pixel_bandlets((32, 32))),
    "pixel Alpert, cubic": lambda: adapted(pixel_bandlets((20, 16), (3, 2))),
}


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 5e-6)])
def test_orthonormal(name: str, dtype: type, tolerance: float) -> None:
    basis = BASES[name]()
    d = basis.shape[0] * basis.shape[1]
    identity = np.eye(d, dtype=dtype).reshape(d, *basis.shape)
    coefficients = basis.analysis(identity)
    assert coefficients.dtype == dtype
    Q = coefficients.reshape(d, d)
    np.testing.assert_allclose(Q @ Q.T, np.eye(d), atol=tolerance)
    np.testing.assert_allclose(basis.synthesis(identity).reshape(d, d), Q.T, atol=tolerance)


SIDES = st.integers(5, 200)


ANY_SIDE: dict[str, Callable[[tuple[int, int]], Basis]] = {"dct": DCT, "hartley": Hartley, "pixels": Pixels}
EVEN_SIDES: dict[str, tuple[int, Callable[[tuple[int, int], int], Basis]]] = {  # sides' multiple, maker
    "haar": (2, lambda shape, _: Wavelet(shape, "haar", 1)),
    "db4": (4, lambda shape, _: Wavelet(shape, "db4", 2)),
    "db6": (8, lambda shape, _: Wavelet(shape, "db6", 3)),
    "sym8": (2, lambda shape, _: Wavelet(shape, "sym8", 1)),
    "bandlets on db4": (8, lambda shape, seed: adapted(wavelet_bandlets(shape, "db4", 1), seed)),
    "pixel Alpert": (4, lambda shape, seed: adapted(pixel_bandlets(shape), seed)),
}
SEEDS = st.integers(0, 2**32 - 1)


def check(basis: Basis, seed: int) -> None:
    """Q' Q x = x, |Q x| = |x|, and columns of Q Q' and Q' Q that are those of I: in both precisions."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, 1, *basis.shape))
    c = basis.analysis(x)
    assert c.shape == x.shape
    np.testing.assert_allclose((c**2).sum(), (x**2).sum(), rtol=1e-12)
    units = np.zeros((4, basis.shape[0] * basis.shape[1]))
    units[range(4), rng.integers(0, units.shape[1], 4)] = 1
    units = units.reshape(4, *basis.shape)
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 5e-6)):
        e = units.astype(dtype)
        np.testing.assert_allclose(basis.analysis(basis.synthesis(e)), e, atol=tolerance)
        np.testing.assert_allclose(basis.synthesis(basis.analysis(e)), e, atol=tolerance)


@settings(max_examples=30, deadline=None)
@given(height=SIDES, width=SIDES, name=st.sampled_from(sorted(ANY_SIDE)), seed=SEEDS)
def test_any_sides_odd_and_unequal(height: int, width: int, name: str, seed: int) -> None:
    check(ANY_SIDE[name]((height, width)), seed)


@settings(max_examples=40, deadline=None)
@given(height=SIDES, width=SIDES, name=st.sampled_from(sorted(EVEN_SIDES)), seed=SEEDS)
def test_sides_that_halve_and_refusal_of_all_others(height: int, width: int, name: str, seed: int) -> None:
    multiple, make = EVEN_SIDES[name]
    if height % multiple or width % multiple:
        with pytest.raises(ShapeError, match="crop"):
            make((height, width), seed)
    rounded = (max(multiple, height - height % multiple), max(multiple, width - width % multiple))
    check(make(rounded, seed), seed)


@pytest.mark.parametrize("name", BASES)
def test_details_are_disjoint_rectangles_and_inputs_are_left_alone(name: str) -> None:
    basis = BASES[name]()
    cover = np.zeros(basis.shape, int)
    for band in basis.details:
        cover[band] += 1
    assert cover.max() <= 1
    x = np.random.default_rng(0).standard_normal(basis.shape)
    before = x.copy()
    basis.synthesis(basis.analysis(x))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("name", BASES)
def test_wrong_shapes_and_complex_images_are_refused(name: str) -> None:
    basis = BASES[name]()
    with pytest.raises(ValueError, match="this basis is for images"):
        basis.analysis(np.zeros((3, 3)))
    with pytest.raises(OptionError, match="real"):
        basis.synthesis(np.zeros(basis.shape, complex))


def test_impossible_transforms_are_refused() -> None:
    with pytest.raises(ValueError, match="halve evenly 0 times"):
        Wavelet((81, 80), "db4", 1)
    with pytest.raises(ValueError, match="not an orthogonal wavelet"):
        Wavelet((16, 16), "bior2.2")
    with pytest.raises(ValueError, match="can be tiled"):
        pixel_bandlets((81, 80))
    with pytest.raises(ValueError, match="power of two"):
        pixel_bandlets((80, 80), largest=12)


def test_dct_is_the_matrix_of_cosines() -> None:
    h, w = 5, 8

    def cosines(n: int) -> np.ndarray:
        k, i = np.mgrid[:n, :n]
        return np.where(k == 0, 1, 2**0.5) / n**0.5 * np.cos(np.pi * k * (2 * i + 1) / (2 * n))

    x = np.random.default_rng(0).standard_normal((h, w))
    np.testing.assert_allclose(DCT((h, w)).analysis(x), cosines(h) @ x @ cosines(w).T, atol=1e-14)
