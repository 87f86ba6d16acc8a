"""Certificates where rounding is as large as what they speak of: low rank, thresholds, long sums."""

import numpy as np
import pytest
import torch

import spectral
from spectral.linalg.unseen import least_share, unseen_bound
from spectral.operators import as_operator, from_functions
from tests.helpers.spectra import diagonal, matrix

LOW_RANK = torch.zeros(30_000)
LOW_RANK[:3] = torch.tensor([1, 2e-4, 2e-4])
DOORS = {
    "largest": lambda seed: spectral.top_eigs(diagonal(LOW_RANK), k=3, seed=seed),
    "smallest": lambda seed: spectral.top_eigs(diagonal(-LOW_RANK), k=3, which="smallest", seed=seed),
    "magnitude": lambda seed: spectral.top_eigs(diagonal(-LOW_RANK), k=3, which="magnitude", seed=seed),
    "above": lambda seed: spectral.top_eigs(diagonal(LOW_RANK), above=1e-4, seed=seed),
    "svd": lambda seed: spectral.top_svd(diagonal(LOW_RANK), k=3, seed=seed),
    "full": lambda seed: spectral.top_eigs_full(diagonal(LOW_RANK), k=3, seed=seed),
}


@pytest.mark.parametrize("door", DOORS)
def test_small_eigenvalues_of_low_rank_are_found(door):
    """2e-4 twice beside 1 in float32: a start holds 1/sqrt(n) of each, its product less than 10 eps |A|."""
    for seed in range(3):
        found = DOORS[door](seed)
        size = torch.as_tensor(found.values).abs()
        torch.testing.assert_close(size, torch.tensor([1, 2e-4, 2e-4]).double(), rtol=1e-3, atol=0)
        assert 0 < found.completeness.bound.abs() < 2.1e-4 and found.complete


def test_bound_allows_for_what_products_absorb():
    """x + mu u u' x - x in float32: each entry of mu u u' x is below half a unit in the last place of x's."""
    n, mu = 10_000, 2e-6
    u = torch.ones(n) / n**0.5
    absorbing = from_functions(
        lambda V: (V + mu * (V @ u)[:, None] * u) - V, n=n, symmetric=True, dtype=torch.float32
    )
    small = from_functions(lambda V: V * 1.0, n=n, symmetric=True, dtype=torch.float32)
    found = spectral.top_eigs(small + absorbing, k=1, method="lanczos")
    assert found.completeness.bound >= 1 + mu


def test_bound_without_coupling_is_rounding_over_the_least_share():
    """T = 0, C = 0: all that a start x saw of mu u is mu <x, u>, hidden where that is below e."""
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    bound = unseen_bound(zero, zero, block=1, dimension=1000, failure=0.01, error=1e-7).item()
    expected = 1e-7 / least_share(1, 1000, 0.01)
    assert expected <= bound <= 1.1 * expected
    assert unseen_bound(zero, zero, block=1, dimension=1000, failure=0.01).item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("method", "sought"),
    [
        *[(method, {"above": 1.0}) for method in ("lanczos", "lobpcg", "chebyshev", "dense")],
        *[(method, {"above": 1.0, "which": "magnitude"}) for method in ("lanczos", "dense")],
        ("auto", {"between": (0.5, 1.0)}),
        ("auto", {"between": (1.0, 1.5)}),
        ("krylov-schur", {"above": 1.0}),
        ("dense of J", {"above": 1.0}),
        ("golub-kahan", {"above": 1.0}),
    ],
)
def test_eigenvalues_at_a_threshold_are_returned_and_told(method, sought, dtype):
    """A projector's ten ones, some computed above 1 and some below."""
    for n in (60, 200):
        values = (np.arange(n) < 10).astype(float)
        A = as_operator(torch.as_tensor(matrix(values, np.random.default_rng(n))).to(dtype), symmetric=True)
        full = method in ("krylov-schur", "dense of J")
        solve = spectral.top_svd if method == "golub-kahan" else spectral.top_eigs
        solve = spectral.top_eigs_full if full else solve
        found = solve(A, method=method.removesuffix(" of J"), **sought)
        assert found.k == 10
        assert any("10 of 10 are within rounding" in note for note in found.notes)
        assert found.complete


def test_a_null_space_through_gram_converges():
    """Six of a 100-fold zero next to 1e-5: blocks as wide hardly converge between restarts."""
    rng = np.random.default_rng(5)
    left, right = (np.linalg.qr(rng.standard_normal((400, 300)))[0] for _ in range(2))
    M = torch.as_tensor((left * rng.uniform(0, 1, 300)) @ right.T)
    pairs = spectral.top_eigs(as_operator(M).gram(), k=6, which="smallest")
    assert pairs.converged.all() and pairs.values.abs().max() < 1e-14
    assert pairs.products < 3000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "n"), [("star", 400), ("star", 1000), ("ones", 400), ("ones", 1000)])
def test_errors_count_the_rounding_of_long_sums(kind, n, dtype):
    """Sums of n terms alike round by up to n eps."""
    M = torch.zeros(n, n, dtype=dtype)
    M[0, 1:] = M[1:, 0] = 1
    exact = (n - 1) ** 0.5
    if kind == "ones":
        M, exact = torch.ones(n, n, dtype=dtype), float(n)
    for seed in range(5):
        for solve in (spectral.top_eigs, spectral.top_svd):
            found = solve(as_operator(M, symmetric=True), k=1, seed=seed)
            assert (found.values - exact).abs() <= found.errors


@pytest.mark.parametrize("n", [100, 185, 400])
def test_errors_of_both_ends_of_a_star_count_their_long_sums(n):
    """Both ends' products round by the same vector, of n equal terms: c E is (c_1 + c_2) times that."""
    M = torch.zeros(n, n)
    M[0, 1:] = M[1:, 0] = 1.0
    for seed in range(30):
        found = spectral.top_eigs(M, k=2, which="magnitude", tol=1e-3, seed=seed)
        off = (found.values.abs() - (n - 1) ** 0.5).abs()
        assert (off <= found.errors).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rank", "k"), [(78, 90), (1, 3)])
def test_more_is_asked_for_than_an_operator_has_rank(rank, k, dtype):
    n, generator = 2500, torch.Generator().manual_seed(0)
    U = torch.linalg.qr(torch.randn(n, rank, generator=generator, dtype=torch.float64)).Q.to(dtype)
    values = torch.linspace(1, 0.1, rank, dtype=torch.float64)
    A = from_functions(lambda V: (V @ U) * values.to(dtype) @ U.T, n=n, symmetric=True, dtype=dtype)
    expected = torch.cat([values, torch.zeros(k - rank, dtype=torch.float64)])
    for found in (spectral.top_eigs(A, k=k), spectral.top_svd(A, k=k)):
        torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-5)
        assert found.completeness.bound < 1e-5 and found.converged.all()


def test_a_tight_triple_is_whole():
    values = torch.linspace(0, 0.5, 2500, dtype=torch.float64)
    triple = 0.9 + 1e-6 * torch.arange(3, dtype=torch.float64)
    values[-3:] = triple
    for door in (spectral.top_eigs, spectral.top_svd, spectral.top_eigs_full):
        found = door(diagonal(values), k=3, tol=1e-9)
        torch.testing.assert_close(found.values.real, triple.flip(0), rtol=0, atol=1e-9)
        assert found.complete
