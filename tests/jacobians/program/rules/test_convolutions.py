"""Convolutions, and what is sent back through them inside of a model, against torch's dense Jacobian."""

import pytest
import torch
from torch import nn

import spectral
from spectral.jacobians.program.steps import Local
from tests.helpers.dense_programs import dense_of, program_of

UNITS = [
    *(nn.ELU(), nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh"), nn.Tanh(), nn.Sigmoid()),
    *(nn.Softplus(beta=10), nn.Mish(), nn.Hardswish(), nn.LeakyReLU(), nn.ReLU()),
]


@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_the_gradient_of_an_energy(unit):
    """As a gradient-step denoiser has it: its Jacobian is a Hessian, by rules alone."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), unit),
        *(nn.Conv2d(4, 4, 4, stride=3, padding=1, bias=False), unit),
        *(nn.Conv2d(4, 4, 3, dilation=2, padding=2, groups=2), unit),
        *(nn.ConvTranspose2d(4, 4, 3, stride=2, output_padding=1), unit, nn.Conv2d(4, 1, 3)),
    ).double()

    def gradient(y):
        with torch.enable_grad():
            x = y if y.requires_grad else y.detach().requires_grad_()
            return torch.autograd.grad(1e4 * net(x).square().sum(), x, create_graph=True)[0]

    y = torch.randn(1, 1, 9, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    program = program_of(gradient, y)
    assert not any(isinstance(step, Local) for step in program.steps)
    exact, ahead, back = dense_of(gradient, y, program)
    assert exact.abs().max() > 1e-4
    torch.testing.assert_close(ahead, exact, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(back, exact, atol=1e-12, rtol=1e-9)


def test_a_kernel_that_is_reached_is_no_convolution():
    """Where the way back makes a gradient by the kernel too, its image counts for more than its shape."""
    weight = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight.requires_grad_()

    def kernels(y):
        with torch.enable_grad():
            value = nn.functional.conv2d(y, weight).square().sum()
            return torch.autograd.grad(value, weight, create_graph=True)[0]

    y = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    conv = nn.functional.conv2d
    exact, ahead, back = dense_of(
        lambda y: 2 * conv(y, conv(y, weight).transpose(0, 1)), y, program_of(kernels, y)
    )
    assert exact.abs().max() > 1e-4
    torch.testing.assert_close(ahead, exact)
    torch.testing.assert_close(back, exact)


def test_one_number_for_all_axes():
    """As some call it: torch.ops.aten.convolution(x, w, None, [2], [1], [1], ...)."""
    weight = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def function(y):
        return torch.ops.aten.convolution(y, weight, None, [2], [1], [1], False, [0], 1)

    y = torch.randn(1, 1, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    program = program_of(function, y)
    assert not any(isinstance(step, Local) for step in program.steps)
    exact, ahead, back = dense_of(function, y, program)
    torch.testing.assert_close(ahead, exact)
    torch.testing.assert_close(back, exact)


@pytest.mark.parametrize(
    ("channels", "taps", "stride"), [(3, (4, 2), (4, 2)), (1, (2, 2), (2, 2)), (2, (2, 2), (3, 2))]
)
def test_patches(channels, taps, stride):
    """Taken apart, and put together again; in the third place with pixels between them."""
    torch.manual_seed(0)
    apart = nn.Conv2d(channels, 5, taps, stride).double()
    together = nn.ConvTranspose2d(5, channels, taps, stride).double()

    def function(y):
        return together(apart(y).sin())

    y = torch.randn(2, channels, 8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact, ahead, back = dense_of(function, y, program_of(function, y))
    torch.testing.assert_close(ahead, exact)
    torch.testing.assert_close(back, exact)


def test_a_channel_that_a_scale_makes_several():
    """No scale of the convolution's channels: it stays a step of its own."""
    torch.manual_seed(0)
    weight, scale, y = torch.randn(1, 3, 3, 3), torch.randn(1, 4, 1, 1), torch.randn(2, 3, 5, 5)
    model = lambda y: nn.functional.conv2d(y, weight) * scale  # noqa: E731
    J = spectral.jacobian(model, y)
    assert J.method == "frozen" and not any("frozen" in note for note in J.notes)
    torch.testing.assert_close(J.dense(), torch.autograd.functional.jacobian(model, y).reshape(J.shape))
