import pytest
import torch

from spectral.errors import OptionError, ShapeError
from spectral.estimators import diagonal
from spectral.estimators.diagonal import xdiag_pairs, xdiag_samples
from spectral.estimators.exchangeable import Reduced
from spectral.estimators.probes import sampler
from spectral.estimators.probing import probing
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
    reduced, omega = Reduced.of(sketch), sketch.probes.T

    def naive(test, left_out):
        Q = torch.linalg.qr(M @ omega[:, [j for j in range(6) if j not in left_out]])[0]
        w = omega[:, test]
        return torch.diagonal(Q @ Q.T @ M) + w * (M @ w - Q @ (Q.T @ (M @ w)))

    samples, pairs = xdiag_samples(sketch, reduced), xdiag_pairs(sketch, reduced)
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
    assert (diagonal(A).stderr <= 1e-15 * truth.abs()).all()
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


def smoothing(height, width, seed=0):
    """A local operator on images, whose reach and strength vary from pixel to pixel; (n, n)."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    at = torch.stack([rows, columns], -1).reshape(-1, 2).double()
    squared = (at[:, None] - at[None]).square().sum(-1)
    reach = 1 + torch.rand(len(at), 1, generator=generator, dtype=torch.float64)
    strength = 1.2 + torch.sin(at[:, :1] / 5)
    M = torch.randn(len(at), len(at), generator=generator, dtype=torch.float64)
    return strength * torch.exp(-squared / (2 * reach**2)) + 0.003 * M


def test_probing_is_far_better_on_local_operators_and_knows_its_error():
    M = smoothing(20, 26)
    A, truth = as_operator(M), torch.diagonal(M)
    hits, squares, plain = 0.0, 0.0, 0.0
    for seed in range(20):
        found = probing(A, (20, 26), 60, seed)
        low, high = found.interval()
        hits += ((low <= truth) & (truth <= high)).double().mean().item() / 20
        squares += (found.value - truth).square().mean().item()
        other = diagonal(A, method="hutchinson", products=60, seed=seed)
        plain += (other.value - truth).square().mean().item()
        assert found.products == 60 and found.samples == 2
    assert squares < 0.1 * plain
    assert 0.91 < hits < 0.97


def test_probing_is_its_definition():
    M = smoothing(4, 6)
    found = probing(as_operator(M), (2, 2, 6), 16, 0)  # two channels of 2x6, classes of 2x2
    Z = sampler(as_operator(M), "rademacher", 0)
    channel, row, column = torch.meshgrid(torch.arange(2), torch.arange(2), torch.arange(6), indexing="ij")
    same = torch.stack([channel, row % 2, column % 2]).flatten(1)
    together = (same[:, :, None] == same[:, None]).all(0)
    sweeps = torch.stack([z * ((M * together) @ z) for z in (Z(1)[0], Z(1)[0])])
    assert torch.allclose(found.value, sweeps.mean(0))
    assert found.products == 16


def test_images_of_a_model_take_probing():
    kernel = torch.tensor([[0.1, 0.2, 0.1], [0.2, 0.5, 0.2], [0.1, 0.2, 0.1]], dtype=torch.float64)[
        None, None
    ]

    def blur(y):
        return torch.nn.functional.conv2d(y, kernel, padding=1)

    y = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    found = diagonal(blur, y, products=60)
    assert found.method == "probing" and found.value.shape == y.shape
    assert torch.allclose(found.value, torch.full_like(y, 0.5))  # no two pixels of a class touch
    with pytest.raises(OptionError, match="probing takes images"):
        diagonal(torch.randn(300, 300), method="probing", products=50)
