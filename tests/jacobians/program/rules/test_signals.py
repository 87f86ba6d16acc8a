"""Networks of signals and of volumes against torch's dense Jacobian, and how they are laid out."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from spectral.jacobians.cpu import direct, openmp
from spectral.jacobians.program.convolution import Convolution, DirectKernel, Joint
from spectral.jacobians.program.rules.norms import Norm
from spectral.jacobians.program.rules.pointwise import Diagonal
from tests.helpers.dense_programs import dense_of, program_of

CHANNELS = 32


class Audio(nn.Module):
    """What audio networks are made of: a constant beside the signal, resampling filters in full, skips."""

    def __init__(self, channels=CHANNELS, pad="reflect"):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        made = lambda *size: nn.Parameter(torch.randn(size, generator=generator) / size[1] ** 0.5)  # noqa: E731
        self.first, self.beside = made(channels, 6, 5), made(channels, 6, 1)
        self.inner, self.merged = made(channels, channels, 5), made(channels, 2 * channels, 3)
        self.last = made(2, channels, 5)
        self.norm, self.pad = nn.GroupNorm(2, channels), pad
        taps = torch.tensor([-0.01, -0.03, 0.11, 0.43, 0.43, 0.11, -0.03, -0.01])
        filters = torch.zeros(channels, channels, 8)
        filters[range(channels), range(channels)] = taps
        self.register_buffer("filters", filters)
        self.register_buffer("level", torch.randn(1, 4, 1, generator=generator))

    def forward(self, y):
        t = torch.cat([y, self.level.expand(len(y), 4, y.shape[-1])], 1)
        x = functional.silu(self.norm(functional.conv1d(t, self.first, padding=2)))
        x = x + functional.conv1d(t, self.beside)
        down = functional.conv1d(functional.pad(x, (3, 3), self.pad), self.filters, stride=2)
        down = functional.gelu(self.norm(functional.conv1d(down, self.inner, padding=2)))
        up = functional.conv_transpose1d(
            functional.pad(down, (2, 2), self.pad), self.filters, stride=2, padding=7
        )
        both = torch.cat([x, up], 1)
        x = functional.relu(functional.conv1d(both, self.merged, padding=1))
        return y - functional.conv1d(x, self.last, padding=2)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("pad", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("channels", [6, CHANNELS])
def test_signals(channels, pad, images):
    model = Audio(channels, pad).double()
    y = torch.randn(images, 2, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    program = program_of(model, y)
    exact, ahead, back = dense_of(model, y, program)
    torch.testing.assert_close(ahead, exact, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(back, exact, atol=1e-12, rtol=1e-9)


def test_how_signals_are_laid_out():
    """Channels last all the way; slopes with norms, filters by channel, what is constant left out."""
    model = Audio()
    program = program_of(model, torch.randn(1, 2, 64, generator=torch.Generator().manual_seed(1)))
    parts = [part for step in program.steps for part in (step.parts if isinstance(step, Joint) else [step])]
    convolutions = [part for part in parts if isinstance(part, Convolution)]
    assert [c.groups for c in convolutions].count(CHANNELS) == 2
    assert {c.weight.shape[1] for c in convolutions if c.inputs == (0,)} == {2}
    assert sum(isinstance(step, Norm) for step in program.steps) == 2
    assert not any(isinstance(step, Diagonal) for step in program.steps)
    slots = {0: torch.ones(1, 2, 64)}
    for step in program.steps:
        slots[step.output] = out = step.apply(*(slots[i] for i in step.inputs))
        assert out.shape[1] == 2 or out.mT.is_contiguous(), step
    if openmp.vector_bytes():
        kernels = [c._forward for c in convolutions if direct.offered(c.weight) and c.groups == 1]
        assert kernels
        assert all(isinstance(kernel, DirectKernel) for kernel in kernels)


def test_a_filter_between_channels_is_none_of_each():
    """One entry beside the diagonal, the last: not left out."""
    model = Audio(4).double()
    model.filters[-1, -2, -1] = 0.7
    y = torch.randn(1, 2, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    program = program_of(model, y)
    exact, ahead, _ = dense_of(model, y, program)
    torch.testing.assert_close(ahead, exact, atol=1e-12, rtol=1e-9)
    assert all(step.groups == 1 for step in program.steps if isinstance(step, Convolution))


class Volume(nn.Module):
    def __init__(self, channels):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv3d(1, channels, 3, padding=1)
        self.norm = nn.GroupNorm(2, channels)
        self.down = nn.Conv3d(channels, channels, 2, stride=2, groups=2)
        self.inner = nn.Conv3d(channels, channels, (1, 3, 2), padding=(0, 1, 1))
        self.up = nn.ConvTranspose3d(channels, channels, 2, stride=2)
        self.dilated = nn.Conv3d(2 * channels, channels, 3, padding=2, dilation=2)
        self.last = nn.Conv3d(channels, 1, 3, padding=1, padding_mode="replicate")

    def forward(self, y):
        x = functional.silu(self.norm(self.first(y)))
        inner = functional.relu(self.inner(functional.relu(self.down(x))))[..., :-1]
        return y - self.last(functional.relu(self.dilated(torch.cat([x, self.up(inner)], 1))))


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("channels", [6, 16])
def test_volumes(channels, images):
    model, y = Volume(channels).double(), torch.randn(images, 1, 2, 4, 6, dtype=torch.float64)
    program = program_of(model, y)
    for one in (program, program.in_layout(False)):
        exact, ahead, back = dense_of(model, y, one)
        torch.testing.assert_close(ahead, exact, atol=1e-12, rtol=1e-9)
        torch.testing.assert_close(back, exact, atol=1e-12, rtol=1e-9)
    if openmp.vector_bytes() and channels == 16:
        kernels = [step._forward for step in program.steps if isinstance(step, Convolution)]
        assert sum(isinstance(kernel, DirectKernel) for kernel in kernels) == 2


class Normed(nn.Module):
    def __init__(self, norm, after):
        super().__init__()
        self.before, self.norm, self.after = nn.Conv2d(1, 32, 3, padding=1), norm, after
        self.out = nn.Conv2d(32, 1, 3, padding=1)
        nn.init.normal_(self.norm.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, y):
        return y - self.out(self.after(self.norm(self.before(y))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("entries", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_norms_of_groups_of_few_entries(seed, entries, dtype):
    """Of one the derivative is zero, of two nearly so: rounding is all that torch's ways have in common."""
    torch.manual_seed(seed)
    y = 3 * torch.randn(2, 4, entries, dtype=dtype)
    model = lambda y: y + functional.group_norm(y, 4)  # noqa: E731
    program = program_of(model, y)
    assert any(isinstance(step, Norm) for step in program.steps)
    _, ahead, back = dense_of(model, y, program)
    exact = torch.func.jacrev(model)(y.double()).reshape(y.numel(), -1)
    torch.testing.assert_close(ahead.double(), exact, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(back.double(), exact, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize(
    "after", [nn.SiLU(), nn.ReLU(), nn.Identity(), lambda x: x * torch.linspace(-1, 2, 32).view(32, 1, 1)]
)
@pytest.mark.parametrize(
    "norm",
    [nn.GroupNorm(4, 32), nn.GroupNorm(32, 32), nn.InstanceNorm2d(32, affine=True), nn.LayerNorm((32, 5, 6))],
    ids=str,
)
def test_norms_with_the_slopes_behind_them(norm, after, images):
    torch.manual_seed(0)
    model = Normed(norm, after).double()
    y = torch.randn(images, 1, 5, 6, dtype=torch.float64)
    program = program_of(model, y)
    if not isinstance(norm, nn.InstanceNorm2d):  # of many images: in another shape
        assert sum(isinstance(step, Diagonal) for step in program.steps) == isinstance(after, nn.ReLU)
    exact, ahead, back = dense_of(model, y, program)
    torch.testing.assert_close(ahead, exact, atol=1e-11, rtol=1e-9)
    torch.testing.assert_close(back, exact, atol=1e-11, rtol=1e-9)
    other = program.in_layout(False)
    exact, ahead, back = dense_of(model, y, other)
    torch.testing.assert_close(ahead, exact, atol=1e-11, rtol=1e-9)
    torch.testing.assert_close(back, exact, atol=1e-11, rtol=1e-9)
