"""Models as users write them, one function each: dtype -> callable.  In float64 each is its own truth.

Where a model computes inside in a lower precision, it does so for every dtype but float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.helpers.random_networks import OldStyle

Model = Callable[[Tensor], Any]
HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Case:
    """A model, the shape of its input, the precisions it is tried in, and what its own rounding allows."""

    make: Callable[[torch.dtype], Model]
    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]
    rounding: float | None
    kwargs: dict[str, Any]

    def y(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """The input: exactly the same numbers in every precision, distinct, none of them zero."""
        n = torch.Size(self.shape).numel()
        order = torch.randperm(n, generator=torch.Generator().manual_seed(n)).double()
        return (
            ((order - n / 2 + 0.5) / 2 ** (n - 1).bit_length() * 2).bfloat16().to(dtype).reshape(self.shape)
        )


CASES: dict[str, Case] = {}


def case(
    *shape: int,
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32),
    rounding: float | None = None,
    **kwargs: Any,
) -> Callable[[Callable[[torch.dtype], Model]], Callable[[torch.dtype], Model]]:
    """Register a model.  `rounding` is the relative error that arithmetic of the model's own allows."""

    def register(make: Callable[[torch.dtype], Model]) -> Callable[[torch.dtype], Model]:
        CASES[make.__name__] = Case(make, shape, dtypes, rounding, kwargs)
        return make

    return register


def seeded(build: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
    """A module with the same weights, exactly representable, in every precision."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    module = build().eval()
    torch.set_rng_state(state)
    with torch.no_grad():
        for t in module.state_dict().values():
            if t.is_floating_point():
                t.copy_(t.bfloat16())
    return module.to(dtype)


def weight(dtype: torch.dtype, *size: int, seed: int = 0) -> Tensor:
    """Normal numbers over the root of the last side, exactly representable in every precision."""
    w = torch.randn(size, generator=torch.Generator().manual_seed(seed)) / size[-1] ** 0.5
    return w.bfloat16().to(dtype)


def wide(x: Tensor) -> Tensor:
    """x in a precision that has Fourier transforms."""
    return x.float() if x.dtype in HALVES else x


def conv(channels: int, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(channels, channels, 3, padding=1, **options)


ALL = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


# Complex intermediates


@case(1, 2, 6, 6, dtypes=ALL)
def fourier_layer(dtype):
    """A Fourier neural operator's layer: weights on the lowest frequencies."""
    w = torch.complex(weight(torch.float64, 2, 2, 3, 2), weight(torch.float64, 2, 2, 3, 2, seed=1))

    def model(y):
        z = torch.fft.rfft2(wide(y))
        out = torch.zeros_like(z)
        out[..., :3, :2] = torch.einsum("bixy,ioxy->boxy", z[..., :3, :2], w.to(z.dtype))
        return torch.tanh(y) + torch.fft.irfft2(out, s=y.shape[-2:]).to(y.dtype)

    return model


@case(1, 1, 8, 8, dtypes=ALL)
def low_pass_beside_a_convolution(dtype):
    kernel = (torch.tensor([[0.0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 16).to(dtype).view(1, 1, 3, 3)

    def model(y):
        f2 = torch.fft.fftfreq(y.shape[-2])[:, None] ** 2 + torch.fft.rfftfreq(y.shape[-1]) ** 2
        H = torch.exp(-20 * f2).to(wide(y).dtype)
        low = torch.fft.irfft2(H * torch.fft.rfft2(wide(y)), s=y.shape[-2:])
        return nn.functional.conv2d(y, kernel, padding=1) + low.to(y.dtype)

    return model


@case(1, 2, 8, 6, dtypes=ALL)
def fourier_attention(dtype):
    """A spectrum divided by its own modulus: not linear, and complex throughout."""

    def model(y):
        z = torch.fft.fft2(wide(y))
        return torch.fft.ifft2(z / (1 + z.abs())).real.to(y.dtype)

    return model


@case(1, 5, 8, dtypes=ALL)
def rotary_embedding(dtype):
    """Attention whose queries and keys are turned as complex numbers."""
    qkv = seeded(lambda: nn.Linear(8, 24), dtype)
    turn = torch.polar(torch.ones(5, 4), torch.outer(torch.arange(5.0), 10 ** -torch.arange(0, 1, 0.25)))

    def turned(x):
        z = torch.view_as_complex(wide(x).unflatten(-1, (4, 2)))
        return torch.view_as_real(z * turn.to(z.dtype)).flatten(-2).to(x.dtype)

    def model(y):
        q, k, v = qkv(y).chunk(3, -1)
        return y + nn.functional.scaled_dot_product_attention(turned(q), turned(k), v)

    return model


@case(64)
def short_time_fourier(dtype):
    def model(y):
        window = torch.hann_window(16, dtype=y.dtype)
        z = torch.stft(y, 16, 4, window=window, return_complex=True)
        gain = z.abs() ** 2 / (z.abs() ** 2 + 0.1)
        return torch.istft(z * gain, 16, 4, window=window, length=64)

    return model


# In place, slices, tiles


@case(1, 2, 6, 6, dtypes=ALL)
def circular_padding(dtype):
    return seeded(conv(2, padding_mode="circular"), dtype)


@case(1, 1, 8, 8)
def circular_network(dtype):
    def build():
        layers = [nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"), nn.ReLU()]
        layers += [nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"), nn.ReLU()]
        return nn.Sequential(*layers, nn.Conv2d(3, 1, 3, padding=1, padding_mode="circular"))

    net = seeded(build, dtype)
    return lambda y: y - 0.3 * net(y)


def diffused(y: Tensor, steps: int = 10, dt: float = 0.1) -> Tensor:
    """Perona and Malik's diffusion as it is written in NumPy."""
    x = y.clone()
    for _ in range(steps):
        for axis in (-1, -2):
            g = x.diff(dim=axis)
            flow = dt * g * torch.exp(-((g / 0.3) ** 2))
            n = x.shape[axis]
            x.narrow(axis, 1, n - 1).sub_(flow)
            x.narrow(axis, 0, n - 1).add_(flow)
    return x


@case(1, 1, 6, 6)
def perona_malik(dtype):
    return lambda y: diffused(y, steps=2)


@case(1, 1, 6, 6)
def perona_malik_by_slices(dtype):
    def model(y):
        x = y.clone()
        for _ in range(3):
            g = x[..., 1:] - x[..., :-1]
            flow = 0.1 * g * torch.exp(-((g / 0.3) ** 2))
            x[..., 1:] -= flow
            x[..., :-1] += flow
        return x

    return model


@case(1, 1, 8, 8)
def overlapping_tiles(dtype):
    """Tiles of 4 every 2 pixels, denoised apart and averaged."""
    net = seeded(lambda: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 1, 1)), dtype)

    def model(y):
        total, count = torch.zeros_like(y), torch.zeros_like(y)
        for i in range(0, 5, 2):
            for j in range(0, 5, 2):
                total[..., i : i + 4, j : j + 4] += net(y[..., i : i + 4, j : j + 4])
                count[..., i : i + 4, j : j + 4] += 1
        return total / count

    return model


@case(1, 1, 6, 8)
def tiles_by_fold(dtype):
    def model(y):
        tiles = nn.functional.unfold(y, 4, stride=2)
        tiles = torch.tanh(tiles) * tiles.mean(1, keepdim=True)
        count = nn.functional.fold(torch.ones_like(tiles), y.shape[-2:], 4, stride=2)
        return nn.functional.fold(tiles, y.shape[-2:], 4, stride=2) / count

    return model


@case(6, 5)
def constants_written_over(dtype):
    """What torch.func.linearize changes at each product: constants of its own."""
    w = weight(dtype, 6, 5)

    def model(y):
        z = 2 * y
        z.mul_(w)
        return z.sin()

    return model


@case(1, 2, 6, 6)
def inplace_unit_before_a_transform(dtype):
    layer = seeded(conv(2), dtype)

    def model(y):
        return torch.fft.irfft2(torch.fft.rfft2(nn.functional.elu(layer(y), inplace=True)), s=y.shape[-2:])

    return model


@case(3, 8)
def filled_by_masks(dtype):
    def model(y):
        x = y.sin()
        x[x > 0.5] = 0.25
        x.masked_fill_(y < -0.8, 1.0)
        x[:, 2].copy_(y[:, 3] * y[:, 1])
        x[0] *= x[1]
        return x

    return model


@case(4, 6)
def writes_through_views(dtype):
    def model(y):
        x = y * 1
        head, tail = x.chunk(2, 1)
        head.mul_(tail)
        x.t()[1].add_(x.t()[0])
        return x.cumsum(1)

    return model


@case(2, 12)
def indexed_assignment(dtype):
    index = torch.tensor([0, 3, 3, 7])

    def model(y):
        x = torch.zeros_like(y)
        x.index_add_(1, index, y[:, :4] ** 2)
        x[:, index[:2]] += y[:, 8:10]
        x.scatter_(1, torch.full((2, 1), 11), y[:, :1].exp())
        return x

    return model


@case(1, 2, 6, 6)
def out_arguments(dtype):
    def model(y):
        x = torch.empty_like(y)
        torch.mul(y, y, out=x)
        torch.add(x, y, alpha=2, out=x)
        return x

    return model


# On the input itself


@case(1, 2, 6, 6)
def clamps_its_input(dtype):
    return lambda y: y.clamp_(-0.5, 0.5) * 2


@case(1, 2, 6, 6)
def subtracts_from_its_input(dtype):
    def model(y):
        y -= y.mean()
        y *= 2
        return y

    return model


@case(1, 2, 6, 6)
def inplace_relu_on_its_input(dtype):
    return seeded(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(2, 2, 3, padding=1)), dtype)


@case(1, 2, 6, 6)
def writes_to_a_slice_of_its_input(dtype):
    def model(y):
        y[:, :1] *= y[:, 1:]
        return y + 0

    return model


# Gradients switched off or taken inside


@case(1, 1, 8, 8, dtypes=ALL)
def inference_mode_inside(dtype):
    layer = seeded(conv(1), dtype)

    def model(y):
        with torch.inference_mode():
            return layer(y)

    return model


@case(1, 2, 6, 6)
def inference_mode_by_decorator(dtype):
    net = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.SiLU(), nn.Conv2d(3, 2, 1)), dtype)
    return torch.inference_mode()(lambda y: net(y) + y)


@case(1, 2, 6, 6)
def inference_mode_in_part(dtype):
    layer = seeded(conv(2), dtype)

    def model(y):
        with torch.inference_mode():
            gain = layer(y).mean()
        return y * gain.clone()

    return model


@case(1, 2, 6, 6)
def no_grad_inside(dtype):
    layer = seeded(conv(2), dtype)

    def model(y):
        with torch.no_grad():
            gain = layer(y).std()
        return y / gain

    return model


@case(1, 2, 6, 6)
def detach_inside(dtype):
    return lambda y: (y - y.detach().mean()) / y.detach().std() + y.data.square()


@case(1, 2, 6, 6)
def detach_in_place_inside(dtype):
    def model(y):
        x = y.sin()
        x.detach_()
        return x * y

    return model


@case(1, 2, 6, 6, rounding=1e-4)
def gradient_step_denoiser(dtype):
    """y - grad g(y), g = |y - N(y)|^2 / 2, the gradient taken inside."""
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Softplus(), nn.Conv2d(3, 2, 3, padding=1)),
        dtype,
    )

    def model(y):
        with torch.enable_grad():
            x = y.detach().requires_grad_()
            g = (x - net(x)).square().sum() / 2
            return y - torch.autograd.grad(g, x)[0]

    return model


@case(1, 2, 6, 6)
def gradient_step_with_its_graph(dtype):
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Softplus(), nn.Conv2d(3, 2, 3, padding=1)),
        dtype,
    )

    def model(y):
        with torch.enable_grad():
            x = y.requires_grad_()
            return x - torch.autograd.grad(net(x).square().sum() / 2, x, create_graph=True)[0]

    return model


class InputConvex(nn.Module):
    """The gradient of an input-convex network (proximal denoisers)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.skip = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(1, 3, 3, padding=1)
        self.middle, self.last = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.Conv2d(3, 1, 3, bias=False)

    def forward(self, y: Tensor) -> Tensor:
        with torch.enable_grad():
            if not y.requires_grad:
                y.requires_grad = True
            z = nn.functional.softplus(self.first(y), beta=10)
            z = nn.functional.softplus(
                nn.functional.conv2d(z, self.middle.weight.abs(), padding=1) + self.skip(y), beta=10
            )
            value = nn.functional.conv2d(z, self.last.weight.abs()).sum()
            return torch.autograd.grad(value, y, create_graph=True)[0]


@case(1, 1, 6, 6)
def input_convex(dtype):
    return seeded(InputConvex, dtype)


@case(2, 6)
def derivative_by_torch_func_inside(dtype):
    return lambda y: y - torch.func.grad(lambda x: x.pow(4).sum() / 4 + x[0].prod())(y)


# Precision inside


@case(1, 2, 6, 6, dtypes=(torch.float32,), rounding=4e-2)
def autocast_inside(dtype):
    net = seeded(lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 2, 1)), dtype)

    def model(y):
        with torch.autocast("cpu", torch.bfloat16):
            return net(y).float() if y.dtype == torch.float32 else net(y)

    return model


@case(1, 2, 6, 6, dtypes=(torch.float32,), rounding=4e-2)
def bfloat16_inside(dtype):
    inner = dtype if dtype == torch.float64 else torch.bfloat16
    net = seeded(lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 2, 1)), inner)
    return lambda y: net(y.to(inner)).to(y.dtype)


@case(1, 2, 6, 6, dtypes=(torch.float32,), rounding=1e-2)
def bfloat16_out(dtype):
    """The output in another precision than the input."""
    inner = dtype if dtype == torch.float64 else torch.bfloat16
    layer = seeded(conv(2), inner)
    return lambda y: layer(y.to(inner))


@case(1, 2, 6, 6, dtypes=(torch.bfloat16, torch.float16, torch.float64))
def float32_inside(dtype):
    return lambda y: nn.functional.softmax(wide(y), -1).to(y.dtype) * y


@case(1, 2, 6, 6, dtypes=ALL)
def plain_convolutions(dtype):
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 2, 1)
        ),
        dtype,
    )


# Padding and borders


@case(1, 1, 8, 8)
def padding_by_a_constant(dtype):
    layer = seeded(lambda: nn.Conv2d(1, 1, 3), dtype)
    return lambda y: layer(nn.functional.pad(y, (1, 1, 1, 1), value=0.5))


@case(1, 2, 6, 6)
def every_padding(dtype):
    layer = seeded(lambda: nn.Conv2d(2, 2, 3), dtype)

    def model(y):
        pads = [nn.functional.pad(y, (1, 1, 1, 1), mode=m) for m in ("reflect", "replicate", "circular")]
        return sum(torch.tanh(layer(p)) for p in pads)

    return model


# Layers


@case(1, 3, 6, rounding=1e-4)
def gru(dtype):
    layer = seeded(lambda: nn.GRU(6, 6, batch_first=True), dtype)
    return lambda y: layer(y)[0]


@case(1, 3, 6, rounding=1e-4)
def lstm(dtype):
    layer = seeded(lambda: nn.LSTM(6, 3, bidirectional=True, batch_first=True), dtype)
    return lambda y: layer(y)[0]


@case(3, 1, 6, rounding=1e-4)
def rnn(dtype):
    layer = seeded(lambda: nn.RNN(6, 6, nonlinearity="tanh"), dtype)
    return lambda y: layer(y)[0]


@case(2, 6)
def recurrent_cells(dtype):
    cells = seeded(lambda: nn.ModuleList([nn.GRUCell(6, 6), nn.LSTMCell(6, 6)]), dtype)

    def model(y):
        h = torch.zeros_like(y)
        for _ in range(3):
            h = cells[0](y, h)
            h, _c = cells[1](h, (h, y))
        return h

    return model


@case(2, 4, 6)
def quantiles(dtype):
    return lambda y: (y - torch.quantile(y.flatten(1), 0.3, dim=1).view(-1, 1, 1)) * y.median()


@case(1, 1, 6, 6, rounding=1e-4)
def grid_sampled(dtype):
    shift = 0.1 * weight(dtype, 1, 6, 6, 2)
    theta = torch.eye(2, 3, dtype=dtype).unsqueeze(0)

    def model(y):
        grid = nn.functional.affine_grid(theta, list(y.shape), align_corners=False) + shift + 0.05 * y.mean()
        return nn.functional.grid_sample(y, grid, mode="bicubic", align_corners=False)

    return model


@case(1, 1, 6, 6, rounding=1e-4)
def non_local_means(dtype):
    """Patches compared by cdist, of which each meets itself at distance zero."""

    def model(y):
        patches = nn.functional.unfold(y, 3, padding=1)[0].T
        weights = torch.exp(-(torch.cdist(patches, patches) ** 2) / 2)
        return (weights @ y.reshape(-1, 1) / weights.sum(1, keepdim=True)).reshape(y.shape)

    return model


@case(3, 8)
def draws_under_a_seed(dtype):
    def model(y):
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(y.shape, generator=generator).to(y.dtype)
        return torch.tanh(y + 0.1 * noise) * y

    return model


@case(3, 8, dtypes=(torch.float64,))
def draws_under_torchs_seed(dtype):
    def model(y):
        torch.manual_seed(0)
        return y * torch.randn_like(y) + y**2

    return model


@case(2, 2, 6, 6)
def instance_norm(dtype):
    return seeded(
        lambda: nn.Sequential(
            nn.InstanceNorm2d(2), nn.Conv2d(2, 3, 3, padding=1), nn.SiLU(), nn.Conv2d(3, 2, 1)
        ),
        dtype,
    )


@case(1, 2, 6, 6, dtypes=(torch.float64, torch.float32, torch.bfloat16))
def instance_norm_of_one_image(dtype):
    return seeded(lambda: nn.Sequential(nn.InstanceNorm2d(2), nn.Conv2d(2, 2, 3, padding=1)), dtype)


@case(1, 4, 4, 6)
def group_norm_channels_last(dtype):
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.SiLU(), nn.Conv2d(8, 4, 1)
        ),
        dtype,
    ).to(memory_format=torch.channels_last)
    return lambda y: net(y.contiguous(memory_format=torch.channels_last))


class WindowAttention(nn.Module):
    """Shifted windows with a relative bias and a mask (Swin, SwinUNETR): roll, partition, attend, undo."""

    def __init__(self, channels: int = 4, side: int = 2) -> None:
        super().__init__()
        self.side, self.norm = side, nn.LayerNorm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.bias = nn.Parameter(torch.randn(2, side**2, side**2))
        self.register_buffer("mask", (torch.arange(side**2) < side) * -1.0)

    def forward(self, y: Tensor) -> Tensor:
        B, C, H, W = y.shape
        s = self.side
        x = torch.roll(self.norm(y.permute(0, 2, 3, 1)), (-1, -1), (1, 2))
        x = x.view(B, H // s, s, W // s, s, C).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, C)
        q, k, v = self.qkv(x).reshape(len(x), s * s, 3, 2, C // 2).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * (C // 2) ** -0.5) @ k.transpose(-2, -1) + self.bias + self.mask.to(q.dtype)
        x = self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(len(x), s * s, C))
        x = x.view(B, H // s, W // s, s, s, C).permute(0, 1, 3, 2, 4, 5).reshape(B, H, W, C)
        return y + torch.roll(x, (1, 1), (1, 2)).permute(0, 3, 1, 2)


@case(1, 4, 4, 4)
def window_attention(dtype):
    return seeded(WindowAttention, dtype)


@case(1, 4, 3, 4, dtypes=ALL)
def guided_diffusion_attention(dtype):
    qkv = seeded(lambda: nn.Conv1d(4, 12, 1), dtype)

    def model(y):
        flat = y.flatten(2)
        q, k, v = qkv(flat).reshape(2, 6, -1).split(2, 1)
        scores = torch.einsum("bct,bcs->bts", q * 2**-0.25, k * 2**-0.25)
        w = torch.softmax(wide(scores), -1).to(y.dtype)
        return y + torch.einsum("bts,bcs->bct", w, v).reshape(y.shape)

    return model


class LayerNormFunction(torch.autograd.Function):
    """NAFNet's layer norm over channels, as published: an old-style Function with its backward."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        ctx.eps = eps
        mu = x.mean(1, keepdim=True)
        var = (x - mu).pow(2).mean(1, keepdim=True)
        z = (x - mu) / (var + eps).sqrt()
        ctx.save_for_backward(z, var, weight)
        return weight.view(1, -1, 1, 1) * z + bias.view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx, g):
        z, var, weight = ctx.saved_tensors
        g = g * weight.view(1, -1, 1, 1)
        mean = g.mean(1, keepdim=True)
        along = (g * z).mean(1, keepdim=True)
        return 1.0 / torch.sqrt(var + ctx.eps) * (g - z * along - mean), None, None, None


class NAFBlock(nn.Module):
    """Layer norm, depthwise convolution, simple gate, channel attention."""

    def __init__(self, c: int = 4) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(1 + 0.1 * torch.randn(c)), nn.Parameter(0.1 * torch.randn(c))
        self.first, self.deep = nn.Conv2d(c, 2 * c, 1), nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        self.attend, self.last = nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1)

    def forward(self, y: Tensor) -> Tensor:
        a, b = self.deep(self.first(LayerNormFunction.apply(y, self.weight, self.bias, 1e-6))).chunk(2, 1)
        x = a * b
        return y + self.last(x * self.attend(nn.functional.adaptive_avg_pool2d(x, 1)))


@case(1, 4, 4, 4, rounding=1e-4)
def nafnet(dtype):
    return seeded(NAFBlock, dtype)


@case(1, 2, 6, 6)
def old_style_function(dtype):
    layer = seeded(conv(2), dtype)
    return lambda y: layer(OldStyle.apply(layer(y)))


class ThroughNumPy(torch.autograd.Function):
    """tanh by NumPy, with the right backward."""

    @staticmethod
    def forward(ctx, x):
        value = torch.from_numpy(np.tanh(x.detach().numpy()))
        ctx.save_for_backward(value)
        return value

    @staticmethod
    def backward(ctx, g):
        return g * (1 - ctx.saved_tensors[0] ** 2)


@case(1, 2, 6, 6)
def numpy_in_a_function(dtype):
    layer = seeded(conv(2), dtype)
    return lambda y: ThroughNumPy.apply(layer(y)) + y


@case(1, 2, 6, 6)
def checkpointed(dtype):
    net = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.SiLU(), nn.Conv2d(3, 2, 1)), dtype)
    return lambda y: y + checkpoint(net, y, use_reentrant=False)


@case(1, 2, 6, 6)
def checkpointed_reentrant(dtype):
    net = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.SiLU(), nn.Conv2d(3, 2, 1)), dtype)
    return lambda y: y + checkpoint(net, y, use_reentrant=True)


@case(2, 5, 8, rounding=1e-4)
def multihead_attention(dtype):
    layer = seeded(lambda: nn.MultiheadAttention(8, 2, batch_first=True), dtype)
    return lambda y: layer(y, y, y, need_weights=False)[0]


@case(2, 4, 8, rounding=1e-4)
def transformer_encoder(dtype):
    return seeded(
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True), 2
        ),
        dtype,
    )


def _attention(dtype: torch.dtype, **options: Any) -> Model:
    qkv = seeded(lambda: nn.Linear(8, 24), dtype)

    def model(y: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in qkv(y).chunk(3, -1))
        return nn.functional.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(-2)

    return model


@case(1, 5, 8, dtypes=ALL)
def attention_plain(dtype):
    return _attention(dtype)


@case(1, 5, 8)
def attention_causal(dtype):
    return _attention(dtype, is_causal=True)


@case(1, 5, 8)
def attention_masked(dtype):
    return _attention(dtype, attn_mask=torch.ones(5, 5, dtype=torch.bool).tril(1))


@case(1, 5, 8)
def attention_biased(dtype):
    return _attention(dtype, attn_mask=weight(dtype, 5, 5))


@case(1, 2, 6, 6, rounding=1e-4)
def spectral_norm_by_hook(dtype):
    return seeded(lambda: torch.nn.utils.spectral_norm(nn.Conv2d(2, 2, 3, padding=1)), dtype)


@case(1, 2, 6, 6, rounding=1e-4)
def spectral_norm_by_parametrization(dtype):
    parametrized = torch.nn.utils.parametrizations.spectral_norm
    return seeded(lambda: parametrized(nn.Conv2d(2, 2, 3, padding=1)), dtype)


@case(2, 12)
def sparse_products(dtype):
    matrix = weight(dtype, 12, 12)
    matrix = matrix * (matrix > 0.1)
    coo, csr = matrix.to_sparse(), matrix.to_sparse_csr()
    return lambda y: torch.sparse.mm(coo, y.T.sin()).T + (csr @ y.T.contiguous()).T


@case(3, 6)
def tensors_of_no_size(dtype):
    def model(y):
        head, tail = y.split([0, 6], 1)
        return torch.cat([head, tail.sin(), y[:, :0]], 1) + head.sum() + y[:0].sum()

    return model


@case(2, 8)
def unbound_into_many(dtype):
    def model(y):
        parts = [a * b for a, b in zip(y.unbind(1), y.flip(1).unbind(1), strict=True)]
        return torch.stack(parts, 1) + torch.cat([p.cumsum(0) for p in y.chunk(8, 1)], 1)

    return model


@case(2, 6)
def expanded_batch(dtype):
    """The same image eight times over, each turned otherwise, averaged."""

    def model(y):
        many = y.unsqueeze(0).expand(8, *y.shape)
        gains = torch.arange(8, dtype=y.dtype).view(8, 1, 1) / 8
        return torch.tanh(many * gains).mean(0)

    return model


@case(1, 2, 4, 6)
def expanded_channels(dtype):
    layer = seeded(lambda: nn.Conv2d(6, 2, 3, padding=1), dtype)
    return lambda y: layer(y.unsqueeze(1).expand(-1, 3, -1, -1, -1).flatten(1, 2))


@case(6)
def branches_on_values(dtype):
    def model(y):
        for _ in range(3):
            y = y / 2 if y.abs().max().item() > 0.6 else y * y
        return y

    return model


@case(5)
def length_from_values(dtype):
    def model(y):
        n = int(y.abs().sum() * 2 + 0.4)
        return torch.cat([y[: n % 5] ** 2, y[n % 5 :] * 3])

    return model


@case(3, 8)
def sorted_values(dtype):
    def model(y):
        top, where = y.topk(3, 1)
        s, order = y.sort(1)
        return (
            s * torch.softmax(s, 1)
            + y.gather(1, order.flip(1))
            + y.new_zeros(y.shape).scatter(1, where, top**2)
        )

    return model


@case(1, 2, 6, 6)
def nothing_of_the_input(dtype):
    return torch.ones_like


@case(1, 2, 6, 6)
def keeps_the_input(dtype):
    return lambda y: y


@case(1, 3, 4, 6)
def gathered_from_a_table(dtype):
    """Labels looked up, noise levels embedded: constants beside y."""
    table = seeded(lambda: nn.Embedding(4, 3), dtype)
    label = torch.tensor([2])
    return lambda y: y * table(label)[..., None, None] + torch.tanh(y * nn.functional.one_hot(label, 3).sum())


@case(1, 2, 6, 6)
def saved_tensor_hooks(dtype):
    layer = seeded(conv(2), dtype)

    def model(y):
        with torch.autograd.graph.save_on_cpu():
            return layer(torch.tanh(layer(y)))

    return model


@case(2, 6, rounding=1e-4)
def linear_algebra(dtype):
    def model(y):
        A = torch.eye(6, dtype=y.dtype) * 3 + torch.outer(y[0], y[1])
        return torch.linalg.solve(A, y.T).T + torch.linalg.inv(A)[:2] + torch.logdet(A)

    return model


@case(2, 6)
def vmapped_inside(dtype):
    return torch.vmap(lambda row: row * row.flip(0).cumsum(0))


@case(1, 2, 6, 6)
def scripted(dtype):
    """torch.jit.trace of a network."""
    net = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 1)), dtype)
    return torch.jit.trace(net, torch.zeros(1, 2, 6, 6, dtype=dtype))


def compiled(dtype: torch.dtype, backend: str) -> Model:
    """A network compiled by one of torch's backends."""
    net = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.SiLU(), nn.Conv2d(3, 2, 1)), dtype)
    return torch.compile(net, backend=backend)


@case(1, 2, 6, 6)
def compiled_eager(dtype):
    return compiled(dtype, "eager")


@case(1, 2, 6, 6)
def compiled_aot(dtype):
    return compiled(dtype, "aot_eager")


@case(1, 2, 6, 6)
def changed_by_hooks(dtype):
    """Activations seen and changed by forward hooks."""
    net = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.SiLU(), nn.Conv2d(3, 2, 1)), dtype)
    net[1].register_forward_hook(lambda module, inputs, output: output * output.mean())
    net[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    return net
