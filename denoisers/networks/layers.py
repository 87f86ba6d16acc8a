"""The layers of the paper's networks; where they are bias-free nothing adds a constant."""

import math
from typing import Any

import torch
from torch import Tensor, distributed, nn


def convolution(channels_in: int, channels_out: int, biased: bool = False) -> nn.Conv2d:
    """A 3x3 convolution, zero padding: (N, channels_in, H, W) -> (N, channels_out, H, W).

    Weights start as Kaiming normal with fan-in, variance 2 / (9 channels_in); a bias, where there is one,
    at 0.
    """
    layer = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=biased)
    nn.init.kaiming_normal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class BiasFreeNorm(nn.Module):
    """Batch normalisation that divides by a standard deviation and never subtracts a mean.

        training:    x gamma / s,  s^2 = var_{N,H,W}(x) + 1e-5  (biased variance, one s a channel),
                     running_sd <- (1 - momentum) running_sd + momentum s,  momentum = 0.1
        evaluation:  x gamma / running_sd

    In evaluation it is linear and diagonal in the channels: a network of such layers is homogeneous of degree
    one. gamma starts as N(0, 2 / (9 * 64)) clamped to +-0.025, as in the released training code of
    Kadkhodaie et al. (arXiv 2310.02557). Several processes share the variance of all their images.

    Shapes: x (N, channels, H, W); gamma and running_sd (channels,).
    """

    running_sd: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.momentum = 0.1
        gamma = torch.randn(channels) * math.sqrt(2 / (9 * 64))
        self.gamma = nn.Parameter(gamma.clamp_(-0.025, 0.025))
        self.register_buffer("running_sd", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel of x; the formula is the class's."""
        sd = self._batch_sd(x) if self.training else self.running_sd
        # By autocast x may be of half precision, and would be widened here.
        return x * (self.gamma / sd).to(x.dtype)[:, None, None]

    def _batch_sd(self, x: Tensor) -> Tensor:
        sd = (_variance(x) + 1e-5).sqrt()
        with torch.no_grad():
            self.running_sd.lerp_(sd.to(self.running_sd.dtype), self.momentum)
        return sd

    def extra_repr(self) -> str:
        """Channels, for print(network)."""
        return str(self.gamma.numel())


def _variance(x: Tensor) -> Tensor:
    """The biased variance of each channel, over the images of all processes."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return x.var((0, 2, 3), correction=0)
    mean = _Mean.apply(x.mean((0, 2, 3)))
    return _Mean.apply((x - mean[:, None, None]).square().mean((0, 2, 3)))


class _Mean(torch.autograd.Function):
    """The mean over processes, and so is its transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone()
        distributed.all_reduce(total)
        return total / distributed.get_world_size()

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> Tensor:
        return _Mean.forward(ctx, g[0])


def conv_norm_relu(channels_in: int, channels_out: int, biased: bool = False) -> list[nn.Module]:
    """Convolution, norm, ReLU: the unit that the paper's networks repeat; biased, with batch norm."""
    first = convolution(channels_in, channels_out)  # the norm that follows has a bias, where there is one
    return [first, nn.BatchNorm2d(channels_out) if biased else BiasFreeNorm(channels_out), nn.ReLU()]
