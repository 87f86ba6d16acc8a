"""Products of what y reaches, quotients, units: their rules against torch's dense Jacobian in float64."""

import pytest
import torch

import spectral
from spectral.jacobians.program.steps import Local
from tests.helpers.dense_programs import dense_of, program_of

SIZE = (3, 3, 4)
WEIGHT = torch.tensor([0.1, -0.5, 2.0], dtype=torch.float64)

FUNCTIONS = {
    "of one size": lambda y: y * y.sin(),
    "broadcast": lambda y: y * y.mean(1, keepdim=True) / (2 + y.mean((0, 2), keepdim=True)),
    "of fewer axes": lambda y: y * y.mean((0, 1)),
    "of fewer axes, first": lambda y: y.mean((0, 1)).exp() / (2 + y.square()),
    "of none": lambda y: y * y.mean(),
    "square": lambda y: y * y,
    "a number over it": lambda y: 3 / (2 + y),
    "a tensor over it": lambda y: WEIGHT / (2 + y.mean((1, 2))),
    "reciprocal": lambda y: 1 / (2 + y),
    "prelu": lambda y: torch.nn.functional.prelu(y, WEIGHT[:1]),
    "prelu of each channel": lambda y: torch.nn.functional.prelu(y, WEIGHT),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rules(name):
    y = torch.randn(SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = y / y.abs().max()
    program = program_of(FUNCTIONS[name], y)
    assert not any(isinstance(step, Local) for step in program.steps)
    exact, ahead, back = dense_of(FUNCTIONS[name], y, program)
    torch.testing.assert_close(ahead, exact, atol=1e-13, rtol=1e-13)
    torch.testing.assert_close(back, exact, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("name", ["of one size", "broadcast", "of fewer axes", "a number over it", "prelu"])
def test_some_of_a_batch(name):
    """Also where the channels, of another axis, are as many as the images."""
    if name in ("broadcast", "of fewer axes"):
        # Each image with itself alone, its channels as many as there are images.
        function = {
            "broadcast": lambda y: y * y.mean(2, keepdim=True),
            "of fewer axes": lambda y: y.unsqueeze(1) * y.unsqueeze(2),
        }[name]
    else:
        function = FUNCTIONS[name]
    y = torch.rand(SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    J = spectral.jacobian(function, y, batched=True)
    part = J.select(torch.tensor([2, 0]))
    torch.testing.assert_close(part.dense(), J.dense()[[2, 0]])


def test_in_another_precision():
    """A quotient's slope follows the promoted precision of both."""
    y = torch.rand(SIZE, generator=torch.Generator().manual_seed(0))
    J = spectral.jacobian(lambda y: WEIGHT / (2 + y.mean((1, 2))), y)
    exact = torch.func.jacrev(lambda y: WEIGHT / (2 + y.mean((1, 2))))(y.double()).reshape(J.shape)
    torch.testing.assert_close(J.dense().double(), exact, atol=1e-6, rtol=1e-5)
