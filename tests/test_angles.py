"""Angles between bases against scipy, closed forms, and matching through a crossing."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import spectral
from spectral.angles import cluster_angles, clusters, match, subspace_angles
from spectral.errors import OptionError, ShapeError


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(8, 40), st.integers(0, 999), st.booleans())
def test_same_angles_as_scipy(k, m, n, seed, complex_rows):
    rng = np.random.default_rng(seed)
    A, B = rng.standard_normal((k, n)), rng.standard_normal((m, n))
    if complex_rows:
        A = A + 1j * rng.standard_normal((k, n))
    ours = subspace_angles(torch.as_tensor(A), torch.as_tensor(B))
    theirs = np.sort(scipy.linalg.subspace_angles(A.conj().T, B.T))
    np.testing.assert_allclose(ours, theirs, atol=1e-7)  # SciPy has 2e-8 for 0 where k > m


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-7, 0.3, math.pi / 2 - 1e-9, math.pi / 2])
def test_a_known_angle_to_rounding(angle):
    E = torch.eye(6, dtype=torch.float64)
    turned = math.cos(angle) * E[0] + math.sin(angle) * E[4]
    found = subspace_angles(E[:2], torch.stack([turned, E[1]]))
    assert found[0] < 1e-15 and abs(found[1].item() - angle) < 1e-15 + 1e-12 * angle


def test_clusters_are_compared_as_spans():
    """Two solves of a matrix with a fourfold eigenvalue: other vectors, the same span."""
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(60, 60, generator=generator, dtype=torch.float64))[0]
    values = torch.cat(
        [torch.tensor([2.0, 1.5, 1.5, 1.5, 1.5, 1.0]).double(), torch.linspace(0.5, 0, 54).double()]
    )
    M = (Q * values) @ Q.T
    first, second = (spectral.top_eigs(M, k=6, tol=1e-11, method="lanczos", seed=s) for s in (0, 1))
    assert match(first, second).overlap.min() < 0.99
    found = cluster_angles(first, second, gap=1e-6)
    assert [(part.start, part.stop) for part, _ in found] == [(0, 1), (1, 5), (5, 6)]
    assert max(angle for _, angle in found) < 1e-8
    apart = cluster_angles(first, second.vectors[:3], gap=1e-6)
    assert apart[0][1] < 1e-8 and apart[1][1] > 1.5 and apart[2][1] > 1.5


def test_clusters_cut_at_gaps():
    assert clusters(torch.tensor([3.0, 2.9, 2.0, 1.0, 0.95]), 0.2) == [slice(0, 2), slice(2, 3), slice(3, 5)]
    assert clusters(torch.empty(0), 0.2) == []


def test_matching_follows_a_crossing():
    """Eigenvalues that change places keep their vectors; signs are told."""
    E = torch.eye(9, dtype=torch.float64)
    turned = torch.stack([-E[1], E[0], E[2], E[5]])
    found = match(E[:3], turned)
    assert found.index.tolist() == [1, 0, 2] and found.phase.tolist() == [1, -1, 1]
    torch.testing.assert_close(found.overlap, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(found.phase[:, None] * turned[found.index], E[:3])


def test_singular_triplets_and_refusals():
    M = torch.randn(30, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    triplets = spectral.top_svd(M, k=3)
    assert subspace_angles(triplets, triplets.right).max() < 1e-7
    batch = spectral.top_eigs(torch.stack([M.T @ M, M.T @ M]), k=2)
    with pytest.raises(ShapeError, match="batched"):
        subspace_angles(batch, triplets)
    with pytest.raises(ShapeError, match="20 and of 30"):
        subspace_angles(triplets, triplets.left)
    with pytest.raises(ShapeError, match="at least as many"):
        match(triplets, triplets.right[:2])
    with pytest.raises(OptionError, match="gap"):
        cluster_angles(triplets, triplets, gap=-1)
