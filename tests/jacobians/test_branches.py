"""Models that ask about values on their way: J is that of the way taken, where it is one around y."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import spectral
from spectral.errors import SpectralError
from tests.helpers import differences

F64 = torch.float64
DTYPES = [F64, torch.float32]


def drawn(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=F64)


def fixed_point(y):
    """As many steps as it takes: at another y another number of them."""
    z, weights = torch.zeros_like(y), 0.3 * drawn(4, 4, seed=1).to(y)
    for _ in range(500):
        step = torch.tanh(z @ weights + y)
        if (step - z).norm() < 1e-5:
            return step
        z = step
    return z


def adaptive_steps(y):
    """Heun's method with steps doubled and halved by an error that depends on y."""
    weights, t, h, z = 0.8 * drawn(4, 4, seed=1).to(y), 0.0, 0.1, y
    while t < 1 - 1e-12:
        first = torch.tanh(z @ weights)
        second = torch.tanh((z + h * first) @ weights)
        error = (h * (second - first) / 2).norm()
        if error < 0.02:
            z, t = z + h * (first + second) / 2, t + h
        h = min(h * (1.5 if error < 0.01 else 0.6 if error > 0.02 else 1.0), 1 - t)
    return z


def conditional(y):
    return torch.cond(y.sum() > 0, lambda x: x.sin() * x.std(), lambda x: x * x, (y,))


def nested(y):
    def inside(x):
        return torch.cond(x[0, 0] > 0, lambda z: z**3, lambda z: -z, (x,)) * x

    return torch.cond(y.sum() > 99, lambda x: x.sin(), inside, (y,))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, y):
        return torch.cond(y.sum() > 0, lambda x: self.first(x).sin(), lambda x: self.second(x).cos(), (y,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "build", [lambda: fixed_point, lambda: adaptive_steps, lambda: conditional, lambda: nested, Gated]
)
def test_ways_that_depend_on_values(build, seed, dtype):
    torch.manual_seed(0)
    model, y = build(), drawn(5, 4, seed=seed)
    model = model.to(F64) if isinstance(model, nn.Module) else model
    with torch.no_grad():
        truth = differences.dense(model, y)
    J = spectral.jacobian(model.to(dtype) if isinstance(model, nn.Module) else model, y.to(dtype))
    assert J.method == "frozen"
    for M in (J.dense(), J.T.dense().T):
        assert truth.error(M.to(F64)) < (1e-7 if dtype == F64 else 1e-5)


def threshold(y, steps):
    """Of a projection onto a ball of the l1 norm, by bisection with Python's numbers."""
    low, high = 0.0, 10.0
    for _ in range(steps):
        middle = (low + high) / 2
        if (y.abs() - middle).clamp(min=0).sum() > 1:
            low = middle
        else:
            high = middle
    return y - y.clamp(-low, low)


@pytest.mark.parametrize("steps", [12, 40])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(3))
def test_numbers_that_are_found_by_questions_are_refused(seed, dtype, steps):
    with pytest.raises(SpectralError, match="found by questions"):
        spectral.jacobian(lambda y: threshold(y, steps), drawn(5, 4, seed=seed).to(dtype))


def test_operations_on_functions_are_named():
    from torch.nn.attention.flex_attention import flex_attention  # loads a compiler

    def model(y):
        return flex_attention(y, y.sin(), y, score_mod=lambda score, b, h, q, k: score + 0.1 * (q - k))

    y = drawn(1, 2, 8, 4)
    try:
        J = spectral.jacobian(model, y)
    except SpectralError as refusal:
        assert "flex_attention, an operation on functions" in str(refusal)
    else:  # older releases carry it out by plain operations
        torch.testing.assert_close(J.dense(), torch.autograd.functional.jacobian(model, y).reshape(64, 64))


ALONE = """
import torch, spectral
def model(y):
    return torch.cond(y.sum() > 0, lambda x: x.sin(), lambda x: x * x, (y,))
y = torch.rand(4, 5)
J = spectral.jacobian(model, y)
assert J.method == "frozen", J
torch.testing.assert_close(J.dense(), torch.diag(y.cos().flatten()))
torch.testing.assert_close(model(y), y.sin())
"""


def test_a_compiler_that_the_model_loads():
    """It is kept out of the call that has loaded it, and works as before afterwards."""
    told = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
