"""EDM's, deepinv's and azula's ways of speaking, by stand-ins that need none of these packages."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import spectral
from denoisers.adapters import from_azula, from_deepinv, from_edm
from denoisers.networks import EDM
from spectral.errors import ModelOutputError, OptionError
from tests.helpers.diffusion_standin import dense, matrix, ready

y = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Preconditioned(nn.Module):
    """D(z, sigma, class_labels) of images in [-1, 1]; sigma is (N,)."""

    def __init__(self, sigma_min=0.0, sigma_max=float("inf")):
        super().__init__()
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.net, self.labels = EDM(8, 2, sigma_data=0.5, mean=0.0), nn.Linear(3, 1)

    def forward(self, z, sigma, class_labels=None):
        assert sigma.shape == (len(z),)
        shift = 0 if class_labels is None else self.labels(class_labels)[:, :, None, None]
        return self.net(z + shift, sigma)


def test_edm():
    D = ready(Preconditioned())
    f, sigma = from_edm(D), 0.2
    assert f.sigmas == (0.001, 40.0)
    assert from_edm(Preconditioned(0.01, 50.0)).sigmas == (0.005, 25.0)

    def truth(y):
        return (D(2 * y - 1, torch.tensor([2 * sigma], dtype=y.dtype)) + 1) / 2

    J = spectral.jacobian(f.at(sigma=sigma), y[:1])
    torch.testing.assert_close(matrix(J), dense(truth, y[:1]), rtol=0, atol=1e-12)
    labels = torch.eye(3)[1:2]
    torch.testing.assert_close(
        from_edm(D, class_labels=labels)(y, sigma),
        (D(2 * y - 1, torch.tensor([0.4, 0.4]).double(), labels.double().expand(2, -1)) + 1) / 2,
    )
    with pytest.raises(OptionError, match=r"sigma lies in \[0.001, 40\]"):
        f(y, 41)


def test_deepinv():
    net = ready(EDM(8, 2))
    f = from_deepinv(net, highest=1.0)
    levels = torch.tensor([0.1, 0.3], dtype=y.dtype)
    torch.testing.assert_close(f(y, levels), net(y, levels), rtol=0, atol=1e-14)
    J = spectral.jacobian(f.at(sigma=0.1), y[:1])
    torch.testing.assert_close(matrix(J), dense(lambda y: net(y, 0.1), y[:1]), rtol=0, atol=1e-12)
    with pytest.raises(OptionError, match="sigma lies in"):
        f(y, 1.1)


class Rectified:
    def __call__(self, t):
        return 1 - 0.999 * t, t + (1 - t) * 1e-3


class Azula(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.schedule = net, Rectified()

    def forward(self, z, t, **_):
        alpha, sigma = self.schedule(t)
        shape = (-1, *[1] * (z.ndim - 1)) if t.ndim else ()
        return SimpleNamespace(mean=self.net(z / alpha.reshape(shape), sigma / alpha))


def test_azula():
    net = ready(EDM(8, 2, sigma_data=0.5, mean=0.0))
    f, sigma = from_azula(Azula(net)), 0.2

    def truth(y):
        return (net(2 * y - 1, 2 * sigma) + 1) / 2

    torch.testing.assert_close(f(y, sigma), truth(y), rtol=0, atol=1e-12)
    levels = torch.tensor([0.1, 0.3], dtype=y.dtype)
    torch.testing.assert_close(f(y, levels), (net(2 * y - 1, 2 * levels) + 1) / 2, rtol=0, atol=1e-12)
    J = spectral.jacobian(f.at(sigma=sigma), y[:1])
    torch.testing.assert_close(matrix(J), dense(truth, y[:1]), rtol=0, atol=1e-11)
    at_time = f.at(timestep=0.5)
    assert at_time.level.alpha == pytest.approx(1 - 0.4995) and at_time.level.sigma == pytest.approx(0.5005)
    odd = Azula(net)
    odd.forward = lambda z, t: z
    with pytest.raises(ModelOutputError, match="no posterior with a mean"):
        from_azula(odd)(y, sigma)
