import pytest
import torch

from spectral.errors import OptionError, ShapeError
from spectral.estimators import asymmetry, effective_rank, frobenius_norm
from spectral.operators import as_operator


def covered(truth, run, repeats):
    hits = 0
    for seed in range(repeats):
        low, high = run(seed).interval(0.95)
        hits += low <= truth <= high
    return hits / repeats


def true_asymmetry(M):
    return ((M - M.T).norm() / M.norm()).item()


def test_asymmetry_of_the_published_jacobian(published):
    estimate = asymmetry(as_operator(published), products=200)
    low, high = estimate.interval(0.999)
    assert low < 0.428 < high
    assert high - low < 0.05
    assert estimate.products == 200 and estimate.samples == 100


@pytest.mark.parametrize("products", [8, 40])
def test_asymmetry_interval_covers(published, products):
    A = as_operator(published)
    share = covered(true_asymmetry(published), lambda s: asymmetry(A, products=products, seed=s), 300)
    assert 0.91 < share < 0.985


def test_asymmetry_limits():
    M = torch.randn(40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert asymmetry(as_operator(M + M.T)).value == 0
    assert asymmetry(as_operator(M - M.T)).value == pytest.approx(2)
    assert asymmetry(as_operator(torch.zeros(40, 40))).value == 0
    batch = asymmetry(as_operator(torch.stack([M - M.T, M]), symmetric=False), products=20)
    assert batch.value.shape == batch.stderr.shape == (2,)
    assert batch.value[0] == pytest.approx(2)


def test_asymmetry_is_exact_where_the_budget_pays_for_every_unit_vector():
    M = torch.randn(10, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    estimate = asymmetry(as_operator(M), products=20)
    assert estimate.value == pytest.approx(true_asymmetry(M), rel=1e-12)
    assert estimate.stderr <= 1e-15 and estimate.method == "exact" and estimate.products == 20


def test_asymmetry_stops_at_its_target(published):
    estimate = asymmetry(as_operator(published), products=None, rtol=0.05)
    assert estimate.halfwidth() <= 0.05 * estimate.value
    assert estimate.products < 200


def test_asymmetry_refuses():
    with pytest.raises(ShapeError, match="not square"):
        asymmetry(as_operator(torch.randn(3, 4)))
    with pytest.raises(OptionError, match="products >= 4"):
        asymmetry(as_operator(torch.randn(30, 30)), products=3)
    assert asymmetry(as_operator(torch.randn(30, 30))).products == 8


def test_frobenius_norm(published):
    A = as_operator(published)
    assert frobenius_norm(A, products=900).value == pytest.approx(10.4077, abs=1e-4)
    low, high = frobenius_norm(A, products=100).interval(0.99)
    assert low < 10.4077 < high and high - low < 1.5
    assert 0.91 < covered(10.4077, lambda s: frobenius_norm(A, products=30, seed=s), 300) < 0.985
    assert frobenius_norm(as_operator(torch.ones(3, 4)), products=10).value == pytest.approx(12**0.5)
    assert frobenius_norm(as_operator(torch.zeros(30, 30)), products=10).value == 0


def test_effective_rank(published):
    S = (published + published.T) / 2
    truth = (torch.trace(S) ** 2 / S.square().sum()).item()
    A = as_operator(published)
    assert effective_rank(A, products=1800).value == pytest.approx(truth, rel=1e-10)
    assert 0.91 < covered(truth, lambda s: effective_rank(A, products=60, seed=s), 300) < 0.985
    projection = torch.diag(torch.cat([torch.ones(7), torch.zeros(33)]))
    assert effective_rank(as_operator(projection), products=10).value == pytest.approx(7)
    assert effective_rank(as_operator(torch.zeros(30, 30)), products=10).value == 0
    assert effective_rank(as_operator(S), products=50).samples == 50
