"""Singular triplets against dense LAPACK, closed forms, and the cluster trap."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import spectral
from spectral.errors import NotFiniteError, OptionError
from spectral.linalg.golub_kahan import GolubKahanBasis
from spectral.operators import as_operator, from_functions
from spectral.solvers import GolubKahan
from spectral.solvers.certificate import certify_triplets
from tests.helpers.against_dense import EPS, TRAP
from tests.helpers.calls import golub_kahan
from tests.helpers.spectra import KINDS, spectrum


def rectangular(kind, r, n, rng):
    """U diag(values) V' with random orthogonal U, V."""
    values = np.abs(spectrum(kind, min(r, n), rng))
    U, _ = np.linalg.qr(rng.standard_normal((r, len(values))))
    V, _ = np.linalg.qr(rng.standard_normal((n, len(values))))
    return (U * values) @ V.T


cases = st.tuples(
    st.sampled_from(KINDS),
    st.integers(1, 80),
    st.integers(1, 80),
    st.integers(0, 2**32 - 1),
    st.sampled_from([torch.float32, torch.float64]),
)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases, st.data())
def test_same_singular_values_as_dense_and_nothing_missed(case, data):
    against_dense(*case, data)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases, st.data())
def test_same_singular_values_as_dense_more_often(case, data):
    against_dense(*case, data)


def against_dense(kind, r, n, seed, dtype, data):
    k = data.draw(st.integers(1, min(r, n)))
    block = data.draw(st.integers(1, min(4, n)))
    M = torch.as_tensor(rectangular(kind, r, n, np.random.default_rng(seed))).to(dtype)
    expected = torch.linalg.svdvals(M.double())[:k]
    tol = 1e-5 if dtype == torch.float32 else 1e-8

    found = spectral.top_svd(M, k=k, tol=tol, method=GolubKahan(block), seed=seed)

    scale = max(expected.max().item(), 10 * EPS[dtype])
    assert found.k == k and found.converged.all()
    assert (found.values - expected).abs().max() <= 2 * tol * scale + 50 * EPS[dtype]
    assert found.orthogonality <= 50 * EPS[dtype]
    U, V, A = found.left.double(), found.right.double(), M.double()
    for residual, true in (
        (found.left_residuals, V @ A.T - found.values[:, None] * U),
        (found.right_residuals, U @ A - found.values[:, None] * V),
    ):
        norms = torch.linalg.vector_norm(true, dim=-1)
        torch.testing.assert_close(residual, norms, atol=20 * EPS[dtype], rtol=0.1)


def test_cluster_trap():
    A = from_functions(lambda V: V * TRAP, lambda V: V * TRAP, n=4096, dtype=torch.float64)
    for seed in range(6):
        found = golub_kahan(A, 10, tol=1e-3, seed=seed)
        assert torch.linalg.vector_norm(found.AV, dim=-1).min() > 0.9999


@pytest.mark.parametrize("eps", [1e-3, 1e-6, 1e-9])
def test_lauchli_keeps_small_singular_values(eps):
    """Lauchli's (1, ..., 1; eps I): sqrt(n + eps^2) once and eps n - 1 times, lost to A' A for eps < 1e-8."""
    n = 6
    M = torch.cat([torch.ones(1, n).double(), eps * torch.eye(n).double()])
    found = spectral.top_svd(M, k=n, tol=1e-14, method="golub-kahan")
    expected = torch.tensor([math.sqrt(n + eps**2)] + [eps] * (n - 1), dtype=torch.float64)
    assert (found.values - expected).abs().max() < 1e-14


def test_krylov_relations_at_every_depth():
    """A V' = U' B and A' U' = V' B' + X' C, through a restart, a fresh start and a refresh."""
    rng = np.random.default_rng(0)
    M = torch.as_tensor(rectangular("indefinite", 50, 70, rng))
    generator = torch.Generator().manual_seed(0)
    basis = GolubKahanBasis(as_operator(M), torch.as_tensor(rng.standard_normal((1, 2, 70))), generator)

    def defect(left_out: bool = False) -> float:
        V, U, B = basis.V[0, : basis.columns], basis.U[0, : basis.size], basis.B[0]
        right = torch.cat([V, basis.X[0]])
        parts = [M @ V.T - U.T @ B, U @ U.T - torch.eye(len(U)), right @ right.T - torch.eye(len(right))]
        if not left_out:
            parts.append(M.T @ U.T - V.T @ B.T - basis.X[0].T @ basis.C[0])
        return max(part.abs().max().item() for part in parts)

    for _ in range(6):
        basis.expand()
        assert defect() < 1e-13
    basis.restart(7)
    basis.expand()
    assert defect() < 1e-13
    basis.restart_afresh(4, block=3)
    basis.expand()
    assert defect(left_out=True) < 1e-13
    basis.refresh(4, 1e-14)
    assert defect(left_out=True) < 1e-12
    while not basis.exhausted:
        basis.expand()
    torch.testing.assert_close(basis.ritz()[0][0, :50], torch.linalg.svdvals(M), atol=1e-12, rtol=0)


def test_output_of_another_shape():
    """A model with an output of another shape: vectors come in both shapes."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.Tanh()).double()
    y = torch.rand(1, 3, 9, 8).double()
    J = torch.autograd.functional.jacobian(net, y).reshape(-1, y.numel())
    found = spectral.top_svd(net, y, 5, tol=1e-9)
    assert found.left.shape == (5, 1, 5, 7, 6) and found.right.shape == (5, 1, 3, 9, 8)
    torch.testing.assert_close(found.values, torch.linalg.svdvals(J)[:5], atol=1e-9, rtol=0)
    assert ((found.values - torch.linalg.svdvals(J)[:5]).abs() <= found.errors + 1e-14).all()
    assert "singular value" in repr(found)


def test_above_batched_dense_and_saved(tmp_path):
    rng = np.random.default_rng(3)
    M = torch.stack([torch.as_tensor(rectangular(kind, 60, 90, rng)) for kind in ("random", "cluster")])
    together = spectral.top_svd(M, k=4, tol=1e-8, method="golub-kahan")
    for i in range(2):
        alone = spectral.top_svd(M[i], k=4, method="dense")
        torch.testing.assert_close(together.values[i], alone.values, atol=1e-7, rtol=0)
    exact = torch.linalg.svdvals(M[0])
    above = spectral.top_svd(M[0], above=0.7, method="golub-kahan")
    assert above.k == (exact > 0.7).sum()
    again = spectral.SingularTriplets.load(above.save(tmp_path / "triplets.safetensors"))
    assert torch.equal(again.left, above.left) and repr(again) == repr(above)


def test_refusals():
    with pytest.raises(OptionError, match="from 1 to d = 3"):
        spectral.top_svd(torch.ones(3, 5), k=4)
    A = from_functions(lambda V: V / 0, lambda V: V, n=200)
    with pytest.raises(NotFiniteError, match="product 3"):
        spectral.top_svd(A, k=2)


@pytest.mark.parametrize(("r", "n", "block"), [(2, 18, 8), (3, 200, 4), (200, 3, 4), (1, 40, 2), (5, 6, 16)])
def test_blocks_wider_than_an_operator_is_long(r, n, block):
    M = torch.randn(r, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = torch.linalg.svdvals(M)[: min(2, r, n)]
    values = spectral.top_svd(M, k=len(exact), method=GolubKahan(block)).values
    torch.testing.assert_close(values, exact)
    A = as_operator(M)
    found = golub_kahan(A, len(exact), block=block)
    torch.testing.assert_close(certify_triplets(A, found).values[0], exact)


@pytest.mark.parametrize("seed", range(40))
def test_a_certain_bound_of_wide_matrices_counts_what_was_left_out(seed):
    """With all left vectors found, the right basis may still lack where coarse triplets lead."""
    generator = torch.Generator().manual_seed(seed)
    M = torch.randn(10, 31, generator=generator, dtype=torch.float64)
    true = torch.linalg.svdvals(M)
    above = float(true[3]) * (1 + 1e-7)
    found = spectral.top_svd(M, above=above, tol=0.1, method=GolubKahan(block=1), seed=seed)
    assert found.completeness.confidence == 1
    assert float(found.completeness.bound) >= true[len(found.values)] * (1 - 1e-14)


@pytest.mark.parametrize("seed", range(20))
def test_errors_of_values_near_zero_are_to_a_singular_value(seed):
    """Of ((0, A), (A', 0)) of a wide A zero is an eigenvalue, and of A no singular value."""
    M, _ = torch.linalg.qr(
        torch.randn(40, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )
    M = torch.linspace(1, 0.01, 20, dtype=torch.float64).unsqueeze(-1) * M.T
    true = torch.linalg.svdvals(M)
    found = spectral.top_svd(M, k=20, tol=0.05, method=GolubKahan(block=1), seed=seed)
    off = (found.values.unsqueeze(-1) - true).abs().amin(-1)
    assert (off <= found.errors + 1e-14).all()


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize(("shape", "k"), [((1, 300), 1), ((3, 300), 3), ((300, 3), 3), ((3, 300), 2)])
def test_no_more_values_than_rows(shape, k, block):
    """Once every row is in the left basis nothing is left to bound."""
    M = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = spectral.top_svd(M, k=k, method=GolubKahan(block=block))
    sigma = torch.linalg.svdvals(M)
    torch.testing.assert_close(found.values, sigma[:k])
    assert bool(found.complete)
    if k == min(shape):
        assert found.completeness.bound == -torch.inf and "these are all" in repr(found)
    else:
        torch.testing.assert_close(found.completeness.bound, sigma[k])
