"""The recorded program of linear steps, against torch.func, operation by operation and network by network."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import spectral
from denoisers.networks import BFCNN, ConditionalUNet, UNet
from spectral.jacobians.cpu import openmp, simd
from spectral.jacobians.cpu.gates import unpacked
from spectral.jacobians.model import Model
from spectral.jacobians.program import Program, Recorder, record
from spectral.jacobians.program.convolution import Convolution, Joint
from spectral.jacobians.program.rules import RULES
from spectral.jacobians.program.rules.norms import Norm
from spectral.jacobians.program.rules.pointwise import Diagonal
from spectral.jacobians.program.steps import Cut, Linear, Local
from tests.helpers.field_models import CASES


def agree(function, y, tolerance=1e-12):
    """The program, once its products equal torch.func's in float64."""
    y = y.double()
    program = record(function, y)
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    Jv = torch.func.jvp(function, (y,), (v,))[1]
    u = torch.randn(Jv.shape, generator=generator, dtype=torch.float64)
    Ju = torch.func.vjp(function, y)[1](u)[0]
    torch.testing.assert_close(program.output, function(y))
    close = functools.partial(torch.testing.assert_close, atol=tolerance, rtol=tolerance)
    close(program.apply(v[None])[0], Jv)
    close(program.transpose(u[None])[0], Ju)
    # A block is its vectors, and the program keeps nothing of what went through it.
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for product, x, expected in ((program.apply, v, Jv), (program.transpose, u, Ju)):
        block = torch.stack([a * x for a in weights])
        kept = block.clone()
        close(product(block), torch.stack([a * expected for a in weights]))
        assert torch.equal(block, kept)
    return program


def gates(program):
    """The slopes that convolutions apply, as numbers or bytes."""
    parts = [part for step in program.steps for part in getattr(step, "parts", [step])]
    slopes = [getattr(step, name, None) for step in parts for name in ("slope", "slope_in")]
    slopes = [slope for slope in slopes if slope is not None]
    return [unpacked(slope) if slope.dtype == torch.uint8 else slope for slope in slopes]


def targets(program):
    """The operations that steps hold."""
    return [step.function.target for step in program.steps if hasattr(step, "function")]


def kinds(program):
    return [type(step) for step in program.steps]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.booleans(),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 2),
    st.sampled_from([1, 2]),
    st.integers(0, 5),
)
def test_convolutions_of_every_geometry(dims, transposed, kernel, stride, padding, dilation, groups, more):
    torch.manual_seed(0)
    kind = [[nn.Conv1d, nn.Conv2d, nn.Conv3d], [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]]
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if transposed:
        options["output_padding"] = min(stride, dilation) - 1 if max(stride, dilation) > 1 else 0
        padding = options["padding"] = min(padding, dilation * (kernel - 1))
    layer = kind[transposed][dims - 1](4, 6, kernel, **options).double()
    side = dilation * (kernel - 1) + 1 + more
    program = agree(layer, torch.rand(2, 4, *[side + i for i in range(dims)]))
    assert kinds(program) == [Convolution]


@pytest.mark.parametrize(
    "function",
    [
        torch.relu,
        nn.functional.gelu,
        nn.functional.silu,
        lambda x: nn.functional.leaky_relu(x - 0.5, 0.1),
        lambda x: x**3 - x / 2 + 3,
        lambda x: (x * 2 - x).sigmoid() * x,
        lambda x: x * x + x / (1 + x),
        lambda x: 2 / (1 + x) - (x - 0.5).clamp(min=0),
        lambda x: x + torch.arange(6.0).double() * x.mean(0),
        lambda x: torch.cat([x, x.flip(1)], 1)[:, 2:-1].softmax(-1),
        lambda x: (x.T @ x).reshape(-1)[:7].cumsum(0),
        lambda x: torch.stack([x, 2 * x]).transpose(0, 1).logsumexp(1),
        lambda x: x.chunk(2, dim=1)[1].exp() - x.split([4, 2], 1)[0][:, :3],
        lambda x: nn.functional.layer_norm(x, (6,)) * torch.linalg.vector_norm(x),
        lambda x: x.clone().mul_(2).add_(x).relu_(),
        lambda x: torch.cat([x, torch.ones(5, 2).double(), x], 1).neg(),
        lambda x: torch.relu(x - 0.5) * torch.arange(6.0).double().view(6) * 2,
        torch.ones_like,
        lambda x: x,
    ],
)
def test_operations(function):
    agree(function, torch.rand(5, 6, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d(2),
        nn.MaxPool2d(2),
        nn.Sequential(nn.MaxPool2d(3, 2, 1, dilation=2), nn.Conv2d(4, 2, 2)),
        nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.PixelShuffle(2),
        nn.PixelUnshuffle(2),
        nn.ReflectionPad2d(2),
        nn.ZeroPad2d(1),
        nn.GroupNorm(2, 4),
        nn.Sequential(nn.GroupNorm(4, 4, affine=False), nn.SiLU(), nn.LayerNorm(6)),
        nn.Sequential(nn.LayerNorm((8, 6)), nn.ReLU(), nn.GroupNorm(1, 4)),
        nn.InstanceNorm2d(4),
        nn.AdaptiveAvgPool2d(3),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(4, 1, 3)),
    ],
    ids=repr,
)
def test_layers(layer):
    with torch.no_grad():
        for t in layer.parameters():
            t.uniform_(0.5, 1.5)
    agree(layer.double().eval(), torch.rand(2, 4, 8, 6, generator=torch.Generator().manual_seed(0)))


def lively(network):
    """With norms far from their start, so that every channel counts."""
    generator = torch.Generator().manual_seed(0)
    for name, t in network.state_dict().items():
        if "gamma" in name or "running" in name:
            t.copy_(0.5 + torch.rand(t.shape, generator=generator))
    return network.double().eval()


@pytest.mark.parametrize(
    "network", [UNet(1, 8), UNet(2, 8), UNet(3, 4), BFCNN(6, 8), BFCNN(5, 8, channels=3, first_relu=True)]
)
def test_denoisers(network):
    y = torch.rand(2, network.channels, 16, 24, generator=torch.Generator().manual_seed(0))
    program = agree(lively(network), y)
    assert Local not in kinds(program)
    # Scales of channels are folded: what is diagonal is a gate.
    assert Diagonal not in kinds(program)
    slopes = gates(program)
    assert slopes and all(((s == 0) | (s == 1)).all() for s in slopes)


@pytest.mark.parametrize(
    ("join", "step"),
    [
        (lambda x: [x.relu(), x[:, :1]], Joint),
        (lambda x: [x.relu(), torch.ones(2, 3, 6, 7).double(), x.tanh(), x[:, 1:]], Joint),
        (lambda x: [torch.ones(2, 1, 6, 7).double(), x.relu()], Convolution),  # a map of the noise level
        (lambda x: [x, x], Linear),
    ],
)
def test_convolutions_of_concatenations(join, step):
    torch.manual_seed(0)
    y = torch.rand(2, 4, 6, 7) - 0.5
    channels = sum(part.shape[1] for part in join(y.double()))
    layer = nn.Sequential(nn.Conv2d(channels, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 3, 1)).double()
    program = agree(lambda x: layer(torch.cat(join(x), 1)), y)
    found = kinds(program)
    assert step in found and (step is Linear or torch.ops.aten.cat.default not in targets(program))


@pytest.mark.parametrize("join", [lambda x: [x, x], lambda x: [x, torch.ones_like(x)]])
def test_a_convolution_of_images_one_after_the_other(join):
    """As guidance without a classifier takes them: the axis is cat's default, which torch leaves out."""
    layer = nn.Conv2d(2, 3, 3, padding=1).double()
    agree(lambda x: layer(torch.cat(join(x))), torch.randn(1, 2, 5, 6))


@pytest.mark.parametrize("unit", [nn.SiLU(), nn.Mish(), nn.Hardsigmoid()])
def test_units_whose_way_back_torch_does_not_differentiate(unit):
    """Where a model takes a gradient inside without create_graph, as scores of energies do."""
    y = torch.tensor([-200.0, -2.0, 0.0, 0.5, 2.0, 200.0], dtype=torch.float64)

    def score(y):
        with torch.enable_grad():
            z = y.detach().requires_grad_()
            return torch.autograd.grad(unit(z).square().sum(), z)[0]

    J = spectral.jacobian(score, y)
    assert J.method == "frozen"
    slopes = (score(y + 1e-6) - score(y - 1e-6)) / 2e-6
    torch.testing.assert_close(J.dense(), slopes.diag(), rtol=1e-6, atol=1e-6)


def test_batch_norm_folds_into_its_convolution():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 3))
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2)
    program = agree(net.double().eval(), torch.rand(1, 2, 8, 8))
    assert kinds(program) == [Convolution, Convolution] and len(gates(program)) == 1


def test_layers_take_rows_as_they_lie():
    """Shapes before a fully connected layer go behind it, and those that change nothing go."""
    layers = [nn.LayerNorm(6), nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6)]
    block = nn.Sequential(*layers).double().requires_grad_(False)
    program = agree(lambda y: y + block(y), torch.randn(2, 5, 6))
    assert [type(step).__name__ for step in program.steps] == ["Norm", "Matmul", "Diagonal", "Matmul", "Sum"]
    together = agree(lambda y: block(y.reshape(-1, 6)).view(5, 2, 3, 2), torch.randn(2, 5, 6))
    assert [type(step).__name__ for step in together.steps].count("Reshape") == 2
    V = torch.randn(3, 2, 5, 6, dtype=torch.float64)
    second = program.select(torch.tensor([1]))
    torch.testing.assert_close(second.apply(V[:, 1:]), program.apply(V)[:, 1:])
    slots = {0: torch.randn(2, 5, 6).double()}
    for step in together.steps:
        slots[step.output] = step.apply(*(slots[i] for i in step.inputs))
    assert all(together.entries[slot] == value.numel() for slot, value in slots.items())


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("used", [(0, 1, 2), (0, 2), (0, 0, 1, 2)])
def test_cuts_fill_what_they_share_out(used, beside):
    """Parts that nothing comes back to are zeros; memory that nobody wrote to would be NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        for size, cut in (((2, 3, 4), lambda t: t.unbind(-2)), ((2, 12), lambda t: t.chunk(3, -1))):

            def weighed(y, size=size, cut=cut):
                whole = y.sin().view(size)
                parts = cut(whole)
                total = sum(parts[i] ** 2 * (n + 1) for n, i in enumerate(used))
                return total * whole.mean() if beside else total

            program = agree(weighed, torch.randn(2, 12))
            cuts = [step for step in program.steps if isinstance(step, Cut)]
            assert all(step.fills == (len(set(used)) == 3 and not beside) for step in cuts) and cuts
    finally:
        torch.use_deterministic_algorithms(False)


def test_attention_is_taken_in_its_plain_form():
    def attend(x):
        return nn.functional.scaled_dot_product_attention(x, 2 * x, x.flip(-1))

    y = torch.rand(1, 2, 5, 8).double()
    for way in ("auto", "frozen", "jvp", "double-backward"):
        J = spectral.jacobian(attend, y, method=way)
        expected = torch.autograd.functional.jacobian(attend, y).reshape(80, 80)
        torch.testing.assert_close(J.dense(), expected)
        assert way in ("auto", J.method)
    assert spectral.jacobian(attend, y).method == "frozen"


def test_program_differs_nowhere_in_float32():
    net = lively(UNet(2, 8)).float()
    y = torch.rand(1, 1, 12, 8)
    frozen, plain = (spectral.jacobian(net, y, method=way) for way in ("frozen", "jvp"))
    for ours, theirs in ((frozen, plain), (frozen.T, plain.T)):
        error = (ours.dense() - theirs.dense()).norm() / theirs.dense().norm()
        assert error < 1e-5


@pytest.mark.skipif(simd.BYTES == 0 or not openmp.at_hand(), reason="Winograd's kernels need AVX2")
def test_gates_as_bits_where_winograd_takes_them():
    net, y = lively(UNet(2, 32)), torch.rand(2, 1, 16, 16)
    program = agree(net, y)
    parts = [part for step in program.steps for part in getattr(step, "parts", [step])]
    by_winograd = [part for part in parts if isinstance(part, Convolution) and part.by_winograd]
    assert len(by_winograd) > 5 and all(part.slope.dtype == torch.uint8 for part in by_winograd)
    # The first convolution's gate is left to the second, which takes bits.
    first, second = program.steps[:2]
    assert not first.by_winograd and first.slope is None and second.slope_in.dtype == torch.uint8
    # One gate behind both parts of a concatenation is kept once.
    joint = next(step for step in program.steps if isinstance(step, Joint))
    assert len({id(part.slope) for part in joint.parts}) == 1
    # Where the kernel does not go, the bits are looked at by others.
    V = torch.randn(1, *y.shape, generator=torch.Generator().manual_seed(0)).double()
    half = program.to(torch.bfloat16)
    assert len(gates(half)) == len(gates(program))
    coarse, fine = half.apply(V.bfloat16()).double(), program.apply(V)
    assert 1e-4 < (coarse - fine).norm() / fine.norm() < 0.05
    single = program.to(torch.float32).apply(V.float()).double()
    assert (single - fine).norm() / fine.norm() < 1e-5


@pytest.mark.parametrize("channels", [7, 8, 16])
@pytest.mark.parametrize("sides", [(1, 1), (1, 9), (9, 1), (2, 1)])
def test_images_one_pixel_wide(sides, channels):
    """The bits of eight channels look like a number a row there."""
    layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in ((2, channels), (channels, channels), (channels, 2))]
    agree(
        nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]).double(),
        torch.randn(2, 2, *sides),
    )


@pytest.mark.parametrize("network", [UNet(2, 8), BFCNN(4, 8)])
def test_either_layout_is_the_same_program(network):
    y = torch.rand(2, 1, 16, 24)
    program = agree(lively(network), y)
    other = program.in_layout(False)
    assert [slope.is_contiguous() for slope in gates(other)] == [True] * len(gates(other))
    assert not all(slope.is_contiguous() for slope in gates(program))
    V = torch.randn(3, *y.shape, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(other.apply(V), program.apply(V))
    torch.testing.assert_close(other.transpose(V), program.transpose(V))
    for changed in (other, program.to(torch.float32), program.select(torch.tensor([1]))):
        for step in changed.steps:
            if isinstance(step, Joint):  # one gate is still kept once
                assert len({id(part.slope) for part in step.parts}) == 1


def test_the_layout_is_the_faster_one(monkeypatch):
    # Widths of 3 have no Winograd kernel on any machine: AVX2's vectors are of four float64.
    program = agree(lively(BFCNN(4, 3)), torch.rand(1, 1, 16, 24))
    times = {"last": 1.0, "own": 0.96}

    def seconds(self):
        first = next(step for step in self.steps if isinstance(step, Convolution))
        return times["last" if first.channels_last else "own"]

    monkeypatch.setattr(Program, "seconds", seconds)
    times["own"] = 0.5
    assert program.in_faster_layout() is program  # too little to be timed
    times["own"] = 0.96
    monkeypatch.setattr("spectral.jacobians.program.program.LITTLE", 0)
    assert program.in_faster_layout() is program
    times["own"] = 0.94
    assert not any(
        step.channels_last for step in program.in_faster_layout().steps if isinstance(step, Convolution)
    )
    # A kernel that needs channels last has them.
    wide = agree(lively(BFCNN(4, 32)), torch.rand(1, 1, 24, 24))
    if any(step.by_winograd for step in wide.steps if isinstance(step, Convolution)):
        assert wide.in_faster_layout() is wide


def test_a_layout_is_timed(monkeypatch):
    monkeypatch.setattr("spectral.jacobians.program.program.LITTLE", 0)
    program = agree(lively(BFCNN(4, 8)), torch.rand(1, 1, 16, 24))
    assert 0 < program.seconds() < 10
    assert program.in_faster_layout().output is program.output


def test_gates_as_bytes_beyond_a_budget(monkeypatch):
    monkeypatch.setattr("spectral.jacobians.program.passes.GATES_AS_FLOATS", 0)
    program = agree(lively(BFCNN(5, 8)), torch.rand(1, 1, 12, 12))
    assert {slope.dtype for slope in gates(program)} == {torch.int8}


def test_a_wrong_pass_is_found_out(monkeypatch):
    """The rewritten program is held against its steps; where they differ another way is taken."""
    net, y = lively(BFCNN(4, 8)), torch.rand(1, 1, 8, 8).double()
    assert spectral.jacobian(net, y).method == "frozen"
    scaled = Convolution.scaled
    monkeypatch.setattr(Convolution, "scaled", lambda self, scale, slot: scaled(self, 1.001 * scale, slot))
    J = spectral.jacobian(net, y)
    assert J.method == "jvp" and "its program differs from its steps" in repr(J)


def test_a_wrong_rule_is_found_out(monkeypatch):
    """A step that lies at one entry is tried where it is made; torch differentiates the operation instead."""
    apply = Norm.apply

    def wrong(self, *tangents):
        out = apply(self, *tangents)
        out[..., 0, 0, 0] += 1e-4
        return out

    net, y = NormedNetwork().double(), torch.rand(1, 4, 8, 8).double()
    assert Norm in kinds(record(net, y))
    monkeypatch.setattr(Norm, "apply", wrong)
    program = agree(net, y)
    assert Norm not in kinds(program) and Local in kinds(program)


def test_a_diagonal_rule_of_what_is_none_is_found_out(monkeypatch):
    """Another size comes than went in: torch differentiates the operation instead."""

    def rule(seen):
        (x,) = seen.primals
        return Diagonal(seen.inputs, seen.output, torch.ones_like(x), x.shape)

    monkeypatch.setitem(RULES, torch.ops.aten.sum.dim_IntList, rule)
    assert Local in kinds(agree(lambda y: y.sin().sum(0), torch.rand(4, 5)))


def test_rules_of_small_slopes_in_half_precision():
    """Products with them are left with few digits where a random number is small."""
    y = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0)).half()
    slope = 1e-4 * torch.rand(y.shape, generator=torch.Generator().manual_seed(1)).half()
    assert kinds(record(lambda y: y * slope, y)) == [Diagonal]


def test_thin_convolutions_in_float32():
    """Few output channels go another way than oneDNN's; both round alike."""
    torch.manual_seed(0)
    for channels_out, padding, dilation in ((1, 1, 1), (3, 0, 2), (4, (2, 1), 1)):
        layer = nn.Conv2d(32, channels_out, (5, 3), padding=padding, dilation=dilation, bias=False)
        y = torch.rand(2, 32, 12, 13)
        program, exact = record(layer, y), torch.func.vjp(layer.double(), y.double())
        u = torch.randn_like(exact[0])
        for ours, theirs in (
            (program.apply(y[None])[0], exact[0]),
            (program.transpose(u.float()[None])[0], exact[1](u)[0]),
        ):
            torch.testing.assert_close(ours.double(), theirs, atol=2e-5, rtol=2e-5)


class NormedNetwork(nn.Module):
    """A group norm between convolutions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.first, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, y):
        return self.last(nn.functional.silu(self.norm(self.first(y))))


def test_control_flow_that_depends_on_constants():
    gain = torch.tensor(2.0, dtype=torch.float64)
    agree(lambda x: x.sin() * gain if gain.item() > 1 else x, torch.rand(5))


def test_conditional_network():
    """Group norm, SiLU, strided convolutions, attention and a noise level."""
    torch.manual_seed(0)
    net = ConditionalUNet(16).double()
    y, sigma = torch.rand(2, 1, 8, 8).double(), torch.tensor([0.1, 0.3], dtype=torch.float64)
    program = agree(lambda x: net(x, sigma), y)
    assert {Convolution, Norm} < set(kinds(program))
    J = spectral.jacobian(net, y, batched=True, model_kwargs={"sigma": sigma})
    assert J.method == "frozen" and J.notes == []
    alone = spectral.jacobian(net, y[1:], model_kwargs={"sigma": 0.3})
    V = torch.randn(2, 3, 64).double()
    torch.testing.assert_close(J.apply(V)[1], alone.apply(V[1]))
    torch.testing.assert_close(J.select([1]).apply(V[1:])[0], alone.apply(V[1]))


def rotated_by_angles(x):
    """Rotary embedding, in real numbers."""
    angles = torch.linspace(0, 3, x.shape[-2], dtype=x.dtype)[:, None] * torch.ones(x.shape[-1] // 2).to(x)
    first, second = x.chunk(2, -1)
    return torch.cat(
        [first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()], -1
    )


PRODUCTS = {
    "product": lambda x: x[:, :2] * x[:, 2:],
    "square by itself": lambda x: x * x,
    "quotient": lambda x: x[:, :2] / (1 + x[:, 2:].square()),
    "broadcast product": lambda x: x * x.mean(-1, keepdim=True),
    "both broadcast": lambda x: x.mean(-1, keepdim=True) * x.mean(-2, keepdim=True),
    "matrices": lambda x: x[:, :2] @ x[:, 2:].mT,
    "softmax": lambda x: torch.softmax(x, 1) + torch.softmax(x, -1),
    "attention": lambda x: torch.softmax(x @ x.mT / 2, -1) @ x,
    "rms norm": lambda x: x * (x.square().mean(-1, keepdim=True) + 1e-3).rsqrt(),
    "gated unit": lambda x: x[:, :2] * torch.nn.functional.gelu(x[:, 2:]),
    "log of softmax": lambda x: torch.log_softmax(x, 1) * torch.log_softmax(x, -1),
    "gated linear unit": lambda x: nn.functional.glu(x, 1) + nn.functional.glu(x, -1).mean((1, 2, 3), True),
    "gated by silu": lambda x: nn.functional.silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1],
    "modulated by y": lambda x: nn.functional.layer_norm(x, (6,)) * (1 + x.mean(2, keepdim=True)) + x.sin(),
    "normalised in groups": lambda x: nn.functional.group_norm(x, 2),
    "rotary attention": lambda x: torch.softmax(rotated_by_angles(x) @ rotated_by_angles(x).mT, -1) @ x,
    "affine maps": lambda x: torch.nn.functional.linear(x, torch.eye(6).to(x)[:3], torch.ones(3).to(x)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_what_y_reaches_have_rules(name):
    y = torch.rand(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    program = agree(PRODUCTS[name], y, 1e-11)
    assert Local not in kinds(program)


def test_products_in_complex_numbers_and_other_precisions():
    def spectrum(y):
        z = torch.fft.fft2(y)
        return torch.fft.ifft2(z * z.conj().abs() + z / (1 + z * z.conj())).real

    y = torch.rand(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    agree(spectrum, y, 1e-10)
    J = spectral.jacobian(PRODUCTS["rotary attention"], y)
    v = torch.randn(3, 72, generator=torch.Generator().manual_seed(1))
    fine = J.at_precision("float64")
    torch.testing.assert_close(J.apply(v), fine.apply(v.double()).float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["product", "broadcast product", "softmax", "gated unit", "gated linear unit"]
)
def test_products_of_some_images(name):
    y = torch.rand(4, 4, 5, 6, generator=torch.Generator().manual_seed(0)).double()
    J = spectral.jacobian(PRODUCTS[name], y, batched=True)
    part, v = J.select([2, 0]), torch.randn(2, 1, 120, dtype=torch.float64)
    torch.testing.assert_close(
        part.apply(v), spectral.jacobian(PRODUCTS[name], y[[2, 0]], batched=True).apply(v)
    )


# Of each model in tests/helpers/field_models.py the operations that no rule knows: torch differentiates them
# anew at each product.  What comes to this list makes products slow.
LEFT_TO_TORCH = {
    "fourier_attention": {"abs"},
    "short_time_fourier": {"abs", "unfold_backward"},
    "filled_by_masks": {"index_put"},
    "indexed_assignment": {"index_add", "index_put", "scatter"},
    "inference_mode_in_part": {"mul"},
    "no_grad_inside": {"div"},
    "detach_inside": {"div"},
    "gradient_step_denoiser": {"convolution_backward", "softplus_backward"},
    "gradient_step_with_its_graph": {"convolution_backward", "softplus_backward"},
    "input_convex": {"convolution_backward", "softplus_backward"},
    "derivative_by_torch_func_inside": {"cumprod", "prod", "select_backward"},
    "quantiles": {"lerp", "median", "mul", "sort"},
    "grid_sampled": {"grid_sampler_2d"},
    "non_local_means": {"_euclidean_dist"},
    "sparse_products": {"_sparse_addmm"},
    "branches_on_values": {"max"},
    "sorted_values": {"scatter", "sort", "topk"},
    "linear_algebra": {"_linalg_slogdet", "_linalg_solve_ex", "linalg_inv_ex", "mul"},
    "changed_by_hooks": {"mul"},
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_left_to_torch(name):
    model = Model(CASES[name].make(torch.float64), CASES[name].kwargs)
    with model.ready():
        steps = Recorder.of(model, CASES[name].y()).steps
    left = {str(step.function.target).split(".")[1] for step in steps if isinstance(step, Local)}
    assert left <= LEFT_TO_TORCH.get(name, set())
