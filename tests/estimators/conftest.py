"""Shared operators: random rotations of known spectra, and the lab's published Jacobian."""

from pathlib import Path

import numpy as np
import pytest
import torch

LAB = Path(__file__).resolve().parents[2] / "../shared/data/lab"


def rotation_of(values, seed=0):
    """The symmetric matrix with these eigenvalues in a uniformly random orthonormal basis, float64."""
    generator = torch.Generator().manual_seed(seed)
    n = len(values)
    Q, R = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    Q = Q * torch.diagonal(R).sign()
    A = (Q * torch.as_tensor(values, dtype=torch.float64)) @ Q.T
    return (A + A.T) / 2


@pytest.fixture(scope="session")
def rotated():
    """(values, seed) -> a symmetric matrix with these eigenvalues, as a fixture for tests to call."""
    return rotation_of


@pytest.fixture(scope="session")
def published():
    """The 900x900 denoiser Jacobian I - file that the lab published, float64."""
    path = LAB / "Jacobian_30.npy"
    if not path.exists():
        pytest.skip(f"the lab's Jacobian is not at {path}")
    return torch.eye(900, dtype=torch.float64) - torch.as_tensor(np.load(path)).double()
