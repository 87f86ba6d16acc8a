"""Attention as one step: J v and J' u by tiles, against torch's dense Jacobian in float64."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import spectral
from spectral.jacobians.model import Model
from spectral.jacobians.program import Recorder
from spectral.jacobians.program.rules import attention
from spectral.jacobians.program.rules.attention import Attention
from tests.helpers.dense_programs import dense_of, program_of, tensors_in

attend = nn.functional.scaled_dot_product_attention
HEADS = (2, 3)


def constant(*size):
    return torch.linspace(-2, 2, torch.Size(size).numel(), dtype=torch.float64).sin().view(size)


def function(n, m, depth=4, reached="qkv", **options):
    """y -> attention whose queries, keys and values are parts of y, or constant, and y's size."""
    sizes = {"q": n, "k": m, "v": m}

    def model(y):
        parts = dict(zip(reached, y.split([sizes[role] for role in reached], -2), strict=True))
        q, k, v = (
            parts[role] if role in parts else constant(*HEADS, size, depth).to(y)
            for role, size in sizes.items()
        )
        return attend(q, k, v, **options)

    return model, (*HEADS, sum(sizes[role] for role in reached), depth)


def check(model, size, dtype=torch.float64, tolerance=1e-12):
    """The program, once it is one step of attention whose blocks and transposes are torch's."""
    y = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=dtype)
    program = program_of(model, y)
    assert sum(isinstance(step, Attention) for step in program.steps) == 1
    exact, ahead, back = dense_of(model, y, program)
    torch.testing.assert_close(ahead, exact, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(back, exact, atol=tolerance, rtol=tolerance)
    return program


def by_tiles(monkeypatch, tile):
    """Tiles of so many entries; below 2^19 in both directions, where torch's kernel would take J' u, and with
    weights that are formed anew, where few of them would be kept."""
    monkeypatch.setitem(attention.TILE, "cpu", tile)
    if tile < 1 << 19:
        monkeypatch.setattr(attention, "_BACKWARD", None)
        monkeypatch.setattr(attention, "KEPT", 0)


SIZES = [(1, 1), (1, 4), (3, 1), (5, 5), (4, 7)]
TILES = [1 << 19, 1 << 18, 5, 16, 90]


@pytest.mark.parametrize(("size", "tile"), itertools.product(SIZES, TILES))
def test_tokens_and_tiles(size, tile, monkeypatch):
    """Tiles smaller than the queries, than the keys, of several heads, of several vectors."""
    by_tiles(monkeypatch, tile)
    check(*function(*size))


def test_a_tile_of_one_entry(monkeypatch):
    by_tiles(monkeypatch, 1)
    check(*function(2, 3, depth=2))


@pytest.mark.parametrize("reached", ["q", "k", "v", "qk", "qv", "kv"])
def test_what_y_reaches(reached, monkeypatch):
    by_tiles(monkeypatch, 16)
    check(*function(4, 5, reached=reached))


MASKS = {
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "bools": {"attn_mask": constant(4, 5) > -0.5},
    "bools of each head": {"attn_mask": constant(2, 3, 4, 5) > -0.8},
    "of keys": {"attn_mask": constant(2, 1, 1, 5) > -0.8},
    "a bias of each head": {"attn_mask": constant(1, 3, 4, 5)},
    "a query that sees nothing": {"attn_mask": torch.arange(4)[:, None].expand(4, 5) > 0},
    "infinities": {"attn_mask": torch.where(constant(4, 5) > 0.5, -torch.inf, constant(4, 5))},
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("tile", [1 << 19, 1 << 18, 6])
def test_masks(name, tile, monkeypatch):
    by_tiles(monkeypatch, tile)
    check(*function(4, 5, **MASKS[name]))


def test_one_tensor_in_every_place():
    check(lambda y: attend(y, y, y), (1, 2, 5, 3))


def test_queries_in_groups():
    check(lambda y: attend(y, y[:, :2].sin(), y[:, :2].cos(), enable_gqa=True), (1, 4, 3, 4))


def test_layer():
    layer = nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    for weights in (True, False):
        check(lambda y, w=weights: layer(y, y, y, need_weights=w)[0], (2, 5, 8))


def test_single_precision(monkeypatch):
    by_tiles(monkeypatch, 40)
    check(*function(6, 9), dtype=torch.float32, tolerance=2e-6)


BY_KERNELS = {
    "no mask": {},
    "a bias of each head": {"attn_mask": constant(1, 3, 20, 9).float()},
    "a query that sees nothing": {"attn_mask": torch.arange(20)[:, None].expand(20, 9) > 0},
}


@pytest.mark.parametrize("reached", ["qkv", "q", "kv", "v"])
@pytest.mark.parametrize("mask", BY_KERNELS)
def test_more_queries_in_single_precision(mask, reached):
    """Half a vector of queries and more go by compiled kernels, where the CPU has those."""
    model, size = function(20, 9, reached=reached, **BY_KERNELS[mask])
    program = check(model, size, torch.float32, 5e-6)
    (step,) = (step for step in program.steps if isinstance(step, Attention))
    assert (step.heads is not None) == attention.offered(step.o)
    if mask != "a query that sees nothing":
        return
    index = torch.tensor([1])
    V = torch.randn(3, *size, generator=torch.Generator().manual_seed(1))
    part = program.select(index)
    torch.testing.assert_close(part.apply(V[:, index]), program.apply(V)[:, index], atol=1e-6, rtol=1e-5)


def test_one_key_in_single_precision():
    check(*function(20, 1), dtype=torch.float32, tolerance=5e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_half_precision(dtype, tolerance):
    """Of vectors and results alone: the arithmetic inside of the step is finer."""
    model, size = function(6, 9)
    program = check(model, size)
    v = torch.randn(2, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    coarse, fine = program.to(dtype).apply(v.to(dtype)), program.apply(v)
    assert coarse.dtype == dtype
    assert (coarse - fine).norm() < tolerance * fine.norm()
    u = torch.randn(2, *program.output.shape, dtype=torch.float64)
    coarse, fine = program.to(dtype).transpose(u.to(dtype)), program.transpose(u)
    assert coarse.dtype == dtype
    assert (coarse - fine).norm() < tolerance * fine.norm()


def test_a_large_block_is_its_vectors(monkeypatch):
    """Several vectors go through one tile of weights, as many as there is room for."""
    model, size = function(3, 4)
    program = check(model, size)
    V = torch.randn(7, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    U = torch.randn(7, *program.output.shape, dtype=torch.float64)
    for tile in (1 << 19, 3 * 72, 72, 30):
        by_tiles(monkeypatch, tile)
        torch.testing.assert_close(program.apply(V), torch.cat([program.apply(v[None]) for v in V]))
        torch.testing.assert_close(program.transpose(U), torch.cat([program.transpose(u[None]) for u in U]))


class Attending(nn.Module):
    """A denoiser of rows of pixels that attend to each other, by torch's kernel or by hand."""

    def __init__(self, by_hand):
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out = nn.Linear(4, 24), nn.Linear(8, 4)
        self.by_hand = by_hand

    def forward(self, y):
        t = y.flatten(1).unflatten(1, (-1, 4))
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(t).chunk(3, -1))
        mixed = ((q * 0.5) @ k.mT).softmax(-1) @ v if self.by_hand else attend(q, k, v)
        return y + self.out(mixed.transpose(1, 2).flatten(2)).view_as(y)


@pytest.mark.parametrize("by_hand", [False, True])
def test_no_step_keeps_tokens_by_tokens(by_hand):
    tokens = 640
    model, y = Attending(by_hand), torch.rand(1, 1, tokens, 4)
    program = program_of(model, y)
    assert any(isinstance(step, Attention) for step in program.steps)
    assert max(t.numel() for t in tensors_in(program)) < tokens**2
    # Nor does the record, before what is not needed is left out.
    ready = Model(model, {})
    with ready.ready():
        record = Recorder.of(ready, y)
    held = [t for step in record.steps for t in tensors_in(step)]
    held += [t for stored in record.storages.values() for t in stored.held]
    assert max(t.numel() for t in held) < tokens**2


@pytest.mark.parametrize("by_hand", [False, True])
def test_eigenpairs_of_a_network_that_attends(by_hand):
    model, y = Attending(by_hand).double(), torch.rand(1, 1, 12, 4).double()
    pairs = spectral.top_eigs(model, y, k=3)
    J = torch.func.jacrev(model)(y).detach().reshape(48, 48)
    exact = torch.linalg.eigvalsh((J + J.T) / 2).flip(0)[:3]
    torch.testing.assert_close(pairs.values, exact, atol=1e-5, rtol=1e-4)
    assert spectral.jacobian(model, y).method == "frozen"


@pytest.mark.parametrize("by_hand", [False, True])
def test_some_images(by_hand):
    """Heads come with their images, and nothing is recorded again."""
    model, y = Attending(by_hand).double(), torch.rand(3, 1, 6, 4).double()
    J = spectral.jacobian(model, y, batched=True)
    index = torch.tensor([2, 0])
    assert J._program.select(index) is not None
    part, alone = J.select([2, 0]), spectral.jacobian(model, y[index], batched=True)
    V = torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(part.apply(V), alone.apply(V))
    torch.testing.assert_close(part.T.apply(V), alone.T.apply(V))


@pytest.mark.parametrize("images", [1, 2])
def test_some_images_with_masks(images):
    """Of each image its own mask, where each has one."""
    mask = constant(images, 1, 4, 4)[:, :, :, :] > -0.5

    def model(y):
        q, k, v = (t.unflatten(-1, (3, 2)).transpose(1, 2) for t in (y, y.sin(), y.cos()))
        return attend(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

    y = torch.rand(2, 4, 6, dtype=torch.float64)
    J = spectral.jacobian(model, y, batched=True)
    assert J._program.select(torch.tensor([1])) is not None
    V = torch.randn(1, 3, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(J.select([1]).apply(V)[0], J.apply(V.expand(2, 3, 24))[1])


def test_a_mask_is_kept_as_it_was_before_it_was_expanded():
    mask = constant(1, 1, 1, 5).expand(2, 3, 4, 5)
    program = check(*function(4, 5, attn_mask=mask))
    (step,) = (step for step in program.steps if isinstance(step, Attention))
    assert step.weights.mask.shape == (1, 1, 1, 5)


def of_rows(y):
    q = y.view(1, 2, 6, 4)
    return attend(q, q.sin(), q.cos()).view(48)


def gradient_of_attention(y):
    with torch.enable_grad():
        x = y if y.requires_grad else y.detach().requires_grad_()
        return x - torch.autograd.grad(of_rows(x).square().sum(), x, create_graph=True)[0]


@pytest.mark.parametrize(
    "model",
    [
        gradient_of_attention,
        lambda y: y - torch.func.grad(lambda x: of_rows(x).square().sum())(y),
        lambda y: torch.func.jvp(of_rows, (y,), (y.sin(),))[1],
    ],
    ids=["autograd", "grad", "jvp"],
)
def test_models_that_differentiate_attention_themselves(model):
    """Its kernels have no second derivative: there it comes in its plain form."""
    y = torch.rand(48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    J = spectral.jacobian(model, y)
    assert J.method == "frozen"
    with sdpa_kernel(SDPBackend.MATH):
        exact = torch.autograd.functional.jacobian(model, y)
    torch.testing.assert_close(J.dense(), exact)


@pytest.mark.parametrize("method", ["jvp", "double-backward", "differences"])
def test_other_ways(method):
    y = torch.rand(48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    J = spectral.jacobian(of_rows, y, method=method)
    expected = spectral.jacobian(of_rows, y, method="frozen").dense()
    torch.testing.assert_close(J.dense(), expected, atol=1e-6, rtol=1e-6)
