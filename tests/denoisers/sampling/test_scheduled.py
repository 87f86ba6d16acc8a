"""Heun, DDIM, Langevin and consistency functions on Gaussian priors, where all is known in closed form."""

import math

import pytest
import torch

from denoisers.sampling import consistency, ddim, heun, langevin
from spectral.errors import OptionError
from tests.helpers.interrupted import interrupted

SHAPE = (1, 4, 4)
C = torch.linspace(0.02, 0.5, 16).view(SHAPE)  # variances of the prior N(1/2, diag C)


def told(y, sigma):
    return 0.5 + (y - 0.5) * C / (C + sigma**2)


def final(y, sigma):
    """The consistency function, the flow's end at level 0: y - 1/2 shrinks by sqrt(C / (C + sigma^2))."""
    return 0.5 + (y - 0.5) * (C / (C + sigma**2)).sqrt()


def exact(seed, count, start, end):
    """What the flow makes of the same noise."""
    z = (heun(lambda y: y, SHAPE, count, levels=[start], mean=0.0, seed=seed).images) / start
    at_end = start * z * ((C + end**2) / (C + start**2)).sqrt()
    return 0.5 + at_end * C / (C + end**2)


@pytest.mark.parametrize(("sampler", "order"), [(heun, 2), (ddim, 1)])
def test_flows_come_to_the_exact_one_at_their_order(sampler, order):
    expected = exact(3, 8, 2.0, 0.05)
    errors = []
    for steps in (24, 48):
        found = sampler(told, SHAPE, 8, sigma_start=2.0, sigma_end=0.05, steps=steps, seed=3)
        errors.append((found.images - expected).norm().item())
        assert found.evaluations == 8 * (2 * steps - 1 if order == 2 else steps)
    assert errors[1] < 0.05 * expected.norm()
    assert 2 ** (order - 0.35) < errors[0] / errors[1] < 2 ** (order + 0.6)


def test_blind_ones_flow_as_well():
    found = heun(lambda y: y / 2, SHAPE, 2, sigma_start=1.0, sigma_end=0.1, steps=30, mean=0.0)
    z = heun(lambda y: y, SHAPE, 2, levels=[1.0], mean=0.0).images
    torch.testing.assert_close(found.images, z * math.sqrt(0.1) / 2, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("sampler", [heun, ddim])
def test_flows_in_distribution(sampler):
    found = sampler(told, SHAPE, 2000, sigma_start=10.0, sigma_end=0.01, steps=60, seed=1)
    check(found.images, 0.1 if sampler is ddim else 0.02)


def test_langevin_in_distribution():
    """The recursion for each variance, v <- (1 - a)^2 v + eps s^2, a = eps s^2 / 2 (C + s^2)."""
    options = {"sigma_start": 3.0, "sigma_end": 0.05, "steps": 12, "per_level": 30, "epsilon": 0.2}
    found = langevin(told, SHAPE, 1000, seed=2, **options)
    v = torch.full(SHAPE, 9.0)
    for i in range(12):
        s = 3.0 * (0.05 / 3.0) ** (i / 11)
        for _ in range(30):
            v = (1 - 0.1 * s**2 / (C + s**2)) ** 2 * v + 0.2 * s**2
    v = v * (C / (C + 0.05**2)) ** 2
    assert (v / C - 1).abs().max() < 0.4
    check(found.images, 0.0, v)
    assert found.sigmas.shape == (1000, 361)


def check(images, bias, variances=C):
    """Mean 1/2 and covariance diag(variances), within 4.5 standard errors and a relative bias."""
    n = len(images)
    z = ((images - 0.5) / variances.sqrt()).flatten(1)
    assert z.mean(0).abs().max() < 4.5 / math.sqrt(n)
    assert (z.T @ z / n - torch.eye(16)).abs().max() < 4.5 * math.sqrt(2 / n) + bias


@pytest.mark.parametrize("levels", [(20.0,), (20.0, 1.0, 0.3)])
def test_consistency_functions_give_the_prior_in_one_step_or_more(levels):
    found = consistency(final, SHAPE, 3000, levels=levels, sigma_min=0.0, seed=1)
    check(found.images, 0.01)
    assert found.evaluations == 3000 * len(levels)


@pytest.mark.parametrize("sampler", [heun, ddim, langevin])
def test_an_image_is_the_same_in_any_batch(sampler):
    whole = sampler(told, SHAPE, 4, steps=5, seed=7, every=2)
    part = sampler(told, SHAPE, 2, steps=5, seed=7, first=2)
    torch.testing.assert_close(part.images, whole.images[2:], rtol=0, atol=1e-6)
    torch.testing.assert_close(whole.trajectory[:, -1], whole.images)


def test_any_keyword_and_what_it_is_told():
    seen = []

    def model(y, t):
        seen.append(t)
        return y / 2

    ddim(model, SHAPE, 1, levels=[1.0, 0.5, 0.25], sigma_keyword="t")
    assert [float(t) for t in seen] == [1.0, 0.5, 0.25] and all(t.ndim == 0 for t in seen)


def test_interrupted():
    found = ddim(interrupted(lambda y: y / 2, 4), SHAPE, 1)
    assert found.notes == ["interrupted"] and not found.converged.any() and found.steps.tolist() == [3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: heun(told, SHAPE, levels=[]), "levels are positive and fall"),
        (lambda: heun(told, SHAPE, levels=[0.1, 0.2]), "levels are positive and fall"),
        (lambda: heun(told, SHAPE, steps=1), "steps must be >= 2"),
        (lambda: ddim(told, SHAPE, rho=0), "rho must be >= 1"),
        (lambda: langevin(told, SHAPE, epsilon=2), "epsilon lie in"),
        (lambda: langevin(told, SHAPE, steps=1), "steps must be >= 2"),
        (lambda: consistency(lambda y: y, SHAPE), "name the keyword"),
        (lambda: consistency(told, SHAPE, sigma_min=1.0), "sigma_min lies in"),
        (lambda: heun(told, SHAPE, sigma_keyword="s", model_kwargs={"s": 1}), "both set 's'"),
    ],
)
def test_bad_requests(call, message):
    with pytest.raises(OptionError, match=message):
        call()
