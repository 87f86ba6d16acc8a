"""Variances, deviations, lengths, cuts and sums by their rules, against torch's dense Jacobian in float64."""

import pytest
import torch

import spectral
from spectral.jacobians.program.rules.deviations import WeightedSum
from spectral.jacobians.program.steps import Local
from tests.helpers.dense_programs import dense_of, program_of

SIZE = (2, 3, 4, 5)

DEVIATIONS = {
    "var": lambda y: y.var(1),
    "var kept": lambda y: y.var((-1, 1), keepdim=True),
    "var of all": lambda y: y.var().reshape(1, 1),
    "var without correction": lambda y: y.var((2, 3), correction=0),
    "var corrected twice": lambda y: torch.var(y, 3, correction=2),
    "std": lambda y: y.std((0, 2)),
    "var and mean": lambda y: torch.stack(torch.var_mean(y, (1, 3))),
    "std and mean": lambda y: torch.cat(torch.std_mean(y, 2, keepdim=True), 2),
    "length": lambda y: torch.linalg.vector_norm(y, dim=1),
    "length of all": lambda y: torch.linalg.vector_norm(y).reshape(1, 1),
    "lengths": lambda y: torch.nn.functional.normalize(y, dim=-1),
    "norm": lambda y: y.norm(dim=(1, 2), keepdim=True),
}

CUTS = {
    "select": lambda y: y.select(-2, -1),
    "slice": lambda y: y[..., 1:5:2],
    "slice from the end": lambda y: y[:, -2:],
    "unbind": lambda y: y.unbind(2)[1] * y.unbind(-2)[3],
    "chunk": lambda y: y.chunk(3, -1)[2].sin(),
    "split": lambda y: y.split(3, 2)[1],
    "split with sizes": lambda y: y.split([1, 3, 1], -1)[1],
    "stack": lambda y: torch.stack([y, y.sin()], -1),
    "cat": lambda y: torch.cat([y[:, :1].cos(), y], 1),
    "expand": lambda y: y[:, :1].expand(2, 6, 4, 5) * y[0, 0].expand(2, 6, 4, 5),
    "mean": lambda y: y.mean((-1, 1)) + y.mean((1, 3)),
    "sum": lambda y: y.sum(2, keepdim=True) * y.sum((2, 0), keepdim=True).exp(),
}


@pytest.mark.parametrize("name", DEVIATIONS | CUTS)
def test_rules(name):
    function = (DEVIATIONS | CUTS)[name]
    y = torch.randn(SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    program = program_of(function, y)
    assert not any(isinstance(step, Local) for step in program.steps)
    assert (name in DEVIATIONS) == any(isinstance(step, WeightedSum) for step in program.steps)
    exact, ahead, back = dense_of(function, y, program)
    torch.testing.assert_close(ahead, exact, atol=1e-13, rtol=1e-13)
    torch.testing.assert_close(back, exact, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("name", DEVIATIONS)
def test_of_constant_images(name):
    """Where a deviation or a length is 0, its derivative is 0 as well."""
    y = torch.zeros(SIZE, dtype=torch.float64)
    if name == "lengths":
        y += 1  # at 0 it has no derivative that is finite
    J = spectral.jacobian(DEVIATIONS[name], y)
    exact = torch.func.jacrev(DEVIATIONS[name])(y).reshape(J.shape)
    torch.testing.assert_close(J.dense(), exact)


def test_some_of_a_batch():
    y = torch.rand(4, 3, 5, dtype=torch.float64)

    def model(y):
        return (y - y.mean(-1, keepdim=True)) / y.std((-1, -2), keepdim=True) + y.norm(dim=1, keepdim=True)

    J = spectral.jacobian(model, y, batched=True)
    part = J.select(torch.tensor([2, 0]))
    torch.testing.assert_close(part.dense(), J.dense()[[2, 0]])
