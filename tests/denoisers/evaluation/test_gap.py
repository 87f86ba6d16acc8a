"""The gap between training and held-out images, against Welch's interval by SciPy."""

import numpy as np
import pytest
import scipy.stats
import torch

from denoisers.evaluation import PSNRCurve, PSNRGap, psnr_gap


def curve(values):
    values = torch.as_tensor(values, dtype=torch.float64)
    return PSNRCurve(torch.full((len(values),), 0.1, dtype=torch.float64), torch.zeros_like(values), values)


def test_difference_has_welchs_interval():
    rng = np.random.default_rng(1)
    a, b = rng.normal(30, 3, (1, 5)), rng.normal(28, 1, (1, 9))
    found = PSNRGap(curve(a), curve(b)).difference
    reference = scipy.stats.ttest_ind(a[0], b[0], equal_var=False).confidence_interval(0.95)
    low, high = found.interval(0.95)
    assert (float(low), float(high)) == pytest.approx((reference.low, reference.high), rel=1e-9)


def test_freedom_of_several_levels_is_the_least():
    rng = np.random.default_rng(2)
    a, b = rng.normal(30, [[3], [1]], (2, 5)), rng.normal(28, [[1], [3]], (2, 9))
    each = [PSNRGap(curve(a[i : i + 1]), curve(b[i : i + 1])).difference.dof for i in range(2)]
    assert PSNRGap(curve(a), curve(b)).difference.dof == pytest.approx(min(each))
    assert each[0] != pytest.approx(each[1])


def test_a_denoiser_that_knows_its_images_has_a_gap_and_an_honest_one_has_none():
    images = torch.rand(40, 1, 8, 8)
    known, fresh = images[:20], images[20:]

    def by_heart(y):
        distance = torch.cdist(y.flatten(1), known.flatten(1))
        return known[distance.argmin(1)]

    def half_by_heart(y):
        return (by_heart(y) + y) / 2

    gap = psnr_gap(half_by_heart, known, fresh, [0.1, 0.2])
    assert (gap.difference.value - gap.difference.halfwidth() > 3).all()
    low, high = psnr_gap(lambda y: 0.9 * y, known, fresh, [0.2]).difference.interval(0.999)
    assert low < 0 < high
    assert "20 training and 20 held-out" in repr(gap)


def test_the_two_sets_have_noise_of_their_own():
    images = torch.rand(3, 1, 8, 8)
    gap = psnr_gap(lambda y: y, images, images, [0.2])
    assert not torch.equal(gap.training.noisy, gap.held_out.noisy)


def test_a_set_without_images_is_refused():
    with pytest.raises(ValueError, match="images of both kinds, got 2 and 0"):
        psnr_gap(lambda y: y, torch.rand(2, 1, 8, 8), torch.rand(0, 1, 8, 8), [0.2])
