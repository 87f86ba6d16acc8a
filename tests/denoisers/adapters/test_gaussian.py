"""x ~ N(m, C): exact predictors of every kind, at every kind of level, are the one denoiser of theory."""

import math

import pytest
import torch

import spectral
from denoisers import adapters
from denoisers.adapters import ByTime, Diffusion, Discrete, Exploding, Flow
from tests.helpers.gaussian_diffusion import SHAPE, Exact, denoised, prior, shrinkage

SIGNAL = torch.cumprod(1 - torch.linspace(1e-5, 0.2, 100, dtype=torch.float64), 0).tolist()
SCHEDULES = {
    "discrete": lambda: Discrete(SIGNAL),
    "flow": lambda: Flow(1000.0),
    "exploding": lambda: Exploding(0.002, 80.0),
    "scaled": lambda: Exploding(0.002, 80.0, lambda s: math.log(s) / 4, scaled=True),
    "by time": lambda: ByTime(lambda t: (math.cos(1.5 * t), math.hypot(math.sin(1.5 * t), 1e-3))),
}
PREDICTIONS = ("epsilon", "v", "edm", "sample", "flow", "score")


def images(n=1, seed=0):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model(prediction, schedule, units=(-1.0, 1.0), **options):
    low, high = units or (0.0, 1.0)
    level = lambda t: schedule.at_time(t)[:2]  # noqa: E731
    exact = Exact(prediction, level, low, high - low)
    return Diffusion(exact, schedule, prediction, units=units, **options)


def dense(f, y):
    return torch.autograd.functional.jacobian(f, y).reshape(-1, y.numel())


@pytest.mark.parametrize("units", [(-1.0, 1.0), None, (-2.0, 3.0)])
@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_all_are_one_denoiser(prediction, kind, units):
    f, y = model(prediction, SCHEDULES[kind](), units), images()
    for sigma in (0.02, 0.13, 0.31):
        torch.testing.assert_close(f(y, sigma), denoised(y, sigma), rtol=0, atol=1e-12)
        torch.testing.assert_close(dense(f.at(sigma=sigma), y), shrinkage(sigma), rtol=0, atol=1e-12)
        assert f.at(sigma=sigma).sigma == pytest.approx(sigma, rel=1e-13)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_network_s_own_view(prediction, kind):
    """Cov[w | z] = sigma^2 / alpha dE[w | z]/dz, w = 2 x - 1; and J at y is alpha times that at z."""
    f, y, sigma = model(prediction, SCHEDULES[kind]()), images(), 0.2
    g = f.seen(sigma=sigma)
    J, (_, C) = dense(g, g.z_of(y)), prior()
    covariance = 4 * torch.linalg.inv(torch.linalg.inv(C) + torch.eye(9, dtype=C.dtype) / sigma**2)
    torch.testing.assert_close(g.variance * J, covariance, rtol=0, atol=1e-12)
    torch.testing.assert_close(g.level.alpha * J, shrinkage(sigma), rtol=0, atol=1e-12)
    torch.testing.assert_close(g.y_of(g.z_of(y)), y)
    torch.testing.assert_close((g(g.z_of(y)) + 1) / 2, f(y, sigma))


@pytest.mark.parametrize("kind", SCHEDULES)
def test_each_image_at_its_own_level(kind):
    f, y = model("v", SCHEDULES[kind]()), images(3)
    levels = torch.tensor([0.05, 0.2, 0.3], dtype=torch.float64)
    each = torch.cat([f(y[i : i + 1], float(levels[i])) for i in range(3)])
    torch.testing.assert_close(f(y, levels), each, rtol=0, atol=1e-13)
    torch.testing.assert_close(f(y, 0.2), denoised(y, 0.2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "flow"])
def test_front_doors(prediction):
    f, y, sigma = model(prediction, Discrete(SIGNAL)), images(), 0.2
    values, vectors = torch.linalg.eigh(shrinkage(sigma))
    pairs = spectral.top_eigs(f.at(sigma=sigma), y, k=3)
    torch.testing.assert_close(pairs.values, values.flip(0)[:3])
    assert float(pairs.asymmetry.value) < 1e-10
    triplets = spectral.top_svd(f, y, k=3, model_kwargs={"sigma": sigma})
    torch.testing.assert_close(triplets.values, values.flip(0)[:3])
    components = spectral.posterior(f, y, sigma, k=2, sigma_keyword="sigma")
    torch.testing.assert_close(components.deviations, sigma * values.flip(0)[:2].sqrt())
    assert components.pairs.vectors[0].flatten().dot(vectors[:, -1]).abs() > 1 - 1e-8
    blind = spectral.posterior(f.at(sigma=sigma), y, sigma, k=2)
    torch.testing.assert_close(blind.deviations, components.deviations)


def test_risk_is_the_expected_error():
    """SURE over many images: E |f(y) - x|^2 = sigma^2 tr J, each told its level under the name sigma."""
    f, sigma = model("v", Discrete(SIGNAL)), 0.1
    generator, (m, C) = torch.Generator().manual_seed(5), prior()
    x = m + torch.randn(200, 9, generator=generator, dtype=m.dtype) @ torch.linalg.cholesky(C).T
    y = x + sigma * torch.randn(200, 9, generator=generator, dtype=m.dtype)
    found = spectral.sure(f, y.reshape(200, *SHAPE), sigma, batched=True, sigma_keyword="sigma", products=9)
    expected = sigma**2 * shrinkage(sigma).trace().item() / 9
    assert found.value.mean().item() == pytest.approx(expected, rel=0.1)


def test_samplers_draw_the_prior():
    from denoisers.sampling import ddim, heun

    f, (m, C) = model("epsilon", Flow()).float(), prior()
    drawn = heun(f, SHAPE, 300, sigma_start=3.0, steps=20).images.reshape(300, 9).double()
    assert (drawn.mean(0) - m).abs().max() < 5 * (C.diagonal().max() / 300).sqrt()
    assert drawn.var(0).sum().item() == pytest.approx(C.trace().item(), rel=0.25)
    assert ddim(f, SHAPE, 2, steps=5, sigma_keyword="sigma").images.isfinite().all()


def test_float32():
    f, y, sigma = model("epsilon", Discrete(SIGNAL)), images().float(), 0.2
    J = spectral.jacobian(f.at(sigma=sigma), y).apply(torch.eye(9)).T
    torch.testing.assert_close(J.double(), shrinkage(sigma), rtol=0, atol=1e-5)


def test_with_respect_to_the_prior_of_a_prompt():
    """f(y) + B p: J by p is B."""
    B = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def network(z, t, prompt):
        return z + (B @ prompt[0]).reshape(1, *SHAPE)

    f = Diffusion(
        network, Exploding(0.01, 10.0), "sample", units=None, condition={"prompt": torch.zeros(1, 4)}
    )
    p = torch.ones(1, 4, dtype=torch.float64)
    found = spectral.top_svd(adapters.with_respect_to("prompt", f, images(), sigma=0.1), p, k=4)
    torch.testing.assert_close(found.values, torch.linalg.svdvals(B))
