"""The singular value decomposition where LAPACK's fast one does not converge, and next blocks by rounding."""

import math

import pytest
import torch

import spectral
from spectral.linalg import blocks
from spectral.linalg import svd as of
from spectral.linalg.svd import svd


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (2, 6), (3, 2, 4, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_slower_way_gives_the_same(shape, dtype, monkeypatch):
    M = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    values = torch.linalg.svdvals(M)

    def fails(M, full_matrices=True):
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(of.torch.linalg, "svd", fails)
    Y, sigma, Zh = svd(M)
    small = min(shape[-2:])
    assert Y.shape == (*shape[:-1], small) and Zh.shape == (*shape[:-2], small, shape[-1])
    assert {Y.dtype, sigma.dtype, Zh.dtype} == {dtype}
    torch.testing.assert_close(sigma, values)
    torch.testing.assert_close(Y * sigma.unsqueeze(-2) @ Zh, M)


def test_a_solve_survives_it(monkeypatch):
    """Each second decomposition fails."""
    fast, calls = torch.linalg.svd, []

    def sometimes(M, full_matrices=True):
        calls.append(M)
        if len(calls) % 2:
            raise torch.linalg.LinAlgError("did not converge")
        return fast(M, full_matrices=full_matrices)

    A = torch.randn(40, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = torch.linalg.svdvals(A)
    monkeypatch.setattr(of.torch.linalg, "svd", sometimes)
    found = spectral.top_svd(A, k=3, method="golub-kahan")
    torch.testing.assert_close(found.values, values[:3])
    assert len(calls) > 2


@pytest.mark.parametrize("times", [2.0, 30.0])
def test_a_block_next_to_rounding_is_orthogonal_to_what_is_held(times):
    """A remainder that is rounding but for a little has lost its right angle: it is made anew."""
    space = spectral.operators.as_operator(torch.eye(50, dtype=torch.float64)).domain
    basis = torch.linalg.qr(torch.randn(50, 50, dtype=torch.float64))[0]
    held, rest = basis[None, :20], basis[20]
    vanishing = 1e-10
    left = times * vanishing * rest + 0.5 * vanishing * basis[3]
    length = left.norm()
    X, R, _ = blocks.next_block(
        space, (left / length)[None, None], length.reshape(1, 1, 1), held, vanishing, torch.Generator()
    )
    assert float((X[0] @ held[0].mT).abs().max()) < 1e-12 and math.isclose(float(X.norm()), 1, rel_tol=1e-12)
    assert abs(float(X[0, 0] @ rest)) > 1 - 1e-12 and float(R.abs()) < 2 * times * vanishing


def test_a_multiple_of_an_orthogonal_matrix_at_its_own_threshold():
    """Once all is found what is left is rounding, of which no next vector can be made."""
    Q = torch.linalg.qr(
        torch.randn(260, 260, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    )[0]
    found = spectral.top_svd(1e12 * Q, above=1e12, tol=1e-3, seed=1)
    assert found.complete
    torch.testing.assert_close(found.values, torch.full_like(found.values, 1e12), rtol=1e-12, atol=0)
