"""The solver against dense LAPACK, closed forms and the cluster trap."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import spectral
from spectral.errors import NotDeterministicError, NotFiniteError, NotLinearError, NotSymmetricError
from spectral.linalg.blocks import room_for
from spectral.linalg.krylov import KrylovBasis
from spectral.operators import as_operator, from_functions
from spectral.solvers import Lanczos
from tests.helpers.against_dense import EPS, TRAP, sought, values_of
from tests.helpers.calls import lanczos
from tests.helpers.spectra import cases, diagonal, matrix, posed, spectrum


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases, st.data())
def test_same_eigenvalues_as_dense_and_nothing_missed(case, data):
    against_dense(case, data)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases, st.data())
def test_same_eigenvalues_as_dense_more_often(case, data):
    against_dense(case, data)


def against_dense(case, data):
    kind, n, seed, dtype, which = case
    k = data.draw(st.integers(1, n))
    block = data.draw(st.integers(1, min(4, n)))
    M, tol = posed(kind, n, seed, dtype)
    expected = sought(np.linalg.eigvalsh(M.double().numpy()), which)[:k]

    pairs = spectral.top_eigs(
        as_operator(M, symmetric=True), k=k, which=which, tol=tol, method=Lanczos(block), seed=seed
    )

    found = pairs.values.numpy()
    scale = max(np.abs(expected).max(), 10 * EPS[dtype])
    if which == "magnitude":  # +a and -a are in no order
        found, expected = np.abs(found), np.abs(expected)
    assert pairs.k == k
    assert pairs.converged.all()
    assert np.abs(found - expected).max() <= 2 * tol * scale + 50 * EPS[dtype]
    assert pairs.orthogonality <= 50 * EPS[dtype]
    V = pairs.vectors.double()
    true = torch.linalg.vector_norm(V @ M.double() - pairs.values[:, None] * V, dim=-1)
    torch.testing.assert_close(pairs.residuals, true, atol=20 * EPS[dtype], rtol=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cluster_trap(dtype):
    """Twelve eigenvalues within 1.1e-4 at tol 1e-3: one Krylov space sees few of them, the probe the rest."""
    for seed in range(8):
        found = lanczos(diagonal(TRAP.to(dtype)), 10, tol=1e-3, seed=seed)
        assert values_of(found).min() > 0.9999
        assert found.spent["completeness"] < 150


def test_a_probe_starts_as_wide_as_rounding_asks():
    """One start of 200,000 float32 entries is blind to a gap of 1e-3: two vectors from the outset."""
    values = 0.97 * torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    values[:40] = torch.linspace(1.2, 0.98, 40)
    for seed in range(3):
        found = lanczos(diagonal(values), 10, tol=1e-3, seed=seed)
        assert found.spent["completeness"] <= 64


@pytest.mark.slow
def test_cluster_trap_over_100_seeds():
    spent = []
    for seed in range(100):
        found = lanczos(diagonal(TRAP), 10, tol=1e-3, seed=seed)
        assert values_of(found).min() > 0.9999
        spent.append((found.spent["solve"], found.spent["completeness"]))
    print("mean products: solve {:.0f}, completeness {:.0f}".format(*np.mean(spent, axis=0)))


def test_one_krylov_space_alone_falls_into_the_trap():
    """What the probe is for: SciPy's eigsh, with its residuals below the tolerance, misses members."""
    from scipy.sparse.linalg import eigsh

    start = np.random.default_rng(1).standard_normal(4096)
    found = eigsh(diagonal(TRAP).to_scipy(), 10, which="LA", tol=1e-3, v0=start, return_eigenvectors=False)
    assert found.min() < 0.9


@pytest.mark.parametrize(("name", "unrestarted"), [("bell", 108), ("hyperbola", 42), ("geometric", 51)])
def test_products_on_three_spectra(name, unrestarted):
    """Within 15 % of unrestarted block-1 Lanczos with a test at every step (n 4096, k 10, tol 1e-6)."""
    i = torch.arange(4096, dtype=torch.float64)
    values = {"bell": 1 / (1 + (i / 60) ** 2), "hyperbola": 1 / (1 + i / 10), "geometric": 0.97**i}[name]
    found = lanczos(diagonal(values), 10, tol=1e-6)
    torch.testing.assert_close(values_of(found)[0], values[:10], atol=1e-11, rtol=0)
    assert found.spent["solve"] <= 1.15 * unrestarted


@pytest.mark.parametrize("basis", [25, 40])
def test_restarts_reach_the_same_pairs(basis):
    """A Laplacian's crowded top end in a basis far too small for it."""
    n = 400
    values = 2 - 2 * torch.cos(torch.arange(1, n + 1, dtype=torch.float64) * math.pi / (n + 1))
    found = lanczos(diagonal(values), 8, tol=1e-8, basis=basis)
    torch.testing.assert_close(values_of(found)[0], values.flip(0)[:8], atol=1e-8, rtol=0)


def test_krylov_relation_at_every_depth():
    """A V' = V' T + X' C, V orthonormal and orthogonal to X, through restarts and refreshes."""
    rng = np.random.default_rng(0)
    M = torch.as_tensor(matrix(spectrum("indefinite", 60, rng), rng))
    generator = torch.Generator().manual_seed(0)
    basis = KrylovBasis(as_operator(M), torch.as_tensor(rng.standard_normal((1, 3, 60))), generator)

    def defect(left_out: bool = False) -> float:
        V, X = basis.V[0, : basis.size], basis.X[0]
        both = torch.cat([V, X])
        R = M @ V.T - V.T @ basis.T[0] - X.T @ basis.C[0]
        relation = 0.0 if left_out else R.abs().max().item()
        projected = (V @ M @ V.T - basis.T[0]).abs().max().item()
        return max(relation, projected, (both @ both.T - torch.eye(len(both))).abs().max().item())

    for _ in range(8):
        basis.expand()
        assert defect() < 1e-13
    basis.restart(10)
    assert defect() < 1e-13
    basis.expand()
    assert defect() < 1e-13
    theta, residual = basis.ritz()
    Y = torch.linalg.eigh(basis.T[0])[1].flip(1)
    V = Y.T @ basis.V[0, : basis.size]
    true = torch.linalg.vector_norm(V @ M - theta[0, :, None] * V, dim=-1)
    torch.testing.assert_close(residual[0], true, atol=1e-13, rtol=0)
    basis.restart_afresh(5, block=2)
    basis.expand()
    assert defect(left_out=True) < 1e-13
    basis.refresh(4, 1e-14)
    assert defect() < 1e-12
    torch.testing.assert_close(basis.AV[0], basis.V[0, :4] @ M)


def test_all_eigenvalues_above_a_value():
    values = torch.linspace(-1, 1, 500, dtype=torch.float64)
    pairs = spectral.top_eigs(diagonal(values), above=0.9)
    assert pairs.k == (values > 0.9).sum() and pairs.values.min() > 0.9
    below = spectral.top_eigs(diagonal(values), above=-0.95, which="smallest")
    assert below.k == (values < -0.95).sum() and below.values.max() < -0.95
    both = spectral.top_eigs(diagonal(values), above=0.97, which="magnitude")
    assert both.k == (values.abs() > 0.97).sum()
    none = spectral.top_eigs(diagonal(values), above=1.5)
    assert none.k == 0 and none.complete and none.vectors.shape == (0, 500)


def test_batched_problems_equal_single_ones():
    rng = np.random.default_rng(1)
    kinds = ("cluster", "low rank", "indefinite", "identity")
    M = torch.stack([torch.as_tensor(matrix(spectrum(kind, 80, rng), rng)) for kind in kinds])
    together = spectral.top_eigs(as_operator(M, symmetric=True), k=7, tol=1e-8, method="lanczos")
    assert together.values.shape == (4, 7) and together.vectors.shape == (4, 7, 80)
    assert together.converged.all()
    for i in range(4):
        alone = spectral.top_eigs(M[i], k=7, tol=1e-8, method="dense")
        torch.testing.assert_close(together.values[i], alone.values, atol=1e-8, rtol=0)


def test_start_vectors_are_used():
    """From eigenvectors the solve needs little more than one product for each."""
    values = 1 / (1 + torch.arange(2000, dtype=torch.float64) / 200) ** 2
    cold = lanczos(diagonal(values), 5, tol=1e-4)
    warm = lanczos(diagonal(values), 5, tol=1e-4, start=cold.vectors)
    assert warm.spent["solve"] < cold.spent["solve"] / 2
    torch.testing.assert_close(values_of(warm), values_of(cold), atol=1e-6, rtol=0)


def test_budget_is_kept_and_unconverged_pairs_are_marked():
    values = torch.linspace(0, 1, 2000, dtype=torch.float64)
    pairs = spectral.top_eigs(diagonal(values), k=5, max_products=30)
    assert pairs.spent["solve"] + pairs.spent["completeness"] <= 30
    assert not pairs.converged.all() and not pairs.complete
    assert any("max_products" in note for note in pairs.notes)
    assert (pairs.residuals[~pairs.converged] > pairs.tolerance).all()


def test_interrupted_solve_returns_what_it_has():
    values = torch.linspace(0, 1, 2000, dtype=torch.float64)

    def product(V):
        if A.count > 40:
            A.forward = lambda V: V * values  # the certificate's products must go through
            raise KeyboardInterrupt
        return V * values

    A = from_functions(product, n=2000, symmetric=True, dtype=torch.float64)
    pairs = spectral.top_eigs(A, k=5)
    assert pairs.k == 5 and "interrupted" in pairs.notes and not pairs.complete


def test_not_finite_products_are_refused():
    def product(V):
        return V * float("nan") if A.count > 10 else V * torch.linspace(0, 1, 300)

    A = from_functions(product, n=300, symmetric=True)
    with pytest.raises(NotFiniteError, match="product 11"):
        spectral.top_eigs(A, k=5)


def test_tolerance_beyond_the_precision_is_told():
    pairs = spectral.top_eigs(diagonal(torch.linspace(0, 1, 300)), k=3, tol=1e-12)
    assert pairs.tolerance > 1e-7 and any("rounding" in note for note in pairs.notes)


def test_an_operator_that_is_not_what_it_says_is_refused():
    M = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    skewed = from_functions(lambda V: V @ M.T, n=300, symmetric=True)
    with pytest.raises(NotSymmetricError, match="not symmetric"):
        spectral.top_eigs(skewed, k=4)
    bent = from_functions(lambda V: V.relu(), n=300, symmetric=True)
    with pytest.raises(NotLinearError, match="not linear"):
        spectral.top_eigs(bent, k=4)
    noisy = from_functions(lambda V: V + 0.1 * torch.randn_like(V), n=300, symmetric=True)
    with pytest.raises((NotLinearError, NotDeterministicError)):
        spectral.top_eigs(noisy, k=4)
    drifting = from_functions(lambda V: V * (1 + drifting.count // 4), n=300, symmetric=True)
    with pytest.raises(NotDeterministicError, match="differ"):
        spectral.top_eigs(drifting, k=4)
    wrong = from_functions(lambda V: V @ M.T, lambda V: V @ M.T, n=300)
    with pytest.raises(NotSymmetricError, match="transpose"):
        spectral.top_svd(wrong, k=4)


@given(st.integers(8, 400))
def test_a_basis_and_its_copy_are_half_as_large_again_as_where_it_restarts(most):
    room = 0
    for rows in range(1, most + 1):
        if rows > room:
            larger = room_for(rows, room, most)
            assert larger >= rows and room + larger <= 1.5 * most
            room = larger
    assert room == most
    assert room_for(most + 1, most, most) > most + 1  # a probe goes on beyond


def test_a_basis_is_compressed_into_the_memory_that_it_has():
    A = as_operator(torch.diag(torch.linspace(0, 1, 300)))
    first = A.domain.normal(1, 1, generator=torch.Generator().manual_seed(0)).float()
    basis = KrylovBasis(A, first, torch.Generator().manual_seed(1))
    basis.most = 50
    for _ in range(50):
        basis.expand()
    place = basis.V.data_ptr()
    theta, _ = basis.ritz()
    basis.restart(20)
    assert basis.size == 20 and basis.V.shape[1] == 50
    torch.testing.assert_close(basis.ritz()[0], theta[:, :20], rtol=0, atol=1e-6)
    while basis.size < 50:
        basis.expand()
    assert basis.V.data_ptr() == place
    V = basis.V[:, :50].double()
    left = V @ torch.diag(torch.linspace(0, 1, 300)).double()
    rest = left - basis.T @ V - basis.C.mT @ basis.X.double()
    assert rest.abs().max() < 1e-5
