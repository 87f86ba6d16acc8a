"""PSNR against its definition; tables, curves and slopes against denoisers whose PSNR is known."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from denoisers.evaluation import PSNRCurve, add_noise, psnr, psnr_curve, psnr_table


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(0, 2**32))
def test_psnr_is_its_definition_image_by_image(n, channels, side, seed):
    rng = np.random.default_rng(seed)
    x, xhat = rng.random((2, n, channels, side, side))
    expected = [10 * np.log10(1 / np.mean((a - b) ** 2)) for a, b in zip(x, xhat, strict=True)]
    np.testing.assert_allclose(psnr(torch.from_numpy(x), torch.from_numpy(xhat)), expected, rtol=1e-12)


def test_psnr_clips_nothing_and_is_infinite_at_equality():
    x = torch.ones(1, 1, 2, 2)
    assert float(psnr(x, x + 2)) == pytest.approx(-20 * np.log10(2))
    assert torch.isinf(psnr(x, x)).all()


def test_psnr_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match="same shape"):
        psnr(torch.zeros(2, 1, 4, 4), torch.zeros(1, 1, 4, 4))


def test_noise_has_the_level_asked_and_is_the_same_at_every_level():
    clean = torch.rand(1, 1, 200, 200)
    small, large = (add_noise(clean, s, seed=3) - clean for s in (0.1, 0.5))
    torch.testing.assert_close(5 * small, large, atol=1e-5, rtol=0)
    assert float(small.std()) == pytest.approx(0.1, rel=0.02)
    assert not torch.equal(small, add_noise(clean, 0.1, seed=4) - clean)
    with pytest.raises(ValueError, match="sigma must be positive"):
        add_noise(clean, 0, seed=0)
    with pytest.raises(ValueError, match=r"images are floats in \[0, 1\], got torch.uint8"):
        add_noise((255 * clean).byte(), 0.1, seed=0)


def test_table_of_shrinkage_has_its_closed_form():
    # x = 0: y / 2 leaves a quarter of the noise's energy, 6.02 dB.
    rows = psnr_table(lambda y: y / 2, np.zeros((3, 1, 64, 64), dtype=np.float32), [0.1, 0.2])
    for row in rows:
        assert row.denoised - row.noisy == pytest.approx(20 * np.log10(2), abs=1e-4)
        assert row.noisy == pytest.approx(-20 * np.log10(row.sigma), abs=0.1)


def test_table_averages_decibels_over_images():
    images = torch.zeros(2, 1, 8, 8)
    gains = torch.tensor([1.0, 0.1]).reshape(2, 1, 1, 1)
    (row,) = psnr_table(lambda y: y * gains, images, [0.1])
    noisy = psnr(images, add_noise(images, 0.1, 0))
    assert row.denoised == pytest.approx(float((noisy + torch.tensor([0.0, 20.0])).mean()), abs=1e-4)


def test_curve_is_the_psnr_of_each_image_at_each_level():
    images = torch.rand(4, 1, 8, 8)
    found = psnr_curve(lambda y: 0.8 * y, images, [0.1, 0.4], seed=3)
    for s, sigma in enumerate((0.1, 0.4)):
        noisy = add_noise(images, sigma, 3)
        assert torch.equal(found.noisy[s], psnr(images, noisy))
        assert torch.equal(found.denoised[s], psnr(images, 0.8 * noisy))
    mean = found.mean()
    expected = scipy.stats.sem(found.denoised.numpy(), axis=1)
    np.testing.assert_allclose(mean.stderr, expected, rtol=1e-12)
    low, high = mean.interval(0.95)
    center = found.denoised.mean(1).numpy()
    reference = scipy.stats.t.interval(0.95, 3, loc=center, scale=expected)
    np.testing.assert_allclose((low, high), reference, rtol=1e-9)


def test_a_model_that_is_told_the_level_is_told_it():
    images, told = torch.rand(2, 1, 8, 8), []

    def model(y, sigma):
        told.append(sigma)
        return y

    def renamed(y, level=0.0):
        return model(y, level)

    psnr_curve(model, images, [0.1, 0.4])
    psnr_table(renamed, images, [0.2], sigma_keyword="level")
    psnr_table(renamed, images, [0.3])
    assert told == [0.1, 0.4, 0.2, 0.0]


def lines(slopes, intercepts, sigmas):
    """A curve in which each image has a line of its own, noisy images being off the level by up to 0.1 dB."""
    sigmas = torch.tensor(sigmas, dtype=torch.float64)
    shift = 0.1 * torch.sin(torch.arange(len(slopes), dtype=torch.float64))
    noisy = -20 * sigmas.log10()[:, None] + shift
    return PSNRCurve(sigmas, noisy, torch.as_tensor(slopes) * noisy + torch.as_tensor(intercepts))


def test_slope_is_the_mean_of_the_images_own_with_students_interval():
    slopes = np.array([0.3, 0.5, 0.7, 0.75])
    curve = lines(slopes, np.array([5.0, -3.0, 11.0, 0.0]), [0.4, 0.2, 0.1, 0.05])
    found = curve.slope()
    assert float(found) == pytest.approx(slopes.mean(), abs=1e-12)
    low, high = found.interval(0.95)
    reference = scipy.stats.t.interval(0.95, 3, loc=slopes.mean(), scale=scipy.stats.sem(slopes))
    assert (low, high) == pytest.approx(reference, abs=1e-9)
    x, y = curve.line()
    assert float((y[-1] - y[0]) / (x[-1] - x[0])) == pytest.approx(slopes.mean())
    assert float(y.mean()) == pytest.approx(float(curve.denoised.mean()))
    assert curve.misfit() < 1e-12


def test_slope_is_that_of_least_squares_where_a_curve_is_no_line():
    curve = psnr_curve(lambda y: y.clamp(0, 1), torch.rand(3, 1, 8, 8), [0.05, 0.1, 0.3, 0.9])
    fits = [np.polyfit(x, y, 1)[0] for x, y in zip(curve.noisy.T, curve.denoised.T, strict=True)]
    assert float(curve.slope()) == pytest.approx(np.mean(fits), rel=1e-9)
    x, y = curve.noisy.mean(1).numpy(), curve.denoised.mean(1).numpy()
    residuals = y - np.polyval(np.polyfit(x, y, 1), x)
    assert curve.misfit() == pytest.approx(np.sqrt(np.mean(residuals**2)), rel=1e-6)


def test_levels_outside_the_window_do_not_count():
    curve = lines([0.5, 0.6], [0.0, 1.0], [1.0, 0.1, 0.01, 0.001])
    curve.denoised[0], curve.denoised[3] = 100, -100
    assert float(curve.slope(20, 40)) == pytest.approx(0.55)  # both ends are in it
    assert float(curve.slope()) != pytest.approx(0.55)
    assert len(curve.line(20, 40)[0]) == 2
    with pytest.raises(ValueError, match=r"at least two noise levels, and 1 of 4 .* \[20, 39\] dB"):
        curve.slope(20, 39)


def test_intervals_of_slopes_cover_as_often_as_they_say():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(600):
        low, high = lines(0.6 + 0.1 * rng.standard_normal(4), np.zeros(4), [0.3, 0.1]).slope().interval(0.9)
        covered += low <= 0.6 <= high
    assert 0.87 < covered / 600 < 0.93


def test_one_image_has_a_slope_and_no_error():
    curve = psnr_curve(lambda y: y / 2, torch.zeros(1, 1, 16, 16), [0.1, 0.2])
    assert float(curve.slope()) == pytest.approx(1, abs=1e-6)
    assert np.isnan(curve.slope().stderr) and torch.isnan(curve.mean().stderr).all()
    assert "+-" not in repr(curve)


def test_no_level_or_image_is_no_curve():
    images = torch.zeros(2, 1, 4, 4)
    assert psnr_table(lambda y: y, images, []) == []
    with pytest.raises(ValueError, match="at least one noise level"):
        psnr_curve(lambda y: y, images, [])
    with pytest.raises(ValueError, match="at least one image"):
        psnr_curve(lambda y: y, images[:0], [0.1])


def test_curves_are_saved_and_read(tmp_path):
    curve = lines([0.5, 0.6], [0.0, 1.0], [0.1, 0.2])
    read = PSNRCurve.load(curve.save(tmp_path / "curve.safetensors"))
    assert torch.equal(read.denoised, curve.denoised) and repr(read) == repr(curve)
