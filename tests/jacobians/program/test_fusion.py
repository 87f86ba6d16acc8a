"""Attention as networks write it by hand: found, whatever the form, and not where it is something else."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import spectral
from spectral.jacobians.program import fusion
from spectral.jacobians.program.rules import attention
from spectral.jacobians.program.rules.attention import Attention
from spectral.jacobians.program.rules.products import Matmul, Softmax
from tests.helpers.dense_programs import dense_of, program_of, tensors_in

SIZE = (2, 3, 5, 4)  # images, heads, tokens, depth


def three(y):
    """Queries, keys and values."""
    return y, y.sin(), y.cos()


def stacks(y):
    """The same, images and heads in one axis."""
    return tuple(t.flatten(0, 1) for t in three(y))


def edm(y):
    q, k, v = (t.mT for t in stacks(y))
    w = torch.einsum("ncq,nck->nqk", q, k / np.sqrt(k.shape[1])).softmax(dim=2)
    return torch.einsum("nqk,nck->ncq", w, v)


def guided_diffusion(y):
    q, k, v = (t.mT for t in stacks(y))
    scores = torch.einsum("bct,bcs->bts", q * 2**-0.5, k * 2**-0.5)
    return torch.einsum("bts,bcs->bct", torch.softmax(scores.float(), -1).to(y.dtype), v)


def diffusers(y, mask=None):
    q, k, v = stacks(y)
    added = torch.empty(6, 5, 5, dtype=y.dtype) if mask is None else mask.expand(6, 5, 5)
    beta = 0 if mask is None else 1
    scores = torch.baddbmm(added, q, k.transpose(-1, -2), beta=beta, alpha=0.3)
    return torch.bmm(scores.softmax(-1), v)


def timm(y, bias=0.0):
    q, k, v = three(y)
    return (((q * 0.5) @ k.transpose(-2, -1) + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)


def latent_diffusion(y):
    q, k, v = (t.transpose(1, 2) for t in three(y))  # tokens before heads
    scores = torch.einsum("b i h d, b j h d -> b h i j", q, k) * 0.5
    return torch.einsum("b h i j, b j h d -> b i h d", scores.softmax(dim=-1), v)


def compvis(y):
    q, k, v = (t.mT for t in stacks(y))
    w = torch.bmm(q.permute(0, 2, 1), k) * 0.5
    w = nn.functional.softmax(w, dim=2).permute(0, 2, 1)
    return torch.bmm(v, w)


def filled(y, mask, value):
    q, k, v = three(y)
    return (q @ k.mT).masked_fill(mask, value).softmax(-1) @ v


def where(y, mask):
    q, k, v = three(y)
    return torch.where(mask, torch.tensor(-torch.inf, dtype=y.dtype), q @ k.mT).softmax(-1) @ v


def in_place(y, mask):
    q, k, v = three(y)
    scores = q @ k.mT
    scores *= 0.5
    scores += 0.1 * mask
    scores.masked_fill_(mask, -torch.inf)
    return scores.softmax(-1) @ v


def temperatures(y):
    q, k, v = (nn.functional.normalize(t, dim=-1) for t in three(y))
    return ((q @ k.mT) * torch.tensor([1.0, 10.0, 0.3]).to(y).view(3, 1, 1)).softmax(-1) @ v


def over_rows(y):
    q, k, v = three(y)
    return (k @ q.mT).softmax(-2).mT @ v


def keys_from_elsewhere(y):
    q, context = y, torch.linspace(-1, 1, 2 * 3 * 7 * 4).view(2, 3, 7, 4).to(y)
    return (q @ context.mT / 2).softmax(-1) @ context[..., :3].sin()


def queries_from_elsewhere(y):
    queries = torch.linspace(-1, 1, 2 * 3 * 7 * 4).view(2, 3, 7, 4).to(y)
    return (queries @ y.mT).softmax(-1) @ y.cos()


def matrices(y):
    t = y.flatten(0, 2)
    return (t @ t.T).softmax(-1) @ t


def of_torch(y, **options):
    with sdpa_kernel(SDPBackend.MATH):
        return nn.functional.scaled_dot_product_attention(*three(y), **options)


def weights_returned_too(y):
    P = (y @ y.mT).softmax(-1)
    return P @ y + 0 * P.mean()


HIDDEN = torch.linspace(0, 9, 25).sin().view(5, 5) > 0.5
HIDDEN[:, 1] = False
BIAS = torch.linspace(-1, 1, 75, dtype=torch.float64).view(1, 3, 5, 5)
FORMS = {
    "EDM": edm,
    "guided diffusion": guided_diffusion,
    "diffusers": diffusers,
    "diffusers, masked": lambda y: diffusers(y, torch.linspace(0, 3, 5, dtype=y.dtype).sin().view(1, 1, 5)),
    "timm": timm,
    "timm, biased": lambda y: timm(y, BIAS),
    "latent diffusion": latent_diffusion,
    "CompVis": compvis,
    "filled": lambda y: filled(y, HIDDEN, -torch.inf),
    "filled by a number": lambda y: filled(y, HIDDEN, -1e9),
    "where": lambda y: where(y, HIDDEN),
    "in place": lambda y: in_place(y, HIDDEN),
    "temperatures": temperatures,
    "over rows": over_rows,
    "keys from elsewhere": keys_from_elsewhere,
    "queries from elsewhere": queries_from_elsewhere,
    "matrices": matrices,
    "of torch": of_torch,
    "of torch, causal": lambda y: of_torch(y, is_causal=True),
    "of torch, of rows that see nothing": lambda y: of_torch(y, attn_mask=torch.arange(5)[:, None] > HIDDEN),
    "weights looked at": weights_returned_too,
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("tile", [1 << 19, 7])
def test_forms(name, tile, monkeypatch):
    monkeypatch.setitem(attention.TILE, "cpu", tile)
    if tile < 1 << 19:
        monkeypatch.setattr(attention, "_BACKWARD", None)
        monkeypatch.setattr(attention, "KEPT", 0)
    y = torch.randn(SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    program = program_of(FORMS[name], y)
    assert sum(isinstance(step, Attention) for step in program.steps) == 1
    if name != "weights looked at":
        assert not any(isinstance(step, (Matmul, Softmax)) for step in program.steps)
    exact, ahead, back = dense_of(FORMS[name], y, program)
    tolerance = 1e-5 if name == "guided diffusion" else 1e-11
    torch.testing.assert_close(ahead, exact, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(back, exact, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", FORMS)
def test_forms_in_single_precision(name):
    y = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
    model = FORMS[name]
    if name == "timm, biased":
        model = lambda y: timm(y, BIAS.float())  # noqa: E731
    program = program_of(model, y)
    assert any(isinstance(step, Attention) for step in program.steps)
    exact, ahead, back = dense_of(model, y, program)
    torch.testing.assert_close(ahead, exact, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(back, exact, atol=1e-4, rtol=1e-4)


def masks_of(program):
    return [step.weights.mask for step in program.steps if isinstance(step, Attention)]


@pytest.mark.parametrize(
    ("name", "size", "dtype"),
    [
        ("filled by a number", (1, 1, 5, 5), torch.bool),
        ("in place", (1, 1, 5, 5), torch.bool),
        ("timm, biased", (1, 3, 5, 5), torch.float64),
        ("diffusers, masked", (1, 1, 5), torch.float64),
    ],
)
def test_masks_are_kept_once_for_all_that_share_them(name, size, dtype):
    y = torch.randn(SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (mask,) = masks_of(program_of(FORMS[name], y))
    assert mask.shape == size and mask.dtype is dtype


def test_no_mask_is_made_of_rounding():
    y = 5 * torch.randn(1, 2, 60, 8, generator=torch.Generator().manual_seed(0))
    for name in ("timm", "EDM", "guided diffusion", "diffusers", "latent diffusion"):
        model = FORMS[name]
        y = y if name != "diffusers" else 5 * torch.randn(SIZE)
        assert masks_of(program_of(model, y)) == [None]


def changed_afterwards(y):
    P = (y @ y.mT).softmax(-1)
    return (P + 0.1) @ y


def left_out_afterwards(y):
    P = (y @ y.mT).softmax(-1)
    return P.masked_fill(HIDDEN, 0) @ y


def left_out_at_zero(y):
    """A mask that gives some scores the value 0 does not give them the weight 0."""
    return (y @ y.mT).masked_fill(HIDDEN, 0).softmax(-1) @ y


def biased_by_y(y):
    return (y @ y.mT + y.mean(-1, keepdim=True)).softmax(-1) @ y


def turned_about(y):
    return (y @ y.mT).softmax(-1).mT @ y


@pytest.mark.parametrize(
    "model", [changed_afterwards, left_out_afterwards, left_out_at_zero, biased_by_y, turned_about]
)
def test_what_is_no_attention_is_left_as_it_is(model):
    y = torch.randn(SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    program = program_of(model, y)
    assert not any(isinstance(step, Attention) for step in program.steps)
    exact, ahead, back = dense_of(model, y, program)
    torch.testing.assert_close(ahead, exact, atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(back, exact, atol=1e-11, rtol=1e-11)


def test_uniform_weights_are_no_licence():
    """Where all weights are alike nothing but how they came tells them from their transposes."""
    y = torch.ones(1, 1, 4, 3, dtype=torch.float64)
    program = program_of(turned_about, y)
    exact, ahead, _ = dense_of(turned_about, y, program)
    torch.testing.assert_close(ahead, exact, atol=1e-12, rtol=0)


def test_a_wrong_step_is_found_out(monkeypatch):
    """It is held against the steps that it replaces, which stay where it differs."""
    y = torch.randn(SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    apply = Attention.apply
    monkeypatch.setattr(Attention, "apply", lambda self, *ts: apply(self, *ts) * (1 + 1e-6))
    program = program_of(timm, y)
    assert not any(isinstance(step, Attention) for step in program.steps)
    assert any(isinstance(step, Softmax) for step in program.steps)
    exact, ahead, _ = dense_of(timm, y, program)
    torch.testing.assert_close(ahead, exact)


def test_products_keep_what_they_need():
    """A factor that no product needs is kept for attention to be made of it, and no longer."""
    context = torch.linspace(-1, 1, 3 * 40 * 4, dtype=torch.float64).view(3, 4, 40)
    y = torch.randn(3, 50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    program = program_of(lambda y: (y @ context).tanh(), y)
    (step,) = (step for step in program.steps if isinstance(step, Matmul))
    assert sum(t.numel() for t in tensors_in(step)) == context.numel()
    exact, ahead, back = dense_of(
        lambda y: (y @ context).tanh(), y[:, :3], program_of(lambda y: (y @ context).tanh(), y[:, :3])
    )
    torch.testing.assert_close(ahead, exact)
    torch.testing.assert_close(back, exact)


def test_settled_steps_do_the_same():
    y = torch.randn(2, 3, 4, dtype=torch.float64)
    record = spectral.jacobian(lambda y: (y @ y.mT).softmax(-1), y)
    assert record.method == "frozen"
    assert not any(isinstance(step, fusion.SoftmaxOfScores) for step in record._program.steps)
    exact = torch.func.jacrev(lambda y: (y @ y.mT).softmax(-1))(y).reshape(18, 24)
    torch.testing.assert_close(record.dense(), exact)
