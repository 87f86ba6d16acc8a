"""Heads of attention by compiled kernels, against the same in dense float64 matrices."""

import itertools

import pytest
import torch

from spectral.jacobians.cpu import attention

SIZES = [
    ((2, 3), 65, 40, 16, 8),  # more than whole groups of queries; wider than deep
    ((1, 2), 20, 300, 40, 24),  # several blocks of keys, one and a half groups of features
    ((3, 1), 33, 2, 5, 7),  # few keys
]

pytestmark = pytest.mark.skipif(
    not attention.offered(torch.empty(1, 64, 8)), reason="the kernels are for x86 CPUs with AVX2"
)


def drawn(*size):
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size)))


def made(size, known):
    """Heads, and q, k, v, P, o in float64, (B, H, ...)."""
    (B, H), n, m, d, e = size
    q, k, v = drawn(B, H, n, d), drawn(B, H, m, d), drawn(B, H, m, e)
    scale = drawn(B, H, 1, 1).abs() + 0.1
    scores = (q * scale).double() @ k.double().mT
    total = scores.logsumexp(-1, keepdim=True)
    P = (scores - total).exp()
    o = P @ v.double()
    ones = torch.ones(B, H, m, 1)
    held = torch.cat([q * scale, -total.float()], -1), torch.cat([k, ones], -1), torch.cat([v, ones], -1), o
    flat = [t.float().flatten(0, 1).contiguous() for t in held]
    kept = attention.kept(P.float().flatten(0, 1)) if known else None
    heads = attention.Heads(*flat, scale.flatten().contiguous(), kept)
    return heads, scale.double(), *(t.double() for t in (q, k, v)), P, o


def near(got, expected):
    assert (got.double().view(expected.shape) - expected).norm() <= 2e-6 * expected.norm() + 1e-6


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_products_are_those_of_dense_matrices(size, known, threads, monkeypatch):
    """Two vectors at once, tokens before heads in memory or features before tokens; q, k and v, or some."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    heads, s, q, k, v, P, o = made(size, known)
    (B, H), n, m, d, e = size

    def room(tokens, features, features_first):
        if features_first:
            return torch.full((2 * B, H, features, tokens), torch.nan).mT
        return torch.full((2 * B, tokens, H, features), torch.nan).transpose(1, 2)

    for roles, features_first in itertools.product(("qkv", "q", "k", "v", "kv"), (False, True)):
        sizes = (n, d), (m, d), (m, e)
        dq, dk, dv = (room(*of, features_first).copy_(drawn(2 * B, H, *of)) for of in sizes)
        of = {"q": dq, "k": dk, "v": dv}
        given = [of[role] if role in roles else None for role in "qkv"]
        a, b, c = (0 if t is None else t.double().reshape(2, B, H, *t.shape[-2:]) for t in given)
        dS = torch.zeros(2, B, H, n, m, dtype=torch.float64)
        dS = dS + (s * a @ k.mT if "q" in roles else 0) + (s * q @ b.mT if "k" in roles else 0)
        W = P * dS
        expected = W @ v - W.sum(-1, keepdim=True) * o + (P @ c if "v" in roles else 0)
        out = room(n, e, features_first)
        heads.ahead(*given, out)
        near(out, expected)

        u = room(n, e, features_first).copy_(drawn(2 * B, H, n, e))
        U = u.double().view(2, B, H, n, e)
        W = P * (U @ v.mT - (U * o).sum(-1, keepdim=True))
        back = {"q": s * W @ k, "k": W.mT @ (s * q), "v": P.mT @ U}
        into = [room(*t.shape[-2:], features_first) if t is not None else None for t in given]
        heads.back(u, *into)
        for role, got in zip("qkv", into, strict=True):
            if got is not None:
                near(got, back[role])


def test_weights_far_from_the_largest_are_zeros():
    """exp of scores below its range, and of none above it."""
    heads, *_ = made(((1, 1), 40, 50, 8, 8), False)
    heads.q[..., -1] -= 200
    out = torch.full((1, 1, 40, 8), torch.nan)
    heads.ahead(None, None, torch.ones(1, 1, 50, 8), out)
    assert bool((out.abs() < 1e-30).all())
