"""Real networks: the Jacobian that a lab published, and its networks beside SciPy's eigsh.

The data are not part of the project; without them these tests skip.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh

import denoisers
import spectral
from denoisers.images.folder import photograph

LAB = Path(__file__).parents[1] / "../shared/data/lab"
pytestmark = pytest.mark.skipif(not LAB.is_dir(), reason=f"the lab's networks are not at {LAB}")

PUBLISHED_TOP = [1.9261, 1.5029, 1.3909, 1.3748, 1.3427, 1.3290, 1.2706, 1.2556]

PUBLISHED_SINGULAR = [2.0747, 1.5315, 1.4798, 1.4142, 1.3887, 1.3497, 1.2964, 1.2743]


@pytest.fixture(scope="module")
def patch():
    net = denoisers.load(LAB / "bfdncnn20_bsd400_gray_0-100.npz")
    return net, torch.from_numpy(np.load(LAB / "noisy_im_30.npy")).float().reshape(1, 1, 30, 30)


@pytest.fixture(scope="module")
def published():
    """The denoiser's Jacobian as published, (900, 900) float64: the file holds that of the residual."""
    return torch.eye(900).double() - torch.from_numpy(np.load(LAB / "Jacobian_30.npy")).double().reshape(
        900, 900
    )


def test_published_spectrum_through_the_network(patch, published):
    pairs = spectral.top_eigs(*patch, 20)
    exact = torch.linalg.eigvalsh((published + published.T) / 2).flip(0)
    assert pairs.converged.all() and pairs.complete
    assert (pairs.values - exact[:20]).abs().max() < 1e-3
    assert (pairs.values[:8] - torch.tensor(PUBLISHED_TOP).double()).abs().max() < 1e-3
    least = spectral.top_eigs(*patch, 1, which="smallest")
    assert abs(least.values.item() + 0.2741) < 1e-3


def test_published_singular_values_through_the_network(patch, published):
    found = spectral.top_svd(*patch, 8)
    assert found.converged.all() and found.complete
    assert (found.values - torch.linalg.svdvals(published)[:8]).abs().max() < 1e-3
    assert (found.values - torch.tensor(PUBLISHED_SINGULAR).double()).abs().max() < 1e-3


PUBLISHED_EIGENVALUES = [1.7849, 1.4418, 1.3660, 1.2980, 1.2913, 1.2830]


@pytest.mark.parametrize("method", ["lanczos", "lobpcg", "chebyshev"])
def test_symmetric_part_by_every_method(patch, method):
    pairs = spectral.top_eigs(*patch, 8, method=method, tol=1e-4)
    assert pairs.converged.all() and pairs.complete
    assert (pairs.values - torch.tensor(PUBLISHED_TOP).double()).abs().max() < 1e-3


def test_singular_values(patch):
    found = spectral.top_svd(*patch, 8, tol=1e-3, method="golub-kahan")
    assert found.converged.all() and found.complete
    assert (found.values - torch.tensor(PUBLISHED_SINGULAR).double()).abs().max() < 1e-3


@pytest.mark.parametrize("method", ["krylov-schur", pytest.param("dense", marks=pytest.mark.slow)])
def test_eigenvalues_of_the_matrix_itself_by_every_method(patch, method):
    pairs = spectral.top_eigs_full(*patch, 6, method=method, tol=1e-4)
    assert pairs.converged.all() and pairs.complete and not pairs.defective.any()
    assert (pairs.values.real - torch.tensor(PUBLISHED_EIGENVALUES).double()).abs().max() < 1e-3


def test_published_asymmetry(patch):
    skew = spectral.top_eigs(*patch, 1).asymmetry
    assert abs(skew.value - 0.428) < 4 * skew.stderr < 0.1


def test_published_matrix_as_an_operator(published):
    pairs = spectral.top_eigs(published, k=8, tol=1e-8, method="lanczos")
    assert (pairs.values - torch.tensor(PUBLISHED_TOP).double()).abs().max() < 5e-5


def test_products_equal_the_published_jacobian(patch, published):
    J = spectral.jacobian(*patch)
    V = torch.randn(3, 900, generator=torch.Generator().manual_seed(0))
    for ours, theirs in (
        (J.apply(V), V.double() @ published.T),
        (J.apply_transpose(V), V.double() @ published),
    ):
        assert (ours - theirs).norm() / theirs.norm() < 2.5e-3


@pytest.mark.slow
def test_same_eigenvalues_as_eigsh_at_80x80():
    net = denoisers.load(LAB / "bfcnn21_celeba160_gray.npz").to(memory_format=torch.channels_last)
    x = torch.from_numpy(photograph())[:, :, 60:140, 180:260]
    y = x + 0.15 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    S = spectral.jacobian(net, y).symmetric_part()
    start = np.random.default_rng(0).standard_normal(6400).astype(np.float32)
    theirs = eigsh(S.to_scipy(), 20, which="LA", tol=1e-3, v0=start, return_eigenvectors=False)[::-1]
    theirs_products = S.count
    pairs = spectral.top_eigs(net, y, 20, tol=1e-3)
    print(f"eigsh {theirs_products} products; ours {pairs.spent}")
    assert np.abs(pairs.values.numpy() - theirs).max() < 2e-3
    assert pairs.spent["solve"] <= 1.1 * theirs_products
