import math

import pytest
import torch

from spectral.errors import OptionError, ShapeError
from spectral.risk import posterior

d, sigma = 64, 0.3
GENERATOR = torch.Generator().manual_seed(0)
Q = torch.linalg.qr(torch.randn(d, d, generator=GENERATOR, dtype=torch.float64))[0]
PRIOR = torch.arange(1, d + 1, dtype=torch.float64) ** -1
WIENER = (Q * (PRIOR / (PRIOR + sigma**2))) @ Q.T  # E[x | y] = WIENER y, Cov[x | y] = sigma^2 WIENER


def wiener(y):
    return (y.reshape(-1, d) @ WIENER).reshape(y.shape)


def draws(count, seed):
    generator = torch.Generator().manual_seed(seed)
    x = (PRIOR.sqrt() * torch.randn(count, d, generator=generator, dtype=torch.float64)) @ Q.T
    x = x.reshape(count, 1, 8, 8)
    return x, x + sigma * torch.randn(x.shape, generator=generator, dtype=torch.float64)


def test_gaussian_posterior_in_closed_form():
    _, y = draws(1, 1)
    found = posterior(wiener, y[0], sigma, 5, tol=1e-8, products=48)
    covariance = sigma**2 * WIENER
    expected = torch.linalg.eigvalsh(covariance).flip(0)
    assert torch.allclose(found.deviations, expected[:5].sqrt(), rtol=1e-8)
    assert torch.allclose(found.mean, wiener(y[0]))
    for k in range(5):
        e = found.pairs.vectors[k].flatten()
        assert (covariance @ e - found.deviations[k] ** 2 * e).norm() < 1e-6
    total = torch.trace(covariance).item()
    assert abs(found.total_variance.value - total) <= 4 * found.total_variance.stderr
    assert found.explained.item() == pytest.approx((expected[:5].sum() / total).item(), rel=0.05)
    truth = torch.diagonal(covariance).reshape(1, 8, 8)
    deviation = (found.pixel_variance.value - truth) / found.pixel_variance.stderr
    assert deviation.square().mean() < 3
    assert found.pixel_deviation.shape == (1, 8, 8)


def test_known_pairs_sharpen_the_pixel_variance():
    _, y = draws(1, 1)
    few, many = (posterior(wiener, y[0], sigma, k, products=40) for k in (1, 30))
    assert many.pixel_variance.stderr.mean() < 0.7 * few.pixel_variance.stderr.mean()


def test_coverage_on_held_out_images():
    x, y = draws(150, 2)
    found = posterior(wiener, y, sigma, 4, batched=True, products=10)
    scores = found.scores(x)
    assert scores.shape == (150, 4)
    assert scores.square().mean().item() == pytest.approx(1, abs=4 * math.sqrt(2 / 600))
    share = found.coverage(x, 0.9)
    assert abs(share.value - 0.9) < 4 * share.stderr < 0.1
    wrong = posterior(wiener, y, sigma / 2, 4, batched=True, products=10)
    assert wrong.coverage(x, 0.9).value < 0.7


def test_traversal_is_a_line_through_the_mean():
    _, y = draws(3, 3)
    for image, batched in ((y[0], False), (y, True)):
        found = posterior(wiener, image, sigma, 3, batched=batched, products=10)
        strip = found.traversal(1, steps=(-2, 0, 1))
        assert strip.shape == (3, *image.shape)
        assert torch.allclose(strip[1], found.mean)
        step = (strip[2] - strip[1]).reshape(-1, d).norm(dim=-1)
        assert torch.allclose(step, found.deviations.reshape(-1, 3)[:, 1])
        assert torch.allclose(strip[0] - strip[1], -2 * (strip[2] - strip[1]))


def test_refusals():
    _, y = draws(1, 1)
    found = posterior(wiener, y[0], sigma, 2, products=10)
    assert "PosteriorComponents(2 of" in repr(found)
    with pytest.raises(OptionError, match="components are 0 to 1"):
        found.traversal(2)
    with pytest.raises(ShapeError, match="clean image has shape"):
        found.scores(y)
    with pytest.raises(OptionError, match="sigma"):
        posterior(wiener, y[0], -1.0, 2)
    with pytest.raises(OptionError, match="sigma is a finite number"):
        posterior(wiener, y[0], "0.1", 2)
    flipped = posterior(lambda v: -v, y[0], sigma, 1, products=10)
    assert flipped.deviations.item() == 0
    with pytest.raises(OptionError, match="no positive variance"):
        flipped.scores(y[0])
