"""Coarse-to-fine ascent: Gaussian priors in closed form, each image by itself, what stops short."""

import math

import pytest
import torch

import denoisers
from denoisers.sampling import Samples
from denoisers.sampling.ascent import Ascent
from spectral.errors import NotFiniteError, OptionError, ShapeError
from tests.helpers.interrupted import interrupted

SHAPE = (1, 4, 4)


class FixedPrior:
    """The blind denoiser of N(1/2, c) whose level is read off |y - 1/2|^2: E = d (c + sigma^2)."""

    def __init__(self, c):
        self.c = c

    def __call__(self, y):
        z = y - 0.5
        total = z.square().flatten(1).mean(1).view(-1, 1, 1, 1)
        return 0.5 + z * (self.c / total.clamp(min=self.c))


def shrink(y):
    """Halves all: no noise is ever left but the image itself, which goes to zero."""
    return y / 2


def test_beta_1_is_the_formula_by_hand():
    """f = a y: y_t = prod (1 - (1 - a) h_t) y_0, and sigma_t = (1 - a) |y_t| / sqrt(N)."""
    a, h0 = 0.3, 0.2
    draws = denoisers.sample(lambda y: a * y, SHAPE, 3, beta=1.0, h0=h0, mean=0.0, sigma_end=0.05, seed=4)
    start = denoisers.sample(lambda y: a * y, SHAPE, 3, mean=0.0, seed=4, max_steps=1).images / a
    for i in range(3):
        y, t = start[i], 1
        while (1 - a) * y.norm() / 4 > 0.05:
            y = y * (1 - (1 - a) * h0 * t / (1 + h0 * (t - 1)))
            t += 1
        torch.testing.assert_close(draws.images[i], a * y)
        assert draws.steps[i] == t


def test_a_constant_step_is_the_formula_by_hand():
    """f = a y, beta = 1: y_t = (1 - (1 - a) h)^t y_0, until (1 - a) |y_t| / sqrt(N) is small enough."""
    a, h, options = 0.3, 0.2, {"mean": 0.0, "seed": 4, "growing": False}
    draws = denoisers.sample(lambda y: a * y, SHAPE, 3, beta=1.0, h0=h, sigma_end=0.05, **options)
    start = denoisers.sample(lambda y: a * y, SHAPE, 3, max_steps=1, **options).images / a
    for i in range(3):
        level = (1 - a) * start[i].norm().item() / 4
        steps = math.ceil(math.log(0.05 / level) / math.log(1 - (1 - a) * h))
        torch.testing.assert_close(draws.images[i], a * (1 - (1 - a) * h) ** steps * start[i])
        assert draws.steps[i] == steps + 1
    assert "h 0.2, beta 1" in draws.method


def test_the_step_grows_as_the_formula_says():
    run = Ascent(0.01, 0.1, 1.0, 0.01, 10, 0)
    assert run.step(1) == 0.01 and run.step(100) == pytest.approx(1 / 1.99)
    assert run.noise(0.5) == pytest.approx(math.sqrt(0.95**2 - 0.25))
    assert Ascent(0.01, 1.0, 1.0, 0.01, 10, 0).noise(0.5) == 0


class Subspace:
    """The optimal denoiser of x = 1/2 + U c, c ~ N(0, diag(powers)); the level is read off what U leaves."""

    def __init__(self, powers, n):
        self.powers = torch.tensor(powers)
        noise = torch.randn(n, len(powers), generator=torch.Generator().manual_seed(0))
        self.U = torch.linalg.qr(noise).Q

    def coefficients(self, x):
        return (x.flatten(1) - 0.5) @ self.U

    def __call__(self, y):
        c, z = self.coefficients(y), y.flatten(1) - 0.5
        level = (z - c @ self.U.T).square().sum(1, keepdim=True) / (z.shape[1] - c.shape[1])
        return 0.5 + ((c * self.powers / (self.powers + level)) @ self.U.T).view_as(y)


@pytest.mark.parametrize(("beta", "h0"), [(0.5, 0.002), (0.1, 0.002), (1.0, 0.002)])
def test_gaussian_prior_in_distribution(beta, h0):
    """Mean and covariance of the draws: those of the recursion that Algorithm 1 is for a Gaussian prior.

    v <- (1 - h s^2 / (p + s^2))^2 v + gamma^2 for each power p, s <- (1 - beta h) s; v -> p + s^2 as h -> 0.
    """
    powers, count, end = [0.3, 0.1, 0.03], 400, 0.01
    prior, run = Subspace(powers, 256), Ascent(h0, beta, 1.0, end, 5000, 0)
    draws = denoisers.sample(prior, (1, 16, 16), count, beta=beta, h0=h0, seed=1)
    assert draws.converged.all() and not draws.notes
    expected, s, t = [1.0] * 3, 1.0, 1
    while s > end:
        h = run.step(t)
        noise = (run.noise(h) * s) ** 2
        expected = [
            (1 - h * s**2 / (p + s**2)) ** 2 * v + noise for p, v in zip(powers, expected, strict=True)
        ]
        s, t = (1 - beta * h) * s, t + 1
    c = prior.coefficients(draws.images)
    sd = torch.tensor(expected).sqrt()
    assert (c.mean(0) / sd).abs().max() < 4.5 / math.sqrt(count)
    correlation = (c / sd).T @ (c / sd) / count
    assert (correlation - torch.eye(3)).abs().max() < 4.5 * math.sqrt(2 / count)
    assert (torch.tensor(expected) / prior.powers - 1).abs().max() < 0.3


def test_noise_falls_by_1_minus_beta_h():
    """For a prior of one image, sigma_{t+1} = (1 - beta h_t) sigma_t in mean square."""
    x = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0))
    draws = denoisers.sample(x.expand_as, (1, 64, 64), 8, beta=0.3, h0=0.1, max_steps=20)
    run = Ascent(0.1, 0.3, 1.0, 0.01, 20, 0)
    expected = math.prod(1 - 0.3 * run.step(t) for t in range(1, 20))
    ratio = draws.sigmas[:, -1].square().mean().sqrt() / draws.sigmas[:, 0].square().mean().sqrt()
    assert ratio.item() == pytest.approx(expected, rel=0.03)
    torch.testing.assert_close(draws.images, x.expand(8, 1, 64, 64))


def test_an_image_is_the_same_in_any_batch():
    options = {"beta": 0.5, "h0": 0.05, "seed": 3}
    whole = denoisers.sample(FixedPrior(0.04), SHAPE, 5, **options)
    part = denoisers.sample(FixedPrior(0.04), SHAPE, 2, first=3, **options)
    torch.testing.assert_close(part.images, whole.images[3:], rtol=0, atol=1e-6)
    assert part.steps.tolist() == whole.steps[3:].tolist()
    other = denoisers.sample(FixedPrior(0.04), SHAPE, 2, first=3, **options | {"seed": 4})
    assert not torch.allclose(other.images, part.images, atol=1e-2)


def test_images_that_have_stopped_cost_nothing():
    calls = []

    def counted(y):
        calls.append(len(y))
        return FixedPrior(0.04)(y)

    draws = denoisers.sample(counted, SHAPE, 6, beta=0.5, h0=0.05)
    assert len(set(draws.steps.tolist())) > 1
    assert sum(calls) == draws.evaluations == int(draws.steps.sum())
    assert draws.sigmas.isfinite().sum(1).tolist() == draws.steps.tolist()


def test_a_stalled_image_is_the_least_noisy_one():
    """A denoiser that is off by 0.03 always never comes to 0.01."""
    draws = denoisers.sample(lambda y: y + 0.03, SHAPE, 2, beta=0.5, h0=0.2)
    assert not draws.converged.any() and (draws.steps < 200).all()
    assert "2 of 2 stalled" in draws.notes[0] and "raise it" in draws.notes[0]


def test_a_bound_on_steps_is_told():
    draws = denoisers.sample(FixedPrior(0.04), SHAPE, 2, max_steps=3)
    assert draws.steps.tolist() == [3, 3] and not draws.converged.any()
    assert "2 of 2 stopped at max_steps=3" in draws.notes[0]
    assert "max_steps" in repr(draws)


def test_interrupted_it_returns_what_there_is():
    draws = denoisers.sample(interrupted(FixedPrior(0.04), 4), SHAPE, 2, every=1)
    assert draws.notes == ["interrupted"] and draws.steps.tolist() == [3, 3]
    torch.testing.assert_close(draws.trajectory[:, -1], draws.images)
    with pytest.raises(KeyboardInterrupt):
        denoisers.sample(interrupted(FixedPrior(0.04), 1), SHAPE, 2)


def test_trajectory_and_files(tmp_path):
    draws = denoisers.sample(FixedPrior(0.04), SHAPE, 3, every=10, beta=0.5, h0=0.05)
    assert draws.trajectory.shape == (3, len(draws.frames), *SHAPE)
    assert draws.frames[:2] == [1, 11] and draws.frames[-1] == int(draws.steps.max())
    torch.testing.assert_close(draws.trajectory[:, -1], draws.images)
    again = Samples.load(draws.save(tmp_path / "draws.safetensors"))
    assert torch.equal(again.images, draws.images) and again.frames == draws.frames
    assert (
        draws.save_png(tmp_path / "a.png").is_file() and draws.save_trajectory(tmp_path / "b.png").is_file()
    )
    with pytest.raises(OptionError, match="every=10"):
        denoisers.sample(FixedPrior(0.04), SHAPE, 1, max_steps=1).save_trajectory(tmp_path / "c.png")
    assert "sigma" in draws._repr_html_() and "3 of 1x4x4" in repr(draws)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"beta": 0}, OptionError, "h0 and beta lie in"),
        ({"h0": 1.5}, OptionError, "h0 and beta lie in"),
        ({"sigma_end": 2.0}, OptionError, "fall from sigma_start to sigma_end"),
        ({"sigma_end": 0}, OptionError, "fall from sigma_start to sigma_end"),
        ({"count": 0}, OptionError, "count must be >= 1"),
        ({"first": -1}, OptionError, "first must be >= 0"),
        ({"max_steps": 0}, OptionError, "max_steps must be >= 1"),
        ({"seed": -1}, OptionError, "seed must lie in"),
        ({"every": -1}, OptionError, "0 for no trajectory"),
        ({"shape": (4, 4)}, ShapeError, "grey ones have C = 1"),
        ({"shape": 4}, ShapeError, r"\(C, H, W\)"),
        ({"model": lambda y: y[..., :2]}, ShapeError, "a denoiser keeps the shape"),
        ({"model": lambda y: y / 0}, NotFiniteError, "start from a lower noise level"),
        ({"model": lambda y: 3 - 30 * y}, NotFiniteError, "."),
        ({"model": lambda y, sigma: y}, OptionError, "is told sigma: use"),
    ],
)
def test_bad_requests(options, error, message):
    options = {"model": shrink, "shape": SHAPE} | options
    if message == ".":
        options |= {"beta": 1.0, "h0": 1.0}
        draws = denoisers.sample(options.pop("model"), **options)
        assert not draws.converged.any() and "stalled" in draws.notes[0]
        return
    with pytest.raises(error, match=message):
        denoisers.sample(options.pop("model"), **options)


def test_training_flags_are_put_back():
    model = denoisers.load("photos").train()
    denoisers.sample(model, (1, 8, 8), 1, max_steps=2)
    assert model.training and all(m.training for m in model.modules())
