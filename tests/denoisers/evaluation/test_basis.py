"""Bases at an image: a projection on a disk's tangents, whose eigenvectors are known to be these."""

import math

import numpy as np
import pytest
import torch

import spectral
from denoisers.evaluation import basis_at
from denoisers.images import Disks


@pytest.fixture(scope="module")
def disk():
    """(x, its tangents, and eigenpairs of the projection on these, 8 of them)."""
    disks = Disks(10, softness=1.0)
    parameters = np.array([[4.2, 5.1, 2.8, 0.9, 0.2]])
    x = torch.from_numpy(disks.render(parameters))
    tangents = torch.from_numpy(disks.tangents(parameters))[0]
    rows = torch.linalg.qr(tangents.flatten(1).mT)[0].mT
    scale = torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6], dtype=torch.float64)

    def project(y):
        inner = y.flatten(1) @ rows.mT
        rest = y.flatten(1) - inner @ rows
        return ((inner * scale) @ rows + 0.1 * rest).reshape(y.shape)

    return x, tangents, spectral.top_eigs(project, x, k=8)


def test_a_projection_on_tangents_has_them_as_its_basis(disk):
    x, tangents, pairs = disk
    found = basis_at(pairs, x, tangents)
    np.testing.assert_allclose(found.values[:6], [1, 0.9, 0.8, 0.7, 0.6, 0.1], atol=1e-6)
    assert found.angles.shape == (5,) and found.angles.max() < 1e-5
    np.testing.assert_allclose(found.inside, [1] * 5 + [0] * 3, atol=1e-9)
    np.testing.assert_allclose(found.reach, [math.pi / 2] * 4 + [0] * 4, atol=1e-5)
    # x = a inside + b (1 - inside), which two of the tangents span.
    np.testing.assert_allclose(found.energy[4:], 1, atol=1e-9)
    assert found.energy[0] < 0.999 and found.dimension(1 - 1e-6) <= 5
    assert "degrees from the first 5" in repr(found)


def test_coefficients_and_energy_are_their_definitions(disk):
    x, _, pairs = disk
    other = torch.rand(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = basis_at(pairs, other)
    expected = [float((e.double() * other[0]).sum()) for e in pairs.vectors.reshape(8, 1, 10, 10)]
    np.testing.assert_allclose(found.coefficients, expected, rtol=1e-12)
    shares = np.cumsum(np.square(expected)) / float(other.square().sum())
    np.testing.assert_allclose(found.energy, shares, rtol=1e-12)
    assert found.dimension(0.999) is None and found.dimension(shares[3] - 1e-9) == 4
    assert found.angles is None and "tangents" not in repr(found)


def test_directions_that_are_half_tangent_are_at_45_degrees(disk):
    x, _, pairs = disk
    rows = pairs.vectors.flatten(1).double()
    tilted = (rows[:2] + rows[6:8]) / math.sqrt(2)
    found = basis_at(pairs, x, tilted)
    np.testing.assert_allclose(found.angles, [math.pi / 4] * 2, atol=1e-9)
    np.testing.assert_allclose(found.inside, [0.5, 0.5, 0, 0, 0, 0, 0.5, 0.5], atol=1e-9)
    np.testing.assert_allclose(found.reach[[0, 1, 7]], [math.pi / 2, math.pi / 4, 0], atol=1e-7)


def test_what_does_not_fit_is_refused(disk):
    x, tangents, pairs = disk
    batch = spectral.top_eigs(lambda y: 0.5 * y, x.repeat(2, 1, 1, 1), k=2, batched=True)
    with pytest.raises(ValueError, match="at one image"):
        basis_at(batch, x)
    with pytest.raises(ValueError, match="100 entries each"):
        basis_at(pairs, x[..., :6])
    with pytest.raises(ValueError, match="100 entries each, got"):
        basis_at(pairs, x, tangents[..., :6])
    with pytest.raises(ValueError, match="0 everywhere"):
        basis_at(pairs, 0 * x)
    with pytest.raises(ValueError, match="share lies in"):
        basis_at(pairs, x).dimension(0)
