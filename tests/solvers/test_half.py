"""Operators with products in half precision: what is asked of them, and what is said of the answer."""

import pytest
import torch
from torch import nn

import spectral
from spectral.operators import as_operator, from_functions
from spectral.solvers.checks import check_operator

HALF = [torch.float16, torch.bfloat16]


def matrix(n: int, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    M = ((Q * values) @ Q.T).to(dtype)
    return torch.triu(M) + torch.triu(M, 1).T


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("method", ["lanczos", "lobpcg", "chebyshev"])
@pytest.mark.parametrize("fall", [10, 60])
def test_a_matrix_converges_to_what_its_products_allow(dtype, method, fall):
    values = 1 / (1 + torch.arange(300, dtype=torch.float64) / fall)
    M = matrix(300, values, dtype)
    coarse, fine = (spectral.top_eigs(A, k=3, method=method) for A in (M, M.float()))
    assert coarse.converged.all() and sum(coarse.spent.values()) <= 1.5 * sum(fine.spent.values())
    eps = torch.finfo(dtype).eps
    assert coarse.tolerance == pytest.approx(10 * eps, rel=0.5)
    (note,) = (note for note in coarse.notes if "rounding" in note)
    assert f"{coarse.tolerance.item():.1e} were asked for" in note and str(dtype) in note
    exact = torch.linalg.eigvalsh(M.double())
    assert ((coarse.values[:, None] - exact).abs().amin(1) <= coarse.errors).all()
    assert (coarse.errors >= eps * coarse.values.max() / 2).all()


@pytest.mark.parametrize("dtype", HALF)
def test_singular_values_and_full_eigenvalues(dtype):
    generator = torch.Generator().manual_seed(1)
    M = torch.randn(200, 200, generator=generator).div(200**0.5).to(dtype)
    coarse, fine = (spectral.top_svd(A, k=3) for A in (M, M.float()))
    assert coarse.converged.all() and coarse.products <= 1.5 * fine.products
    exact = torch.linalg.svdvals(M.double())
    assert ((coarse.values[:, None] - exact).abs().amin(1) <= coarse.errors).all()
    M = M + torch.diag(torch.linspace(0, 3, 200).to(dtype))
    coarse, fine = (spectral.top_eigs_full(A, k=3, method="krylov-schur") for A in (M, M.float()))
    assert coarse.converged.all() and coarse.products <= 1.5 * fine.products


@pytest.mark.parametrize("dtype", HALF)
def test_a_network_converges(dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    y = torch.rand(1, 1, 16, 16)
    fine = spectral.top_eigs(net.eval(), y, k=3)
    coarse = spectral.top_eigs(net.to(dtype), y.to(dtype), k=3)
    assert coarse.converged.all() and coarse.products <= 1.5 * fine.products
    assert any("were asked for" in note for note in coarse.notes)
    assert ((coarse.values - fine.values).abs() <= 10 * torch.finfo(dtype).eps * fine.values.max()).all()


def test_rounding_is_inherited():
    half, single, double = (torch.finfo(t).eps for t in (torch.float16, torch.float32, torch.float64))
    coarse = as_operator(torch.randn(4, 4).half())
    cast = coarse.to(torch.float32)
    fine = as_operator(torch.randn(4, 4))
    assert (coarse.eps, cast.eps, fine.eps, fine.to(torch.float64).eps) == (half, half, single, single)
    for A in (cast + fine, fine - cast, cast @ fine, fine @ cast, 2 * cast, -cast, cast.T, cast.gram()):
        assert A.eps == half
    assert cast.symmetric_part().eps == half and (fine + fine).eps == single
    assert as_operator(torch.randn(4, 4).double()).to(torch.float32).eps == single
    batch = as_operator(torch.randn(3, 4, 4).half()).to(torch.float64)
    assert batch.select([0, 2]).eps == half and fine.to(torch.float64).eps > double


def test_a_rounding_of_its_own():
    """Products coarser than their dtype, as TensorFloat-32's, are known by what `eps` says."""
    values = torch.linspace(0, 1, 400)
    A = from_functions(lambda V: (V * values).bfloat16().float(), n=400, symmetric=True)
    A.eps = torch.finfo(torch.bfloat16).eps
    found = spectral.top_eigs(A, k=2)
    assert found.converged.all() and found.products < 200
    exact = values.double()
    assert ((found.values[:, None] - exact).abs().amin(1) <= found.errors).all()


def test_checks_allow_for_it():
    M = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    for dtype in HALF:
        assert check_operator(as_operator(M.to(dtype)).to(torch.float32)) == 5
