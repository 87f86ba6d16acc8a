"""Subspaces by a mask and constraints against dense linear algebra, and operators between them."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import spectral
from spectral.errors import NotFiniteError, OptionError, ShapeError
from spectral.operators import Compression, Subspace, as_operator
from spectral.operators.space import Space

ONE = torch.ones(5, dtype=torch.float64)


def matrix_of(part, n, dtype=torch.float64):
    """E as (dimension, n)."""
    return part.embed(torch.eye(part.dimension, dtype=dtype)).reshape(-1, n)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(2, 60), st.integers(0, 2**32 - 1), st.data())
def test_an_isometry_onto_what_mask_and_constraints_leave(n, seed, data):
    rng = np.random.default_rng(seed)
    m = data.draw(st.integers(1, n))
    mask = torch.zeros(n, dtype=torch.bool)
    mask[torch.as_tensor(rng.permutation(n)[:m])] = True
    p = data.draw(st.integers(0, m - 1))
    rank = data.draw(st.integers(0, p))
    C = torch.as_tensor(rng.standard_normal((p, rank)) @ rng.standard_normal((rank, n)))
    C = C * torch.as_tensor(10.0 ** rng.uniform(-8, 8, (p, 1)))
    part = Subspace.of((n,), mask, C)
    if part is None:
        assert m == n and rank == 0
        return
    assert part.dimension == m - rank
    E = matrix_of(part, n)
    torch.testing.assert_close(E @ E.T, torch.eye(m - rank, dtype=torch.float64), atol=1e-13, rtol=0)
    assert (E[:, ~mask] == 0).all()
    sizes = torch.linalg.vector_norm(C, dim=-1).clamp(min=1e-300)
    assert ((E @ C.T).abs() <= 1e-13 * n * sizes).all()
    V = torch.as_tensor(rng.standard_normal((3, n)))
    torch.testing.assert_close(part.coordinates(V), V @ E.T, atol=1e-13, rtol=0)


@pytest.mark.parametrize(("dtype", "gap"), [(torch.float32, 1e-7), (torch.float64, 1e-15)])
def test_rows_that_depend_to_rounding_count_once(dtype, gap):
    a, b = torch.randn(2, 200, generator=torch.Generator().manual_seed(0), dtype=dtype)
    nearly = a + gap * b
    assert Subspace.of((200,), None, torch.stack([a, nearly, 3 * a])).dimension == 199
    # What its numbers can tell apart is another direction.
    apart = torch.stack([a, a + 1e4 * gap * b])
    part = Subspace.of((200,), None, apart)
    assert part.dimension == 198
    E = matrix_of(part, 200)
    assert (E @ apart.double().T).abs().max() < 1e-5 if dtype == torch.float32 else 1e-12


def test_what_lies_outside_the_mask_constrains_nothing():
    mask = torch.tensor([1, 1, 1, 0, 0])
    outside = torch.tensor([[0, 0, 0, 1.0, 2.0]])
    assert Subspace.of((5,), mask, outside).dimension == 3
    assert Subspace.of((5,), mask, outside + torch.eye(5)[0]).dimension == 2


def test_shapes_that_are_taken():
    shape = (3, 4, 6)
    for mask in (
        torch.ones(4, 6, dtype=torch.bool).tril(),
        torch.ones(1, 4, 6).tril(),
        torch.ones(4, 6).tril().numpy(),
    ):
        assert Subspace.of(shape, mask).dimension == 3 * 10
    assert Subspace.of(shape, torch.tensor([True, False, True]).reshape(3, 1, 1)).dimension == 48
    for rows in (torch.eye(72)[:2], torch.eye(72)[:2].reshape(2, 3, 4, 6), torch.randn(2, 1, 3, 4, 6)):
        assert Subspace.of((1, *shape), None, rows).dimension == 70
    assert Subspace.of(shape, None, torch.randn(3, 4, 6)).dimension == 71
    assert Subspace.of(shape, torch.ones(4, 6), torch.zeros(2, 72)) is None
    assert Subspace.of(shape, None, torch.zeros(0, 72)) is None


def test_a_batch_may_have_masks_and_constraints_of_its_own():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(3, 1, 5, 5, generator=generator).flatten(1).argsort(-1).lt(12).reshape(3, 1, 5, 5)
    rows = torch.randn(3, 2, 2, 5, 5, generator=generator, dtype=torch.float64)
    together = Subspace.of((2, 5, 5), masks, rows, batch=(3,))
    V = torch.randn(3, 4, 50, generator=generator, dtype=torch.float64)
    X = together.coordinates(V)
    chosen = together.select(torch.tensor([2, 0]))
    torch.testing.assert_close(chosen.embed(X[[2, 0]]), together.embed(X)[[2, 0]])
    for i in range(3):
        alone = Subspace.of((2, 5, 5), masks[i], rows[i])
        P, Q = (matrix_of(part, 50) for part in (alone, _one(together, i)))
        torch.testing.assert_close(P.T @ P, Q.T @ Q, atol=1e-13, rtol=0)
    shared = Subspace.of((2, 5, 5), masks, rows[0], batch=(3,))
    assert shared.dimension == 22
    with pytest.raises(OptionError, match="once an image"):
        Subspace.of((2, 5, 5), torch.tensor([1, 1, 0]).reshape(3, 1, 1, 1) * masks | masks[:1], batch=(3,))
    dependent = rows.clone()
    dependent[1, 1] = dependent[1, 0]
    with pytest.raises(OptionError, match="once an image"):
        Subspace.of((2, 5, 5), None, dependent, batch=(3,))


def _one(part, i):
    """The subspace of problem i."""
    return part.select(torch.tensor([i]))._with(lambda t, axes: t[0] if t.ndim > axes else t)


@pytest.mark.parametrize(
    ("mask", "rows", "error", "words"),
    [
        (torch.zeros(5), None, OptionError, "no entry"),
        (torch.full((5,), 0.5), None, OptionError, "0 and 1"),
        (torch.full((5,), torch.nan), None, OptionError, "0 and 1"),
        ([1, 0, 1, 0, 0], None, OptionError, "tensor"),
        (torch.ones(4), None, ShapeError, "broadcast"),
        (torch.ones(2, 5), None, ShapeError, "broadcast"),
        (None, torch.eye(5), OptionError, "leaves nothing"),
        (torch.tensor([1, 1, 0, 0, 0]), torch.randn(2, 5), OptionError, "leaves nothing"),
        (None, torch.ones(2, 4), ShapeError, "orthogonal_to"),
        (None, torch.ones(5, 2), ShapeError, "orthogonal_to"),
        (None, torch.full((1, 5), torch.inf), NotFiniteError, "orthogonal_to"),
        (None, torch.ones(1, 5, dtype=torch.int64), OptionError, "real"),
        (None, "sky", OptionError, "real"),
    ],
)
def test_bad_input_is_refused(mask, rows, error, words):
    with pytest.raises(error, match=words):
        Subspace.of((5,), mask, rows)
    with pytest.raises(error, match=words):
        spectral.top_eigs(torch.diag(ONE), k=1, mask=mask, orthogonal_to=rows)


def test_a_compression_is_an_operator():
    generator = torch.Generator().manual_seed(0)
    M = torch.randn(7, 9, generator=generator, dtype=torch.float64)
    inputs = Subspace.of((9,), torch.arange(9) < 6, torch.randn(2, 9, generator=generator))
    outputs = Subspace.of((7,), torch.arange(7) > 2)
    R = Compression(as_operator(M), inputs, outputs)
    E, F = matrix_of(inputs, 9), matrix_of(outputs, 7)
    torch.testing.assert_close(R.dense(), F @ M @ E.T)
    torch.testing.assert_close(R.T.dense(), E @ M.T @ F.T)
    S = as_operator(M[:, :7] + M[:, :7].T)
    assert Compression(S, outputs, outputs).symmetric and not Compression(S, outputs, None).symmetric
    exact = torch.trace(S.dense()[3:, 3:]).item()
    assert abs(spectral.trace(Compression(S, outputs, outputs), method="exact").value - exact) < 1e-12
    with pytest.raises(ShapeError, match="does not fit"):
        Compression(S, inputs, inputs)


def test_a_subspace_of_vectors_that_lie_elsewhere_is_refused():
    class Twice(Space):
        def __init__(self, n):
            super().__init__(n)
            self.n = 2 * n

    S = as_operator(torch.eye(8))
    S.domain = S.codomain = Twice(4)
    part = Subspace.of((8,), torch.arange(8) < 4)
    with pytest.raises(ShapeError, match="does not fit"):
        Compression(S, part, part)
