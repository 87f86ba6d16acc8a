"""The published ways of `benchmarks.peers` find what they say where nothing is in their way."""

import pytest
import torch

from benchmarks.peers import ours
from benchmarks.peers.arnoldi import arnoldi
from benchmarks.peers.differences import differences
from benchmarks.peers.measure import Truth, angle
from benchmarks.peers.probes import probes
from benchmarks.peers.pullback import pullback
from benchmarks.peers.svds import by_svds

SIDE, K = 6, 3


def linear(values, dtype=torch.float64):
    """f(y) = y Q diag(values) Q' image by image, and an image."""
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(SIDE**2, SIDE**2, generator=generator, dtype=torch.float64))[0]
    M = ((Q * values) @ Q.T).to(dtype)
    y = torch.rand(1, 1, SIDE, SIDE, generator=generator, dtype=torch.float64).to(dtype)
    return lambda x: (x.flatten(1) @ M).reshape(x.shape), y


@pytest.fixture(scope="module")
def values():
    return 0.5 ** torch.arange(SIDE**2, dtype=torch.float64)


@pytest.mark.parametrize("way", [pullback, by_svds, ours.triplets])
def test_triplets(way, values):
    f, y = linear(values)
    answer = way(f, y, K)
    torch.testing.assert_close(answer.values.double(), values[:K], rtol=2e-3, atol=0)
    off, apart = Truth(f, y, "linear", K).of_triplets(answer)
    assert off < 5e-3 and apart < 1 and answer.products > K


@pytest.mark.parametrize(
    "way",
    [
        lambda f, y, k: differences(f, y, k, 1e-6),
        lambda f, y, k: arnoldi(f, y, k, 20),
        ours.full,
        ours.symmetric,
    ],
)
def test_pairs(way, values):
    f, y = linear(values)
    answer = way(f, y, K)
    torch.testing.assert_close(answer.values.abs().double(), values[:K], rtol=2e-3, atol=0)
    for off, apart in Truth(f, y, "linear", K).of_pairs(answer):
        assert off < 5e-3 and apart < 1


def test_traces(values):
    f, y = linear(values, torch.float32)
    assert abs(probes(f, y, 2000).values.item() - 2) < 0.3
    assert abs(ours.trace(f, y).values.item() - 2) < 0.05


def test_angles():
    e = torch.eye(4, dtype=torch.float64)
    tilted = torch.stack([e[0], (e[1] + e[2]) / 2**0.5])
    assert abs(angle(tilted, e[:2]) - 45) < 1e-6 and angle(e[:1], e[:2]) < 1e-6
    assert angle(torch.stack([e[0] + 1j * e[1], e[0] - 1j * e[1]]), e[:2]) < 1e-6
