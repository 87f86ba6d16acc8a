"""Models from the field: each has its right value, or is refused with an error that says so.  Never silent.

The truth is the derivative of the function computed, by differences of the model's own values in float64
(`differences`), so that detached parts, modes of autograd and data-dependent branches count as they act.
"""

from __future__ import annotations

import copy
import io
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import spectral
from spectral.errors import SpectralError
from spectral.jacobians import jacobian as jacobian_module
from tests.helpers import differences
from tests.helpers.field_models import CASES, HALVES, compiled, conv, diffused, seeded, weight
from tests.helpers.random_networks import OldStyle

F64 = torch.float64
BY_DIFFERENCES = {torch.float64: 1e-5, torch.float32: 2e-2}  # where products themselves are differences


def tolerance(J, dtype, rounding=None):
    """The relative error of J that its precision, and its way, explain."""
    if J.method == "differences":
        return BY_DIFFERENCES.get(dtype, 0.2)
    own = {torch.float64: 1e-7, torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}[dtype]
    return own if rounding is None or dtype == torch.float64 else max(own, rounding)


def right(model, y, truth, rounding=None, **options):
    """The Jacobian, once J and J' are those of `truth`, the output is the model's and y is as it was."""
    kept = y.clone()
    output = model(y.clone())
    J = spectral.jacobian(model, y, **options)
    limit = tolerance(J, y.dtype, rounding)
    forward = J.to(F64).dense() if y.dtype != F64 else J.dense()
    backward = (J.T.to(F64) if y.dtype != F64 else J.T).dense().T
    assert truth.error(forward) <= limit, f"J is {truth.error(forward):.2e} off by {J!r}"
    assert truth.error(backward) <= limit, f"J' is {truth.error(backward):.2e} off by {J!r}"
    assert torch.equal(y, kept), "y was written to"
    loose = {"rtol": 2e-2, "atol": 2e-2} if y.dtype in HALVES else {}  # attention has several kernels
    torch.testing.assert_close(J.output, output.detach().to(J.output), **loose)
    return J


def right_or_refused(model, y, truth, **options):
    """As `right`, but an error of the library's own is as good; the Jacobian, or None."""
    try:
        spectral.jacobian(model, y.clone(), **options)
    except SpectralError as failure:
        assert len(str(failure)) > 20
        return None
    return right(model, y, truth, **options)


def image(*shape, dtype=F64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16().to(dtype)


def tries():
    for name, case in CASES.items():
        for dtype in case.dtypes:
            yield pytest.param(name, dtype, id=f"{name}-{str(dtype).removeprefix('torch.')}")


@pytest.mark.parametrize(("name", "dtype"), tries())
def test_models_as_users_write_them(name, dtype):
    case = CASES[name]
    truth = differences.dense(case.make(F64), case.y())
    assert truth.trusted.float().mean() > 0.8
    right(case.make(dtype), case.y(dtype), truth, case.rounding)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_compiled_by_inductor(dtype):
    case = CASES["compiled_eager"]
    right(compiled(dtype, "inductor"), case.y(dtype), differences.dense(case.make(F64), case.y()))


# Models that got wrong answers certified, at the sizes where they did: J v and J' u in closed form


def smooth(*shape, dtype):
    """A slow wave, which a low-pass keeps, and a rough vector, which it does not."""
    rows, columns = (torch.linspace(0, 1, n, dtype=F64) for n in shape[-2:])
    wave = torch.sin(torch.pi * rows)[:, None] * torch.sin(torch.pi * columns)
    return torch.stack([wave.expand(shape), image(*shape)]).to(dtype)


def low_passed(y, H):
    wide = y.float() if y.dtype in HALVES else y
    return torch.fft.irfft2(H.to(wide) * torch.fft.rfft2(wide), s=y.shape[-2:]).to(y.dtype)


def gaussian(height, width, decay):
    f2 = torch.fft.fftfreq(height, dtype=F64)[:, None] ** 2 + torch.fft.rfftfreq(width, dtype=F64) ** 2
    return torch.exp(-decay * f2)


def band(height, width, side):
    H = torch.zeros(height, width // 2 + 1, dtype=F64)
    H[: side // 2 + 1, : side // 2 + 1] = 1
    H[-(side // 2) :, : side // 2 + 1] = 1
    return H


def products_are(model, y, push, pull, tol):
    """J v = push(v) and J' u = pull(u) for a slow wave and a rough vector, each on its own scale."""
    J = spectral.jacobian(model, y)
    tol = max(tol, BY_DIFFERENCES.get(y.dtype, 1) if J.method == "differences" else 0)
    for product, exact in ((J.apply, push), (J.apply_transpose, pull)):
        for v in smooth(*y.shape, dtype=y.dtype):
            expected = exact(v.double()).flatten()
            found = product(v.reshape(1, -1))[0].double()
            assert (found - expected).norm() <= tol * expected.norm(), f"by {J!r}"
    return J


@pytest.fixture(params=["small", pytest.param("large", marks=pytest.mark.slow)])
def sides(request, monkeypatch):
    """A function of a large size: itself, or a small one that is treated as if it were large."""
    if request.param == "large":
        return lambda *large: large
    if hasattr(jacobian_module, "EXACTLY_CHECKED"):
        monkeypatch.setattr(jacobian_module, "EXACTLY_CHECKED", 1)
    return lambda *large: tuple(min(n, 24 + n % 2) for n in large)


@pytest.mark.parametrize(
    ("channels", "height", "width", "dtype"),
    [
        (1, 257, 257, torch.float32),
        (1, 300, 300, torch.float32),
        (3, 160, 160, torch.float32),
        (1, 64, 64, torch.bfloat16),
        (1, 257, 257, torch.float64),
    ],
)
def test_low_pass_beside_a_convolution(sides, channels, height, width, dtype):
    height, width = sides(height, width)
    kernel = (
        (torch.tensor([[0.0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 16).view(1, 1, 3, 3).repeat(channels, 1, 1, 1)
    )
    H = gaussian(height, width, 2e4 * (height / 257) ** 2 if height < 64 else 2e4)

    def model(y):
        return nn.functional.conv2d(y, kernel.to(y.dtype), padding=1, groups=channels) + low_passed(y, H)

    y = image(1, channels, height, width, dtype=dtype)
    tol = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    products_are(model, y, model, model, tol)  # linear and symmetric: J is the model
    pairs = spectral.top_svd(model, y, 1, tol=1e-3 if dtype != torch.bfloat16 else 2e-2)
    wave = smooth(1, channels, height, width, dtype=F64)[0]
    assert pairs.values[0] > model(wave).norm() / wave.norm() - 2e-2  # at most one Rayleigh quotient more


@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_low_pass_beside_a_unit(sides, scale):
    height, width = sides(272, 272)
    H = band(height, width, 6)
    y = scale * image(1, 1, height, width, dtype=torch.float32)
    slope = 0.5 * (1 - torch.tanh(y.double()) ** 2)

    def exact(v):
        return slope * v + 0.8 * low_passed(v, H)

    products_are(lambda y: 0.5 * torch.tanh(y) + 0.8 * low_passed(y, H), y, exact, exact, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weak_low_pass_shows_in_the_trace(sides, dtype):
    height, width = sides(160, 160)
    H = band(height, width, height // 2)

    def model(y):
        return 0.99 * y + 0.05 * low_passed(y, H)

    y = image(1, 3, height, width, dtype=dtype)
    products_are(model, y, model, model, 1e-6 if dtype == torch.float32 else 2e-2)
    mean = (H[:, 0].sum() + 2 * H[:, 1:].sum() - (H[:, -1].sum() if width % 2 == 0 else 0)) / (height * width)
    found = spectral.trace(model, y, products=200)
    exact = y.numel() * (0.99 + 0.05 * mean.item())
    rounding = 1e-5 if dtype == torch.float32 else 5e-3
    assert abs(found.value - exact) <= 4 * found.stderr + rounding * exact


def circular_network(channels, dtype):
    def build():
        layers = [nn.Conv2d(channels, 4, 3, padding=1, padding_mode="circular"), nn.ReLU()]
        layers += [nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.ReLU()]
        return nn.Sequential(*layers, nn.Conv2d(4, channels, 3, padding=1, padding_mode="circular"))

    return seeded(build, dtype)


@pytest.mark.parametrize(("channels", "side"), [(1, 264), (3, 160), (1, 32)])
@pytest.mark.parametrize("share", [0.3, None])
def test_circular_networks(sides, channels, side, share):
    height, width = sides(side, side)
    y = image(1, channels, height, width, dtype=F64)

    def of(net):
        return net if share is None else lambda y: y - share * net(y)

    exact = of(circular_network(channels, F64))
    push = lambda v: torch.func.jvp(exact, (y,), (v,))[1]  # noqa: E731
    pull = lambda u: torch.func.vjp(exact, y)[1](u)[0]  # noqa: E731
    products_are(of(circular_network(channels, F64)), y, push, pull, 1e-9)
    # In float32 a unit near zero may switch.
    products_are(of(circular_network(channels, torch.float32)), y.float(), push, pull, 1e-3)


def diffused_out_of_place(y, steps, dt):
    """The same diffusion by padded differences, which autograd differentiates."""
    for _ in range(steps):
        for pad in ((1, 1, 0, 0), (0, 0, 1, 1)):
            g = y.diff(dim=-1 if pad[0] else -2)
            flow = nn.functional.pad(dt * g * torch.exp(-((g / 0.3) ** 2)), pad)
            y = y + flow.diff(dim=-1 if pad[0] else -2)
    return y


@pytest.mark.parametrize(("side", "dt"), [(64, 0.02), (128, 0.005)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_perona_malik(sides, side, dt, dtype):
    side, _ = sides(side, side)
    y = 0.3 * image(1, 1, side, side, dtype=F64)
    twin = lambda x: diffused_out_of_place(x, 10, dt)  # noqa: E731
    torch.testing.assert_close(diffused(y, 10, dt), twin(y))
    products_are(
        lambda x: diffused(x, 10, dt),
        y.to(dtype),
        lambda v: torch.func.jvp(twin, (y,), (v,))[1],
        lambda u: torch.func.vjp(twin, y)[1](u)[0],
        1e-10 if dtype == F64 else 1e-4,
    )


def test_padding_by_a_constant_has_norms_below_one(sides):
    height, width = sides(264, 264)
    kernel = (torch.tensor([[0.0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 8).view(1, 1, 3, 3)

    def model(y):
        return nn.functional.conv2d(nn.functional.pad(y, (1, 1, 1, 1), value=0.5), kernel.to(y))

    y = image(1, 1, height, width, dtype=torch.float32)
    exact = lambda v: nn.functional.conv2d(v, kernel.to(v), padding=1)  # noqa: E731
    products_are(model, y, exact, exact, 1e-5)
    assert spectral.top_eigs(model, y, 2).values.max() <= 1 + 1e-4
    assert spectral.spectral_density(model, y, probes=2, steps=30).nodes.max() <= 1 + 1e-4


def test_products_do_not_change_each_other():
    for name in (
        "constants_written_over",
        "inplace_unit_before_a_transform",
        "perona_malik",
        "fourier_layer",
    ):
        case = CASES[name]
        J = spectral.jacobian(case.make(F64), case.y())
        v = torch.randn(1, J.shape[1], dtype=F64, generator=torch.Generator().manual_seed(0))
        first, back = J.apply(v), J.apply_transpose(v)
        for _ in range(20):
            torch.testing.assert_close(J.apply(v), first, rtol=1e-14, atol=1e-14)
            torch.testing.assert_close(J.apply_transpose(v), back, rtol=1e-14, atol=1e-14)


# Called in other modes, at inputs of other kinds


@pytest.mark.parametrize(
    "name", ["plain_convolutions", "perona_malik", "gru", "fourier_layer", "old_style_function"]
)
@pytest.mark.parametrize("mode", ["inference_mode", "no_grad", "enable_grad"])
def test_called_in_any_mode_of_autograd(name, mode):
    case = CASES[name]
    truth = differences.dense(case.make(F64), case.y())
    with getattr(torch, mode)():
        right(case.make(F64), case.y(), truth)


@pytest.mark.parametrize("name", ["plain_convolutions", "attention_plain", "fourier_layer"])
def test_called_under_autocast(name):
    """J is that of the model as it computes there, in bfloat16."""
    case = CASES[name]
    truth = differences.dense(case.make(F64), case.y())
    model, y = case.make(torch.float32), case.y(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        J = spectral.jacobian(model, y)
        assert truth.error(J.dense().double()) <= 6e-2
        assert truth.error(J.T.dense().double().T) <= 6e-2


def test_an_input_of_another_precision_than_the_model():
    """float64 pixels (as NumPy has them) for a float32 network: its Jacobian, or an error that says it."""
    case = CASES["plain_convolutions"]
    truth = differences.dense(case.make(F64), case.y())
    try:
        J = spectral.jacobian(case.make(torch.float32), case.y())
    except SpectralError as failure:
        assert "float32" in str(failure) and "float64" in str(failure)
    else:
        assert truth.error(J.dense().double()) <= 2e-5


def test_an_input_of_another_precision_than_a_network_out_of_sight():
    """A network that a method closes over is met when it is called, and tells the precision then."""
    net = CASES["plain_convolutions"].make(torch.float32)
    y = CASES["plain_convolutions"].y()
    truth = differences.dense(CASES["plain_convolutions"].make(F64), y)

    class Pipeline:
        def __call__(self, y):
            return net(y)

    J = spectral.jacobian(Pipeline(), y)
    assert truth.error(J.dense().double()) <= 2e-5
    assert J.notes == ["y was taken to torch.float32, the precision of Pipeline"]


@pytest.mark.parametrize(
    "kind", ["requires_grad", "of a graph", "expanded", "transposed", "inference", "conjugated"]
)
def test_inputs_of_any_kind(kind):
    case = CASES["plain_convolutions"]
    y = case.y()
    model = case.make(F64)
    if kind == "requires_grad":
        y.requires_grad_()
    elif kind == "of a graph":
        y = y.requires_grad_() * 1
    elif kind == "expanded":
        y = y[:, :1].expand(1, 2, 6, 6)
    elif kind == "transposed":
        y = y.transpose(2, 3)
    elif kind == "inference":
        with torch.inference_mode():
            y = y.clone()
    else:
        y = torch.complex(y, -y).conj().imag  # has the negative bit set
    truth = differences.dense(model, y.detach().clone())
    needed = y.requires_grad
    J = right(model, y, truth)
    assert y.requires_grad == needed and (not y.is_leaf or y.grad is None)
    assert not J.dense().requires_grad and not J.output.requires_grad


def test_writing_to_an_expanded_input():
    """y.expand(...) cannot be written to in place, so the model's own error is no reason to refuse it."""
    y = image(1, 1, 6).expand(1, 4, 6)
    model = lambda y: y.mul_(2).sin()  # noqa: E731
    truth = differences.dense(model, y.clone())
    J = spectral.jacobian(model, y)
    assert truth.error(J.dense()) <= 1e-7 and truth.error(J.T.dense().T) <= 1e-7


# Modules held by objects that are none


class Bare:
    """A denoiser that is no nn.Module."""

    def __init__(self, net):
        self.net = net

    def denoise(self, y):
        return self.net(y)

    def __call__(self, y):
        return self.net(y)


class Slotted:
    __slots__ = ("net",)

    def __init__(self, net):
        self.net = net

    def __call__(self, y):
        return self.net(y)


class InASet(Bare):
    def __init__(self, net):
        self.nets = {net}

    def __call__(self, y):
        return next(iter(self.nets))(y)

    denoise = __call__


class Nested(Bare):
    def __init__(self, net):
        self.inner = {"stages": [SimpleNamespace(model=Bare(net))]}

    def __call__(self, y):
        return self.inner["stages"][0].model.denoise(y)


def held_by_namespace(net):
    box = SimpleNamespace(net=net)
    return box.net


def held_by_closures(net):
    def inner(z):
        return net(z)

    return lambda y: inner(y) + 0


def held_by_a_property(net):
    class Lazy:
        def __init__(self):
            self._hidden = Bare(net)

        @property
        def net(self):
            return self._hidden.net

        def __call__(self, y):
            return self.net(y)

    return Lazy()


@pytest.mark.parametrize(
    "held",
    [
        Bare,
        lambda net: Bare(net).denoise,
        held_by_namespace,
        Slotted,
        InASet,
        lambda net: InASet(net).denoise,
        Nested,
        held_by_a_property,
        held_by_closures,
    ],
    ids=[
        "object",
        "bound method",
        "namespace",
        "slots",
        "set",
        "method of a set",
        "nested",
        "property",
        "closures",
    ],
)
def test_modules_left_in_training(held):
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 1, 1)
        ),
        F64,
    )
    y = image(1, 1, 6, 6)
    truth = differences.dense(net, y)
    net.train()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    J = spectral.jacobian(held(net), y)
    assert truth.error(J.dense()) <= 1e-7 and truth.error(J.T.dense().T) <= 1e-7
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert all(m.training for m in net.modules())


# Models that keep things


class KeepsItsMean(nn.Module):
    """SwinIR: self.mean = self.mean.type_as(x)."""

    def __init__(self):
        super().__init__()
        self.mean = torch.full((1, 2, 1, 1), 0.25, dtype=torch.float32)
        self.layer = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, y):
        self.mean = self.mean.type_as(y)
        return self.layer(y - self.mean) + self.mean


class KeepsActivations(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.features, self.last = nn.Conv2d(2, 2, 3, padding=1), [], None

    def forward(self, y):
        self.last = self.layer(y)
        self.features.append(self.last)
        return torch.tanh(self.last)


class KeepsByHooks(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.kept = nn.Conv2d(2, 2, 3, padding=1), {}
        self.layer.register_forward_hook(self.keep)

    def keep(self, module, inputs, output):
        self.kept["layer"] = output

    def forward(self, y):
        return torch.tanh(self.layer(y)) + self.kept["layer"].mean()


class CountsCalls(nn.Module):
    """A buffer and a number that change with each call, but not the value."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Conv2d(2, 2, 3, padding=1), 0
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("average", torch.zeros(1, 2, 1, 1))

    def forward(self, y):
        self.calls += 1
        self.seen += 1
        self.average.lerp_(y.detach().mean((2, 3), keepdim=True).to(self.average), 0.1)
        return torch.tanh(self.layer(y))


class WarmStart(nn.Module):
    """Starts its iteration where the last call left off."""

    def __init__(self):
        super().__init__()
        self.layer, self.z = nn.Conv2d(2, 2, 3, padding=1), None

    def forward(self, y):
        z = torch.zeros_like(y) if self.z is None else self.z
        for _ in range(3):
            z = torch.tanh(self.layer(y) + 0.2 * z)
        self.z = z
        return z


class WarmBuffer(nn.Module):
    """A running power iteration in a buffer, which the output depends on."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 3, padding=1)
        self.register_buffer("gain", torch.ones(()))

    def forward(self, y):
        self.gain.mul_(0.5).add_(0.25)
        return self.layer(y) * self.gain


class CachesByShape(nn.Module):
    """Positional tables and masks made at the first call of a size."""

    def __init__(self):
        super().__init__()
        self.tables = {}

    def forward(self, y):
        if y.shape not in self.tables:
            self.tables[y.shape] = torch.linspace(0, 1, y.shape[-1], dtype=y.dtype)
        return torch.sin(y * self.tables[y.shape])


def _without_values(x):
    """Whether x is a tracer's tensor; to look at one, or at its copy, would end the process."""
    return isinstance(x, torch.Tensor) and torch._is_functional_tensor(x)


def _copied(x):
    if isinstance(x, torch.Tensor):
        return x if _without_values(x) else x.clone()
    return copy.copy(x)


def contents(model):
    """Buffers and plain attributes of a model, copied."""
    attributes = {
        f"{name}.{key}": _copied(value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key[0] != "_" and not callable(value)
    }
    return {name: t.clone() for name, t in model.state_dict().items()}, attributes


def same(a, b):
    if type(a) is not type(b):
        return False
    if not isinstance(a, torch.Tensor):
        return bool(a == b)
    return a.dtype == b.dtype and not _without_values(b) and torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", [KeepsItsMean, KeepsActivations, KeepsByHooks, CountsCalls, CachesByShape])
def test_models_that_keep_things_are_left_as_they_were(kind, dtype):
    y = image(1, 2, 6, 6, dtype=dtype)
    truth = differences.dense(seeded(kind, F64), y)
    model = seeded(kind, dtype)
    buffers, attributes = contents(model)
    J = spectral.jacobian(model, y)
    assert truth.error(J.dense().double()) <= tolerance(J, dtype)
    assert truth.error(J.T.dense().double().T) <= tolerance(J, dtype)
    now, rest = contents(model)
    assert all(same(t, now[name]) for name, t in buffers.items())
    assert rest.keys() == attributes.keys()
    assert [name for name, value in attributes.items() if not same(value, rest[name])] == []
    twin = copy.deepcopy(model)
    torch.save(model.state_dict(), io.BytesIO())
    torch.save(model, io.BytesIO())
    assert torch.equal(twin(y.clone()), model(y.clone()))
    right(model, y, truth)  # and a second time


@pytest.mark.parametrize("kind", [WarmStart, WarmBuffer])
def test_models_whose_calls_depend_on_the_last(kind):
    """Right, because each call starts from the same state; or refused, not for dropout that is not there."""

    def fresh(y):
        return seeded(kind, F64)(y)

    y = image(1, 2, 6, 6)
    truth = differences.dense(fresh, y)
    model = seeded(kind, F64)
    try:
        J = spectral.jacobian(model, y)
    except SpectralError as failure:
        assert "state" in str(failure) or "keeps" in str(failure)
        return
    assert truth.error(J.dense()) <= 1e-7 and truth.error(J.T.dense().T) <= 1e-7
    assert torch.equal(model(y.clone()), fresh(y.clone()))


# Derivatives that autograd declares otherwise than the function has them


class Rounded(torch.autograd.Function):
    """Straight through."""

    @staticmethod
    def forward(ctx, x):
        return torch.round(4 * x) / 4

    @staticmethod
    def backward(ctx, g):
        return g


def straight_through_by_detach(y):
    return y + (torch.round(4 * y) / 4 - y).detach()


def quantised_by_a_codebook(y):
    """VQ: the nearest of eight codes by cdist and argmin, straight through."""
    codes = weight(y.dtype, 8, 4)
    flat = y.reshape(-1, 4)
    nearest = codes[torch.cdist(flat, codes).argmin(1)].reshape(y.shape)
    return y + (nearest - y).detach()


def fake_quantised(y):
    return torch.fake_quantize_per_tensor_affine(y, 0.05, 0, -128, 127)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "unit",
    [Rounded.apply, straight_through_by_detach, quantised_by_a_codebook, fake_quantised],
    ids=["Function", "detach", "codebook", "fake quantisation"],
)
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "in a network"])
def test_straight_through(unit, beside, dtype):
    """As autograd declares it, with a note, or refused: never 0, nor the part beside it alone."""
    if dtype == torch.float64 and unit is fake_quantised:
        pytest.skip("torch has it in float32 alone")
    layer = seeded(conv(1), dtype)
    model = (lambda y: layer(unit(torch.tanh(layer(y)))) + 0.5 * y) if beside else unit
    y = image(1, 1, 4, 8, dtype=dtype) / 2
    declared = torch.autograd.functional.jacobian(model, y).reshape(32, 32).double()
    try:
        J = spectral.jacobian(model, y)
    except SpectralError as failure:
        assert len(str(failure)) > 20
        return
    truth = differences.Truth(declared, torch.ones(32, dtype=torch.bool))
    assert truth.error(J.dense().double()) <= tolerance(J, dtype)
    assert truth.error(J.T.dense().double().T) <= tolerance(J, dtype)
    assert J.notes, "nothing says that this is not the derivative of the function computed"


def test_a_straight_through_operation_of_torch_is_frozen():
    """Its levels are far beside the steps of differences, which see no slope at all."""
    y = image(1, 1, 8, 8, dtype=torch.float32)
    model = lambda y: fake_quantised(y.sin())  # noqa: E731
    J = spectral.jacobian(model, y)
    assert J.method == "frozen" and "straight through" in repr(J)
    torch.testing.assert_close(J.dense(), torch.autograd.functional.jacobian(model, y).reshape(64, 64))


def rounded_in_steps(y):
    """Straight through with a step that depends on y: what is left beside the straight part is detached."""
    step = y.abs().amax() / 8
    return y + (step * torch.round(y / step) - y).detach()


def rounded_the_other_way(y):
    return torch.round(4 * y).detach() / 4 + (y - y.detach())


def rounded_of_what_is_computed_again(y):
    layer = seeded(conv(1), y.dtype)
    return layer(y).sin() + (torch.round(4 * layer(y).sin()) / 4 - layer(y).sin()).detach()


@pytest.mark.parametrize(
    "unit", [straight_through_by_detach, rounded_the_other_way, rounded_of_what_is_computed_again]
)
def test_straight_through_is_frozen_as_declared(unit):
    layer = seeded(conv(1), F64)
    y = image(1, 1, 4, 8) / 2
    model = lambda y: layer(unit(torch.tanh(layer(y)))) + 0.5 * y  # noqa: E731
    J = spectral.jacobian(model, y)
    assert J.method == "frozen" and "straight through" in repr(J)
    torch.testing.assert_close(J.dense(), torch.autograd.functional.jacobian(model, y).reshape(32, 32))


@pytest.mark.parametrize("way", [torch.no_grad, torch.inference_mode])
def test_that_autograd_sees_nothing_of_a_model_is_told(way):
    def model(y):
        with way():
            return torch.tanh(y)

    y = image(1, 1, 6, 6, dtype=torch.float32)
    found = spectral.top_eigs(model, y, 3)
    slopes = (1 - torch.tanh(y).square()).flatten().sort(descending=True).values
    torch.testing.assert_close(found.values.float(), slopes[:3], atol=1e-5, rtol=0)
    assert found.converged.all() and "autograd sees no way from the output to y" in repr(found)


def gated_by_a_detached_sign(y):
    return y * torch.sign(y - 0.1).detach()


def scaled_by_a_detached_norm(y):
    return torch.sign(y) * y / (1 + y.detach().square().mean())


@pytest.mark.parametrize("unit", [gated_by_a_detached_sign, scaled_by_a_detached_norm])
def test_a_detached_part_beside_a_jump_is_no_straight_through_estimator(unit):
    layer = seeded(conv(1), F64)
    y = image(1, 1, 6, 6)
    model = lambda y: layer(unit(layer(y)))  # noqa: E731
    truth = differences.dense(model, y)
    J = spectral.jacobian(model, y)
    assert truth.error(J.dense()) <= 1e-7 and truth.error(J.T.dense().T) <= 1e-7
    assert spectral.top_svd(model, y, 3).converged.all()


class Spike(torch.autograd.Function):
    """A step with a declared slope."""

    @staticmethod
    def forward(ctx, x):
        return (x > 0).to(x)

    @staticmethod
    def backward(ctx, g):
        return 0.3 * g


def straight_beside_a_detached_norm(y):
    return straight_through_by_detach(y) * y.detach().square().mean()


def straight_beside_a_detached_residual(y):
    z = y.roll(1, -1)
    return straight_through_by_detach(y) + z + (torch.tanh(3 * z) - z).detach()


def soft_threshold_by_its_noise(y):
    with torch.no_grad():
        noise = y - torch.sign(y) * torch.relu(y.abs() - 0.2)
    return y - noise


def masked_by_its_noise(y):
    with torch.no_grad():
        noise = y - (y.abs() > 0.2).to(y) * y.sin()
    return y - noise


def detached_fixed_point_beside_a_sign(y):
    return y + (torch.tanh(2 * y.flip(-1)) - y).detach() + 0.1 * torch.sign(y)


def spike_beside_a_gain_without_a_graph(y):
    with torch.no_grad():
        gain = 1 / (1 + y.square().mean())
    return y * gain + 0.1 * Spike.apply(y)


def rounded_behind_the_graph(y):
    z = y.sin()
    z.data = torch.round(4 * z.data) / 4
    return z


@pytest.mark.parametrize(
    "model",
    [
        rounded_in_steps,
        rounded_behind_the_graph,
        straight_beside_a_detached_norm,
        straight_beside_a_detached_residual,
        soft_threshold_by_its_noise,
        masked_by_its_noise,
        detached_fixed_point_beside_a_sign,
        spike_beside_a_gain_without_a_graph,
    ],
)
def test_what_may_be_straight_through_or_detached_is_for_the_user_to_settle(model):
    y = image(1, 1, 4, 8) / 2
    with pytest.raises(SpectralError, match="double-backward"):
        spectral.jacobian(model, y)
    declared = spectral.jacobian(model, y, method="double-backward").dense()
    torch.testing.assert_close(declared, torch.autograd.functional.jacobian(model, y).reshape(32, 32))
    computed = spectral.jacobian(model, y, method="frozen")
    truth = differences.dense(model, y)
    assert truth.error(computed.dense()) <= 1e-7


class WrongBackward(torch.autograd.Function):
    """An old-style Function whose backward has a factor too many."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return 3 * g * ctx.saved_tensors[0].cos()


def test_a_wrong_backward_is_not_taken():
    layer = seeded(conv(1), F64)
    y = image(1, 1, 6, 6)
    model = lambda y: layer(WrongBackward.apply(layer(y)))  # noqa: E731
    right_or_refused(model, y, differences.dense(model, y))


def surrogate_gradient(y):
    """A spike with a surrogate slope: no derivative at all, and none of it silently."""

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (x > 0).to(x)

        @staticmethod
        def backward(ctx, g):
            return g / (1 + ctx.saved_tensors[0].abs()) ** 2

    return Spike.apply(y) * y


# Numbers taken out of tensors, and put back in as values


@pytest.mark.parametrize(
    "model",
    [
        lambda y: y / y.max().item(),
        lambda y: y * float(y.mean()),
        lambda y: y * (y.sum().tolist() + 1),
        lambda y: y + torch.tensor(y.norm().item(), dtype=y.dtype),
        lambda y: torch.full_like(y, y[0, 0].item()) * 2 + y,
        lambda y: y.clamp(max=y.std().item()),
        lambda y: y ** (1 + y.abs().mean().item()) if y.min() > 0 else y.abs() ** (1 + y.abs().mean().item()),
        lambda y: nn.functional.pad(y, (1, 1), value=y.mean().item()),
        lambda y: y.sin() * torch.as_tensor([y[0, 0].item(), y[1, 1].item(), 1.0], dtype=y.dtype).sum(),
    ],
    ids=["max", "float", "tolist", "norm", "full_like", "clamp", "exponent", "pad", "as_tensor"],
)
def test_numbers_taken_out_and_put_back(model):
    """Right or refused, and never the derivative without the part that went through Python."""
    y = image(4, 6)
    truth = differences.dense(model, y)
    right_or_refused(model, y, truth)


def quantised_by_integers(y):
    return (255 * y.clamp(0, 1)).round().to(torch.uint8).to(y.dtype) / 255


@pytest.mark.parametrize(
    "model",
    [quantised_by_integers, lambda y: y.long().to(y.dtype) + 0 * y, lambda y: y + (10 * y).int() / 10],
    ids=["uint8", "long", "beside"],
)
def test_quantised_by_integers(model):
    """As autograd has it, 0 where it counts and with a note, or refused."""
    y = image(4, 6).abs() / 4
    try:
        J = spectral.jacobian(model, y)
    except SpectralError as failure:
        assert len(str(failure)) > 20
        return
    assert J.notes


# Refused


def through_numpy(y):
    return torch.from_numpy(y.detach().numpy() ** 2)


def partly_through_numpy(y):
    return y.sin() + torch.from_numpy(y.detach().numpy() ** 2)


def by_scipy(y):
    import scipy.ndimage

    return torch.from_numpy(scipy.ndimage.gaussian_filter(y.detach().numpy(), 1.0))


def through_lists(y):
    return torch.tensor([[2 * x for x in row] for row in y.tolist()], dtype=y.dtype)


@pytest.mark.parametrize("model", [through_numpy, partly_through_numpy, by_scipy, through_lists])
def test_what_leaves_torch_is_refused(model):
    with pytest.raises(SpectralError):
        spectral.jacobian(model, image(4, 6))


@pytest.mark.parametrize("share", [1.0, 0.003])
@pytest.mark.parametrize("where", ["whole", "last layer"])
def test_dynamically_quantised_layers_are_refused(where, share):
    """Torch leaves them out of its derivatives, and a little of them passed for rounding in float32."""
    net = seeded(lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)), torch.float32)
    layers = {nn.Linear} if where == "whole" else {"2"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torch.ao.quantization.quantize_dynamic(net, layers, dtype=torch.qint8)
    with pytest.raises(SpectralError, match=r"linear_dynamic.*leave its part out"):
        spectral.jacobian(lambda y: (1 - share) * y + share * net(y), image(3, 8, dtype=torch.float32))


def test_counts_have_the_derivative_zero():
    y = image(4, 6)
    J = spectral.jacobian(lambda y: y + torch.histc(y, 4, -3, 3)[0], y)
    assert torch.equal(J.dense(), torch.eye(24, dtype=F64)) and any("histc" in note for note in J.notes)


@pytest.mark.parametrize(("reached", "by"), [(3, 1), (1, 3), (0, 1), (2, 0)])
def test_batched_refuses_one_pair_that_meets(reached, by):
    def model(y):
        out = torch.sin(y)
        out[reached] += 0.1 * y[by]
        return out

    with pytest.raises(SpectralError, match=r"depends on the others|one by one"):
        spectral.jacobian(model, image(4, 6), batched=True)


@pytest.mark.parametrize("kind", ["noise", "dropout"])
def test_noise_is_refused(kind):
    model = (
        (lambda y: y + 0.01 * torch.randn_like(y))
        if kind == "noise"
        else (lambda y: nn.functional.dropout(y, 0.5))
    )
    with pytest.raises(SpectralError, match=r"dropout|noise|random"):
        spectral.jacobian(model, image(4, 6))


# Whole answers


@pytest.mark.parametrize(
    "name", ["perona_malik", "circular_network", "gru", "inference_mode_inside", "gradient_step_denoiser"]
)
def test_whole_answers(name):
    case = CASES[name]
    y = case.y()
    truth = differences.dense(case.make(F64), y)
    assert truth.trusted.all()
    J = truth.J
    sigma = torch.linalg.svdvals(J)
    found = spectral.top_svd(case.make(F64), y, 3)
    torch.testing.assert_close(found.values.double(), sigma[:3], rtol=1e-4, atol=1e-6)
    values = torch.linalg.eigvalsh((J + J.T) / 2).flip(0)
    pairs = spectral.top_eigs(case.make(F64), y, 3)
    torch.testing.assert_close(pairs.values.double(), values[:3], rtol=1e-4, atol=1e-6)
    assert abs(spectral.trace(case.make(F64), y).value - J.trace().item()) <= 1e-5 * J.norm()


@pytest.mark.parametrize("method", ["jvp", "double-backward"])
def test_a_way_that_is_asked_for_and_fails_is_no_word_on_the_others(method):
    def model(y):
        with torch.inference_mode():
            return y.sin()

    with pytest.raises(SpectralError, match=f'^method="{method}" alone gives no derivative .*"auto" may'):
        spectral.jacobian(model, image(4), method=method)
    assert spectral.jacobian(model, image(4)).method == "frozen"


def test_errors_say_why_each_way_failed():
    """A refusal names the program's reason, not the last way's alone."""

    def model(y):
        return OldStyle.apply(torch.from_numpy(y.detach().numpy() * 1.0))

    with pytest.raises(SpectralError) as refused:
        spectral.jacobian(model, image(4, 6))
    assert len(str(refused.value)) > 40
