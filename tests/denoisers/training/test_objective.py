import math
from dataclasses import replace

import pytest
import torch

from denoisers.networks import EDM, Consistency, UNet
from denoisers.training import TrainConfig
from denoisers.training.objective import STAGES, consistency_loss, denoising_loss, loss_of
from spectral.errors import OptionError

LOW = TrainConfig(data="calpha", noise="log-uniform")


def batch(n=3, side=8):
    g = torch.Generator().manual_seed(0)
    return (
        torch.rand(n, 1, side, side, generator=g),
        torch.tensor([0.1, 0.5, 2.0])[:n],
        torch.randn(n, 1, side, side, generator=g),
    )


def test_denoising_is_the_weighted_squared_error():
    x, sigma, z = batch()
    torch.manual_seed(0)
    for network in (UNet(1, 4).eval(), EDM(8, 1)):
        y = x + sigma[:, None, None, None] * z
        each = [
            ((network(y[i : i + 1], sigma[i]) if network.told else network(y[i : i + 1])) - x[i])
            .square()
            .sum()
            for i in range(3)
        ]
        w = network.weight(sigma)
        expected = sum(w[i] * each[i] for i in range(3)) / 3
        torch.testing.assert_close(denoising_loss(network, network, x, sigma, z), expected, rtol=1e-4, atol=0)
        emphasised = sum(w[i] * each[i] / sigma[i] ** 0.5 for i in range(3)) / 3
        found = loss_of(replace(LOW, emphasis=0.5), network)(network, x, sigma, z, 0)
        torch.testing.assert_close(found, emphasised, rtol=1e-4, atol=0)
    # F is asked for a target of deviation one where the pixels' is sigma_data: loss of F = 0 is 1 a pixel.
    edm, x = EDM(8, 1), 0.5 + 0.25 * torch.randn(512, 1, 8, 8)
    torch.nn.init.zeros_(edm.body.last[-1].weight)
    torch.nn.init.zeros_(edm.body.last[-1].bias)
    for level in (0.01, 0.2, 3.0):
        loss = denoising_loss(edm, edm, x, torch.full((512,), level), torch.randn(x.shape))
        assert float(loss.detach()) / 64 == pytest.approx(1, abs=0.05)


def test_consistency_compares_two_levels_of_one_path():
    x, t, z = batch()
    torch.manual_seed(0)
    f = Consistency(8, 1)
    for progress in (0.0, 0.5, 0.999):
        stage = math.floor(STAGES * progress)
        expected = 0.0
        for i in range(3):
            n = 1 + 8 / (1 + math.exp(float(t[i]) / (2 * f.sigma_data)))
            r = max(float(t[i]) * (1 - n / 2 ** (stage + 1)), f.sigma_min)
            ahead = f(x[i : i + 1] + t[i] * z[i], t[i])
            behind = f(x[i : i + 1] + r * z[i], r)
            c = 0.00054 * 8
            expected += (((ahead - behind).square().sum() + c**2).sqrt() - c) / (t[i] - r) / 3
        torch.testing.assert_close(consistency_loss(f, f, x, t, z, progress), expected, rtol=1e-3, atol=0)
    # From the smallest level on f is the identity, and at the start that is what it is held against.
    far = consistency_loss(f, f, x, t, z, 0.0)
    far.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in f.parameters())


def test_both_levels_go_through_the_network_as_it_is_called():
    """By autocast the one is rounded as the other is, whose difference is divided by that of the levels."""
    x, t, z = batch()
    torch.manual_seed(0)
    network, told = Consistency(8, 1), []

    def called(y, level):
        told.append((level, torch.is_grad_enabled()))
        return network(y, level)

    consistency_loss(called, network, x, t, z, 0.5)
    assert [grad for _, grad in told] == [True, False] and (told[1][0] < told[0][0]).all()


def test_what_does_not_fit_is_refused():
    config = TrainConfig(data="calpha")
    with pytest.raises(OptionError, match="no denoiser"):
        loss_of(config, Consistency(8, 1))
    with pytest.raises(OptionError, match="not UNet"):
        loss_of(TrainConfig(data="calpha", objective="consistency"), UNet(1, 4))
