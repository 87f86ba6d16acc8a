import numpy as np
import pytest
import pywt

from spectral.bases import Wavelet


@pytest.mark.filterwarnings("ignore:Level value")
@pytest.mark.parametrize("name", ["haar", "db4", "db6", "sym8", "coif2"])
def test_pywavelets_periodization(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 48, 80))
    expected, _ = pywt.coeffs_to_array(pywt.wavedec2(x, name, "periodization", 3), axes=(-2, -1))
    np.testing.assert_allclose(Wavelet((48, 80), name, 3).analysis(x), expected, atol=1e-11)


@pytest.mark.parametrize(("name", "moments"), [("haar", 1), ("db4", 4), ("db6", 6), ("sym8", 8)])
def test_vanishing_moments(name: str, moments: int) -> None:
    """Details of polynomials below the number of moments vanish away from the wrapped edge; not above."""
    line = (np.arange(64) - 32) / 8
    for degree in range(moments + 1):
        image = np.outer(np.ones(64), line**degree)
        inside = Wavelet((64, 64), name, 1).analysis(image)[:32, 40:56]
        assert (np.abs(inside).max() < 1e-6) == (degree < moments)


def test_sub_bands_of_80_pixels() -> None:
    sides = [rows.stop - rows.start for rows, _ in Wavelet((80, 80), "db4").details]
    assert sides == [5] * 3 + [10] * 3 + [20] * 3 + [40] * 3
