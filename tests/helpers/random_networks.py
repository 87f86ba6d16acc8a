"""Random small networks of every kind of operation, by seed, and as code that can be read.

    python tests/helpers/random_networks.py 17 [float64 | float32 | bfloat16]

prints network 17 and what its Jacobian is off by.  Each operation maps images (B, C, H, W), of even sides, to
images of the same size; weights w(i, *size) are the same numbers, exactly representable, in every precision.
A network is a list of lines, of which each applies an operation to an earlier value and joins the result to
the last one.
"""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import spectral
from spectral.errors import SpectralError
from tests.helpers import differences

HALVES = (torch.bfloat16, torch.float16)


@dataclass
class Weights:
    """w(i, *size): normal numbers over the root of the product of all sides but the first.

    `w.module(i, build)` is a module made once, its weights likewise.
    """

    seed: int
    dtype: torch.dtype
    made: dict[int, Any] = field(default_factory=dict)

    def __call__(self, i: int, *size: int) -> Tensor:
        if i not in self.made:
            generator = torch.Generator().manual_seed(1000 * self.seed + i)
            w = torch.randn(size, generator=generator) / max(1, torch.Size(size[1:]).numel()) ** 0.5
            self.made[i] = w.bfloat16().to(self.dtype)
        return self.made[i]

    def module(self, i: int, build: Callable[[], nn.Module]) -> Any:
        if i not in self.made:
            state = torch.get_rng_state()
            torch.manual_seed(1000 * self.seed + i)
            module = build().eval()
            torch.set_rng_state(state)
            with torch.no_grad():
                for t in module.state_dict().values():
                    if t.is_floating_point():
                        t.copy_(t.bfloat16())
            self.made[i] = module.to(self.dtype)
        return self.made[i]


Operation = Callable[[Tensor, Weights], Tensor]
OPERATIONS: dict[str, Operation] = {}
MIXES: set[str] = set()  # what lets images of a batch meet
IN_BFLOAT16: set[str] = set()  # what computes in bfloat16 where x is in float32


def operation(function: Operation) -> Operation:
    """Put an operation on the list."""
    OPERATIONS[function.__name__] = function
    return function


def mixing(function: Operation) -> Operation:
    """As `operation`, of one that lets images of a batch meet."""
    MIXES.add(function.__name__)
    return operation(function)


def wide(x: Tensor) -> Tensor:
    """x in a precision that has Fourier transforms and decompositions."""
    return x.float() if x.dtype in HALVES else x


def low(function: Operation) -> Operation:
    """As `operation`, of one that computes in bfloat16 where x is in float32."""
    IN_BFLOAT16.add(function.__name__)
    return operation(function)


# Convolutions


@operation
def conv(x, w):
    c = x.shape[1]
    return nn.functional.conv2d(x, w(0, c, c, 3, 3), w(1, c), padding=1)


@operation
def conv_dilated_grouped(x, w):
    c = x.shape[1]
    return nn.functional.conv2d(x, w(0, c, 1, 3, 3), padding=2, dilation=2, groups=c)


@operation
def conv_strided_and_transposed(x, w):
    c = x.shape[1]
    down = nn.functional.conv2d(x, w(0, 2 * c, c, 2, 2), stride=2)
    return nn.functional.conv_transpose2d(down, w(1, 2 * c, c, 2, 2) * 2, stride=2)


@operation
def conv1d(x, w):
    c = x.shape[1]
    return nn.functional.conv1d(x.flatten(2), w(0, c, c, 5), padding=2).view_as(x)


@operation
def conv3d(x, w):
    return nn.functional.conv3d(x.unsqueeze(1), w(0, 1, 1, 3, 3, 3), padding=1).squeeze(1)


@operation
def conv_circular(x, w):
    c = x.shape[1]
    return nn.functional.conv2d(nn.functional.pad(x, (1, 1, 1, 1), mode="circular"), w(0, c, c, 3, 3))


@operation
def conv_circular_layer(x, w):
    c = x.shape[1]
    return w.module(0, lambda: nn.Conv2d(c, c, 3, padding=1, padding_mode="circular"))(x)


@operation
def conv_reflected(x, w):
    c = x.shape[1]
    return nn.functional.conv2d(nn.functional.pad(x, (1, 1, 1, 1), mode="reflect"), w(0, c, c, 3, 3))


@operation
def conv_replicated(x, w):
    c = x.shape[1]
    return nn.functional.conv2d(nn.functional.pad(x, (2, 0, 0, 2), mode="replicate"), w(0, c, c, 3, 3))


@operation
def conv_on_padding_of_a_half(x, w):
    c = x.shape[1]
    return nn.functional.conv2d(nn.functional.pad(x, (1, 1, 1, 1), value=0.5), w(0, c, c, 3, 3))


@mixing
def conv_by_a_kernel_from_x(x, w):
    c = x.shape[1]
    kernel = torch.tanh(x.mean((0, 2, 3))).view(c, 1, 1, 1) * w(0, c, 1, 3, 3)
    return nn.functional.conv2d(x, kernel, padding=1, groups=c)


# Pointwise


@operation
def units(x, w):
    return nn.functional.gelu(x) + nn.functional.silu(x) / 2 + nn.functional.softplus(x) / 4


@operation
def rectifiers(x, w):
    return (
        nn.functional.relu(x - 0.01)
        + nn.functional.leaky_relu(x + 0.02, 0.2) / 2
        + nn.functional.elu(x + 0.03) / 4
    )


@operation
def bounded(x, w):
    return x.clamp(-1.013, 1.027) + nn.functional.hardtanh(x, -0.511, 0.522) + torch.where(x > 0.1, x, x**2)


@operation
def prelu_and_mish(x, w):
    return nn.functional.prelu(x, w(0, x.shape[1]) / 4) + nn.functional.mish(x) / 2


@operation
def powers(x, w):
    return torch.sqrt(1 + x**2) - torch.rsqrt(1 + x.square()) + (1.5 + x.abs()).log() + x.exp2() / 4


@operation
def gated(x, w):
    a, b = torch.cat([x, x.flip(1)], 1).chunk(2, 1)
    return a * torch.sigmoid(b) + nn.functional.glu(torch.cat([b, a], 1), 1) / 2


@operation
def gelu_gated_linear(x, w):
    c = x.shape[1]
    h = nn.functional.linear(x.movedim(1, -1), w(0, 4 * c, c), w(1, 4 * c))
    a, b = h.chunk(2, -1)
    return nn.functional.linear(a * nn.functional.gelu(b), w(2, c, 2 * c)).movedim(-1, 1)


@operation
def extrema(x, w):
    return torch.maximum(x, x.roll(1, -1)) + torch.minimum(x, x.flip(-2)) / 2


@operation
def mixed_by_a_constant(x, w):
    return torch.lerp(x, w(0, *x.shape[1:]), 0.25) + torch.addcmul(x, x, w(0, *x.shape[1:]), value=0.5)


# In place, slices


@operation
def scaled_in_place(x, w):
    z = 2 * x
    z.mul_(w(0, *x.shape[1:]))
    z.add_(x, alpha=0.5)
    return z.sin()


@operation
def overwrites_its_input(x, w):
    x.mul_(0.75).add_(0.1)
    return x + 0.1


@operation
def clamps_its_input(x, w):
    return nn.functional.relu(x.clamp_(-1.51, 1.53).sub_(0.013), inplace=True)


@operation
def slices_assigned(x, w):
    z = x.clone()
    z[..., 1:] -= 0.3 * torch.tanh(x[..., :-1])
    z[:, :, 0] = x[:, :, 1] ** 2
    z[:, 0, ::2] *= z[:, -1, 1::2]
    return z


@operation
def diffusion_step(x, w):
    z = x.clone()
    g = z.diff(dim=-1)
    flow = 0.2 * g * torch.exp(-(g**2))
    z[..., 1:] -= flow
    z[..., :-1] += flow
    return z


@operation
def filled_from_empty(x, w):
    z = torch.empty_like(x)
    z[:, :, 1:-1] = x[:, :, 1:-1]
    z[:, :, :1], z[:, :, -1:] = x[:, :, -1:], x[:, :, :1]
    return z


@operation
def overlapping_tiles(x, w):
    c = x.shape[1]
    total, count = torch.zeros_like(x), torch.zeros_like(x)
    for i in range(0, x.shape[-2] - 2, 2):
        tile = x[..., i : i + 4, :]
        total[..., i : i + 4, :] += torch.tanh(nn.functional.conv2d(tile, w(0, c, c, 3, 3), padding=1))
        count[..., i : i + 4, :] += 1
    return total / count.clamp(min=1)


@operation
def masked(x, w):
    z = x.masked_fill(w(0, *x.shape[1:]) > 0, 0.25)
    z[x > 0.77] = 0.5
    return z + 0.2 * x


@operation
def copied_into_parts(x, w):
    z = x.new_zeros(x.shape)
    z.narrow(-1, 0, 2).copy_(x.narrow(-1, 1, 2))
    z[..., 2:].fill_(0.1)
    return z + x / 2


@operation
def view_written_through(x, w):
    z = x * 1
    z.transpose(2, 3)[:, :, 0].add_(z[..., 1])
    z.view(len(z), -1)[:, 3:5].zero_()
    return z


@operation
def written_by_out(x, w):
    z = torch.empty_like(x)
    torch.mul(x, x, out=z)
    return z + x


# Moves


@operation
def moved_about(x, w):
    return x.roll((1, -1), (-1, -2)).flip(-1) + x.transpose(2, 3).reshape(x.shape) / 2


@operation
def pixels_shuffled(x, w):
    return nn.functional.pixel_shuffle(torch.sin(nn.functional.pixel_unshuffle(x, 2)), 2)


@operation
def unbound_and_stacked(x, w):
    rows = x.unbind(-2)
    return torch.stack([a * b.cos() for a, b in zip(rows, rows[::-1], strict=True)], -2)


@operation
def split_and_joined(x, w):
    a, b = x.split([1, x.shape[-1] - 1], -1)
    return torch.cat([b * a, a, b[..., :0]], -1)


@operation
def expanded_and_averaged(x, w):
    many = x.unsqueeze(1).expand(-1, 5, -1, -1, -1)
    return torch.tanh(many * w(0, 5, 1, 1, 1)).mean(1)


@operation
def unfolded_and_folded(x, w):
    tiles = nn.functional.unfold(x, 3, padding=1)
    return nn.functional.fold(tiles * tiles.mean(1, keepdim=True), x.shape[-2:], 3, padding=1)


@operation
def windows_by_strides(x, w):
    flat = x.flatten(1).contiguous()
    n = flat.shape[1]
    windows = flat.as_strided((len(flat), n - 2, 3), (n, 1, 1))
    return nn.functional.pad((windows * w(0, 3)).sum(-1), (0, 2)).view_as(x) + 0.5 * x


@operation
def sliding_windows(x, w):
    return x + nn.functional.pad(x.unfold(-1, 3, 1).prod(-1), (1, 1))


@operation
def repeated(x, w):
    return x.repeat(1, 2, 1, 1)[:, 1 : 1 + x.shape[1]] + x.repeat_interleave(2, -1)[..., ::2].tile(1, 1, 1, 1)


@operation
def diagonals(x, w):
    return (
        x + torch.diag_embed(x[..., 0])[..., : x.shape[-1]] * 0.5 if x.shape[-2] >= x.shape[-1] else x.tril()
    )


# Sums and orders


@operation
def reductions(x, w):
    return x - x.mean((1, 2, 3), keepdim=True) + x.std((2, 3), keepdim=True) * x.norm(dim=-1, keepdim=True)


@operation
def log_sum_exp(x, w):
    return x.logsumexp(-1, keepdim=True) - x.cumsum(-2) / 4


@operation
def softmaxes(x, w):
    return x.softmax(-1) * x + x.flatten(2).log_softmax(-1).view_as(x) / 8


@operation
def sorted_rows(x, w):
    s, order = x.sort(-1)
    return s * torch.arange(x.shape[-1], dtype=x.dtype) / 4 + x.gather(-1, order.flip(-1))


@operation
def largest_few(x, w):
    top, where = x.topk(2, -1)
    return x + torch.zeros_like(x).scatter(-1, where, top.tanh())


@operation
def maxima(x, w):
    return (
        x * x.amax((2, 3), keepdim=True) / 2 + x.max(1, keepdim=True).values - x.median(-1, keepdim=True)[0]
    )


@operation
def cumulative_products(x, w):
    return torch.cumprod(1 + x / 4, -1) + torch.cummax(x, -2)[0]


@operation
def quantile(x, w):
    q = torch.quantile(wide(x).flatten(1), 0.3, dim=1).to(x.dtype)
    return x - q.view(-1, 1, 1, 1)


@mixing
def statistics_of_the_batch(x, w):
    return nn.functional.batch_norm(x, None, None, training=True)


@mixing
def summed_over_the_batch(x, w):
    return x + 0.5 * x.cumsum(0).tanh()


# Norms


@operation
def group_norm(x, w):
    return nn.functional.group_norm(x, 1, 1 + w(0, x.shape[1]) / 4, w(1, x.shape[1]))


@operation
def group_norm_channels_last(x, w):
    return nn.functional.group_norm(
        x.contiguous(memory_format=torch.channels_last), x.shape[1], 1 + w(0, x.shape[1]) / 4
    )


@operation
def layer_norm(x, w):
    c = x.shape[1]
    return nn.functional.layer_norm(
        x.movedim(1, -1), (x.shape[-1], c), 1 + w(0, x.shape[-1], c) / 4, eps=0.1
    ).movedim(-1, 1)


@operation
def instance_norm(x, w):
    return nn.functional.instance_norm(x, eps=0.1)


@operation
def batch_norm(x, w):
    c = x.shape[1]
    return nn.functional.batch_norm(x, w(0, c), 1 + w(1, c) ** 2, 1 + w(2, c) / 4, w(3, c))


@operation
def rms_norm(x, w):
    return nn.functional.rms_norm(x, x.shape[-1:], eps=0.1) + x * torch.rsqrt(
        x.square().mean(1, keepdim=True) + 0.1
    )


@operation
def weights_normed(x, w):
    c = x.shape[1]
    build = lambda: torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(c, c, 1))  # noqa: E731
    return w.module(0, build)(x) + nn.functional.normalize(x, dim=1, eps=0.1)


# Pooling and interpolation


@operation
def max_pooled(x, w):
    return nn.functional.max_pool2d(x, 3, 1, 1) + nn.functional.interpolate(
        nn.functional.max_pool2d(x, 2), scale_factor=2
    )


@operation
def unpooled(x, w):
    top, where = nn.functional.max_pool2d(x, 2, return_indices=True)
    return nn.functional.max_unpool2d(top.sin(), where, 2) + x / 2


@mixing
def average_pooled(x, w):
    return (
        nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        + nn.functional.lp_pool2d(x + 2, 2, 2, 1).mean() * x / 8
    )


@operation
def adaptively_pooled(x, w):
    down = nn.functional.adaptive_avg_pool2d(x, (3, 3)) + nn.functional.adaptive_max_pool2d(x, 3)
    return nn.functional.adaptive_avg_pool2d(down, x.shape[-2:])


@operation
def channel_attention(x, w):
    c = x.shape[1]
    gain = nn.functional.conv2d(nn.functional.adaptive_avg_pool2d(x, 1), w(0, c, c, 1, 1))
    return x * torch.sigmoid(gain)


@operation
def interpolated(x, w):
    size = x.shape[-2:]
    down = nn.functional.interpolate(wide(x), scale_factor=0.5, mode="bilinear", antialias=True)
    up = nn.functional.interpolate(down, size=size, mode="bicubic", align_corners=True).to(x.dtype)
    return up + nn.functional.interpolate(
        nn.functional.interpolate(x, scale_factor=2, mode="nearest"), size=size, mode="area"
    )


@operation
def sampled_on_a_grid(x, w):
    theta = torch.eye(2, 3, dtype=x.dtype).expand(len(x), 2, 3) + 0.1 * w(0, 2, 3)
    grid = nn.functional.affine_grid(theta, list(x.shape), align_corners=False) + 0.05 * x.mean(
        (1, 2, 3)
    ).view(-1, 1, 1, 1)
    return nn.functional.grid_sample(wide(x), wide(grid), align_corners=False, padding_mode="border").to(
        x.dtype
    )


# Products


@operation
def contracted(x, w):
    return torch.einsum("bchw,bdhw,dc->bchw", x, torch.tanh(x), w(0, x.shape[1], x.shape[1]))


@operation
def matrices_multiplied(x, w):
    right = w(0, *x.shape[-1:] * 2).expand(x.shape[0] * x.shape[1], -1, -1)
    return torch.tanh(x @ x.mT / 4) @ x + torch.bmm(x.flatten(0, 1), right).view_as(x)


@operation
def linear_with_bias(x, w):
    n = x[0].numel()
    return torch.addmm(w(0, n), x.flatten(1), w(1, n, n)).view_as(x)


@operation
def bilinear_layer(x, w):
    n = x.shape[-1]
    return nn.functional.bilinear(x, x.flip(1), w(0, n, n, n))


@operation
def solved(x, w):
    n = x.shape[-1]
    z = wide(x)
    A = 2 * torch.eye(n, dtype=z.dtype) + torch.tanh(z[:, :1].mean(2).unsqueeze(-1) * z[:, :1, :1]) / 4
    return torch.linalg.solve(A, z.mT).mT.to(x.dtype)


@operation
def sparse_product(x, w):
    n = x.shape[-1]
    matrix = wide(w(0, n, n)).relu().to_sparse()
    return torch.sparse.mm(matrix, wide(x).reshape(-1, n).mT).mT.reshape(x.shape).to(x.dtype)


# Attention


def tokens(x: Tensor, w: Weights) -> tuple[Tensor, ...]:
    """Queries, keys and values of two heads, (B, 2, H W, d)."""
    c = x.shape[1]
    qkv = nn.functional.linear(x.flatten(2).mT, w(10, 12, c), w(11, 12))
    return tuple(t.unflatten(-1, (2, 2)).transpose(1, 2) for t in qkv.chunk(3, -1))


def pixels(a: Tensor, x: Tensor, w: Weights) -> Tensor:
    return nn.functional.linear(a.transpose(1, 2).flatten(2), w(12, x.shape[1], 4)).mT.reshape(x.shape)


@operation
def attention(x, w):
    return pixels(nn.functional.scaled_dot_product_attention(*tokens(x, w)), x, w)


@operation
def attention_causal(x, w):
    return pixels(nn.functional.scaled_dot_product_attention(*tokens(x, w), is_causal=True), x, w)


@operation
def attention_masked(x, w):
    n = x.shape[-1] * x.shape[-2]
    mask = torch.ones(n, n, dtype=torch.bool).tril(2)
    return pixels(nn.functional.scaled_dot_product_attention(*tokens(x, w), attn_mask=mask), x, w)


@operation
def attention_by_einsum(x, w):
    q, k, v = tokens(x, w)
    scores = torch.einsum("bhtd,bhsd->bhts", q, k) / 2
    return pixels(torch.einsum("bhts,bhsd->bhtd", wide(scores).softmax(-1).to(x.dtype), v), x, w)


@operation
def attention_layer(x, w):
    n = x.shape[-1]
    t = x.flatten(1, 2)
    layer = w.module(0, lambda: nn.MultiheadAttention(n, 2, batch_first=True))
    return layer(t, t, t, need_weights=False)[0].view_as(x)


@operation
def transformer_layer(x, w):
    n = x.shape[-1]
    build = lambda: nn.TransformerEncoderLayer(n, 2, 2 * n, activation="gelu", batch_first=True)  # noqa: E731
    return w.module(0, build)(x.flatten(1, 2)).view_as(x)


@operation
def rotary_attention(x, w):
    q, k, v = tokens(x, w)
    angles = torch.arange(q.shape[2]).view(-1, 1).double().to(wide(x).dtype) / 4

    def turned(t):
        z = torch.view_as_complex(wide(t).unflatten(-1, (1, 2)).contiguous()).squeeze(-1).unsqueeze(-1)
        return torch.view_as_real(z * torch.polar(torch.ones_like(angles), angles)).flatten(-2).to(t.dtype)

    return pixels(nn.functional.scaled_dot_product_attention(turned(q), turned(k), v), x, w)


# Recurrent


@operation
def gru(x, w):
    n = x.shape[-1]
    return w.module(0, lambda: nn.GRU(n, n, batch_first=True))(x.flatten(1, 2))[0].view_as(x)


@operation
def lstm(x, w):
    n = x.shape[-1]
    layer = w.module(0, lambda: nn.LSTM(n, n // 2, bidirectional=True, batch_first=True))
    return layer(x.flatten(1, 2))[0].view_as(x)


@operation
def recurrent_cell(x, w):
    n = x.shape[-1]
    cell = w.module(0, lambda: nn.GRUCell(n, n))
    rows = x.flatten(1, 2)
    h = torch.zeros_like(rows[:, 0])
    states = []
    for row in rows.unbind(1):
        h = cell(row, h)
        states.append(h)
    return torch.stack(states, 1).view_as(x)


# Complex


@operation
def low_pass(x, w):
    z = torch.fft.rfft2(wide(x))
    H = torch.exp(-torch.arange(z.shape[-1], dtype=wide(x).dtype))
    return torch.fft.irfft2(z * H, s=x.shape[-2:]).to(x.dtype)


@operation
def spectrum_weighted(x, w):
    z = torch.fft.fft2(wide(x))
    gain = torch.complex(wide(w(0, *z.shape[-2:])), wide(w(1, *z.shape[-2:])))
    return torch.fft.ifft2(z * gain / (1 + z.abs())).real.to(x.dtype)


@operation
def phase_turned(x, w):
    a, b = x[..., ::2], x[..., 1::2]
    z = torch.complex(wide(a), wide(b)) * complex(0.6, 0.8)
    return torch.cat([z.real, z.imag], -1).to(x.dtype)


@operation
def spectrum_in_slices(x, w):
    z = torch.fft.rfft(wide(x), dim=-1)
    z[..., 1:] *= 0.5
    z[..., 0] = z[..., 0] * z[..., 1].abs()
    return torch.fft.irfft(z, n=x.shape[-1], dim=-1).to(x.dtype)


# Indices


@operation
def indexed(x, w):
    order = torch.tensor([1, 0, *range(2, x.shape[-1])])
    return x[..., order] * x.index_select(-1, order.flip(0)) + x.take_along_dim(order.view(1, 1, 1, -1), -1)


@operation
def scattered(x, w):
    where = torch.zeros(x.shape[-1], dtype=torch.int64)
    where[-1] = 2
    z = torch.zeros_like(x).index_add(-1, where, x.sin())
    return z + x.index_put((torch.tensor([0]),), x[0] ** 2, accumulate=True) / 2


@operation
def embedded(x, w):
    c = x.shape[1]
    label = nn.functional.embedding(torch.tensor([1]), w(0, 3, c)).view(1, c, 1, 1)
    return x * (1 + label) + label


# Autograd's modes and functions


@operation
def detached(x, w):
    return x / (1 + x.detach().square().mean((1, 2, 3), keepdim=True)) + x.data.sin()


@operation
def without_grad(x, w):
    c = x.shape[1]
    with torch.no_grad():
        gain = nn.functional.conv2d(x, w(0, c, c, 3, 3), padding=1).tanh()
    return x * gain


@operation
def in_inference_mode(x, w):
    c = x.shape[1]
    with torch.inference_mode():
        z = nn.functional.silu(nn.functional.conv2d(x, w(0, c, c, 3, 3), padding=1))
    return z.clone()


@low
def under_autocast(x, w):
    c = x.shape[1]
    with torch.autocast("cpu", torch.bfloat16):
        z = nn.functional.conv2d(x, w(0, c, c, 3, 3), padding=1)
    return z.to(x.dtype)


@low
def through_bfloat16(x, w):
    low = x if x.dtype == torch.float64 else x.bfloat16()
    return (low * 2).sin().to(x.dtype)


@operation
def gradient_taken_inside(x, w):
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        energy = (nn.functional.softplus(z) * z).sum()
        return x - torch.autograd.grad(energy, z)[0] / 2


@operation
def checkpointed(x, w):
    c = x.shape[1]
    return checkpoint(
        lambda z: nn.functional.silu(nn.functional.conv2d(z, w(0, c, c, 3, 3), padding=1)),
        x,
        use_reentrant=False,
    )


class OldStyle(torch.autograd.Function):
    """x sigmoid(x), with its backward, without setup_context."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return g * (s + x * s * (1 - s))


@operation
def old_style_function(x, w):
    return OldStyle.apply(x)


class Sine(torch.autograd.Function):
    """sin x by a Function with setup_context and rules for every transform."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()

    @staticmethod
    def jvp(ctx, t):
        return t * ctx.saved_tensors[0].cos()


@operation
def new_style_function(x, w):
    return Sine.apply(x)


@mixing
def branch_on_values(x, w):
    return x.sin() if x.double().abs().sum().item() > 10 else x * x


@operation
def drawn_under_a_seed(x, w):
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    return torch.tanh(x + 0.2 * noise.bfloat16().to(x.dtype))


@operation
def mapped(x, w):
    return torch.vmap(lambda row: row * row.roll(1, -1).cumsum(-1))(x)


JOINS = ("{new}", "{new} + 0.5 * {last}", "{last} - 0.5 * {new}", "{new} * torch.sigmoid({last})")


@dataclass
class Line:
    """value = join(operation(source), last)."""

    name: str
    source: int
    join: str
    last: int

    def code(self, k: int) -> str:
        new = f"{self.name}(x{self.source}, w{k})"
        return f"x{k} = {self.join.format(new=new, last=f'x{self.last}')}"


@dataclass
class Network:
    """A function in one precision; `noise` stands for the rounding of another, relative to each value."""

    lines: list[Line]
    size: tuple[int, ...]
    seed: int
    dtype: torch.dtype = torch.float64
    noise: float = 0.0
    noise_seed: int = 0

    def __post_init__(self) -> None:
        self.weights = [Weights(100 * self.seed + k, self.dtype) for k in range(len(self.lines) + 1)]
        body = [line.code(k) for k, line in enumerate(self.lines, 1)]
        if self.noise:
            body = [f"{code}; x{k} = rounded(x{k}, {k})" for k, code in enumerate(body, 1)]
        names = ", ".join(f"w{k}" for k in range(1, len(self.lines) + 1))
        head = [f"def network(x0, {names}):"]
        source = "\n    ".join([*head, *body, f"return x{len(body)}"])
        scope = {**OPERATIONS, "torch": torch, "rounded": self._rounded}
        exec(source, scope)
        self._function = scope["network"]

    def _rounded(self, x: Tensor, k: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self.noise_seed + k)
        return x * (1 + self.noise * (torch.rand(x.shape, generator=generator, dtype=x.dtype) - 0.5))

    def __call__(self, x: Tensor) -> Tensor:
        return self._function(x, *self.weights[1:])

    def at(self, dtype: torch.dtype, noise: float = 0.0, noise_seed: int = 0) -> Network:
        """The same function in another precision."""
        return Network(self.lines, self.size, self.seed, dtype, noise, noise_seed)

    def y(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """A point whose entries are distinct, and none of them zero."""
        n = torch.Size(self.size).numel()
        order = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed)).double()
        return ((order - n / 2 + 0.75) / 32).to(dtype).reshape(self.size)

    @property
    def mixes(self) -> bool:
        """Whether images of a batch may meet."""
        return any(line.name in MIXES for line in self.lines)

    def rounds_to(self, dtype: torch.dtype) -> torch.dtype:
        """The lowest precision of its arithmetic where its input has `dtype`."""
        low = dtype == torch.float32 and any(line.name in IN_BFLOAT16 for line in self.lines)
        return torch.bfloat16 if low else dtype

    def __str__(self) -> str:
        used = dict.fromkeys(line.name for line in self.lines)
        sources = [inspect.getsource(OPERATIONS[name]) for name in used]
        body = "\n".join(f"    {line.code(k)}" for k, line in enumerate(self.lines, 1))
        return (
            "\n".join(sources) + f"\n# seed {self.seed}, y of {self.size}\n"
            f"def network(x0):\n{body}\n    return x{len(self.lines)}\n"
        )


SIZES = ((1, 4, 4, 4), (2, 2, 4, 4), (1, 2, 4, 6), (1, 3, 4, 4), (2, 3, 4, 2), (1, 2, 6, 4))


def draw(seed: int) -> tuple[Network, differences.Truth]:
    """Network `seed`, and its Jacobian by differences.

    One that cannot be called in each precision, that blows up or is nearly nothing, or of which fewer than
    four columns in five are clear of kinks, is drawn again.
    """
    for attempt in range(100):
        choice = random.Random(1000 * seed + attempt)
        size = choice.choice(SIZES)
        names = choice.choices(sorted(OPERATIONS), k=choice.randint(1, 5))
        lines = [
            Line(
                name,
                k if choice.random() < 0.8 else choice.randint(0, k),
                choice.choice(JOINS),
                choice.randint(max(0, k - 1), k),
            )
            for k, name in enumerate(names)
        ]
        network = Network(lines, size, seed)
        try:
            outputs = [
                network.at(dtype)(network.y(dtype))
                for dtype in (torch.float64, torch.float32, torch.bfloat16)
            ]
        except (RuntimeError, NotImplementedError):
            continue  # a kernel that is not there in one of the precisions, or a leaf written to
        if not all(torch.isfinite(x).all() and x.is_floating_point() for x in outputs):
            continue
        truth = differences.dense(network, network.y())
        size_of_J = truth.J[:, truth.trusted].norm().item() / len(truth.J) ** 0.5
        if truth.trusted.float().mean() >= 0.8 and 0.05 < size_of_J < 50:
            return network, truth
    raise AssertionError(f"no network for seed {seed}")


DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
ROUNDING = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-9}
# Relative errors of J: what arithmetic explains, and what a central difference of the model does.
FLOOR = {torch.float64: 1e-6, torch.float32: 2e-5, torch.bfloat16: 4e-2}
BY_DIFFERENCES = {torch.float64: 1e-5, torch.float32: 2e-2, torch.bfloat16: 0.2}
UNSETTLED = 0.1  # a J that its own rounding moves by more says nothing


def unsettled(network: Network, truth: differences.Truth, dtype: torch.dtype) -> float:
    """By how much rounding each value to `dtype` moves J, relative, in six draws: ties are decided by it."""
    y, moved = network.y(), []
    for draw, v in enumerate(_directions(truth, 6)):
        noisy = network.at(torch.float64, 8 * ROUNDING[dtype], draw)
        found, _ = differences.along(noisy, y, v.view_as(y))
        exact = truth.J @ v
        moved.append(((found.flatten() - exact).norm() / exact.norm().clamp(min=1e-12)).item())
    return max(moved)


def _directions(truth: differences.Truth, m: int) -> Tensor:
    """Random vectors, (m, d), that no kink spoils: a fault of any rank shows on them all."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(m, len(truth.trusted), generator=generator, dtype=torch.float64) * truth.trusted


def verdicts(
    network: Network, truth: differences.Truth, precisions: tuple[str, ...] = (*DTYPES, "batched")
) -> dict[str, str]:
    """For each precision, and for the images of the batch apart: "right", "wrong ..." or "refused ..."."""
    found = {}
    for precision in precisions:
        if precision == "batched":
            if len(network.y()) > 1:
                found[precision] = _verdict(network, truth, torch.float64, FLOOR[torch.float64], batched=True)
            continue
        dtype = network.rounds_to(DTYPES[precision])
        moved = 0.0 if dtype == torch.float64 else unsettled(network, truth, dtype)
        if moved < UNSETTLED:
            found[precision] = _verdict(network, truth, DTYPES[precision], FLOOR[dtype] + 5 * moved)
    return found


def products(J: Any, truth: differences.Truth) -> tuple[float, float]:
    """The relative errors of J v and J' u, on four random vectors each; J may hold an image's J each."""
    blocks = _blocks(truth.J, J.batch[0] if J.batch else 1)
    V = _directions(truth, 4).view(4, len(blocks), -1).transpose(0, 1)
    U = torch.randn(len(blocks), 4, blocks.shape[1], generator=torch.Generator().manual_seed(2)).double()
    seen = truth.trusted.view(len(blocks), 1, -1)

    def error(found: Tensor, exact: Tensor) -> float:
        return (found - exact).norm().item() / max(exact.norm().item(), 1e-12)

    return error(_applied(J, V), V @ blocks.mT), error(_applied(J.T, U) * seen, U @ blocks * seen)


def _applied(A: Any, V: Tensor) -> Tensor:
    """A v for V (B, m, n) in float64, whatever rows A takes."""
    A = A if A.dtype == torch.float64 else A.to(torch.float64)
    return A.apply(V) if A.batch else A.apply(V[0]).unsqueeze(0)


def _verdict(
    network: Network, truth: differences.Truth, dtype: torch.dtype, limit: float, batched: bool = False
) -> str:
    y = network.y(dtype)
    model, kept = network.at(dtype), y.clone()
    model(y.clone())  # makes its weights
    total, inside = (part.square().sum() for part in (truth.J, _blocks(truth.J, len(y))))
    apart = not batched or bool(total - inside <= 1e-12 * total)
    try:
        J = spectral.jacobian(model, y, batched=batched)
        errors = products(J, truth) if apart else (0.0, 0.0)
    except SpectralError as failure:
        return f"refused: {type(failure).__name__}: {failure}" if apart else "right: refused"
    except Exception as failure:  # an error of torch's own is no answer
        return f"wrong: {type(failure).__name__}: {failure}"
    if not apart:
        return "wrong: images that meet were taken one by one"
    limit = max(limit, BY_DIFFERENCES[dtype]) if J.method == "differences" else limit
    if not max(errors) <= limit and not _ties_went_another_way(network, truth, dtype, J, limit):
        return f"wrong: J is {errors[0]:.1e} off, J' {errors[1]:.1e}, allowed {limit:.1e}, by {J!r}"
    if not torch.equal(y, kept):
        return "wrong: y was written to"
    return f"right: {J.method}"


def _ties_went_another_way(
    network: Network, truth: differences.Truth, dtype: torch.dtype, J: Any, limit: float
) -> bool:
    """Whether autograd, right in float64, has J in `dtype`: what was chosen is another entry by rounding."""
    if dtype == torch.float64 or J.batch:
        return False
    try:
        exact, rounded = (
            torch.autograd.functional.jacobian(network.at(to), network.y(to)).reshape(truth.J.shape).double()
            for to in (torch.float64, dtype)
        )
    except RuntimeError:
        return False
    here = differences.Truth(rounded, truth.trusted)
    return truth.error(exact) <= FLOOR[torch.float64] and max(products(J, here)) <= limit


def _blocks(J: Tensor, n: int) -> Tensor:
    """The n blocks on the diagonal, (n, r, d)."""
    r, d = J.shape[0] // n, J.shape[1] // n
    return torch.stack([J[i * r : (i + 1) * r, i * d : (i + 1) * d] for i in range(n)])


if __name__ == "__main__":
    drawn, by_differences = draw(int(sys.argv[1]))
    print(drawn)
    for tried, verdict in verdicts(
        drawn, by_differences, tuple(sys.argv[2:]) or (*DTYPES, "batched")
    ).items():
        print(f"{tried}: {verdict}")
