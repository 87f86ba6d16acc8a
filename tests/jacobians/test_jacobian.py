"""Jacobians of models of every kind, against torch.autograd.functional.jacobian in float64."""

import copy
import functools
import io
import pickle
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import spectral
from denoisers.networks import BFCNN, UNet
from spectral.ambient import float32_as, float32_settings
from spectral.errors import (
    ModelOutputError,
    NotDeterministicError,
    NotFiniteError,
    OptionError,
    ShapeError,
    SpectralError,
)
from spectral.jacobians import Jacobian, ways
from spectral.jacobians.program import program as programs
from spectral.jacobians.program import rules, trials
from spectral.jacobians.program.convolution import Convolution
from spectral.jacobians.program.rules.pointwise import Diagonal


def network(channels=1, dropout=0.0, norm=True):
    torch.manual_seed(0)
    middle = [nn.BatchNorm2d(6)] if norm else []
    layers = [nn.Conv2d(channels, 6, 3, padding=1), *middle, nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Conv2d(6, channels, 3, padding=1))


def reference(function, y):
    """(r, d), by reverse mode, one output at a time."""
    J = torch.autograd.functional.jacobian(function, y.double())
    return J.reshape(-1, y.numel())


class Attention(nn.Module):
    """Tokens attend to each other through scaled_dot_product_attention."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.qkv = nn.Linear(8, 24)

    def forward(self, y):
        q, k, v = self.qkv(y).chunk(3, -1)
        return y + nn.functional.scaled_dot_product_attention(q, k, v)


class Branching(nn.Module):
    """Control flow that depends on the data."""

    def forward(self, y):
        if y.sum().item() > 0:
            return torch.tanh(y) * y.mean()
        return y**2


class NormedNetwork(nn.Module):
    """Group norm, a skip and a concatenation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, y):
        x = self.first(nn.functional.max_pool2d(y, 3, 1, 1))
        return y - self.last(torch.cat([nn.functional.silu(self.norm(x)), -x], 1))


class LabelledDenoiser(nn.Module):
    """Noise level and label as keywords; the output in a dataclass."""

    @dataclass
    class Output:
        loss: float
        sample: torch.Tensor

    def __init__(self):
        super().__init__()
        self.net = network()
        self.embed = nn.Embedding(3, 1)

    def forward(self, y, *, sigma, label):
        return self.Output(0.0, self.net(y) * sigma + self.embed(label) * y)


@pytest.mark.parametrize("method", ["frozen", "jvp", "double-backward"])
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (network(), (1, 1, 7, 6)),
        (network(3), (1, 3, 5, 4)),
        (network(3, norm=False), (3, 5, 4)),
        (nn.Linear(9, 9), (9,)),
        (nn.Linear(9, 4), (2, 9)),
        (Attention(), (1, 5, 8)),
        (lambda y: y.flip(0).cumsum(0) ** 2, (11,)),
    ],
    ids=["grey", "colour", "no batch axis", "vector", "rectangular", "attention", "function"],
)
def test_products_equal_the_dense_jacobian(model, shape, method):
    y = torch.rand(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = model.double().eval() if isinstance(model, nn.Module) else model
    J = spectral.jacobian(model, y, method=method)
    expected = reference(model, y)
    torch.testing.assert_close(J.dense(), expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(J.T.dense(), expected.T, atol=1e-12, rtol=1e-12)
    assert J.method == method and J.count > 0 and torch.equal(J.output, model(y))


def test_keywords_and_wrapped_outputs():
    model = LabelledDenoiser().double().train()
    y, keywords = torch.rand(1, 1, 6, 6).double(), {"sigma": 0.3, "label": torch.tensor([1])}
    J = spectral.jacobian(model, y, model_kwargs=keywords)
    assert model.training and model.net[1].training
    expected = reference(lambda y: model.eval()(y, **keywords).sample, y)
    torch.testing.assert_close(J.dense(), expected)
    assert "output .sample of Output" in repr(J)
    pairs = spectral.top_eigs(model, y, 3, model_kwargs=keywords)
    torch.testing.assert_close(pairs.values, torch.linalg.eigvalsh((expected + expected.T) / 2).flip(0)[:3])

    Wrapped = namedtuple("Wrapped", ["logvar", "image"])
    for wrap in (lambda t: (None, t), lambda t: {"mean": t}, lambda t: Wrapped(1, t)):
        J = spectral.jacobian(lambda y, wrap=wrap: wrap(2 * y), y)
        torch.testing.assert_close(J.dense(), 2 * torch.eye(36).double())


@pytest.mark.parametrize("wrap", ["module", "lambda", "partial", "method"])
def test_training_mode_is_left_for_the_call_and_restored(wrap):
    net = network(dropout=0.5).double().train()
    net[1].eval()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    y = torch.rand(2, 1, 6, 6).double()
    model = {
        "module": net,
        "lambda": lambda y: net(y) + 0,
        "partial": functools.partial(nn.Module.__call__, net),
        "method": net.forward,
    }[wrap]
    J = spectral.jacobian(model, y).dense()
    assert net.training and net[3].training and not net[1].training
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    torch.testing.assert_close(J, reference(net.eval(), y))


def test_a_mode_that_was_changed_is_noted():
    y, told = torch.rand(1, 1, 6, 6), "Sequential was in training mode: J is that of its evaluation mode"
    plain, dropping = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()), network(dropout=0.5).train()
    assert spectral.jacobian(plain, y).notes == []  # either mode computes the same
    assert spectral.jacobian(dropping, y).notes == [told] and told in spectral.top_eigs(dropping, y, 2).notes
    hidden = spectral.jacobian(lambda y, table={1: [dropping]}: table[1][0](y), y)
    assert hidden.notes == [told.replace("Sequential", "<lambda>")]
    dropping.eval()
    assert spectral.jacobian(dropping, y).notes == []


@pytest.mark.parametrize(
    "hooked",
    [
        nn.utils.spectral_norm,  # an object that is called
        lambda layer: layer.register_forward_hook(lambda m, _, out: 2 * out if m.training else out) and layer,
    ],
)
def test_a_mode_that_a_hook_looks_at_is_noted(hooked):
    layer, y = nn.Sequential(hooked(nn.Conv2d(1, 1, 3, padding=1))), torch.rand(1, 1, 6, 6)
    told = "Sequential was in training mode: J is that of its evaluation mode"
    assert spectral.jacobian(layer, y).notes == [told]
    assert spectral.jacobian(layer.eval(), y).notes == []


def test_several_images_as_one_problem_are_noted():
    net, y = network().eval(), torch.rand(2, 1, 6, 6)
    joint, apart = (spectral.top_eigs(net, y, 2, batched=batched) for batched in (False, True))
    told = ["the 2 images of y are one problem: batched=True takes each by itself"]
    assert joint.notes == told and joint.vectors.shape == (2, 2, 1, 6, 6)
    assert apart.notes == [] and apart.values.shape == (2, 2)
    assert spectral.jacobian(net, y[:1]).notes == []


@pytest.mark.parametrize(
    ("model", "shape", "keywords", "says"),
    [
        (
            network(),
            (1, 3, 6, 6),
            {},
            r"1 channels, and y of shape \(1, 3, 6, 6\) has 3: average .*batched=True",
        ),
        (network(3), (1, 1, 6, 6), {}, r"has 1: repeat the one there is, y.expand\(-1, 3, -1, -1\)"),
        (network(3), (1, 2, 6, 6), {}, "takes images of 3 channels, and y .* has 2$"),
        (network(), (6, 6), {}, r"images \(N, C, H, W\), and y .* \(6, 6\): give y\[None, None\]"),
        (
            lambda y, sigma: sigma * y,
            (4,),
            {},
            "missing a required argument: 'sigma'.*model_kwargs=.*sigma_keyw",
        ),
        (
            lambda y, sigma=None: sigma * y,
            (4,),
            {},
            "sigma left at None, .*unsupported operand.*model_kwargs=.*sigma_keyw",
        ),
        (
            network(),
            (1, 1, 6, 6),
            {"label": 3},
            r"model\(y, label=...\): got an unexpected .* 'label'.*model_kw",
        ),
    ],
)
def test_calls_that_do_not_fit_are_advised(model, shape, keywords, says):
    with pytest.raises((ShapeError, OptionError), match=says) as told:
        spectral.top_eigs(model, torch.rand(shape), 2, model_kwargs=keywords)
    assert isinstance(told.value.__cause__, (RuntimeError, TypeError))


def test_errors_of_the_models_own_come_as_they_are():
    def inner(y):
        return nn.functional.conv2d(torch.cat([y, y], 1), torch.ones(1, 1, 3, 3))  # no fault of y's channels

    with pytest.raises(RuntimeError, match="to have 1 channels, but got 2"):
        spectral.jacobian(inner, torch.rand(1, 1, 6, 6))
    with pytest.raises(TypeError, match="unsupported operand"):
        spectral.jacobian(lambda y: y + "1", torch.rand(4))


def test_batched_holds_one_jacobian_an_image():
    net = network().double().eval()
    y = torch.rand(4, 1, 5, 6).double()
    J = spectral.jacobian(net, y, batched=True)
    assert J.batch == (4,) and J.shape == (30, 30)
    expected = torch.stack([reference(net, y[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(J.dense(), expected)
    torch.testing.assert_close(J.T.dense(), expected.mT)
    joint = spectral.jacobian(net, y).dense()
    torch.testing.assert_close(joint, torch.block_diag(*expected))


@pytest.mark.parametrize("method", ["frozen", "jvp", "double-backward"])
def test_selections_of_images(method):
    model = LabelledDenoiser().double().eval()
    y, keywords = torch.rand(4, 1, 5, 6).double(), {"sigma": torch.rand(4, 1, 1, 1).double()}
    keywords["label"] = torch.zeros(1, dtype=torch.int64)
    J = spectral.jacobian(model, y, batched=True, method=method, model_kwargs=keywords)
    S = J.symmetric_part()
    before, part = J.count, S.select([3, 1])
    torch.testing.assert_close(part.dense(), S.dense()[[3, 1]])
    assert part.batch == (2,) and S.count == 60 and J.count == before + 120
    torch.testing.assert_close(part.select([1]).dense(), S.dense()[[1]])


@pytest.mark.parametrize("net", [network(), UNet(2, 8), NormedNetwork()], ids=["plain", "UNet", "norms"])
def test_selections_take_their_part_of_the_program(monkeypatch, net):
    net = net.double().eval()
    y = torch.rand(4, 1, 8, 12).double()
    J = spectral.jacobian(net, y, batched=True)
    V = torch.randn(4, 3, 96).double()
    monkeypatch.setattr(Jacobian, "__init__", None)  # nothing is recorded again
    part = J.select([2, 0])
    for ours, whole in ((part, J), (part.T, J.T), (part.select([1]), J.select([0]))):
        chosen = V[[2, 0]] if len(ours.batch) and ours.batch[0] == 2 else V[[0]]
        expected = whole.apply(V)[[2, 0]] if whole.batch == (4,) else whole.apply(V[[0]])
        torch.testing.assert_close(ours.apply(chosen), expected)
    assert torch.equal(part.output, J.output[[2, 0]]) and part.method == "frozen"


def test_selection_from_a_model_of_one_batch_size():
    y = torch.rand(3, 6).double()
    J = spectral.jacobian(lambda y: torch.tanh(y) * torch.ones(3, 1).double(), y, batched=True)
    torch.testing.assert_close(J.select([2]).dense(), J.dense()[[2]])
    J = spectral.jacobian(lambda y: y.view(3, 2, 3).cos().reshape(3, 6), y, batched=True)
    torch.testing.assert_close(J.select([2, 0]).dense(), J.dense()[[2, 0]])


def test_batched_refuses_inputs_that_see_each_other():
    with pytest.raises(SpectralError, match="depends on the others"):
        spectral.jacobian(lambda y: y - y.mean(0), torch.rand(3, 4), batched=True)


def test_control_flow_is_followed_as_it_goes():
    for y in (torch.rand(6, dtype=torch.float64), -torch.rand(6, dtype=torch.float64)):
        J = spectral.jacobian(Branching(), y)
        assert J.method == "frozen" and not J.notes
        torch.testing.assert_close(J.dense(), reference(Branching(), y))


class Scaled(torch.autograd.Function):
    """y -> y w by NumPy, with its derivatives as far as `forwards` says."""

    generate_vmap_rule = False

    @staticmethod
    def forward(ctx, y, w):
        ctx.save_for_backward(y, w)
        return torch.from_numpy(y.detach().numpy() * w.detach().numpy())

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[1], None


class ScaledForwards(Scaled):
    @staticmethod
    def jvp(ctx, t, _):
        return t * ctx.saved_tensors[1]


class ScaledOnce(Scaled):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * ctx.saved_tensors[1], None


@pytest.mark.parametrize(
    ("kind", "method"), [(Scaled, "double-backward"), (ScaledOnce, "differences")], ids=["twice", "once"]
)
def test_ways_beyond_the_program(kind, method):
    """What leaves torch inside of an autograd function has the derivative that this declares."""
    w = torch.linspace(0.5, 2, 6, dtype=torch.float64)
    y = torch.rand(6, dtype=torch.float64)
    J = spectral.jacobian(lambda y: kind.apply(y.sin(), w) + y, y)
    assert J.method == method and "not frozen" in repr(J) and "not jvp" in repr(J)
    torch.testing.assert_close(J.dense(), torch.diag(y.cos() * w + 1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(J.T.dense(), torch.diag(y.cos() * w + 1))
    pairs = spectral.top_eigs(lambda y: kind.apply(y.sin(), w) + y, y, 2)
    assert "not frozen" in "".join(pairs.notes) and method in pairs.operator
    with pytest.raises(SpectralError, match="frozen"):
        spectral.jacobian(lambda y: kind.apply(y, w), y, method="frozen")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_precision(dtype):
    net = network().double().eval()
    y = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(3)).double()
    expected = reference(net, y)
    J = spectral.jacobian(net.to(dtype), y.to(dtype))
    assert J.dtype == dtype
    error = (J.to(torch.float64).dense() - expected).norm() / expected.norm()
    assert error < 4 * torch.finfo(dtype).eps + 1e-15
    pairs = spectral.top_eigs(net, y.to(dtype), 4, tol=0.02)
    top = torch.linalg.eigvalsh((expected + expected.T) / 2).flip(0)[:4]
    assert (pairs.values - top).abs().max() < 4 * torch.finfo(dtype).eps + 0.02


@pytest.mark.parametrize("model", [lambda y: y, lambda y: y.flatten(1)[:, 1:], lambda y: 2 * y])
def test_products_are_new_tensors(model):
    J = spectral.jacobian(model, torch.rand(2, 3, 4))
    V = torch.rand(1, 24)
    kept = V.clone()
    J.T.apply(J.apply(V).mul_(2)).mul_(2)
    assert torch.equal(V, kept)


def test_inference_tensors_and_graphs_are_taken():
    net = network().eval()
    with torch.inference_mode():
        y = torch.rand(1, 1, 6, 6)
        J = spectral.jacobian(net, y).dense()
    torch.testing.assert_close(J.clone(), reference(net.double(), y.clone()).float())
    leaf = torch.rand(1, 1, 6, 6, requires_grad=True)
    assert not spectral.jacobian(network(), leaf * 2).dense().requires_grad


@pytest.mark.parametrize(
    ("model", "y", "error", "says"),
    [
        (lambda y: y + torch.randn_like(y), torch.rand(5), NotDeterministicError, "dropout"),
        (lambda y: y / 0, torch.rand(5), NotFiniteError, "returned NaN"),
        (lambda y: (y - y).sqrt(), torch.rand(5), NotFiniteError, "Jacobian"),
        (lambda y: y, torch.tensor([1.0, float("nan")]), NotFiniteError, "y holds"),
        (lambda y: y.long(), torch.rand(5), ModelOutputError, "no derivative"),
        (lambda y: "image", torch.rand(5), ModelOutputError, "without a tensor"),
        (lambda y: y, torch.ones(5, dtype=torch.int64), OptionError, "floating-point"),
        (lambda y: y, [1.0, 2.0], OptionError, "floating-point"),
        (lambda y: y, torch.zeros(0), ShapeError, "at least one"),
    ],
)
def test_wrong_models_are_refused(model, y, error, says):
    with pytest.raises(error, match=says):
        spectral.jacobian(model, y)


def test_wrong_derivatives_are_refused():
    class Lies(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(y):
            return y * 1

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, g):
            return 3 * g

        @staticmethod
        def jvp(ctx, t):
            return 1 * t

    J = spectral.jacobian(Lies.apply, torch.rand(6))
    assert torch.equal(J.dense(), torch.eye(6)) and "Lies declares" in repr(J)
    with pytest.raises(SpectralError, match="contradict"):
        spectral.jacobian(Lies.apply, torch.rand(6), method="jvp")
    with pytest.raises(SpectralError, match="differences of the model"):
        spectral.jacobian(Lies.apply, torch.rand(6), method="double-backward")


def products_of(m, batched=False):
    """A network, a block of m vectors for it, and its exact products."""
    net = network().double().eval()
    y = torch.rand(2, 1, 5, 6, generator=torch.Generator().manual_seed(4)).double()
    J = spectral.jacobian(net, y, batched=batched)
    V = torch.randn(*J.batch, m, J.shape[1], dtype=torch.float64)
    M = reference(net, y)
    if batched:
        M = torch.stack([M[:30, :30], M[30:, 30:]])
    return J, V, V @ M.mT


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("size", [1, 2, 8])
def test_blocks_in_chunks_of_any_size(batched, size):
    J, V, exact = products_of(7, batched)
    for product in (J._push, J._pull):
        product.func.size, product.func.growing = size, False
    torch.testing.assert_close(J.apply(V), exact)
    torch.testing.assert_close(J.T.apply(J.apply(V)), J.gram().apply(V))
    assert J.apply(V).is_contiguous()


@pytest.mark.parametrize(
    ("seconds", "free", "expected"),
    [(lambda c: 1 + c / 8, 1 << 40, 16), (lambda c: c, 1 << 40, 1), (lambda c: 1.0, 1000, 4)],
    ids=["blocks gain", "blocks do not gain", "1000 bytes are free, of which a vector takes 100"],
)
def test_chunks_grow_while_that_is_faster(monkeypatch, seconds, free, expected):
    clock = [0.0]
    monkeypatch.setattr(programs, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(programs, "free_bytes", lambda device: free)
    chosen, through = programs.Chunks(100), []

    def product(V):
        clock[0] += seconds(len(V))
        through.append(len(V))
        return V**2

    for m in (1, 16, 63):
        V = torch.rand(m, 3)
        torch.testing.assert_close(chosen(product, V), V**2)
    assert chosen.size == expected and sum(through) == 80  # no vector went through twice


@pytest.mark.parametrize("failure", [torch.OutOfMemoryError("CUDA"), RuntimeError("not enough memory: 9")])
def test_out_of_memory_halves_the_chunk(monkeypatch, failure):
    J, V, exact = products_of(13)
    for product in (J._push, J._pull):
        product.func.size, product.func.growing = 8, False
    apply = Convolution.apply

    def small(step, images):
        if len(images) > 3 * 2:
            raise failure
        return apply(step, images)

    monkeypatch.setattr(Convolution, "apply", small)
    torch.testing.assert_close(J.apply(V), exact)
    assert J._push.func.size == 2

    def never(step, images):
        raise failure

    monkeypatch.setattr(Convolution, "apply", never)
    with pytest.raises(type(failure)):
        J.apply(V)


@pytest.mark.parametrize(
    ("precision", "rows", "error"),
    [
        ("float64", torch.float64, 1e-12),
        ("float32", torch.float64, 1e-5),
        ("tf32", torch.float64, 1e-2),
        ("bfloat16", torch.float64, 5e-2),
    ],
)
def test_products_at_another_precision(precision, rows, error):
    net, y = network().double().eval(), torch.rand(1, 1, 8, 8).double()
    J = spectral.jacobian(net, y)
    exact, before = J.dense(), J.count
    for twin in (J.at_precision(precision), spectral.jacobian(net, y, precision=precision)):
        assert twin.dtype == rows and twin.precision == precision and precision in repr(twin)
        for ours, theirs in ((twin.dense(), exact), (twin.T.dense(), exact.T)):
            relative = (ours - theirs).norm() / theirs.norm()
            assert relative <= error
            if precision in ("float32", "bfloat16"):
                assert relative > 1e-6 * error  # it was not float64
    assert J.count == before + 128 and J.precision is None
    torch.testing.assert_close(J.dense(), exact, atol=0, rtol=0)


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_what_the_processor_multiplies(monkeypatch, native):
    """bfloat16 where there are instructions for that; elsewhere float32."""
    monkeypatch.setattr("spectral.jacobians.precision._multiplies_bfloat16", lambda: native)
    net, y = BFCNN(5, 32).eval(), torch.rand(1, 1, 24, 24)
    for name, t in net.state_dict().items():
        if "gamma" in name:
            t.fill_(1)
    v = torch.randn(1, 576, generator=torch.Generator().manual_seed(0))
    J = spectral.jacobian(net, y)
    low = J.at_precision("bfloat16")
    assert ("multiplies bfloat16 no faster" in repr(low)) is not native
    for coarse, fine in ((low.apply(v), J.apply(v)), (low.apply_transpose(v), J.apply_transpose(v))):
        error = ((coarse - fine).norm() / fine.norm()).item()
        assert error < 0.03
        assert (error > 1e-4) is native


def test_rows_are_at_least_float32():
    net, y = network().eval(), torch.rand(2, 1, 8, 8)
    low = spectral.jacobian(net, y, batched=True, precision="bfloat16")
    assert low.dtype == torch.float32 and low.symmetric_part().dtype == torch.float32
    assert low.select([1]).precision == "bfloat16"
    assert spectral.jacobian(net, y, precision="float64").dtype == torch.float64
    assert spectral.jacobian(net.bfloat16(), y.bfloat16(), precision="bfloat16").dtype == torch.float32


def test_precision_that_cannot_be_had():
    y = torch.rand(6)
    with pytest.raises(SpectralError, match="no program"):
        spectral.jacobian(Branching(), y, method="jvp", precision="float64")
    J = spectral.jacobian(Branching(), y, method="jvp", precision="float32")
    assert J.precision == "float32"
    with pytest.raises(OptionError, match="precision is one of"):
        spectral.jacobian(Branching(), y, precision="half")


@pytest.mark.parametrize("asked", ["ieee", "tf32"])
def test_tensor_float_is_set_for_the_call_alone(asked):
    """Whatever the user has set, by torch's newer names too."""
    matmul, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    seen = []

    def model(y):
        seen.append((matmul.fp32_precision, convolutions.fp32_precision))
        return y.cos()

    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = asked
        J = spectral.jacobian(model, torch.rand(4), method="jvp")
        own = seen[-1]
        assert own[0] == asked
        for precision, expected in (("tf32", "tf32"), ("float32", "ieee")):
            J.at_precision(precision).apply(torch.ones(1, 4))
            assert seen[-1] == (expected, expected)
            assert (matmul.fp32_precision, convolutions.fp32_precision) == own
    finally:
        matmul.fp32_precision = before


def test_a_gpus_float32_is_float32_unless_asked_otherwise(monkeypatch):
    """torch lets convolutions be TensorFloat-32: what is certified is not, nor products by any way."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    seen = []

    def model(y):
        seen.append(float32_settings())
        return y.cos()

    before = float32_settings()
    assert "tf32" in before
    J = spectral.jacobian(model, torch.rand(40), method="jvp")
    J.apply(torch.ones(1, 40))
    spectral.top_eigs(model, torch.rand(40), k=2)
    assert set(seen) == {("ieee", "ieee", "ieee")}
    J.at_precision("tf32").apply(torch.ones(1, 40))
    assert seen[-1] == ("tf32", "tf32", "tf32")
    assert float32_settings() == before


def test_a_model_on_another_device_is_told(monkeypatch):
    """Where torch's own words are of types of tensors."""
    elsewhere = SimpleNamespace(device=torch.device("cuda", 0))
    monkeypatch.setattr(ways, "parameters_of", lambda modules: [elsewhere])

    def model(y):
        raise RuntimeError("Input type (torch.FloatTensor) and weight type (torch.cuda.FloatTensor) differ")

    with pytest.raises(OptionError, match="model is on cuda:0 and y on cpu: move one to the other"):
        spectral.jacobian(model, torch.rand(4))


def test_calls_that_overlap_leave_float32_as_it_was():
    """Of two threads, say, the first to begin is the first to end."""
    before = float32_settings()
    first, second = float32_as("ieee"), float32_as("tf32")
    first.__enter__()
    second.__enter__()
    assert float32_settings() == ("tf32", "tf32", "tf32")
    first.__exit__(None, None, None)
    assert float32_settings() == ("tf32", "tf32", "tf32")
    second.__exit__(None, None, None)
    assert float32_settings() == before


def wrong_slope(monkeypatch):
    """A rule for tanh that is wrong at one entry, and not tried."""

    def rule(seen):
        slope = 1 - torch.tanh(seen.primals[0]) ** 2
        slope.view(-1)[7] = 3
        return Diagonal(seen.inputs, seen.output, slope, seen.primals[0].shape)

    monkeypatch.setitem(rules.RULES, torch.ops.aten.tanh.default, rule)
    monkeypatch.setattr(trials, "TRIED", 0)


@pytest.mark.parametrize("find", [spectral.top_eigs, spectral.top_svd, spectral.top_eigs_full])
def test_a_way_that_what_was_found_contradicts_is_left_for_the_next(find, monkeypatch):
    wrong_slope(monkeypatch)
    y = torch.linspace(-1, 1, 200, dtype=torch.float64)
    pairs = find(lambda y: y / 2 + torch.tanh(y), y, 2)
    expected = (1.5 - torch.tanh(y) ** 2).sort(descending=True).values[:2]
    assert (torch.as_tensor(pairs.values).abs() - expected).abs().max() < 1e-4
    assert any("not frozen" in note and "differences" in note for note in pairs.notes)


def test_a_way_that_was_asked_for_is_not_left(monkeypatch):
    wrong_slope(monkeypatch)
    y = torch.linspace(-1, 1, 200, dtype=torch.float64)
    with pytest.raises(SpectralError, match=r"are wrong|differences of the model"):
        spectral.top_eigs(spectral.jacobian(lambda y: y / 2 + torch.tanh(y), y, method="frozen"), k=2)


@pytest.mark.parametrize("method", ["frozen", "jvp", "double-backward", "differences"])
def test_weights_that_change_are_noticed(method):
    model, y = network().double().eval(), torch.rand(1, 1, 8, 8, dtype=torch.float64)
    J = spectral.jacobian(model, y, method=method)
    optimiser, v = torch.optim.SGD(model.parameters(), lr=0.1), torch.rand(1, 64, dtype=torch.float64)
    before = J.apply(v)
    if method == "frozen":  # the others keep a graph, which torch gives up at any write
        with torch.no_grad():
            model[0].weight.add_(0)  # written to, and the same
        torch.testing.assert_close(J.apply(v), before)
    model(y).sum().backward()
    optimiser.step()
    with pytest.raises(SpectralError, match="weights of Sequential have changed"):
        J.apply(v)
    with pytest.raises(SpectralError, match="weights of Sequential have changed"):
        J.apply_transpose(v)
    torch.testing.assert_close(
        spectral.jacobian(model, y, method=method).dense(), reference(model, y), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("method", ["frozen", "jvp"])
def test_a_deep_copy_is_the_same_map_with_a_count_of_its_own(method):
    net, y = BFCNN(5, 32).eval(), torch.rand(1, 1, 12, 12)
    J = spectral.jacobian(net, y, method=method)
    v = torch.randn(144)
    J @ v
    twin = copy.deepcopy(J)
    torch.testing.assert_close(twin @ v, J @ v)
    assert (twin.count, J.count) == (2, 2) and J.notes is not twin.notes
    with torch.no_grad():
        next(iter(net.parameters())).mul_(2)
    with pytest.raises(SpectralError, match="have changed"):
        twin @ v


@pytest.mark.parametrize("method", ["frozen", "jvp"])
@pytest.mark.parametrize("save", [pickle.dumps, lambda A: torch.save(A, io.BytesIO())])
def test_a_pickle_is_refused(method, save):
    J = spectral.jacobian(BFCNN(5, 32), torch.rand(1, 1, 12, 12), method=method)
    for A in (J, J.T, J.symmetric_part(), J.at_precision("tf32")):
        with pytest.raises(SpectralError, match="of BFCNN belongs to this process and cannot be pickled"):
            save(A)


def test_a_jacobian_that_is_zero():
    """Of dead units, or nothing: all values are zero, and found to be."""
    y = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for model in (lambda x: x * 0, torch.nn.Threshold(100.0, 0.0)):
        pairs = spectral.top_eigs(model, y, k=3)
        assert pairs.values.abs().max() == 0 and pairs.converged.all() and pairs.complete
        assert spectral.top_svd(model, y, k=2).values.abs().max() == 0
        assert spectral.jacobian(model, y, method="jvp").dense().abs().max() == 0


def one_hot_straight_through(y):
    soft = y.softmax(-1)
    return nn.functional.one_hot(soft.argmax(-1), y.shape[-1]).to(y) - soft.detach() + soft


def nearest_code_straight_through(y):
    codes = torch.linspace(-1, 1, 5, dtype=y.dtype)
    return codes[(y.unsqueeze(-1) - codes).abs().argmin(-1)] - y.detach() + y.sin()


@pytest.mark.parametrize("unit", [one_hot_straight_through, nearest_code_straight_through])
@pytest.mark.parametrize("method", ["auto", "frozen", "double-backward"])
def test_selections_take_the_derivative_that_the_whole_has(unit, method):
    """Declared straight through or, where "frozen" is asked for, what is computed."""
    y = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # A sum along an axis is not told for some inputs: J is made anew for them.
    J = spectral.jacobian(lambda y: y.cumsum(-1) + unit(y.sin()), y, batched=True, method=method)
    for index in ([1], [2, 0]):
        torch.testing.assert_close(J.select(torch.tensor(index)).dense(), J.dense()[index])
