"""Networks that are told the noise level, of the kind that diffusion and consistency models use."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from denoisers.networks.base import Denoiser, by_image, levels
from spectral.errors import OptionError

Body = Callable[[Tensor, Tensor], Tensor]
"""F(x, c) -> an image of x's shape, c (N,) the label of each image's noise level."""


class Coefficients(NamedTuple):
    """Of f = c_skip x + c_out F(c_in x, c_noise), each (N,)."""

    skip: Tensor
    out: Tensor
    into: Tensor
    noise: Tensor


class LabelledUNet(nn.Module):
    """F(x, c): UNet with group norm, SiLU, attention at the coarsest scale, and a label c (N,) beside x.

    Of c / unit, sines and cosines at the frequencies 1, 2, ..., 128 shift the channels of every block.
    x (N, channels, H, W), H and W multiples of 2 ** (scales - 1).
    """

    def __init__(self, width: int, scales: int, channels: int, unit: float = 1.0) -> None:
        if width % 8 or min(width, scales, channels) < 1:
            raise OptionError(
                "width must be a multiple of 8, scales and channels >= 1, "
                f"got width={width}, scales={scales}, channels={channels}"
            )
        super().__init__()
        self.unit = unit
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

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """F(x, c)."""
        frequencies = torch.exp(torch.arange(8, dtype=x.dtype, device=x.device) * math.log(2))
        angles = (c / self.unit)[:, None] * frequencies
        t = self.embed(torch.cat([angles.sin(), angles.cos()], dim=1))
        x, skips = self.first(x), []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            x = block(x, t)
            skips.append(x)
            x = shrink(x)
        x = self.attention(self.middle(x, t))
        for grow, block in zip(self.grow, self.up, strict=True):
            x = grow(functional.interpolate(x, scale_factor=2, mode="nearest"))
            x = block(torch.cat([x, skips.pop()], dim=1), t)
        return self.last(x)


class ConditionalUNet(Denoiser):
    """f(y, sigma) = y - sigma F(y, log sigma), F a `LabelledUNet`: F predicts the noise over sigma."""

    told = True

    def __init__(self, width: int = 32, scales: int = 3, channels: int = 1) -> None:
        super().__init__()
        self.config = {"width": width, "scales": scales, "channels": channels}
        self.channels, self.side_multiple = channels, 2 ** (scales - 1)
        self.body = LabelledUNet(width, scales, channels)

    def forward(self, y: Tensor, sigma: Tensor | float) -> Tensor:
        """y minus the noise predicted in it, told its level."""
        self._check(y)
        level = levels(sigma, y)
        return y - by_image(level) * self.body(y, level.log())

    def weight(self, sigma: Tensor) -> Tensor:
        """1 / sigma^2: F is trained on noise of deviation one."""
        return sigma**-2


class Preconditioned(Denoiser, abstract=True):
    """f(y, sigma) = m + c_skip x + c_out F(c_in x, c_noise),  x = y - m, the mean m of the images taken out.

    Args:
        width, scales, channels: of F, a `LabelledUNet`, where no other is given.
        sigma_data: deviation of the images' pixels, s below; 0.25 for [0, 1], the usual 0.5 for [-1, 1].
        mean: 0.5 for images in [0, 1], 0 for [-1, 1].
        body: F(x, c) of your own; a network that is to be written to a file has none.
    """

    told = True
    unit: ClassVar[float]  # of c_noise

    def __init__(
        self,
        width: int = 32,
        scales: int = 3,
        channels: int = 1,
        sigma_data: float = 0.25,
        mean: float = 0.5,
        body: Body | None = None,
    ) -> None:
        if not sigma_data > 0:
            raise OptionError(f"sigma_data must be positive, got {sigma_data}")
        super().__init__()
        self.config: dict[str, Any] = {"width": width, "scales": scales, "channels": channels}
        self.config |= {"sigma_data": sigma_data, "mean": mean}
        self.channels, self.sigma_data, self.mean = channels, sigma_data, mean
        self.side_multiple = 1 if body is not None else 2 ** (scales - 1)
        self.body = LabelledUNet(width, scales, channels, self.unit) if body is None else body

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """c_skip, c_out, c_in and c_noise at levels (N,)."""
        raise NotImplementedError(f"{type(self).__name__} must define coefficients(sigma)")

    def forward(self, y: Tensor, sigma: Tensor | float) -> Tensor:
        """The formula of the class."""
        self._check(y)
        c, x = self.coefficients(levels(sigma, y)), y - self.mean
        return self.mean + by_image(c.skip) * x + by_image(c.out) * self.body(by_image(c.into) * x, c.noise)

    def weight(self, sigma: Tensor) -> Tensor:
        """1 / c_out^2: F is trained on targets of deviation one."""
        return self.coefficients(sigma).out ** -2


class EDM(Preconditioned):
    """`Preconditioned` as by Karras, Aittala, Aila and Laine (2022, table 1): a denoiser, E[x | y].

    c_skip = s^2 / (sigma^2 + s^2),  c_out = sigma s / sqrt(sigma^2 + s^2),  c_in = 1 / sqrt(sigma^2 + s^2),
    c_noise = ln(sigma) / 4.
    """

    unit = 0.25

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """As in the class."""
        s, whole = self.sigma_data, sigma**2 + self.sigma_data**2
        return Coefficients(s**2 / whole, sigma * s / whole.sqrt(), whole.rsqrt(), sigma.log() / 4)


class Consistency(Preconditioned):
    """`Preconditioned` as by Song, Dhariwal, Chen and Sutskever (2023): f takes all of a flow to its end.

    c_skip = s^2 / ((sigma - least)^2 + s^2),  c_out = (sigma - least) s / sqrt(sigma^2 + s^2),
    c_in = 1 / sqrt(sigma^2 + s^2),  c_noise = 250 ln(sigma + 1e-44);  f(y, least) = y.

    No conditional mean: its Jacobian need be neither symmetric nor non-negative, and the tool for it is
    `spectral.top_svd`. `sigma_min`, least above, is 0.001 for images in [0, 1], the published 0.002 for
    [-1, 1].
    """

    unit = 250.0

    def __init__(
        self,
        width: int = 32,
        scales: int = 3,
        channels: int = 1,
        sigma_data: float = 0.25,
        mean: float = 0.5,
        sigma_min: float = 0.001,
        body: Body | None = None,
    ) -> None:
        if not sigma_min > 0:
            raise OptionError(f"sigma_min must be positive, got {sigma_min}")
        super().__init__(width, scales, channels, sigma_data, mean, body)
        self.config["sigma_min"] = self.sigma_min = sigma_min

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """As in the class."""
        s, whole, above = self.sigma_data, sigma**2 + self.sigma_data**2, sigma - self.sigma_min
        tiny = torch.finfo(sigma.dtype).tiny  # 1e-44 is none in float32
        label = 250 * (sigma + tiny).log()
        return Coefficients(s**2 / (above**2 + s**2), above * s / whole.sqrt(), whole.rsqrt(), label)


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
