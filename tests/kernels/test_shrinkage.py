from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from spectral.kernels.shrinkage import risks


def expectation(c: float, sigma: float, threshold: float, rule: str) -> float:
    """E |shrink(y) - c|^2 by quadrature, in pieces between the threshold's kinks."""

    def error(y: float) -> float:
        if abs(y) <= threshold:
            return c**2
        shrunk = y if rule == "hard" else y - np.sign(y) * threshold
        return (shrunk - c) ** 2

    cuts = sorted(
        {c - 12 * sigma, c + 12 * sigma, *(np.clip([-threshold, threshold], c - 12 * sigma, c + 12 * sigma))}
    )
    return sum(
        quad(lambda y: error(y) * norm.pdf(y, c, sigma), a, b, epsabs=1e-13)[0] for a, b in pairwise(cuts)
    )


@pytest.mark.parametrize("rule", ["hard", "soft"])
@pytest.mark.parametrize("c", [0.0, 0.3, -2.0, 7.0])
@pytest.mark.parametrize("sigma", [0.2, 1.0])
def test_threshold_risks_are_expectations(rule: str, c: float, sigma: float) -> None:
    found = risks(np.array([[c]]), [sigma], rule, factor=2.5)[0, 0]
    assert found == pytest.approx(expectation(c, sigma, 2.5 * sigma, rule), rel=1e-9, abs=1e-12)


def test_oracle_risks_are_the_sum() -> None:
    rng = np.random.default_rng(0)
    c, sigmas = rng.standard_normal((3, 40, 25)), np.array([0.01, 0.5, 3.0])
    direct = [[(image**2 * s**2 / (image**2 + s**2)).sum() for s in sigmas] for image in c]
    np.testing.assert_allclose(risks(c, sigmas), direct, rtol=1e-12)
    np.testing.assert_allclose(risks(c.astype(np.float32), sigmas), direct, rtol=1e-6)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.floats(0.01, 10))
def test_the_oracle_lies_within_twice_the_better_of_keeping_and_killing(c: list[float], sigma: float) -> None:
    row = np.array([c])
    kill_or_keep = np.minimum(row**2, sigma**2).sum()
    oracle = risks(row, [sigma])[0, 0]
    tiny = 1e-300  # squares below are denormals, of few digits
    assert kill_or_keep / 2 * (1 - 1e-12) - tiny <= oracle <= kill_or_keep * (1 + 1e-12) + tiny


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.floats(0.01, 10))
def test_thresholds_at_zero_keep_the_noise_and_at_infinity_kill_the_signal(
    c: list[float], sigma: float
) -> None:
    row = np.array([c])
    for rule in ("hard", "soft"):
        assert risks(row, [sigma], rule, 0.0)[0, 0] == pytest.approx(len(c) * sigma**2, rel=1e-9)
        killed = risks(row, [sigma], rule, 1e5)[0, 0]
        assert killed == pytest.approx((row**2).sum(), rel=1e-12, abs=1e-12)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        risks(np.ones((1, 2)), [0.0])
    with pytest.raises(ValueError, match="rule"):
        risks(np.ones((1, 2)), [1.0], "firm")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_torch_keeps_its_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        risks(np.ones((4, 8)), [0.1])
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
