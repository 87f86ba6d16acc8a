import ctypes

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import spectral
from spectral.errors import SpectralError
from spectral.jacobians.autograd import declared_functions
from spectral.jacobians.program import Recorder, Repeat
from spectral.jacobians.program.trees import leaves, mapped


def behind(t):
    """The numbers of a tensor as an extension sees them: torch does not know that they are looked at."""
    storage = t.untyped_storage()
    return np.ctypeslib.as_array((ctypes.c_double * (storage.nbytes() // 8)).from_address(storage.data_ptr()))


def image(seed=0):
    return torch.randn(2, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def repeats(function, y, step=1e-4):
    first, again = Recorder.of(function, y), Repeat()
    again.run(function, y + step * image(1))
    return again.is_that_of(first)


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.GroupNorm(2, 4), nn.SiLU()
    return nn.Sequential(*layers, nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.ReLU()).double()


def in_place(y):
    y = y.clone()
    y[..., 1:] -= y[..., :-1] / 2
    y.mul_(2).relu_()
    return y


def attention(y):
    q = y.flatten(2)
    return functional.scaled_dot_product_attention(q, q, q) + torch.softmax(q @ q.mT, -1) @ q


def two_matrices(y):
    return y.flatten(1) @ y.flatten(1).T + torch.einsum("bchw,dchw->bd", y, y)


@pytest.mark.parametrize(
    "function",
    [
        network(),
        in_place,
        attention,
        two_matrices,
        lambda y: checkpoint(torch.tanh, y, use_reentrant=False),
        lambda y: torch.cat(torch.fft.rfft2(y).abs().unbind(0)),
        lambda y: torch.zeros_like(y).copy_(y),
        lambda y: torch.empty(3, *y.shape, dtype=y.dtype).copy_(y),
        lambda y: y * torch.linspace(0, 1, 6, dtype=y.dtype),
    ],
)
def test_what_a_function_does_again(function):
    assert repeats(function, image())


WEIGHT = 1e-9


def by_pointer(y):
    return y.sin() + torch.from_numpy(WEIGHT * behind(y).reshape(y.shape))


def by_number(y):
    return y.sin() + WEIGHT * behind(y)[3]


def a_hidden_write(y):
    out = y.sin()
    behind(out)[5] *= 1 + WEIGHT
    return out.clone()


def a_hidden_write_into_the_output(y):
    out = y.sin()
    behind(out)[5] *= 1 + WEIGHT
    return out


def an_extension_that_makes_its_output(y):
    out = torch.empty(y.shape, dtype=y.dtype)
    behind(out)[:] = np.sin(behind(y))
    return out.clone()


FIRST = float(image().flatten()[0])
BUFFER = torch.zeros(2, 4, 6, 6, dtype=torch.float64)


def an_extension_with_a_buffer(y):
    behind(BUFFER)[:] = behind(y)
    return y.sin() + WEIGHT * BUFFER


@pytest.mark.parametrize(
    "function",
    [
        by_pointer,
        by_number,
        a_hidden_write,
        a_hidden_write_into_the_output,
        an_extension_that_makes_its_output,
        an_extension_with_a_buffer,
        lambda y: y.sin() if behind(y)[0] == FIRST else y.cos(),
        lambda y: y + WEIGHT * torch.randn(6, dtype=y.dtype),
        lambda y: y.roll(int(1e9 * behind(y)[0]) % 6, -1),
    ],
)
def test_what_a_function_does_otherwise(function):
    """However little it weighs: a number that comes back is another one, to the last bit."""
    assert not repeats(function, image())


@pytest.mark.parametrize("weight", [1.0, 1e-3])
def test_values_behind_torchs_back_are_refused(weight):
    def function(y):
        out = y.sin()
        behind(out)[:] += weight * behind(y)
        return out.clone()

    with pytest.raises(SpectralError):
        spectral.jacobian(function, image())


def test_what_cannot_be_added_up_tells_nothing():
    """And functions of the model's own are seen all the same."""
    eight = lambda y: y.to(torch.float8_e4m3fn).to(y.dtype)  # noqa: E731
    assert not repeats(eight, image())
    again = Repeat()
    output = again.run(lambda y: Doubled.apply(y) + eight(y), image())
    assert declared_functions(output) == ["Doubled"]


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return 2 * y

    @staticmethod
    def backward(ctx, g):
        return g


def test_a_network_is_run_twice_where_that_tells_all():
    calls = []
    net = network().float()

    def function(y):
        calls.append(1)
        return net(y)

    J = spectral.jacobian(function, image().float())
    assert J.method == "frozen" and len(calls) == 2


def test_nests():
    tree = ([1, (2, {"a": 3})], {"b": [4], "c": torch.Size((5, 6))})
    assert leaves(tree) == [1, 2, 3, 4, 5, 6]
    assert mapped(lambda x: x, tree) == tree
    # Containers that pytree knows too.
    named = torch.max(torch.eye(3), 0)
    assert [x.shape for x in leaves((named,))] == [(3,), (3,)]
    assert type(mapped(lambda x: x, (named,))[0]) is type(named)
