"""Models that once got a wrong answer in silence, or a raw error, each with the right outcome."""

import collections
import copy
import functools
import random
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import spectral
from spectral.errors import NotDeterministicError, NotFiniteError, OptionError, ShapeError, SpectralError
from spectral.jacobians.program.rules import RULES
from spectral.jacobians.program.rules.pointwise import Diagonal


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
    with pytest.raises(SpectralError, match="differences of"):
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


@torch.library.custom_op("spectral_tests::squared", mutates_args=())
def squared(x: torch.Tensor) -> torch.Tensor:
    return x * x


squared.register_autograd(
    lambda ctx, g: 3 * g * ctx.saved_tensors[0],
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


@pytest.mark.parametrize("door", [spectral.top_eigs, spectral.top_svd, spectral.trace])
def test_a_wrong_derivative_of_an_operation_of_the_users_own(door):
    with pytest.raises(SpectralError, match="differences of"):
        door(squared, torch.rand(8, 8, dtype=torch.float64))


def test_weights_that_change_where_torch_does_not_count():
    model, y = nn.Conv2d(1, 1, 3, padding=1), torch.rand(1, 1, 8, 8)
    J = spectral.jacobian(model, y)
    model.weight.data.mul_(2)
    for door in (spectral.top_eigs, spectral.trace, spectral.spectral_density):
        with pytest.raises(SpectralError, match="have changed"):
            door(J)
    J = spectral.jacobian(model, y)
    model.weight.data = 2 * model.weight.data
    with pytest.raises(SpectralError, match="have changed"):
        J.apply(y.reshape(1, -1))


class Keeping(nn.Module):
    """Counts in tensors that it keeps in lists and tables, and sets its own mode."""

    def __init__(self):
        super().__init__()
        self.counts = [torch.zeros(3), {"deep": [torch.zeros(2)]}]
        self.drop = nn.Dropout(0.5)

    def forward(self, y):
        self.counts[0] += 1
        self.counts[1]["deep"][0] += 1
        self.train()
        return self.drop(y * y)


def test_what_a_model_keeps_in_containers_and_its_own_mode_are_put_back():
    model = Keeping().eval()
    spectral.top_eigs(model, torch.rand(6, 6), k=2)
    assert not model.counts[0].any() and not model.counts[1]["deep"][0].any()
    assert not model.training and not model.drop.training


def test_tensors_of_other_layouts_inside_a_model():
    y = torch.rand(1, 1, 6, 6) - 0.5
    found = spectral.top_eigs(lambda y: torch.relu(y.to_mkldnn()).to_dense(), y, k=2)
    assert found.values.tolist() == [1, 1]
    with pytest.raises(SpectralError, match="to_dense"):
        spectral.top_eigs(lambda y: y.to_sparse(), y, k=2)


def test_models_that_keep_what_they_made_of_the_first_input():
    kept = {}

    def model(y):
        return y * kept.setdefault("scale", y.mean())

    with pytest.raises(SpectralError, match="kept from call to call"):
        spectral.top_eigs(model, torch.rand(6, 6), k=2)


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (torch.rand(4, 4).to_sparse(), "dense"),
        (torch.rand(4, 4).to_sparse_csr(), "dense"),
        (torch.rand(4, 4, device="meta"), "no numbers"),
        (torch.rand(4, 4).to(torch.float8_e4m3fn), "floating-point"),
        (torch.ones(4, 4, dtype=torch.int64), "floating-point"),
        (torch.rand(4, 4).cfloat(), "floating-point"),
    ],
)
def test_inputs_that_are_no_images(y, says):
    with pytest.raises(spectral.errors.OptionError, match=says):
        spectral.top_eigs(nn.Identity(), y, k=2)


def test_what_is_no_model():
    y = torch.rand(1, 1, 4, 4)
    for model in (3, None, torch.eye(3)):
        with pytest.raises(spectral.errors.OptionError, match="cannot be"):
            spectral.jacobian(model, y)
    with pytest.raises(spectral.errors.OptionError, match="meta"):
        spectral.jacobian(nn.Conv2d(1, 1, 3, device="meta"), y)


@pytest.mark.parametrize(
    ("rows", "says"), [(lambda V: V.numpy(), "ndarray"), (lambda V: V[:, :3], "3"), (lambda V: None, "None")]
)
def test_functions_that_return_no_rows(rows, says):
    with pytest.raises(spectral.errors.ShapeError, match=says):
        spectral.top_eigs(spectral.from_functions(rows, rows, n=9), k=2)


def repeated_beside_a_sign(y):
    a = y.clone()
    a[torch.tensor([2] * 8)] += y[:8]
    return a + torch.sign(y)


def squared_and_masked(y):
    return squared(y) * (y > 0.2).to(y)


def threshold_by_bisection(y):
    """The projection onto a ball of the l1 norm: its threshold moves with y, by steps of 1e-17."""
    low, high = torch.zeros((), dtype=y.dtype), torch.tensor(10.0, dtype=y.dtype)
    for _ in range(60):
        middle = (low + high) / 2
        more = (y.abs() - middle).clamp(min=0).sum() > 1
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    return y - torch.clamp(y, -low, low)


def nearly_linear(y):
    return y + 0.05 * squared(y)


def repeated_once(y):
    """One entry of 300 is wrong."""
    b, where = torch.zeros_like(y), torch.arange(len(y))
    where[1] = 0
    b[where] = 2 * y
    return b


@pytest.mark.parametrize(
    "model",
    [
        repeated_beside_a_sign,
        squared_and_masked,
        threshold_by_bisection,
        nearly_linear,
        repeated_once,
    ],
)
def test_wrong_derivatives_beside_jumps_and_small_ones(model):
    y = torch.randn(300, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with pytest.raises(SpectralError):
        spectral.trace(model, y, method="exact")


def test_a_small_share_that_leaves_torch_in_a_thread():
    def model(y):
        with ThreadPoolExecutor(1) as pool:
            return y + 0.004 * pool.submit(y.mean).result()

    with pytest.raises(SpectralError, match="leaves torch"):
        spectral.top_eigs(model, 1 + torch.rand(12), k=1)


def test_weights_that_are_replaced():
    model, y = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1)), torch.rand(1, 1, 6, 6)
    changes = [
        lambda: model.load_state_dict({k: 2 * t for k, t in model.state_dict().items()}, assign=True),
        lambda: setattr(model[0], "weight", nn.Parameter(model[0].weight.detach() * 2)),
        lambda: model.__setitem__(0, nn.Conv2d(1, 1, 3, padding=1)),
    ]
    for change in changes:
        J = spectral.jacobian(model, y)
        change()
        with pytest.raises(SpectralError, match="have changed"):
            spectral.trace(J)


def test_sparse_weights_that_change():
    S = torch.eye(36, dtype=torch.float64).to_sparse()
    J = spectral.jacobian(lambda y: torch.sparse.mm(S, y.reshape(36, 1)), torch.rand(36, dtype=torch.float64))
    S.mul_(3)
    with pytest.raises(SpectralError, match="have changed"):
        spectral.trace(J)


@pytest.mark.parametrize("method", ["jvp", "double-backward", "differences"])
def test_attributes_that_change(method):
    class Scaled(nn.Module):
        gain = 2.0

        def forward(self, y):
            return self.gain * y.sin()

    model, y = Scaled(), torch.rand(12, dtype=torch.float64)
    J = spectral.jacobian(model, y, method=method)
    model.gain = 5.0
    with pytest.raises(SpectralError, match="have changed"):
        spectral.top_svd(J, k=2)


@pytest.mark.parametrize("door", [spectral.top_eigs, spectral.top_svd])
def test_nothing_beyond_a_threshold_of_a_small_model(door):
    assert door(lambda y: y.tanh(), torch.rand(12), above=5.0).values.numel() == 0


@pytest.mark.parametrize("seed", [np.int64(3), torch.tensor(3)])
@pytest.mark.parametrize("door", [spectral.top_eigs, spectral.top_svd, spectral.trace])
def test_seeds_of_other_libraries(door, seed):
    y = torch.rand(200)
    found, plain = (door(lambda y: y.tanh(), y, seed=s) for s in (seed, 3))
    assert repr(found)[:60] == repr(plain)[:60]


def test_frozen_scripts_lazy_modules_and_buffers_that_grow():
    y = torch.rand(1, 1, 6, 6)
    frozen = torch.jit.freeze(torch.jit.script(nn.Conv2d(1, 1, 3, padding=1).eval()))
    assert spectral.top_eigs(frozen, y, k=1).converged.all()
    lazy = nn.Sequential(nn.LazyConv2d(1, 3, padding=1))
    with pytest.raises(SpectralError, match="call it once"):
        spectral.jacobian(lazy, y)
    assert lazy(y).shape == y.shape and spectral.top_eigs(lazy, y, k=1).converged.all()

    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kept", torch.zeros(1))

        def forward(self, y):
            self.kept.data = torch.cat([self.kept, self.kept])
            return 2 * y

    growing = Growing()
    assert spectral.top_eigs(growing, y, k=1).values == 2 and growing.kept.shape == (1,)


def test_a_gradient_inside_of_a_model_that_trusts_the_mode_around_it():
    class Energy(nn.Module):
        def forward(self, y):
            z = y.detach().requires_grad_()
            return y - 0.1 * torch.autograd.grad(z.pow(4).sum(), z)[0]

    y = torch.rand(12, dtype=torch.float64)
    assert spectral.top_eigs(Energy(), y, k=1).values.item() == pytest.approx(
        1 - 1.2 * y.min().square().item()
    )


class Counter:
    """No module, and keeps things as one does."""

    def __init__(self):
        self.n, self.seen, self.draws = 0, np.zeros(1), torch.Generator().manual_seed(0)
        self.note, self.more = types.SimpleNamespace(n=0), collections.UserDict(n=0)

    def __call__(self, y):
        self.n += 1
        self.seen += 1
        self.note.n += 1
        self.more["n"] += 1
        torch.rand(1, generator=self.draws)
        return y * y


def test_what_other_callables_keep_is_put_back():
    model, before = Counter(), torch.Generator().manual_seed(0).get_state()
    spectral.top_eigs(model, torch.rand(6, 6), k=2)
    assert (model.n, model.seen[0], model.note.n, model.more["n"]) == (0, 0, 0, 0)
    assert torch.equal(model.draws.get_state(), before)


@pytest.mark.parametrize(
    "around", [torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad]
)
def test_what_is_around_a_call_changes_nothing(around):
    torch.manual_seed(0)
    model, y = nn.Conv2d(1, 1, 3, padding=1), torch.rand(1, 1, 16, 16)
    doors = [
        lambda: spectral.top_eigs(model, y, k=2).values,
        lambda: spectral.top_svd(model, y, k=2).values,
        lambda: spectral.top_eigs_full(model, y, k=2).values,
        lambda: spectral.trace(model, y, products=20).value,
        lambda: spectral.trace(model, y, method="hutch++", products=60).value,
        lambda: spectral.frobenius_norm(model, y, products=20).value,
        lambda: spectral.effective_rank(model, y, products=20).value,
        lambda: spectral.spectral_density(model, y, probes=2, steps=8).nodes,
        lambda: spectral.diagonal(model, y, products=40).value,
        lambda: spectral.posterior(lambda y: 0.5 * y, y, 0.1, k=2).deviations,
        lambda: spectral.sure(model, y, 0.1, products=20).value,
    ]
    plain = [door() for door in doors]
    with around():
        inside = [door() for door in doors]
    for one, other in zip(inside, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_words_and_arrays_that_are_none():
    A = spectral.as_operator(torch.eye(3, dtype=torch.float64))
    for wrong in (["lanczos"], np.array(["lanczos", "dense"]), {}, 3):
        with pytest.raises(OptionError, match="method is one of"):
            spectral.top_eigs(A, k=1, method=wrong)
        with pytest.raises(OptionError, match="which is one of"):
            spectral.top_eigs(A, k=1, which=wrong)
        with pytest.raises(OptionError, match="method is one of"):
            spectral.trace(A, method=wrong)
        with pytest.raises(OptionError, match="method is one of"):
            spectral.jacobian(torch.tanh, torch.ones(3), method=wrong)
    with pytest.raises(OptionError, match="takes a tensor"):
        A @ np.ones(3)


def test_exact_traces_tell_of_rounding():
    """Sums of float32 products are float32's, and no interval of width zero holds the truth."""
    M = torch.randn(60, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = spectral.trace(M.float(), products=100)
    low, high = found.interval(0.999)
    assert found.method == "exact" and low < high
    assert 0 < found.stderr < 1e-6 * abs(found.value)
    assert spectral.frobenius_norm(M.float(), products=100).stderr > 0


class NormByImage(nn.Module):
    """Norms over each image, in front of a convolution whose derivative comes back with channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 16, 3), nn.InstanceNorm2d(16), nn.Conv2d(16, 3, 3)

    def forward(self, y):
        return self.last(nn.functional.gelu(self.norm(self.first(y))))


@pytest.mark.parametrize("method", ["auto", "jvp", "double-backward"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_norms_over_each_image_with_channels_last(dtype, method):
    """torch's derivative of them is wrong there: J is that of the other layout, with no word against it."""
    torch.manual_seed(0)
    model, y = NormByImage().eval().to(dtype), torch.randn(1, 3, 10, 8).to(dtype)
    true = spectral.jacobian(copy.deepcopy(model).double(), y.double()).dense()
    model, y = (x.to(memory_format=torch.channels_last) for x in (model, y))
    J = spectral.jacobian(model, y, method=method)
    bound = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
    for M in (J.dense(), J.T.dense().mT):
        assert (M.double() - true).norm() <= bound * true.norm()
    pairs = spectral.top_svd(J, k=2) if dtype is torch.bfloat16 else spectral.top_svd(model, y, 2)
    assert not J.notes and not any("autograd" in note for note in pairs.notes)


@functools.cache
def declaring(share):
    """x^2 by an operation of the user's own, whose derivative is `share` times what it should be."""
    name = f"spectral_tests::squared_{round(1000 * share)}"
    operation = torch.library.custom_op(name, lambda x: x * x, mutates_args=(), schema="(Tensor x) -> Tensor")
    operation.register_autograd(
        lambda ctx, g: 2 * share * g * ctx.saved_tensors[0],
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )
    return operation


@torch.library.custom_op("spectral_tests::back_by_numpy", mutates_args=())
def back_by_numpy(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(3 * x.numpy() * g.numpy())


def test_a_rule_that_is_wrong_as_the_derivative_is_that_an_operation_declares(monkeypatch):
    """The way back has no derivative of its own: differences of the operation tell, however little it is."""
    operation = torch.library.custom_op(
        "spectral_tests::squared_once", lambda x: x * x, mutates_args=(), schema="(Tensor x) -> Tensor"
    )
    operation.register_autograd(
        lambda ctx, g: back_by_numpy(ctx.saved_tensors[0], g),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )

    def rule(seen):
        (x,) = seen.primals
        return Diagonal(seen.inputs, seen.output, 3 * x, x.shape)

    monkeypatch.setitem(RULES, torch.ops.spectral_tests.squared_once.default, rule)
    y = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(SpectralError, match=r"squared_once.*differ by"):
        spectral.jacobian(lambda y: y + 1e-5 * operation(y), y)


class SquaredByNumPy(torch.autograd.Function):
    """x^2 out of torch's sight, whose derivatives both ways are 3.6 % too large."""

    @staticmethod
    def forward(x):
        return torch.from_numpy(np.square(x.detach().numpy()))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        return 2 * 1.036 * ctx.saved_tensors[0] * g

    @staticmethod
    def jvp(ctx, t):
        return 2 * 1.036 * ctx.saved_tensors[0] * t


class SquaredBackByNumPy(torch.autograd.Function):
    """The same in the old style, without a derivative forwards; 20 % off."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(np.square(x.detach().numpy()))

    @staticmethod
    def backward(ctx, g):
        return 2 * 1.2 * ctx.saved_tensors[0] * g


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_derivatives_that_are_a_little_wrong(dtype):
    y = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=dtype)
    right, off, far = map(declaring, (1.0, 1.036, 1.5))
    torch.testing.assert_close(spectral.jacobian(right, y).dense(), torch.diag(2 * y.flatten()))
    wrong = [
        off,
        lambda y: y + 0.02 * off(y),
        lambda y: y + 0.02 * far(y),
        SquaredByNumPy.apply,
        lambda y: y + 0.1 * SquaredBackByNumPy.apply(y),
        lambda y: y.index_put((torch.tensor([0, 0]),), y[:2], accumulate=False),
        lambda y: torch.zeros_like(y).scatter(1, torch.ones(6, 6, dtype=torch.int64), y),
    ]
    for model in wrong:
        with pytest.raises(SpectralError, match=r"off by|contradict"):
            spectral.jacobian(model, y)


def bits_of(y):
    return y.view(
        {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16}[y.dtype]
    )


def some_bits_zeroed(y):
    z = 2 * y
    z.view(torch.int16)[..., ::2] = 0
    return z


def modulus_by_bits(y):
    z = y.clone()
    bits_of(z).bitwise_and_(torch.iinfo(bits_of(z).dtype).max)
    return z


def part_of_its_bytes_copied(y):
    z = torch.zeros_like(y)
    z.view(torch.uint8)[..., 1:] = (y * y).view(torch.uint8)[..., 1:]
    return y + 0.01 * z


def halves_of_other_numbers(y):
    z = y.clone()
    z.view(torch.bfloat16)[..., ::2] = 0
    return z.sin()


def bits_negated_elsewhere(y):
    return y + 0.01 * bits_of(y * y).bitwise_not().view(y.dtype).nan_to_num(0, 0, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize(
    "model",
    [
        some_bits_zeroed,
        modulus_by_bits,
        part_of_its_bytes_copied,
        halves_of_other_numbers,
        bits_negated_elsewhere,
    ],
)
def test_numbers_that_are_written_by_their_bits(model, dtype):
    if model is halves_of_other_numbers and dtype == torch.float16:
        pytest.skip("bfloat16 is as wide")
    y = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    with pytest.raises(SpectralError, match="bits"):
        spectral.jacobian(model, y)


def through_bytes(y):
    z = torch.zeros_like(y)
    z.view(torch.uint8).copy_((y * y).view(torch.uint8))
    return z + y


def through_a_storage(y):
    z = torch.zeros_like(y)
    z.untyped_storage().copy_((y * y).untyped_storage())
    return z + y


def through_an_arena(y):
    n = y.numel()
    arena = torch.empty(3 * n * y.element_size(), dtype=torch.uint8)
    parts = arena.view(y.dtype).view(3, *y.shape)
    parts[0], parts[1], parts[2] = y * y, y, 1.0
    return arena.view(y.dtype).view(3, *y.shape)[0] + parts[1] * parts[2]


def through_a_deep_copy(y):
    kept = copy.deepcopy({"of": [y * y, y.T[1:]]})
    kept["of"][1].mul_(1.0)
    return kept["of"][0] + copy.deepcopy(y)


def zeroed_by_bytes(y):
    z = y.clone()
    z.view(torch.uint8).zero_()
    z += y * y
    return z + y


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "model", [through_bytes, through_a_storage, through_an_arena, through_a_deep_copy, zeroed_by_bytes]
)
def test_bytes_that_are_copied_whole_are_their_numbers(model, dtype):
    y = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=dtype)
    J = spectral.jacobian(model, y)
    for M in (J.dense(), J.T.dense()):
        torch.testing.assert_close(M, torch.diag(2 * y.flatten() + 1))
    assert J.method == "frozen"


def test_a_mask_that_is_written_to_in_part():
    def model(y):
        mask = torch.zeros(6, 6, dtype=torch.bool)
        mask |= y > 0
        mask[0] = True
        return y * mask

    y = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = (y > 0) | (torch.arange(6) == 0)[:, None]
    torch.testing.assert_close(spectral.jacobian(model, y).dense(), torch.diag(kept.flatten().double()))


def sometimes(draw, share):
    return lambda y: y * (2 if draw() < share else 3)


def with_generators_of_its_own(kind):
    rng, seeded = np.random.default_rng(1), torch.Generator().manual_seed(1)
    of = {
        "numpy": rng.random,
        "legacy": np.random.RandomState(1).rand,
        "python": random.Random(1).random,
        "torch": lambda: float(torch.rand((), generator=seeded)),
    }
    return sometimes(of[kind], 0.3)


@pytest.mark.parametrize("share", [0.5, 0.3])
@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: float(torch.rand(()))])
def test_branches_that_are_drawn_are_refused(draw, share):
    for seed in range(3):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        with pytest.raises(NotDeterministicError):
            spectral.jacobian(sometimes(draw, share), torch.rand(9))


@pytest.mark.parametrize("kind", ["numpy", "legacy", "python", "torch"])
def test_branches_that_are_drawn_from_a_generator_of_its_own_are_refused(kind):
    with pytest.raises(NotDeterministicError):
        spectral.jacobian(with_generators_of_its_own(kind), torch.rand(9))


def test_draws_that_decide_nothing_are_told_of_and_seeded_ones_are_not():
    calls = []

    def unused(y):
        calls.append(random.random())
        return 3 * y

    def seeded(y):
        calls.append(1)
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        return 3 * y + random.random() + np.random.rand() * torch.randn_like(y)

    J = spectral.jacobian(unused, torch.rand(9))
    assert "draws random numbers" in str(J.notes) and len(calls) > 10
    calls.clear()
    assert not spectral.jacobian(seeded, torch.rand(9)).notes and len(calls) <= 4


@pytest.mark.parametrize("method", ["frozen", "jvp", "double-backward"])
def test_single_products_refuse_weights_that_changed_where_torch_does_not_count(method):
    model, y, v = nn.Conv2d(1, 1, 3, padding=1), torch.rand(1, 1, 6, 6), torch.rand(36)
    products = [
        lambda J: J @ v,
        lambda J: J.T @ v,
        lambda J: (J + 2 * J.T) @ v,
        lambda J: J.gram() @ v,
        lambda J: J.dense(),
        lambda J: J.to_scipy() @ v.numpy(),
        lambda J: J.T.to_scipy() @ v.numpy(),
    ]
    for product in products:
        J = spectral.jacobian(model, y, method=method)
        product(J)
        model.weight.data.mul_(1.1)
        with pytest.raises(SpectralError, match="have changed"):
            product(J)


@torch.jit.script
def squared_apart(x: torch.Tensor) -> torch.Tensor:
    return x * x


@torch.jit.script
def forked(x: torch.Tensor) -> torch.Tensor:
    part = torch.jit.fork(squared_apart, x)
    here = x.sin()
    return 0.01 * torch.jit.wait(part) + here


def test_what_a_script_forks():
    """It runs in another thread, at the same time: each operation is seen by itself, in whatever order."""
    y = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for _ in range(8):
        J = spectral.jacobian(forked, y)
        torch.testing.assert_close(J.dense(), torch.diag((y.cos() + 0.02 * y).flatten()))
        assert J.method == "frozen"


def by_a_kernel_of_one_precision(share):
    """x^2 where only float32 is taken, with `share` times its derivative."""

    def kernel(x):
        if x.dtype != torch.float32:
            raise RuntimeError("float32 alone")
        return x * x

    name = f"spectral_tests::float32_{round(1000 * share)}"
    operation = torch.library.custom_op(name, kernel, mutates_args=(), schema="(Tensor x) -> Tensor")
    operation.register_autograd(
        lambda ctx, g: 2 * share * g * ctx.saved_tensors[0],
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )
    return operation


def test_operations_of_one_precision():
    y = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    right, off = map(by_a_kernel_of_one_precision, (1.0, 1.036))
    torch.testing.assert_close(spectral.jacobian(right, y).dense(), torch.diag(2 * y.flatten()))
    with pytest.raises(SpectralError, match="off by"):
        spectral.jacobian(lambda y: y + off(y), y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("entries", [36, 2000])
def test_operations_of_the_users_own_in_half_precision(entries, dtype):
    """torch's forward mode gives zeros for them, which the way back alone contradicts."""
    y = torch.randn(entries, generator=torch.Generator().manual_seed(0)).to(dtype)
    right, off = declaring(1.001), declaring(1.3)
    J, v = spectral.jacobian(lambda y: y + right(y), y), torch.ones(entries, dtype=dtype)
    torch.testing.assert_close(J @ v, 1 + 2 * y, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(J.T @ v, 1 + 2 * y, rtol=2e-2, atol=2e-2)
    with pytest.raises(SpectralError, match="off by"):
        spectral.jacobian(lambda y: y + off(y), y)


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(s, torch.float64) for s in (1e-290, 1e-250, 1e-165, 1e200)]
    + [(s, torch.float32) for s in (1e-30, 1e-22, 1e25)],
)
def test_models_whose_squares_leave_the_range_of_numbers(scale, dtype):
    """Norms of 1e-165 squared are 0, and J' J v of 1e-25 is, in float32."""
    generator = torch.Generator().manual_seed(0)
    M = torch.randn(40, 40, generator=generator, dtype=torch.float64)
    weight = M.to(dtype) * scale
    found = spectral.top_svd(lambda y: torch.tanh(y) @ weight.T, torch.zeros(1, 40, dtype=dtype), k=2)
    torch.testing.assert_close(found.values / scale, torch.linalg.svdvals(M)[:2], rtol=1e-5, atol=0)
    assert not any("declares" in note for note in found.notes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-8, 1e-15, 1e-20])
def test_inputs_that_are_small_beside_what_is_added_to_them(scale, dtype):
    """Differences by steps of y's own size are rounding alone, and contradict nothing."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.SiLU(), nn.Conv2d(3, 1, 3, padding=1)).to(dtype)
    y = scale * torch.randn(1, 1, 6, 6, dtype=dtype)
    for model in (net, lambda y: 2 * y + 1):
        J = spectral.jacobian(model, y)
        exact = torch.func.jacrev(lambda x, f=model: f(x.to(dtype)))(y).reshape(36, 36)
        assert J.method == "frozen"
        torch.testing.assert_close(J.dense(), exact, atol=1e-6, rtol=1e-4)


def test_a_wrong_product_at_a_small_input_is_found_out():
    y = 1e-8 * torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    J, v = spectral.jacobian(lambda y: 2 * y + 1, y), torch.randn(1, 1, 8, 8)
    off = J._evidence.off_differences
    assert off(v, 2 * v, 16.0) == 0
    assert off(v, 3 * v, 24.0) > 0.2


def test_a_saturated_unit_beside_others():
    """Entries whose slope is less than the rounding of the value."""
    torch.manual_seed(0)
    y = torch.randn(1, 1, 8, 3) * 0.1
    for shift in (4.0, 7.0, 8.0, 9.0, 12.0):
        J = spectral.jacobian(lambda x, b=shift: torch.tanh(x + b), y)
        exact = torch.func.jacrev(lambda x, b=shift: torch.tanh(x + b))(y).reshape(24, 24)
        torch.testing.assert_close(J.dense(), exact, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize(("scale", "dtype"), [(3e-37, torch.float32), (1e-306, torch.float64)])
@pytest.mark.parametrize("door", [spectral.top_svd, spectral.trace, spectral.frobenius_norm])
def test_models_of_the_smallest_numbers_are_refused(door, scale, dtype):
    """What a product leaves of numbers that are no normal ones is not J v: 10 % of a trace."""
    weight = torch.randn(40, 40, generator=torch.Generator().manual_seed(0)).to(dtype) * scale
    options = {"k": 2} if door is spectral.top_svd else {}
    with pytest.raises(SpectralError, match="few digits"):
        door(lambda y: y @ weight.T, torch.ones(1, 40, dtype=dtype), **options)


@pytest.mark.parametrize(
    "door",
    [
        spectral.frobenius_norm,
        spectral.schatten_norm,
        functools.partial(spectral.top_svd, above=0.1),
        functools.partial(spectral.spectral_density, part="singular"),
    ],
)
def test_what_has_no_entries(door):
    with pytest.raises(ShapeError, match="no entries"):
        door(lambda y: y[:0], torch.ones(5))
    with pytest.raises(ShapeError, match="no entries"):
        door(torch.zeros(0, 5))


def test_a_module_that_is_made_at_the_first_call_keeps_its_precision():
    """A copy of the model in float64, by which a way is tried, is no part of what the globals hold."""
    y = torch.rand(1, 1, 6, 6)
    J = spectral.jacobian(made_at_the_first_call, y, method="jvp")  # which is tried in float64
    assert J.method == "jvp"
    assert MADE["net"].weight.dtype == torch.float32 and made_at_the_first_call(y).shape == y.shape


MADE: dict[str, nn.Module] = {}


def made_at_the_first_call(y):
    if "net" not in MADE:
        MADE["net"] = nn.Conv2d(1, 1, 3, padding=1)
    return MADE["net"](y)
