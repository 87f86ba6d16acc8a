"""Norms by cuDNN's kernels, which take no norm without weights: in plain operations where no GPU is."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional

import spectral
from spectral.jacobians.program.steps import aten


@pytest.fixture
def cudnn() -> Iterator[None]:
    """cuDNN's norm of a batch on the CPU."""

    def forward(x, weight, bias, mean, variance, training, share, eps):
        out, *saved = aten.native_batch_norm(x, weight, bias, mean, variance, training, share, eps)
        return out, *saved, torch.empty(0, dtype=torch.uint8)

    def backward(x, g, weight, mean, variance, saved_mean, saved_variance, eps, reserved):
        saved = mean, variance, saved_mean, saved_variance
        return aten.native_batch_norm_backward(g, x, weight, *saved, True, eps, [True, True, True])

    kernels = torch.library.Library("aten", "IMPL")
    kernels.impl("cudnn_batch_norm", forward, "CPU")
    kernels.impl("cudnn_batch_norm_backward", backward, "CPU")
    yield
    kernels._destroy()


@pytest.mark.parametrize("training", [True, False])
def test_cudnns_norm_has_a_rule(cudnn: None, training: bool) -> None:
    """Of one image's statistics, as an instance norm's, and of running ones."""
    torch.manual_seed(0)
    mix = nn.Conv2d(1, 4, 3, padding=1).double().requires_grad_(False)
    weight, bias, mean, variance = (0.5 + torch.rand(4, 4, dtype=torch.float64)).unbind()
    running = (None, None) if training else (mean, variance)

    def by_cudnn(y: torch.Tensor) -> torch.Tensor:
        return aten.cudnn_batch_norm(mix(y), weight, bias, *running, training, 0.1, 1e-5)[0].sin()

    def plainly(y: torch.Tensor) -> torch.Tensor:
        return functional.batch_norm(mix(y), *running, weight, bias, training).sin()

    y = torch.rand(1, 1, 6, 6, dtype=torch.float64)
    J = spectral.jacobian(by_cudnn, y)
    assert J.method == "frozen"
    true = torch.autograd.functional.jacobian(plainly, y).reshape(J.shape)
    torch.testing.assert_close(J.dense(), true, rtol=1e-10, atol=1e-12)
