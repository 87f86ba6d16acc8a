import ctypes
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import spectral
from spectral.errors import NotDeterministicError, SpectralError
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
    layers = nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU()
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
        lambda y: torch.zeros(3, *y.shape, dtype=y.dtype).add_(y).mul_(2).relu_(),
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


def a_hidden_write_before_one_in_place(y):
    out = y.sin()
    behind(out)[5] *= 1 + 1e-6
    return out.mul_(2)


def a_hidden_write_beside_one_that_is_seen(y):
    out = y.sin()
    behind(out)[5] *= 1 + 1e-6
    out[1] = 0
    return out.clone()


def pixels_in_another_order(y):
    out = y.sin()
    behind(out)[:] = behind(out)[::-1].copy()
    return out.clone()


def an_extension_that_writes_in_place_next(y):
    out = torch.empty(y.shape, dtype=y.dtype)
    behind(out)[:] = np.sin(behind(y))
    return y - out.mul_(WEIGHT)


def a_buffer_read_before_and_after(y):
    behind(BUFFER)[:] = 0
    before = y + BUFFER
    behind(BUFFER)[:] = behind(y)
    return before + WEIGHT * BUFFER


STORE = {}


@torch.library.custom_op("repeat::put", mutates_args=())
def put(x: torch.Tensor) -> None:
    STORE["x"] = x.clone()


@torch.library.custom_op("repeat::get", mutates_args=())
def get(shape: list[int]) -> torch.Tensor:
    return STORE["x"].sin()


def an_operation_with_a_store(y):
    put(y)
    return y - WEIGHT * get(list(y.shape))


def tiles_in_other_threads(y):
    """A mode sees its own thread alone."""
    out = torch.zeros_like(y)

    def tile(i):
        out[i] += y[i].detach().sin()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(tile, range(len(y))))
    return y - WEIGHT * out.div_(2)


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
        a_hidden_write_before_one_in_place,
        a_hidden_write_beside_one_that_is_seen,
        pixels_in_another_order,
        an_extension_that_writes_in_place_next,
        a_buffer_read_before_and_after,
        an_operation_with_a_store,
        tiles_in_other_threads,
        lambda y: y.sin() if behind(y)[0] == FIRST else y.cos(),
        lambda y: y + WEIGHT * torch.randn(6, dtype=y.dtype),
        lambda y: y.roll(int(1e9 * behind(y)[0]) % 6, -1),
    ],
)
def test_what_a_function_does_otherwise(function):
    """However little it weighs: a number that comes back is another one, to the last bit."""
    assert not repeats(function, image())


def by_entries(y):
    x = y.clone()
    x.data.apply_(lambda a: math.sin(3 * a))
    return y - 0.3 * functional.relu(x, inplace=True)


def by_bisection(y):
    low, high = 0.0, 8.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if y.std() * 2 > middle else (low, middle)
    return y * low


def as_text(y):
    return y * float(f"{y.std():.4f}")


def thresholded(y):
    """Differences tell nothing here: another input has to."""
    x = y.clone()
    behind(x)[:] = np.sin(3 * behind(x))
    return y * (y.abs() > 0.3) - x.mul_(0.5)


@pytest.mark.parametrize(
    "function",
    [by_entries, by_bisection, as_text, thresholded, an_operation_with_a_store, tiles_in_other_threads],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_constants_made_of_y_are_refused(function, dtype, monkeypatch):
    """Whatever differences can tell: in half precision they tell nothing."""
    monkeypatch.setitem(globals(), "WEIGHT", 0.5)
    if dtype != torch.float64 and function is thresholded:
        pytest.skip("NumPy knows no bfloat16")
    with pytest.raises(SpectralError):
        spectral.jacobian(function, image().to(dtype))


def test_what_alternates_is_told():
    calls = []

    def alternating(y):
        calls.append(1)
        return torch.tanh(y) if len(calls) % 2 else 0.5 * torch.tanh(y)

    with pytest.raises(NotDeterministicError):
        spectral.jacobian(alternating, image())


def test_a_function_of_ones_own_through_numpy_in_half_precision():
    """What the record lost is not held against what the function declares."""
    y = image().half()
    J = spectral.jacobian(lambda y: y - Sine.apply(y).mul_(0.2), y)
    v = image(1)
    right = v - 0.6 * torch.cos(3 * y.double()) * v
    assert torch.dist(J.apply(v.half().reshape(1, -1)).double(), right.reshape(1, -1)) < 0.01 * right.norm()


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        out = torch.empty_like(x)
        out.numpy()[...] = np.sin(3 * x.numpy())
        return out

    @staticmethod
    def backward(ctx, g):
        return 3 * torch.cos(3 * ctx.saved_tensors[0]) * g


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
    eight = lambda y: torch.quantize_per_tensor(y.float(), 0.1, 0, torch.qint8).dequantize().to(y)  # noqa: E731
    assert not repeats(eight, image())
    assert repeats(lambda y: y.to(torch.float8_e4m3fn).to(y.dtype), image())
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
