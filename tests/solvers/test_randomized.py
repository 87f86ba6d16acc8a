"""Randomised block Krylov: exact where the budget spans the space, honest where it does not."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectral.errors import NotFiniteError, NotSymmetricError, OptionError
from spectral.operators import as_operator, from_functions
from tests.helpers.against_dense import EPS, TRAP, agree, sought, values_of
from tests.helpers.calls import randomized, randomized_svd
from tests.helpers.spectra import cases, diagonal, matrix, posed, spectrum


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases, st.data())
def test_with_products_to_spare_it_agrees_with_dense(case, data):
    kind, n, seed, dtype, which = case
    k = data.draw(st.integers(1, n))
    block = data.draw(st.sampled_from([None, 1, 3]))
    M, tol = posed(kind, n, seed, dtype)
    A = as_operator(M, symmetric=True)
    found = randomized(A, k, products=4 * n + 20, which=which, tol=tol, block=block, seed=seed)
    agree(found, M, sought(np.linalg.eigvalsh(M.double().numpy()), which)[:k], which, tol)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases, st.data())
def test_within_any_budget_residuals_and_bounds_are_true(case, data):
    """Each value within its residual of an eigenvalue, none past the true ones, and no lie about the rest."""
    kind, n, seed, dtype, which = case
    k = data.draw(st.integers(1, n))
    products = data.draw(st.integers(2 * k + 2, 3 * k + 30))
    M, _ = posed(kind, n, seed, dtype)
    A = as_operator(M, symmetric=True)
    found = randomized(A, k, products=products, which=which, tol=1e-12, seed=seed)
    assert A.count <= products
    assert found.vectors.shape == (1, k, n)
    exact = np.linalg.eigvalsh(M.double().numpy())
    V = found.vectors[0].double()
    theta = values_of(found)[0].double()
    rounding = 100 * EPS[dtype] * max(1, np.abs(exact).max())
    torch.testing.assert_close(found.images[0].double(), V @ M.double(), atol=rounding, rtol=0)
    residual = torch.linalg.vector_norm(V @ M.double() - theta[:, None] * V, dim=1).numpy()
    nearest = np.abs(theta.numpy()[:, None] - exact).min(1)
    assert (nearest <= residual + rounding).all()
    if which != "magnitude":  # Cauchy: Ritz values never pass the eigenvalues
        sign = -1 if which == "smallest" else 1
        assert (np.sort(sign * theta.numpy())[::-1] <= np.sort(sign * exact)[::-1][:k] + rounding).all()
        bound = sign * found.completeness.bound.item()
        assert (sign * exact > bound + rounding).sum() <= k


def test_wide_blocks_see_a_cluster_that_one_vector_does_not():
    wide, narrow = (randomized(diagonal(TRAP), 10, products=100, block=b, seed=0) for b in (10, 1))
    assert values_of(wide).min() > 0.9 > values_of(narrow).min()
    assert any("ended" in note for note in narrow.notes)


@pytest.mark.parametrize("seed", range(3))
def test_cluster_trap(seed):
    found = randomized(diagonal(TRAP), 10, products=300, tol=1e-3, seed=seed, block=1)
    assert values_of(found).min() > 0.9999


def test_low_rank_is_exact_in_few_products():
    rng = np.random.default_rng(0)
    M = torch.as_tensor(matrix(np.where(np.arange(300) < 8, 1.0 + np.arange(300), 0.0), rng))
    found = randomized(as_operator(M), 8, products=40, tol=1e-10)
    torch.testing.assert_close(values_of(found)[0], torch.arange(8, 0, -1).double(), atol=1e-12, rtol=0)


def test_all_above_a_value_and_batches():
    values = 0.9 ** torch.arange(300, dtype=torch.float64)
    found = randomized(diagonal(values), products=120, above=0.5)
    assert found.vectors.shape[1] == (values > 0.5).sum()
    assert randomized(diagonal(values), products=60, above=2.0).vectors.shape[1] == 0
    assert randomized(diagonal(values), products=200, above=0.0).vectors.shape[1] > 50
    rng = np.random.default_rng(1)
    M = torch.stack(
        [torch.as_tensor(matrix(spectrum(kind, 60, rng), rng)) for kind in ("cluster", "low rank")]
    )
    both = randomized(as_operator(M, symmetric=True), 5, products=300, tol=1e-9)
    torch.testing.assert_close(values_of(both), torch.linalg.eigvalsh(M).flip(-1)[:, :5], atol=1e-9, rtol=0)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (1, 30), (30, 1), (50, 50)])
def test_singular_triplets(shape):
    rng = np.random.default_rng(2)
    M = torch.as_tensor(rng.standard_normal(shape)) * 0.8 ** torch.arange(shape[1], dtype=torch.float64)
    k = min(4, *shape)
    A = as_operator(M)
    found = randomized_svd(A, k, products=40, tol=1e-9)
    assert A.count <= 2 * 40
    sigma = torch.linalg.vector_norm(found.images[0][0], dim=-1)
    torch.testing.assert_close(sigma, torch.linalg.svdvals(M)[:k], atol=1e-8, rtol=0)


def test_bad_input_is_refused():
    A = diagonal(torch.linspace(0, 1, 50, dtype=torch.float64))
    with pytest.raises(OptionError, match="at least 12"):
        randomized(A, 5, products=11)
    with pytest.raises(OptionError, match="at least 12"):
        randomized_svd(A, 5, products=11)
    M = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    with pytest.raises(NotSymmetricError):
        randomized(from_functions(lambda V: V @ M.T, n=300, symmetric=True), 4, products=60)
    with pytest.raises(NotFiniteError):
        randomized(from_functions(lambda V: V / 0, n=300, symmetric=True), 4, products=60)
