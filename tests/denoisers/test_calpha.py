"""C^alpha images as networks take them; their definition is tested with the kernels."""

import numpy as np
import pytest

from denoisers.images.calpha import synthesize
from spectral.kernels import calpha


def test_the_kernels_images_with_a_channel_axis():
    images = synthesize(3, size=12, alpha=2, beta=1, kind="exact", seed=4)
    assert images.shape == (3, 1, 12, 12)
    np.testing.assert_array_equal(
        images[:, 0], calpha.synthesize(3, size=12, alpha=2, beta=1, kind="exact", seed=4)
    )


@pytest.mark.parametrize("kind", ["released", "exact"])
@pytest.mark.parametrize("alpha", [1, 5])
def test_images_are_in_range_and_differ_by_seed(kind, alpha):
    images = synthesize(32, size=40, alpha=alpha, kind=kind, seed=1)
    assert images.dtype == np.float32
    assert images.min() >= -1e-6
    assert images.max() <= 1 + 1e-6
    assert len(np.unique(images.reshape(32, -1), axis=0)) == 32
    assert not np.array_equal(images, synthesize(32, size=40, alpha=alpha, kind=kind, seed=2))


def test_exact_images_keep_both_regions_apart():
    images = synthesize(64, size=40, alpha=3, kind="exact")[:, 0]
    top, bottom = images[:, 0], images[:, -1]
    assert np.all((np.minimum(top, bottom) <= 0.4 + 1e-6) & (np.maximum(top, bottom) >= 0.6 - 1e-6))


def regularity(x):
    """H in E |second difference at lag h|^2 = C h^(2 H), along the second axis."""
    lags = np.array([4, 8, 16, 32])
    energy = [np.mean((np.roll(x, h, 1) - 2 * x + np.roll(x, -h, 1)) ** 2) for h in lags]
    return np.polyfit(np.log(lags), np.log(energy), 1)[0] / 2


@pytest.mark.parametrize("exponent", [1.5, 2.0])
def test_hoelder_exponents_follow_the_spectral_ones(exponent):
    parts = calpha.ingredients(8, size=1024, alpha=exponent, beta=exponent + 0.5)
    assert regularity(parts.contours) == pytest.approx(exponent - 0.5, abs=0.1)
    assert regularity(parts.fields.real.astype(np.float64)) == pytest.approx(exponent - 0.5, abs=0.05)
