"""SURE against the true error: unbiased, with the interval that it states, in chunks or at once."""

import pytest
import torch

from denoisers.evaluation import sure_check, surecheck
from spectral.risk import risk_curve

SIGMAS = [0.1, 0.3]


def shrink(y):
    return 0.7 * y


@pytest.fixture
def images():
    return torch.rand(24, 1, 12, 12, generator=torch.Generator().manual_seed(99))


def test_sure_of_a_shrinkage_is_unbiased_and_covers(images):
    found = sure_check(shrink, images, SIGMAS)
    low, high = found.difference.interval(0.999)
    assert ((low < 0) & (high > 0)).all()
    assert found.covered.min() >= 0.75 and found.true.samples == 24
    # Of a y the error is that of x alone: 0.09 |x|^2 / d + 0.49 sigma^2, in the mean over the noise.
    expected = 0.09 * images.square().mean() + 0.49 * torch.tensor(SIGMAS).square()
    torch.testing.assert_close(found.true.value, expected.double(), rtol=0.05, atol=0)
    assert "24 images; mean squared error per pixel in 0.01" in repr(found)
    assert found.in_words()[1][0].startswith(f"{100 * float(found.true.value[1]):.2f}")


def test_a_wrong_divergence_would_be_seen(images):
    """The same curve with SURE off by a tenth of its divergence: outside of the interval."""
    found = sure_check(shrink, images, [0.3])
    found.curve.sure[:] += 0.1 * 2 * 0.09 * 0.7
    low, high = found.difference.interval(0.999)
    assert not (low < 0 < high)


def test_chunks_are_risk_curves_with_seeds_of_their_own(images, monkeypatch):
    monkeypatch.setattr(surecheck, "CHUNK_PIXELS", 10 * 8 * 144)
    found = sure_check(shrink, images, SIGMAS, seed=5)
    parts = [risk_curve(shrink, images[10 * i : 10 * i + 10], SIGMAS, seed=5 + 2 * i) for i in range(3)]
    for name in ("mse", "sure", "sure_error", "bayes"):
        assert torch.equal(getattr(found.curve, name), torch.cat([getattr(p, name) for p in parts], 1))


def test_one_image_has_the_error_that_sure_states(images):
    found = sure_check(shrink, images[:1], SIGMAS)
    assert torch.equal(found.difference.stderr, found.curve.sure_error[:, 0])
    assert torch.equal(found.sure.stderr, found.curve.sure_error[:, 0])
    assert torch.isnan(found.true.stderr).all()


def test_models_that_are_told_and_no_images(images):
    found = sure_check(lambda y, level: y / (1 + level), images, [0.5], sigma_keyword="level")
    expected = sure_check(lambda y: y / 1.5, images, [0.5])
    torch.testing.assert_close(found.curve.sure, expected.curve.sure, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="at least one image"):
        sure_check(shrink, images[:0], SIGMAS)
