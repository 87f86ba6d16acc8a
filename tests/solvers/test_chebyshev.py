"""Chebyshev filters: the polynomial, bounds on the spectrum, and both questions against LAPACK."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LaplacianNd

import spectral
from spectral.errors import NotFiniteError, NotSymmetricError, OptionError
from spectral.linalg.bounds import SpectralBounds, spectral_bounds
from spectral.linalg.chebyshev import ChebyshevFilter, Window
from spectral.operators import as_operator, from_functions
from tests.helpers.against_dense import TRAP, agree, sought, values_of
from tests.helpers.calls import chebyshev
from tests.helpers.spectra import cases, diagonal, matrix, posed, spectrum

I = torch.arange(4096, dtype=torch.float64)  # noqa: E741
VALUES = 1 / (1 + (I / 60) ** 2)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases, st.data())
def test_ends_agree_with_dense(case, data):
    kind, n, seed, dtype, which = case
    k = data.draw(st.integers(1, n))
    degree = data.draw(st.sampled_from([None, 3, 12]))
    M, tol = posed(kind, n, seed, dtype)
    found = chebyshev(as_operator(M, symmetric=True), k, which=which, tol=tol, degree=degree, seed=seed)
    agree(found, M, sought(np.linalg.eigvalsh(M.double().numpy()), which)[:k], which, tol)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases, st.data())
def test_intervals_agree_with_dense(case, data):
    kind, n, seed, dtype, _ = case
    degree = data.draw(st.sampled_from([None, 3, 12]))
    ends = data.draw(st.tuples(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5)))
    M, tol = posed(kind, n, seed, dtype)
    exact = np.linalg.eigvalsh(M.double().numpy())
    low, high = min(ends), max(ends) + 1e-3
    if np.abs(exact[:, None] - [low, high]).min() < 1e-4:
        return  # an eigenvalue at an end may come out on either side
    found = chebyshev(as_operator(M, symmetric=True), between=(low, high), tol=tol, degree=degree, seed=seed)
    inside = exact[(exact > low) & (exact < high)][::-1]
    assert found.completeness.bound.item() == 0
    largest = max(np.abs(inside).max(initial=0.0), 1e-12)
    agree(found, M, inside, "between", tol * max(abs(low), abs(high)) / largest)


@pytest.mark.parametrize("degree", [4, 12, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_interval_of_a_large_operator(degree, dtype):
    """By the filter, and where that takes more products from an end of the spectrum."""
    values = VALUES.to(dtype)
    low, high = 0.205, 0.305
    found = chebyshev(diagonal(values), between=(low, high), tol=1e-5, degree=degree)
    expected = values[(values > low) & (values < high)]
    torch.testing.assert_close(values_of(found)[0], expected, atol=1e-6, rtol=0)
    assert found.completeness.bound == 0 and found.completeness.confidence == 0.99
    assert ("Lanczos from the top" in " ".join(found.notes)) == (degree is None)
    residual = found.AV - values_of(found)[..., None] * found.vectors
    assert torch.linalg.vector_norm(residual, dim=-1).max() < 1e-5


def test_an_interval_with_a_cluster_inside():
    """Twelve eigenvalues within 1.1e-4 in the middle, others on both sides."""
    values = torch.cat([TRAP, 1.3 + 0.7 * torch.linspace(0, 1, 500, dtype=torch.float64)])
    for seed in range(3):
        found = chebyshev(diagonal(values), between=(0.95, 1.2), tol=1e-3, degree=8, seed=seed)
        assert found.vectors.shape[1] == 12


def test_a_laplacian_inside_its_spectrum():
    """A 30x30 grid: eigenvalues in pairs."""
    grid = LaplacianNd((30, 30), boundary_conditions="dirichlet", dtype=np.float64)
    exact = np.sort(-grid.eigenvalues())
    inside = exact[(exact > 1.0) & (exact < 1.3)]
    found = chebyshev(as_operator(-grid.tosparse().astype(float)), between=(1.0, 1.3), tol=1e-7, degree=40)
    np.testing.assert_allclose(values_of(found)[0].numpy()[::-1], inside, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("degree", [None, 6])
def test_cluster_trap(seed, degree):
    found = chebyshev(diagonal(TRAP), 10, tol=1e-3, seed=seed, degree=degree)
    assert values_of(found).min() > 0.9999


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_ends_of_a_large_operator(which):
    values = torch.cat([0.96 ** I[:1000], -0.9 * 0.9 ** I[:1000]])
    expected = torch.as_tensor(sought(values.numpy(), which)[:20].copy())
    found = chebyshev(diagonal(values), 20, which=which, tol=1e-7, degree=4)
    got = values_of(found)[0]
    if which == "magnitude":
        got, expected = got.abs(), expected.abs()
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=0)
    beyond = abs(expected[-1].item()) * (0.999 if which == "magnitude" else 1)
    signed = beyond if which != "smallest" else expected[-1].item() * 0.999
    signed = signed * 0.999 if which == "largest" else signed
    count = {"largest": values > signed, "smallest": values < signed, "magnitude": values.abs() > signed}
    above = chebyshev(diagonal(values), which=which, above=signed, tol=1e-6, degree=4)
    assert above.vectors.shape[1] == count[which].sum()


def test_where_the_matrix_is_cheaper_it_is_formed():
    values = torch.linspace(-1, 1, 700, dtype=torch.float64)
    found = chebyshev(diagonal(values), between=(0.1001, 0.1501))
    assert found.vectors.shape[1] == ((values > 0.1001) & (values < 0.1501)).sum()
    assert any("forming" in note for note in found.notes) and found.completeness.confidence == 1


def test_nothing_to_find():
    for window in ((2.0, 3.0), (-3.0, -2.0)):
        found = chebyshev(diagonal(VALUES), between=window)
        assert found.vectors.shape == (1, 0, 4096) and found.completeness.bound == 0
    gap = torch.cat([VALUES, 2 + VALUES])
    assert chebyshev(diagonal(gap), between=(1.2, 1.8), degree=8).vectors.shape[1] == 0


def test_the_depth_is_told_where_products_run_out():
    found = chebyshev(diagonal(VALUES), between=(0.2, 0.3), degree=12, max_products=300)
    assert any("max_products" in note for note in found.notes)
    assert found.completeness.bound > 0


@pytest.mark.parametrize("ends", [(0.2, 0.3), (0.6, 2.0), (-1.0, 0.05), (0.9, 0.90001)])
@pytest.mark.parametrize("degree", [None, 5, 500])
def test_the_window(ends, degree):
    """1 at its top, no higher anywhere, equal at the ends, above its edge inside and below it outside."""
    known = spectral_bounds(diagonal(VALUES))
    window = Window(known, *ends, degree)
    p = window.filter(diagonal(VALUES))
    x = np.linspace(known.low, known.high, 20001)
    values = p.at(x)
    assert values.max() <= 1 + 1e-3
    inside = (x > ends[0]) & (x < ends[1])
    if inside.any():
        assert values[inside].min() >= window.edge - 1e-3
    assert window.depth(window.edge - 1e-9) == 0 and window.depth(1.0) == np.inf
    middle = (window.edge + 1) / 2
    depth = window.depth(middle)
    deep = (x > ends[0] + depth) & (x < ends[1] - depth)
    assert (values[deep] > middle).all()


def test_a_filter_is_the_polynomial_of_the_matrix():
    rng = np.random.default_rng(0)
    M = torch.as_tensor(matrix(rng.uniform(-1, 3, 50), rng))
    a = rng.standard_normal(9)
    A = as_operator(M, symmetric=True)
    p = ChebyshevFilter(A, a, 1.0, 2.0)
    theta, Y = torch.linalg.eigh(M)
    expected = (Y * torch.as_tensor(p.at(theta.numpy()))) @ Y.T
    torch.testing.assert_close(p.dense(), expected, atol=1e-12, rtol=0)
    assert A.count == 8 * 50


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases)
def test_bounds_of_the_spectrum_hold(case):
    kind, n, seed, _, _ = case
    values = torch.as_tensor(spectrum(kind, 5 * n, np.random.default_rng(seed)))
    known = spectral_bounds(diagonal(values), seed=seed, failure=1e-3)
    assert isinstance(known, SpectralBounds)
    slack = 1e-12
    assert known.low <= values.min() + slack and known.high >= values.max() - slack
    total = known.count.sum(-1)
    torch.testing.assert_close(total, torch.full_like(total, 5 * n))


def test_the_bounds_count():
    known = spectral_bounds(diagonal(VALUES))
    for low, high in ((0.01, 0.1), (0.1, 2.0), (-1.0, 0.01)):
        exact = int(((low < VALUES) & (high > VALUES)).sum())
        assert 0.5 * exact - 10 < known.between(low, high) < 2 * exact + 10
    assert (known.quantile(100) < VALUES).sum() in range(40, 250)


def test_bad_input_is_refused():
    A = diagonal(VALUES)
    with pytest.raises(OptionError, match="low < high"):
        chebyshev(A, between=(0.3, 0.2))
    with pytest.raises(OptionError, match="degree"):
        chebyshev(A, between=(0.2, 0.3), degree=1)
    with pytest.raises(OptionError, match="batch"):
        chebyshev(as_operator(torch.eye(4).expand(2, 4, 4)), between=(0.2, 0.3))
    M = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    with pytest.raises(NotSymmetricError):
        chebyshev(from_functions(lambda V: V @ M.T, n=300, symmetric=True), 4)
    with pytest.raises(NotFiniteError):
        chebyshev(from_functions(lambda V: V / 0, n=300, symmetric=True), 4)


@pytest.mark.parametrize("degree", [None, 4])
def test_batched_problems_equal_single_ones(degree):
    rng = np.random.default_rng(1)
    kinds = ("cluster", "low rank", "indefinite", "identity")
    M = torch.stack([torch.as_tensor(matrix(spectrum(kind, 150, rng), rng)) for kind in kinds])
    together = chebyshev(as_operator(M, symmetric=True), 7, tol=1e-8, degree=degree)
    expected = torch.linalg.eigvalsh(M).flip(-1)[:, :7]
    torch.testing.assert_close(values_of(together), expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("between", [None, (0.2, 0.3)])
@pytest.mark.parametrize("after", [10, 150])
def test_interrupted_solve_returns_what_it_has(between, after):
    def product(V):
        if A.count > after:
            A.forward = lambda V: V * VALUES
            raise KeyboardInterrupt
        return V * VALUES

    A = from_functions(product, n=4096, symmetric=True, dtype=torch.float64)
    if after == 10:  # while the spectrum is bounded there is nothing to return
        with pytest.raises(KeyboardInterrupt):
            chebyshev(A, 20, between=between, degree=8)
        return
    found = chebyshev(A, 20, between=between, degree=8)
    assert found.notes == ["interrupted"] and found.completeness.confidence == 0
    assert between or found.vectors.shape[1] == 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("high", [5e-324, 1e-7, 1.0])
def test_an_interval_about_nothing(dtype, high):
    """Of the zero matrix, whose spectrum has no size that a tolerance could be relative to."""
    A = as_operator(torch.zeros(107, 107, dtype=dtype), symmetric=True)
    pairs = spectral.top_eigs(A, between=(-0.03, high), method="chebyshev", max_products=40)
    assert (pairs.values == 0).all() and pairs.converged.all() and not pairs.complete
