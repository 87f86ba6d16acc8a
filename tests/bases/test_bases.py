"""What every basis owes: Q Q' = I, reconstruction, both precisions, any leading axes, clear refusals."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.bases import DCT, Basis, Hartley, Pixels, Wavelet, pixel_bandlets, wavelet_bandlets
from spectral.bases.bandlet import BandletBasis, BandletFrame


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


def cropped(side: int, multiple: int) -> int:
    return max(multiple, side - side % multiple)


@settings(max_examples=30, deadline=None)
@given(
    height=SIDES,
    width=SIDES,
    kind=st.sampled_from(["dct", "hartley", "haar", "db4", "db6", "bandlet", "alpert"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_perfect_reconstruction_and_energy(height: int, width: int, kind: str, seed: int) -> None:
    if kind in ("dct", "hartley"):
        basis: Basis = {"dct": DCT, "hartley": Hartley}[kind]((height, width))
    elif kind == "bandlet":
        basis = adapted(wavelet_bandlets((cropped(height, 8), cropped(width, 8)), "db4", 1), seed)
    elif kind == "alpert":
        basis = adapted(pixel_bandlets((cropped(height, 4), cropped(width, 4))), seed)
    else:
        basis = Wavelet((height, width), kind)
    x = np.random.default_rng(seed).standard_normal((2, 1, *basis.shape))
    c = basis.analysis(x)
    assert c.shape == x.shape
    np.testing.assert_allclose(basis.synthesis(c), x, atol=1e-11)
    np.testing.assert_allclose((c**2).sum(), (x**2).sum(), rtol=1e-11)


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
    with pytest.raises(TypeError, match="real"):
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
