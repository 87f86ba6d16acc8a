"""Noisy measurements: draws of Gaussian priors against their posteriors in closed form, and the inverses."""

from types import SimpleNamespace

import pytest
import torch

import denoisers
from denoisers.sampling import BlockAverage, Inpainting, constraint
from denoisers.sampling.constraint import Constraint
from denoisers.sampling.measurement import noise_of
from spectral.errors import OptionError

CHANNELS, SIDE, DRAWS = 24, 8, 25
POWERS = torch.tensor([0.3, 0.05])
U = torch.linalg.qr(torch.randn(SIDE**2, 2, generator=torch.Generator().manual_seed(0))).Q


class Prior:
    """The optimal denoiser of channels x = U c, c ~ N(0, POWERS), each alone; the level is what U leaves."""

    def __call__(self, y):
        z = y.flatten(2)
        c = z @ U
        left = (z - c @ U.T).square().sum((1, 2)) / (z.shape[1] * (z.shape[2] - 2))
        return (c * POWERS / (POWERS + left.view(-1, 1, 1)) @ U.T).view_as(y)


def orthonormal(r):
    return torch.linalg.qr(torch.randn(SIDE**2, r, generator=torch.Generator().manual_seed(2))).Q.T


def loose(r, n=SIDE**2):
    """Rows of lengths and angles of their own."""
    return torch.randn(r, n, generator=torch.Generator().manual_seed(3)) / 8


def each_channel(A):
    """A and A' of each channel by itself, as functions."""
    side = round(A.shape[1] ** 0.5)
    return lambda x: x.flatten(2) @ A.T, lambda u: (u @ A).unflatten(2, (side, side))


def against_the_posterior(A, tau, **options):
    """Draws by Prior of one v = A x + tau n for each channel.

    Returns the errors of their coefficients, whitened by the exact posterior; and |A x - v|^2 over what the
    posterior says of it, and over tau^2 r.
    """
    generator = torch.Generator().manual_seed(1)
    truth = (torch.randn(CHANNELS, 2, generator=generator) * POWERS.sqrt()) @ U.T
    v = truth @ A.T + tau * torch.randn(CHANNELS, len(A), generator=generator)
    many = v.expand(DRAWS, -1, -1)
    found = denoisers.solve(Prior(), each_channel(A), many, noise=tau, mean=0.0, **options)
    B = A @ U
    precision = B.T @ B / tau**2 + torch.diag(1 / POWERS)
    mean = torch.linalg.solve(precision, B.T @ v.T / tau**2).T
    errors = (found.images.flatten(2) @ U - mean) @ torch.linalg.cholesky(precision)
    expected = (mean @ B.T - v).square().sum() + CHANNELS * torch.trace(B @ precision.inverse() @ B.T)
    residual = (found.images.flatten(2) @ A.T - v).square().sum() / DRAWS
    return errors.flatten(0, 1), residual / expected, residual / (tau**2 * v.numel())


@pytest.mark.parametrize(
    ("A", "tau"),
    [
        pytest.param(orthonormal(24), 0.1, id="orthonormal"),
        pytest.param(orthonormal(24), 0.3, id="noisier", marks=pytest.mark.slow),
        pytest.param(loose(20), 0.1, id="any rows", marks=pytest.mark.slow),
    ],
)
def test_draws_are_from_the_posterior(A, tau):
    """Mean and covariance of 600 draws, to what beta = 0.03 and h = 0.1 leave; |A x - v| is tau sqrt(r)."""
    errors, residual, of_noise = against_the_posterior(A, tau, beta=0.03, h0=0.1, growing=False)
    assert errors.mean(0).abs().max() < 0.15
    assert (errors.T.cov() - torch.eye(2)).abs().max() < 0.18
    assert residual.item() == pytest.approx(1, rel=0.05)
    assert of_noise.item() == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize("tau", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("A", [orthonormal(24), loose(20)], ids=["orthonormal", "any rows"])
def test_draws_by_default_are_nearly(A, tau):
    """Growing steps: the posterior's mean, 0.7 to 1.2 of its variance, and a residual of the noise's size."""
    errors, residual, of_noise = against_the_posterior(A, tau)
    assert errors.mean(0).abs().max() < 0.15
    variances = torch.linalg.eigvalsh(errors.T.cov())
    assert variances[0] > 0.65 and variances[1] < 1.2
    assert residual.item() == pytest.approx(1, rel=0.1)
    assert of_noise.item() == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("kind", ["orthonormal", "scaled", "formed", "iterated"])
def test_the_pull_is_the_formula(kind, monkeypatch):
    """f + A' (A A' + (tau / sigma)^2 I)^-1 (v - A f), each image with a tau and a sigma of its own."""
    A = {"orthonormal": orthonormal(24), "scaled": 3 * orthonormal(24)}.get(kind, loose(40))
    if kind == "iterated":
        monkeypatch.setattr(constraint, "FORMED", 39)
        monkeypatch.setattr(constraint, "SOLVED", 1e-6)
    f, v = torch.randn(3, 1, SIDE, SIDE), torch.randn(3, 1, len(A))
    tau, sigma = torch.tensor([0.1, 0.3, 1.0]), torch.tensor([0.5, 0.2, 0.1])
    made = Constraint(*each_channel(A), v, tau)
    expected = f.clone()
    for i in range(3):
        inverse = torch.linalg.inv(A @ A.T + (tau[i] / sigma[i]) ** 2 * torch.eye(len(A)))
        expected[i] += ((v[i] - f[i].flatten(1) @ A.T) @ inverse @ A).view_as(f[i])
    order = torch.tensor([2, 0, 1])
    pulled = made.project(f[order], sigma[order], order)
    torch.testing.assert_close(pulled, expected[order], rtol=1e-4, atol=1e-4)


def test_a_mask_of_whole_images_is_never_formed():
    """A = A' = a mask, as deepinv has it, A A' a projection: 4096 values, exact and noisy."""
    mask = (torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    pair = (lambda x: mask * x,) * 2
    f, v = torch.rand(2, 1, 64, 64), torch.rand(2, 1, 64, 64) * mask
    sigma, both = torch.tensor([0.1, 0.2]), torch.arange(2)
    torch.testing.assert_close(Constraint(*pair, v).project(f, sigma, both), torch.where(mask > 0, v, f))
    w = (sigma**2 / (sigma**2 + 0.04)).view(2, 1, 1, 1) * mask
    noisy = Constraint(*pair, v, torch.full((2,), 0.2)).project(f, sigma, both)
    torch.testing.assert_close(noisy, f + w * (v - f))
    with pytest.raises(OptionError, match="tell the values' noise"):
        Constraint(*pair, v + 0.1)


def test_no_noise_is_the_exact_measurement():
    """Told as 0, or as the limit of small ones; and each image by its own."""
    m, x = BlockAverage(2), torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"beta": 0.5, "h0": 0.1, "max_steps": 15}
    exact, none, small, mixed = (
        denoisers.solve(
            lambda y: y.mean((2, 3), keepdim=True) / 2 + y / 2, m, m.measure(x), **options, **told
        )
        for told in ({}, {"noise": 0}, {"noise": 1e-5}, {"noise": torch.tensor([0.0, 0.2, 0.0])})
    )
    assert torch.equal(exact.images, none.images)
    torch.testing.assert_close(small.images, exact.images, rtol=0, atol=1e-4)
    off = (mixed.images - exact.images).abs().amax((1, 2, 3))
    assert off[0] == off[2] == 0 and off[1] > 0.01
    assert "noise 0.2" in mixed.method and "noise" not in exact.method


@pytest.mark.parametrize("task", ["hole", "blocks"])
def test_the_shipped_network_does_not_fit_the_noise(task):
    """|A x - v| is about tau sqrt(count); taken as exact the values' noise is drawn too."""
    from denoisers.evaluation import add_noise, psnr
    from denoisers.images import photograph

    truth, tau = torch.from_numpy(photograph())[..., 108:140, 100:132], 0.1
    m = Inpainting.hole(32, 8) if task == "hole" else BlockAverage(2)
    v = add_noise(m.measure(truth), tau, 0)
    exact, found = (denoisers.solve(denoisers.load("photos"), m, v, noise=told) for told in (0, tau))
    residual = (m.measure(found.images) - v).square().mean().sqrt().item()
    assert residual == pytest.approx(tau, rel=0.15)
    assert psnr(truth, found.images).item() > psnr(truth, exact.images).item() + 1


class GaussianNoise:
    """As deepinv's: `sigma` is a standard deviation, of all images or one each."""

    def __init__(self, sigma):
        self.sigma = torch.as_tensor(sigma)


ZeroNoise, PoissonNoise = type("ZeroNoise", (), {}), type("PoissonNoise", (), {})


def test_the_noise_of_physics_is_theirs():
    def told(model, noise=None):
        return noise_of(SimpleNamespace(noise_model=model), noise, 2).tolist()

    assert told(ZeroNoise()) == noise_of(object(), None, 2).tolist() == [0, 0]
    assert told(GaussianNoise(0.25)) == [0.25, 0.25]
    assert told(GaussianNoise([0.25, 0.5])) == told(GaussianNoise([[[0.25]], [[0.5]]])) == [0.25, 0.5]
    assert told(GaussianNoise(0.25), 0.5) == told(PoissonNoise(), 0.5) == [0.5, 0.5]
    with pytest.raises(OptionError, match="noise is PoissonNoise"):
        told(PoissonNoise())


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (-0.1, "finite and >= 0"),
        (float("nan"), "noise is a finite number"),
        ("much", "noise is a finite number"),
        (torch.tensor([0.1, torch.nan]), "finite and >= 0"),
        (torch.ones(3), "got 3 for 2 images"),
    ],
)
def test_bad_noise(noise, message):
    with pytest.raises(OptionError, match=message):
        denoisers.solve(lambda y: y / 2, BlockAverage(2), torch.rand(2, 1, 4, 4), noise=noise)


def test_what_conjugate_gradients_cannot_solve_is_refused(monkeypatch):
    monkeypatch.setattr(constraint, "FORMED", 39)
    monkeypatch.setattr(constraint, "MOST", 3)
    v = torch.randn(1, 1, 40)
    made = Constraint(*each_channel(loose(40)), v, torch.tensor([1e-3]))
    with pytest.raises(OptionError, match="larger noise="):
        made.project(torch.zeros(1, 1, SIDE, SIDE), torch.ones(1), torch.arange(1))
