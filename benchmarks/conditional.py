"""A denoiser of the kind that diffusion models use, told the noise level: for benchmarks and tests."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConditionalUNet(nn.Module):
    """UNet with group norm, SiLU, attention at the coarsest scale, and the noise level as an argument.

    forward: y (N, channels, H, W), sigma (N,) or a number -> the denoised images.  H and W are multiples of
    2 ** (scales - 1).
    """

    def __init__(self, width: int = 32, scales: int = 3, channels: int = 1) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(scales)]
        self.embed = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList([_Block(w, w, width) for w in widths[:-1]])
        self.shrink = nn.ModuleList([nn.Conv2d(w, 2 * w, 3, stride=2, padding=1) for w in widths[:-1]])
        self.middle = _Block(widths[-1], widths[-1], width)
        self.attention = _Attention(widths[-1])
        self.grow = nn.ModuleList([nn.Conv2d(2 * w, w, 3, padding=1) for w in reversed(widths[:-1])])
        self.up = nn.ModuleList([_Block(2 * w, w, width) for w in reversed(widths[:-1])])
        self.last = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, y: Tensor, sigma: Tensor | float) -> Tensor:
        """y minus the noise predicted in it."""
        level = torch.as_tensor(sigma, dtype=y.dtype, device=y.device).expand(len(y))
        frequencies = torch.exp(torch.arange(8, dtype=y.dtype, device=y.device) * math.log(2))
        angles = torch.log(level)[:, None] * frequencies
        t = self.embed(torch.cat([angles.sin(), angles.cos()], dim=1))
        x, skips = self.first(y), []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            x = block(x, t)
            skips.append(x)
            x = shrink(x)
        x = self.attention(self.middle(x, t))
        for grow, block in zip(self.grow, self.up, strict=True):
            x = grow(functional.interpolate(x, scale_factor=2, mode="nearest"))
            x = block(torch.cat([x, skips.pop()], dim=1), t)
        return y - level[:, None, None, None] * self.last(x)


class _Block(nn.Module):
    """Twice group norm, SiLU, convolution, with a shift of the channels by the noise level between."""

    def __init__(self, channels_in: int, channels_out: int, embedded: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(8, channels_in), nn.GroupNorm(8, channels_out)])
        self.first = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shift = nn.Linear(embedded, channels_out)
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.first(functional.silu(self.norms[0](x))) + self.shift(t)[:, :, None, None]
        return self.skip(x) + self.second(functional.silu(self.norms[1](h)))


class _Attention(nn.Module):
    """x plus the attention of its pixels to each other, four heads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        heads = self.qkv(self.norm(x)).view(n, 3, 4, channels // 4, height * width).transpose(-1, -2)
        attended = functional.scaled_dot_product_attention(*heads.unbind(1))
        return x + self.out(attended.transpose(-1, -2).reshape(n, channels, height, width))
