"""LOBPCG against dense LAPACK, closed forms, the cluster trap and preconditioners."""

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LaplacianNd

from spectral.errors import NotFiniteError, NotSymmetricError, OptionError
from spectral.operators import as_operator, from_functions
from tests.helpers.against_dense import TRAP, agree, sought, values_of
from tests.helpers.calls import lanczos, lobpcg
from tests.helpers.spectra import cases, diagonal, matrix, posed, spectrum

SIDE = 24


@pytest.fixture
def laplacian():
    """-Laplacian of a grid with zero walls, and its eigenvalues."""
    grid = LaplacianNd((SIDE, SIDE), boundary_conditions="dirichlet", dtype=np.float64)
    return as_operator(-grid.tosparse().astype(np.float64)), torch.as_tensor(np.sort(-grid.eigenvalues()))


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases, st.data())
def test_same_eigenvalues_as_dense_and_nothing_missed(case, data):
    kind, n, seed, dtype, which = case
    k = data.draw(st.integers(1, n))
    block = data.draw(st.integers(1, 4))
    width = data.draw(st.sampled_from([None, k, k + 5]))
    M, tol = posed(kind, n, seed, dtype)
    A = as_operator(M, symmetric=True)
    found = lobpcg(A, k, which=which, tol=tol, block=block, width=width, seed=seed)
    agree(found, M, sought(np.linalg.eigvalsh(M.double().numpy()), which)[:k], which, tol)
    assert sum(found.spent.values()) == A.count


@pytest.mark.parametrize("block", [1, 10])
@pytest.mark.parametrize("seed", range(3))
def test_cluster_trap(seed, block):
    found = lobpcg(diagonal(TRAP), 10, tol=1e-3, seed=seed, block=block)
    assert values_of(found).min() > 0.9999 and found.completeness.bound < 1.1


def test_products_on_three_spectra():
    """Half of what scipy's lobpcg takes at least (384, 144, 180 for n 4096, k 10, tol 1e-6)."""
    i = torch.arange(4096, dtype=torch.float64)
    for values, peer in ((1 / (1 + (i / 60) ** 2), 384), (1 / (1 + i / 10), 144), (0.97**i, 180)):
        found = lobpcg(diagonal(values), 10, tol=1e-6)
        torch.testing.assert_close(values_of(found)[0], values[:10], atol=1e-10, rtol=0)
        assert found.spent["solve"] < 0.65 * peer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_preconditioner_pays(laplacian, dtype):
    """-Laplacian plus a potential well, with the inverse of the Laplacian and the mean potential."""
    A, eigenvalues = laplacian
    x = torch.linspace(-1, 1, SIDE, dtype=torch.float64)
    well = 0.2 * (x[:, None] ** 2 + 2 * (x[None] - 0.3) ** 2).flatten()
    M = A.dense() + torch.diag(well)
    lowest = eigenvalues.reshape(-1)[0] + well.mean()
    grid = 2 - 2 * np.cos(np.pi * np.arange(1, SIDE + 1) / (SIDE + 1))

    def inverse(V):
        spectrum = scipy.fft.dstn(V.reshape(-1, SIDE, SIDE).numpy(), type=1, axes=(1, 2))
        spectrum /= grid[:, None] + grid[None] + well.mean().item()
        return torch.as_tensor(scipy.fft.idstn(spectrum, type=1, axes=(1, 2))).reshape(V.shape).to(V.dtype)

    S = as_operator(M.to(dtype), symmetric=True)
    tol = 1e-4
    plain, helped = (lobpcg(S, 5, which="smallest", tol=tol, preconditioner=T) for T in (None, inverse))
    expected = np.linalg.eigvalsh(M.numpy())[:5]
    assert expected[0] < lowest + 1
    for found in (plain, helped):
        agree(found, S.matrix, expected.astype(np.float64), "smallest", 2 * tol)
    assert helped.spent["solve"] < plain.spent["solve"] / 2
    assert helped.spent["solve"] < lanczos(S, 5, which="smallest", tol=tol).spent["solve"] / 1.5


def test_laplacian_in_closed_form(laplacian):
    """Its eigenvalues come in pairs, by symmetry."""
    A, eigenvalues = laplacian
    for which, expected in (("smallest", eigenvalues[:8]), ("largest", eigenvalues.flip(0)[:8])):
        found = lobpcg(A, 8, which=which, tol=1e-7)
        torch.testing.assert_close(values_of(found)[0], expected, atol=1e-9, rtol=0)


def test_all_beyond_a_value():
    values = torch.linspace(-1, 1, 500, dtype=torch.float64)
    assert lobpcg(diagonal(values), above=0.9).vectors.shape[1] == (values > 0.9).sum()
    assert lobpcg(diagonal(values), which="smallest", above=-0.95).vectors.shape[1] == (values < -0.95).sum()
    assert lobpcg(diagonal(values), which="magnitude", above=0.97).vectors.shape[1] == 16
    assert lobpcg(diagonal(values), above=1.5).vectors.shape[1] == 0


def test_batched_problems_equal_single_ones():
    rng = np.random.default_rng(1)
    kinds = ("cluster", "low rank", "indefinite", "identity")
    M = torch.stack([torch.as_tensor(matrix(spectrum(kind, 80, rng), rng)) for kind in kinds])
    together = lobpcg(as_operator(M, symmetric=True), 7, tol=1e-8)
    expected = torch.linalg.eigvalsh(M).flip(-1)[:, :7]
    torch.testing.assert_close(values_of(together), expected, atol=1e-8, rtol=0)


def test_a_start_is_used():
    values = 1 / (1 + torch.arange(2000, dtype=torch.float64) / 200) ** 2
    cold = lobpcg(diagonal(values), 5, tol=1e-4)
    warm = lobpcg(diagonal(values * 1.001), 5, tol=1e-4, start=cold.vectors)
    assert warm.spent["solve"] < cold.spent["solve"] / 5
    torch.testing.assert_close(values_of(warm)[0], 1.001 * values[:5], atol=1e-5, rtol=0)


def test_a_useless_preconditioner_ends_in_lanczos():
    """One that returns a fixed row brings nothing: it stagnates, says so, and Lanczos finds the pairs."""
    values = torch.linspace(0, 1, 400, dtype=torch.float64) ** 4
    row = torch.ones(1, 400, dtype=torch.float64)
    found = lobpcg(diagonal(values), 3, preconditioner=row.expand_as)
    torch.testing.assert_close(values_of(found)[0], values.flip(0)[:3], atol=1e-6, rtol=0)
    assert any("Lanczos went on" in note for note in found.notes)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_multiple_of_the_identity_takes_few_products(value):
    found = lobpcg(diagonal(torch.full((500,), value, dtype=torch.float64)), 4)
    assert found.spent["solve"] < 10
    torch.testing.assert_close(values_of(found), torch.full((1, 4), value, dtype=torch.float64))


def test_budget_is_kept():
    found = lobpcg(diagonal(torch.linspace(0, 1, 2000, dtype=torch.float64)), 5, max_products=60)
    assert found.spent["solve"] + found.spent["completeness"] <= 60
    assert found.vectors.shape[1] == 5 and any("max_products" in note for note in found.notes)


def test_interrupted_solve_returns_what_it_has():
    values = torch.linspace(0, 1, 2000, dtype=torch.float64)

    def product(V):
        if A.count > 40:
            A.forward = lambda V: V * values
            raise KeyboardInterrupt
        return V * values

    A = from_functions(product, n=2000, symmetric=True, dtype=torch.float64)
    found = lobpcg(A, 5)
    assert (
        found.vectors.shape[1] == 5 and found.notes == ["interrupted"] and found.completeness.confidence == 0
    )


def test_bad_input_is_refused():
    A = diagonal(torch.linspace(0, 1, 50, dtype=torch.float64))
    with pytest.raises(OptionError, match="width"):
        lobpcg(A, 5, width=4)
    with pytest.raises(NotFiniteError, match="preconditioner"):
        lobpcg(A, 5, preconditioner=lambda V: V / 0)
    M = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    with pytest.raises(NotSymmetricError):
        lobpcg(from_functions(lambda V: V @ M.T, n=300, symmetric=True), 4)
