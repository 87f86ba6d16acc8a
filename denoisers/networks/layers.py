"""The layers that bias-free networks are made of: nothing here adds a constant."""

import math

import torch
from torch import Tensor, nn


def convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    """A 3x3 convolution, zero padding, no bias: (N, channels_in, H, W) -> (N, channels_out, H, W).

    Weights start as Kaiming normal with fan-in: variance 2 / (9 channels_in).
    """
    layer = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight)
    return layer


class BiasFreeNorm(nn.Module):
    """Batch normalisation that divides by a standard deviation and never subtracts a mean.

    training:    x gamma / s,  s^2 = var_{N,H,W}(x) + 1e-5  (biased variance, one s a channel),
                 running_sd <- (1 - momentum) running_sd + momentum s,  momentum = 0.1
    evaluation:  x gamma / running_sd

    In evaluation it is linear and diagonal in the channels: a network of such layers is homogeneous of degree
    one. gamma starts as N(0, 2 / (9 * 64)) clamped to +-0.025, as in the released training code of
    Kadkhodaie et al. (arXiv 2310.02557).

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
        return x * (self.gamma / sd)[:, None, None]

    def _batch_sd(self, x: Tensor) -> Tensor:
        sd = (x.var((0, 2, 3), correction=0) + 1e-5).sqrt()
        with torch.no_grad():
            self.running_sd.lerp_(sd, self.momentum)
        return sd

    def extra_repr(self) -> str:
        """Channels, for print(network)."""
        return str(self.gamma.numel())


def conv_norm_relu(channels_in: int, channels_out: int) -> list[nn.Module]:
    """Convolution, bias-free norm, ReLU: the unit that both networks repeat."""
    return [convolution(channels_in, channels_out), BiasFreeNorm(channels_out), nn.ReLU()]
