import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral.estimators import Estimate, trace
from spectral.estimators.results import student_t
from spectral.estimators.sampling import skewness, summary


def estimate(skew, dof=20, value=2.0, stderr=0.5):
    return Estimate(value, stderr, 21, 21, "hutchinson", dof, skewness=skew)


def hall(T, s):
    """Hall's transformation (1992) of Student's statistic T, s the skewness of the mean."""
    return T + s * T**2 / 3 + s**2 * T**3 / 27 + s / 6


@given(st.floats(0.01, 2.0), st.floats(0.5, 0.999), st.integers(2, 200))
def test_far_end_solves_halls_transformation(skew, level, dof):
    low, high = estimate(skew, dof).interval(level)
    t = student_t(level, dof)
    assert low == pytest.approx(2 - 0.5 * t)
    far = (2 - high) / 0.5
    assert hall(far, skew) == pytest.approx(-t, rel=1e-6) or far == pytest.approx(-t)
    assert far <= -t * (1 - 1e-9)
    mirrored = estimate(-skew, dof).interval(level)
    assert (4 - mirrored[1], 4 - mirrored[0]) == pytest.approx((low, high))
    assert estimate(skew, dof).halfwidth(level) == pytest.approx(high - 2)


def test_no_skewness_is_student():
    low, high = estimate(0.0).interval(0.9)
    assert (low, high) == pytest.approx((2 - 0.5 * 1.7247, 2 + 0.5 * 1.7247), rel=1e-4)
    assert estimate(1.0, stderr=0.0).interval() == (2.0, 2.0)


def test_skewness_is_its_definition():
    x = torch.tensor([[0.0, 1.0, 5.0, 2.0], [3.0, 3.0, 3.0, 3.0]], dtype=torch.float64)
    d = x[0] - 2
    assert skewness(x)[0].item() == pytest.approx(((d**3).mean() / (d**2).mean() ** 1.5 / 2).item())
    assert skewness(x)[1] == 0


@pytest.mark.parametrize("m", [12, 40])
@pytest.mark.parametrize("law", ["chi^2 of one degree", "normal", "mirrored"])
def test_mean_of_skewed_samples_is_covered(law, m):
    z = torch.randn(4000, m, 1, generator=torch.Generator().manual_seed(m), dtype=torch.float64)
    samples, truth = {"chi^2 of one degree": (z**2, 1), "normal": (z, 0), "mirrored": (-(z**2), -1)}[law]
    low, high = summary(samples, None, m, "hutchinson").interval()
    covered = ((low <= truth) & (truth <= high)).double().mean().item()
    assert 0.93 < covered < 0.97
    assert math.isclose(covered, 0.95, abs_tol=0.02)


def test_tensors_keep_their_shape(tmp_path):
    both = Estimate(torch.ones(2), torch.ones(2), 9, 9, "x", 8, skewness=torch.tensor([0.5, 0.0]))
    low, high = both.interval()
    assert high.shape == (2,) and high[0] > high[1] and low[0] == low[1]
    assert torch.equal(Estimate.load(both.save(tmp_path / "e.safetensors")).interval()[1], high)


def test_what_is_exact_has_no_samples():
    told = repr(trace(torch.diag(torch.arange(5.0)), method="exact"))
    assert "exact to rounding, 5 products" in told and "samples" not in told
    assert "hutchinson, 9 samples" in repr(Estimate(1.0, 1.0, 9, 9, "hutchinson", 8))
