"""Models that once got a wrong answer in silence, or a raw error, each with the right outcome."""

import collections
import random

import numpy as np
import pytest
import torch
from torch import nn

import spectral
from spectral.errors import NotDeterministicError, NotFiniteError, SpectralError


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("read", ["std", "mean", "amax", "median"])
def test_numbers_that_are_read_out_of_torch(read, seed):
    y = 1 + torch.randn(1296, generator=torch.Generator().manual_seed(seed))
    with pytest.raises(SpectralError, match="leaves torch"):
        spectral.top_eigs(lambda y: 0.5 + 0.01 * y * getattr(y, read)().item(), y, k=2)


@pytest.mark.parametrize("seed", range(6))
def test_counts_that_are_read_out_of_torch(seed):
    """They are constant but for jumps, which no derivative shows."""
    y = torch.randn(1000, generator=torch.Generator().manual_seed(seed))
    count = int((y > 0).sum())
    assert spectral.top_eigs(lambda y: y * int((y > 0).sum()), y, k=1).values == pytest.approx(count)


def repeated(y):
    a = y.clone()
    a[torch.tensor([2] * 40)] += y[:40]
    return a


@pytest.mark.parametrize("door", [spectral.top_eigs, spectral.top_svd, spectral.trace])
def test_derivatives_of_torch_that_are_wrong(door):
    """Of several values written to one place the last one stays; torch's derivative adds them all."""
    y = torch.randn(300, generator=torch.Generator().manual_seed(0)).double()
    with pytest.raises(SpectralError, match="differences of the model"):
        door(repeated, y)


def test_bits_that_are_read_as_integers():
    y = torch.rand(16) + 0.5
    identity = lambda y: y.view(torch.int32).clone().view(torch.float32)  # noqa: E731
    for f in (identity, lambda y: y + identity(3 * y)):
        with pytest.raises(SpectralError, match="bits"):
            spectral.jacobian(f, y)


def test_vectors_are_handed_on_from_the_start_of_their_storage():
    f = lambda y: torch.view_as_complex(y.view(-1, 2)).abs()  # noqa: E731
    y, v = torch.randn(8).double(), torch.randn(9).double()
    J = spectral.jacobian(f, y)
    torch.testing.assert_close(J @ v[1:], J @ v[1:].clone())
    torch.testing.assert_close(J.T @ v[3:7], J.T @ v[3:7].clone())


def test_a_model_that_writes_into_its_own_output():
    out, calls = torch.empty(300), []
    double = lambda y: torch.mul(y, 2, out=out)  # noqa: E731
    a = torch.randn(300)
    J = spectral.jacobian(double, a)
    double(torch.randn(300))
    torch.testing.assert_close(J.output, 2 * a)
    assert spectral.top_eigs(double, a, k=1).values == pytest.approx(2)

    def alternating(y):
        calls.append(1)
        return torch.mul(y, 1.0 + len(calls) % 3, out=out)

    with pytest.raises(NotDeterministicError):
        spectral.jacobian(alternating, a)


@pytest.mark.parametrize("method", ["frozen", "jvp", "double-backward"])
def test_y_and_tensors_closed_over_may_change_afterwards(method):
    A, y, v = (torch.randn(6, 6, dtype=torch.float64), *torch.randn(2, 6, dtype=torch.float64))
    J = spectral.jacobian(lambda y: y.tanh() * y.sum(), y, method=method)
    before = J @ v, J.T @ v
    y.mul_(3)
    torch.testing.assert_close((J @ v, J.T @ v), before)
    J = spectral.jacobian(lambda y: torch.tanh(A @ y), y, method=method)
    A.mul_(2)
    if method == "frozen":
        with pytest.raises(SpectralError, match="have changed"):
            J @ v


@pytest.mark.parametrize("estimate", ["frobenius_norm", "asymmetry", "effective_rank", "trace", "diagonal"])
def test_matrices_that_are_not_finite(estimate):
    for M in (torch.full((3, 3), float("nan")), torch.tensor([[1.0, float("inf")], [0, 1]])):
        with pytest.raises(NotFiniteError):
            getattr(spectral, estimate)(M)


def test_constants_and_units_that_draw_only_in_training():
    y, c = torch.randn(20), torch.randn(20)
    assert not spectral.jacobian(lambda y: c, y).dense().any()
    slope = (1 / 8 + 1 / 3) / 2
    expected = torch.where(y > 0, 1.0, slope)
    torch.testing.assert_close(spectral.jacobian(nn.RReLU().eval(), y).dense().diagonal(), expected)


def test_models_that_are_hard_to_look_at():
    def recursive():
        def f(y):
            return late(y) if y.numel() > 99 else 2 * y

        if random is None:
            late = f
        return f

    class Keyed(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(6, 6)
            self.state = dict.fromkeys(self.parameters(), 0)

        def forward(self, y):
            return self.l(y)

    y, model = torch.randn(6), Keyed()
    torch.testing.assert_close(spectral.jacobian(recursive(), y).dense(), 2 * torch.eye(6))
    torch.testing.assert_close(spectral.jacobian(model, y).dense(), model.l.weight.detach())


def test_what_a_model_keeps_is_put_back():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(6, 6)
            self.register_buffer("ema", torch.zeros(6))
            self.h, self.o = collections.deque(), collections.OrderedDict()

        def forward(self, y):
            self.ema.data.mul_(0.9).add_(y)
            self.h.append(1)
            self.o["n"] = self.o.get("n", 0) + 1
            random.random(), np.random.random()
            with torch.enable_grad():
                z = y.detach().clone().requires_grad_()
                self.l(z).square().sum().backward()
            return y - 0.1 * z.grad

    model, y = Keeps(), torch.randn(6)
    given = model.l.weight.grad = torch.ones(6, 6)
    states = random.getstate(), np.random.get_state()[1].tolist()
    spectral.top_eigs(model, y, k=1)
    assert not model.ema.any() and not model.h and not model.o
    assert model.l.weight.grad is given and torch.equal(given, torch.ones(6, 6)) and model.l.bias.grad is None
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
