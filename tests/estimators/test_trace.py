import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.errors import NotFiniteError, OptionError, ShapeError
from spectral.estimators import (
    Estimate,
    asymmetry,
    diagonal,
    effective_rank,
    frobenius_norm,
    spectral_density,
    trace,
)
from spectral.estimators.exchangeable import (
    Reduced,
    inflation,
    xnystrace_samples,
    xtrace_pairs,
    xtrace_samples,
)
from spectral.estimators.probes import sampler
from spectral.estimators.sketch import Sketch
from spectral.operators import as_operator, from_functions

METHODS = ("hutchinson", "hutch++", "xtrace", "xnystrace", "auto")
n = 200
i = torch.arange(1, n + 1, dtype=torch.float64)
SPECTRA = {
    "flat": 1 + 2 * (i - 1) / (n - 1),
    "decaying": i**-2,
    "geometric": 0.9**i,
    "step": torch.where(i <= 10, 1.0, 1e-3).double(),
}


def unsymmetric(n, decay, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, n, generator=generator, dtype=torch.float64) * decay ** torch.arange(n)


def naive_xtrace(A, omega, test, left_out):
    """tr of A on span {A omega_j, j kept} and the remainder's scaled quadratic form at omega_test."""
    size = len(A)
    kept = [j for j in range(omega.shape[1]) if j not in left_out]
    Q = torch.linalg.qr(A @ omega[:, kept])[0]
    x = omega[:, test] - Q @ (Q.T @ omega[:, test])
    return torch.trace(Q.T @ A @ Q) + (size - len(kept)) * (x @ A @ x) / (x @ x)


def naive_xnystrace(A, omega, test, left_out):
    size = len(A)
    kept = [j for j in range(omega.shape[1]) if j not in left_out]
    W = omega[:, kept]
    N = A @ W @ torch.linalg.solve(W.T @ A @ W, W.T @ A)
    Q = torch.linalg.qr(W)[0]
    x = omega[:, test] - Q @ (Q.T @ omega[:, test])
    return torch.trace(N) + (size - len(kept)) * (x @ (A - N) @ x) / (x @ x)


@pytest.mark.parametrize("decay", [1.0, 0.8])
def test_xtrace_is_its_naive_definition(decay):
    A = unsymmetric(40, decay)
    sketch = Sketch(as_operator(A), sampler(as_operator(A), "sphere", 3), 4)
    sketch.grow(3)
    reduced, omega = Reduced.of(sketch), sketch.probes.T
    samples, pairs = xtrace_samples(reduced), xtrace_pairs(reduced)
    for a in range(7):
        assert samples[a] == pytest.approx(naive_xtrace(A, omega, a, [a]).item(), rel=1e-9, abs=1e-9)
        for b in set(range(7)) - {a}:
            assert pairs[a, b] == pytest.approx(naive_xtrace(A, omega, a, [a, b]).item(), rel=1e-9, abs=1e-9)


def test_xnystrace_is_its_naive_definition(rotated):
    A = rotated(0.8 ** torch.arange(40))
    omega = sampler(as_operator(A), "sphere", 3)(6)
    samples, pairs = xnystrace_samples(as_operator(A), omega, omega @ A)
    for a in range(6):
        assert samples[a] == pytest.approx(naive_xnystrace(A, omega.T, a, [a]).item(), rel=1e-9)
        for b in set(range(6)) - {a}:
            assert pairs[a, b] == pytest.approx(naive_xnystrace(A, omega.T, a, [a, b]).item(), rel=1e-9)


def test_inflation_is_its_naive_definition():
    k = 6
    L = torch.randn(2, k, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    L = L + 3 * (L + L.mT)  # positively related mirror entries, so that the factor exceeds one
    for batch in range(2):
        M = L[batch]
        triples = [(a, b, c) for a in range(k) for b in range(k) for c in range(k) if len({a, b, c}) == 3]
        c = sum((M[a, e] - M[a, b]) * (M[b, e] - M[b, a]) for a, b, e in triples) / len(triples)
        d = sum((M[a, e] - M[b, e]) ** 2 / 2 for a, b, e in triples) / len(triples)
        assert inflation(L)[batch].item() == pytest.approx(max(1.0, float(1 + k * c / d)), rel=1e-10)
    assert inflation(L)[0] > 1


@pytest.mark.parametrize("decay", [0.7, 1e-3])  # the second: images that are dependent to rounding
def test_sketch_factors_its_images(decay):
    A = as_operator(unsymmetric(50, decay))
    sketch = Sketch(A, sampler(A, "sphere", 1), 5)
    sketch.grow(7)
    Q = sketch.basis
    assert (Q @ Q.T - torch.eye(12, dtype=torch.float64)).abs().max() < 1e-13
    assert (sketch.triangle.T @ Q - sketch.probes @ A.matrix.T).abs().max() < 1e-11
    assert (sketch.image - Q @ A.matrix.T).abs().max() < 1e-11
    assert torch.equal(sketch.triangle, sketch.triangle.triu())


@pytest.mark.parametrize("products", [24, 40])
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("method", METHODS)
def test_interval_covers(rotated, name, method, products):
    M, truth, runs = rotated(SPECTRA[name]), SPECTRA[name].sum().item(), 1000
    A = from_functions(lambda V: V @ M, n=n, dtype=torch.float64, batch=(runs,), symmetric=True)
    low, high = trace(A, method=method, products=products).interval(0.95)
    assert 0.92 <= ((low <= truth) & (truth <= high)).double().mean() <= 0.98


@pytest.mark.parametrize("name", SPECTRA)
def test_auto_is_near_the_best(rotated, name):
    A, truth = as_operator(rotated(SPECTRA[name])), SPECTRA[name].sum().item()
    errors = {
        method: sum(abs(trace(A, method=method, products=60, seed=s).value - truth) for s in range(30))
        for method in ("hutchinson", "hutch++", "xtrace", "auto")
    }
    assert errors["auto"] <= 2 * min(errors.values())


@pytest.mark.parametrize("method", METHODS)
def test_target_is_met(rotated, method):
    A, truth = as_operator(rotated(SPECTRA["geometric"])), SPECTRA["geometric"].sum().item()
    runs = [trace(A, method=method, rtol=0.05, seed=seed) for seed in range(20)]
    assert all(run.halfwidth() <= 0.05 * abs(run.value) for run in runs)
    assert sum(abs(run.value - truth) <= 0.05 * truth for run in runs) >= 17
    capped = trace(A, method=method, rtol=1e-13, products=20)
    assert capped.products <= 20


@pytest.mark.parametrize("method", ["hutch++", "xtrace", "auto", "hutchinson"])
def test_unreachable_target_is_answered_exactly(rotated, method):
    values = SPECTRA["flat"]
    estimate = trace(as_operator(rotated(values)), method=method, rtol=1e-6)
    assert estimate.method == "exact" and estimate.stderr <= 1e-15 * estimate.value
    assert estimate.value == pytest.approx(values.sum().item(), rel=1e-12)
    assert estimate.products <= 2 * n + 2


@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from(["xtrace", "hutch++", "auto"]))
@settings(max_examples=30, deadline=None)
def test_exact_when_probes_exceed_the_rank(seed, rank, method):
    generator = torch.Generator().manual_seed(seed)
    U, V = torch.randn(2, 60, rank, generator=generator, dtype=torch.float64)
    estimate = trace(as_operator(U @ V.T), method=method, products=40, seed=seed + 1)
    assert estimate.value == pytest.approx((U * V).sum().item(), rel=1e-9, abs=1e-9)
    assert estimate.stderr < 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 10, 100])
@pytest.mark.parametrize("method", METHODS)
def test_any_size_identity_and_zero(method, size, dtype):
    budget = max(6, min(size, 30))
    eps = torch.finfo(dtype).eps
    identity = trace(as_operator(torch.eye(size, dtype=dtype)), method=method, products=budget)
    assert identity.value == pytest.approx(size, rel=100 * eps * budget)
    zero = trace(as_operator(torch.zeros(size, size, dtype=dtype)), method=method, products=budget)
    assert abs(zero.value) < eps and zero.stderr < eps


def test_float32_error_bar_admits_rounding(rotated):
    values = 0.5**i
    A = as_operator(rotated(values).float())
    estimate = trace(A, method="xtrace", products=120)
    assert abs(estimate.value - 1) <= 4 * estimate.stderr
    assert 1e-8 < estimate.stderr < 1e-5


def test_products_are_the_operators_count(rotated):
    A = as_operator(rotated(SPECTRA["decaying"]))
    for method in METHODS:
        before = A.count
        estimate = trace(A, method=method, products=50)
        assert estimate.products == A.count - before <= 50


def test_batch_in_lock_step(rotated):
    A, B = rotated(SPECTRA["flat"]), rotated(SPECTRA["decaying"], seed=1)
    operator = as_operator(torch.stack([A, B]))
    truth = torch.tensor([SPECTRA["flat"].sum(), SPECTRA["decaying"].sum()])
    for method in METHODS:
        estimate = trace(operator, method=method, products=60)
        assert estimate.value.shape == estimate.stderr.shape == (2,)
        assert ((estimate.value - truth).abs() <= 5 * estimate.stderr).all()


def test_published_jacobian(published):
    for method in ("hutchinson", "hutch++", "xtrace", "auto"):
        low, high = trace(as_operator(published.float()), method=method, products=200).interval(0.99)
        assert low < 156.2665 < high
    assert trace(as_operator(published)).value != pytest.approx(156.2665, abs=1e-6)
    assert trace(as_operator(published), method="exact").value == pytest.approx(156.2665, abs=1e-4)


def test_a_model_at_an_image():
    weight = torch.randn(12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def model(y):
        return torch.tanh(y.flatten(1) @ weight).reshape(y.shape)

    y = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    each = trace(model, y, batched=True, method="exact")
    slope = 1 - torch.tanh(y.flatten(1) @ weight).square()
    expected = (slope * torch.diagonal(weight)).sum(-1)
    assert torch.allclose(each.value, expected, atol=1e-12)
    assert trace(model, y).value == pytest.approx(expected.sum().item(), abs=1e-12)  # d = 24 < 100 products


def test_save_load(rotated, tmp_path):
    for operator in (rotated(SPECTRA["step"]), torch.stack([rotated(SPECTRA["step"])] * 2)):
        estimate = trace(as_operator(operator), products=40)
        again = Estimate.load(estimate.save(tmp_path / "trace.safetensors"))
        assert repr(again) == repr(estimate)
        assert torch.equal(torch.as_tensor(again.stderr), torch.as_tensor(estimate.stderr))


def test_refusals(rotated):
    A = as_operator(torch.randn(40, 40, dtype=torch.float64))
    with pytest.raises(ShapeError, match="not square"):
        trace(as_operator(torch.randn(3, 4)))
    with pytest.raises(OptionError, match="method is one of"):
        trace(A, method="magic")
    with pytest.raises(OptionError, match="products >= 6"):
        trace(A, method="xtrace", products=5)
    with pytest.raises(OptionError, match="A = A'"):
        trace(A, method="xnystrace", products=20)
    with pytest.raises(OptionError, match="negative eigenvalues"):
        trace(as_operator(rotated(-SPECTRA["flat"])), method="xnystrace", products=20)
    with pytest.raises(OptionError, match="needs an input"):
        trace(lambda y: y)
    with pytest.raises(OptionError, match="given alone"):
        trace(A, torch.zeros(40))
    with pytest.raises(OptionError, match="rtol must be positive"):
        trace(A, rtol=0.0)
    with pytest.raises(OptionError, match="inside"):
        trace(A, products=20).interval(1.0)
    broken = from_functions(lambda V: V * float("nan"), n=50, dtype=torch.float64, symmetric=True)
    for method in METHODS:
        with pytest.raises(NotFiniteError):
            trace(broken, method=method, products=40)
    for method in ("hutchinson", "xdiag"):
        with pytest.raises(NotFiniteError):
            diagonal(broken, method=method, products=40)
    for method in ("exact", "slq", "kpm"):
        with pytest.raises(NotFiniteError):
            spectral_density(broken, method=method, probes=2, steps=5)


def test_a_target_that_is_not_reached_is_told():
    M = torch.randn(400, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for estimator in (trace, frobenius_norm, asymmetry, effective_rank, diagonal):
        short = estimator(M, rtol=1e-6, products=40, confidence=0.99)
        ends = (torch.as_tensor(short.interval(*level)[1]) for level in ((), (0.99,)))
        assert short.confidence == 0.99 and torch.equal(*ends)
        assert len(short.notes) == 1 and "products=40 did not reach the target" in short.notes[0]
        assert "99 %" in repr(short) and "did not reach" in repr(short)
        enough = estimator(M, rtol=1e-6, confidence=0.99)
        assert not enough.notes and "did not reach" not in repr(enough)
