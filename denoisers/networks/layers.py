"""The layers of the paper's networks; where they are bias-free nothing adds a constant."""

import math
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import avg_pool2d, interpolate

_CHUNK = 2**18  # entries whose squares are summed at once: 1 MB in float32
_EPSILON = 1e-5  # added to a variance


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
        if not self.training:
            return self._scaled(x, self.running_sd)
        if x.is_cuda and not torch.compiler.is_compiling() and not _several():
            scaled, sd = _Normalised.apply(x, self.gamma)
        else:
            sd = (_moments(x)[0] + _EPSILON).sqrt()
            scaled = self._scaled(x, sd)
        with torch.no_grad():
            self.running_sd.lerp_(sd.to(self.running_sd.dtype), self.momentum)
        return scaled

    def _scaled(self, x: Tensor, sd: Tensor) -> Tensor:
        # By autocast x may be of half precision, and would be widened here.
        return x * (self.gamma / sd).to(x.dtype)[:, None, None]

    def extra_repr(self) -> str:
        """Channels, for print(network)."""
        return str(self.gamma.numel())


class BatchNorm(nn.BatchNorm2d):
    """torch's, of the mean and variance of all processes' images: torch has that on GPUs alone."""

    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """As torch's."""
        if not (self.training and _several()):
            return super().forward(x)
        variance, mean = _moments(x)
        count = distributed.get_world_size() * x.numel() // x.shape[1]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        level = self.bias - scale * mean
        return torch.addcmul(level[:, None, None], scale[:, None, None], x.to(scale.dtype)).to(x.dtype)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """The biased variance and mean of each channel, over all processes' images, of which each has as many."""
    by_hand = x.device.type == "cpu" and not torch.compiler.is_compiling()
    kind = torch.promote_types(x.dtype, torch.float32)
    variance, mean = _Moments.apply(x) if by_hand else torch.var_mean(x.to(kind), (0, 2, 3), correction=0)
    if not _several():
        return variance, mean
    of_all = _Mean.apply(mean)
    return _Mean.apply(variance + (mean - of_all).square()), of_all


def _several() -> bool:
    """Whether processes train together."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


class _Normalised(torch.autograd.Function):
    """(x gamma / s, s) of x (N, C, H, W) on a GPU, s^2 = var(x) + 1e-5 of each channel.

    By the kernels of torch's synchronised batch norm, two passes over x forwards and two backwards, where
    autograd's take some twelve:

        g_x = gamma / s (g - (x - mean(x)) sum(g x) / n s^2),  g_gamma = sum(g x) / s,  n = N H W
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
        x = _one_piece(x, like=x)
        mean, inverse = torch.batch_norm_stats(x, _EPSILON)
        gamma = gamma.to(mean.dtype)
        zero = torch.zeros_like(mean)
        scaled = torch.batch_norm_elemt(x, gamma, None, zero, inverse, _EPSILON)
        sd = inverse.reciprocal()
        ctx.save_for_backward(x, gamma, mean, inverse)
        ctx.mark_non_differentiable(sd)
        return scaled, sd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        x, gamma, mean, inverse = ctx.saved_tensors
        g = _one_piece(g, like=x)
        zero = torch.zeros_like(mean)
        # About zero in place of the mean the second sum is that of g x.
        _, products, of_gamma, _ = torch.batch_norm_backward_reduce(
            g, x, zero, inverse, gamma, True, True, False
        )
        entries = torch.full((1,), x.numel() // x.shape[1], dtype=torch.int32, device=x.device)
        of_x = torch.batch_norm_backward_elemt(g, x, mean, inverse, gamma, zero, products, entries)
        return of_x, of_gamma


def _one_piece(x: Tensor, like: Tensor) -> Tensor:
    """x without gaps in memory, channels last where another tensor has them last."""
    last = like.is_contiguous(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


class _Moments(torch.autograd.Function):
    """The biased variance and the mean of each channel, of x (N, C, H, W), in float32 or x's own precision.

    `torch.var_mean` takes 6 to 15 times as long on a CPU, since it updates a mean entry by entry; sums by
    vectors and in pairs, of squares about the mean, are as precise. The squares are of some images at a time,
    which a core's cache holds.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        entries = x.numel() // x.shape[1]
        kind = torch.promote_types(x.dtype, torch.float32)
        mean = x.sum((0, 2, 3), dtype=kind) / entries
        squares = torch.zeros_like(mean)
        for some in x.split(max(1, _CHUNK // x[0].numel())):
            squares += (some - mean[:, None, None]).square_().sum((0, 2, 3))
        ctx.save_for_backward(x, mean)
        return squares / entries, mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *g: Tensor) -> Tensor:
        """g_mean / n + 2 g_variance (x - mean) / n, as one pass over x."""
        x, mean = ctx.saved_tensors
        of_variance, of_mean = (part * x.shape[1] / x.numel() for part in g)
        slope = 2 * of_variance
        level = of_mean - slope * mean
        level, slope = (part[:, None, None].to(x.dtype) for part in (level, slope))
        return torch.addcmul(level, slope, x)


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


def halved(x: Tensor, training: bool) -> Tensor:
    """Means over 2x2 squares, (N, C, H, W) -> (N, C, H / 2, W / 2) of even sides."""
    if training and x.is_cuda and not torch.compiler.is_compiling():
        return _Halved.apply(x)
    return avg_pool2d(x, 2)


class _Halved(torch.autograd.Function):
    """`halved`, whose gradient is spread by the kernel that enlarges images.

    That of pooling takes several times as long where channels are last.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return avg_pool2d(x, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return interpolate(g / 4, scale_factor=2)


def conv_norm_relu(channels_in: int, channels_out: int, biased: bool = False) -> list[nn.Module]:
    """Convolution, norm, ReLU: the unit that the paper's networks repeat; biased, with batch norm."""
    first = convolution(channels_in, channels_out)  # the norm that follows has a bias, where there is one
    return [first, BatchNorm(channels_out) if biased else BiasFreeNorm(channels_out), nn.ReLU()]
