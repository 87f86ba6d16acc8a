import pytest
import torch

from spectral.errors import OptionError, ShapeError
from spectral.estimators import diagonal
from spectral.estimators.diagonal import xdiag_pairs, xdiag_samples
from spectral.estimators.exchangeable import Core
from spectral.estimators.probes import sampler
from spectral.estimators.sketch import Sketch
from spectral.operators import as_operator

n = 200
i = torch.arange(1, n + 1, dtype=torch.float64)
SPECTRA = {"flat": 1 + 2 * i / n, "decaying": i**-2, "step": torch.where(i <= 10, 1.0, 1e-3).double()}


def test_xdiag_is_its_naive_definition():
    M = torch.randn(40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    M = M * 0.8 ** torch.arange(40)
    A = as_operator(M)
    sketch = Sketch(A, sampler(A, "rademacher", 0), 6, transposed=True)
    core, omega = Core.of(sketch), sketch.probes.T

    def naive(test, left_out):
        Q = torch.linalg.qr(M @ omega[:, [j for j in range(6) if j not in left_out]])[0]
        w = omega[:, test]
        return torch.diagonal(Q @ Q.T @ M) + w * (M @ w - Q @ (Q.T @ (M @ w)))

    samples, pairs = xdiag_samples(sketch, core), xdiag_pairs(sketch, core)
    for a in range(6):
        assert (samples[a] - naive(a, [a])).abs().max() < 1e-12
        for b in set(range(6)) - {a}:
            assert (pairs[:, a, b] - naive(a, [a, b])).abs().max() < 1e-12


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("method", ["hutchinson", "xdiag", "auto"])
def test_every_entrys_interval_covers(rotated, name, method):
    M = rotated(SPECTRA[name])
    A, truth, hits = as_operator(M), torch.diagonal(M), 0.0
    for seed in range(25):
        low, high = diagonal(A, method=method, products=40, seed=seed).interval(0.95)
        hits += ((low <= truth) & (truth <= high)).double().mean().item() / 25
    assert 0.93 < hits < 0.97


def test_auto_takes_xdiag_where_the_spectrum_decays(rotated):
    assert diagonal(as_operator(rotated(SPECTRA["step"])), products=60).method == "xdiag"
    assert diagonal(as_operator(rotated(SPECTRA["flat"])), products=60).method == "hutchinson"


def test_exact_target_shape_and_batch(rotated):
    M = torch.randn(2, 30, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A, truth = as_operator(M), torch.diagonal(M, dim1=-2, dim2=-1)
    assert torch.allclose(diagonal(A).value, truth)
    assert (diagonal(A).stderr == 0).all()
    assert torch.allclose(diagonal(A, rtol=1e-3).value, truth)
    one = diagonal(as_operator(rotated(SPECTRA["decaying"])), rtol=0.2)
    truth = torch.diagonal(rotated(SPECTRA["decaying"]))
    assert (one.value - truth).norm() < 0.3 * truth.norm() and one.products < n

    image = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    local = diagonal(lambda y: y**2, image)
    assert torch.allclose(local.value, 2 * image)
    assert torch.allclose(diagonal(lambda y: y**2, image, batched=True).value, 2 * image)


def test_hutchinson_is_its_definition():
    M = torch.randn(30, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A = as_operator(M)
    Z = sampler(A, "rademacher", 4)(20)
    samples = Z * (Z @ M.T)
    estimate = diagonal(A, method="hutchinson", products=20, seed=4)
    assert torch.allclose(estimate.value, samples.mean(0))
    assert torch.allclose(estimate.stderr, samples.std(0) / 20**0.5)


def test_refusals():
    with pytest.raises(ShapeError, match="no diagonal"):
        diagonal(torch.randn(3, 4))
    with pytest.raises(OptionError, match="method is"):
        diagonal(torch.randn(4, 4), method="magic")
    with pytest.raises(OptionError, match="products >= 6"):
        diagonal(torch.randn(40, 40), method="xdiag", products=4)
