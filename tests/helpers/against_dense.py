"""What a symmetric solver returned, held against LAPACK within the bounds that it reports."""

import numpy as np
import torch
from torch import Tensor

from spectral.operators.space import Space
from spectral.solvers import RitzPairs
from spectral.solvers.certificate import certify, error_bounds

EPS = {torch.float32: 1.2e-7, torch.float64: 2.2e-16}
TRAP = torch.cat(
    [
        1 + 1.1e-4 * torch.linspace(0, 1, 12, dtype=torch.float64),
        0.8 * torch.linspace(0, 1, 4084, dtype=torch.float64),
    ]
)


def values_of(found: RitzPairs) -> Tensor:
    """Rayleigh quotients (B, k)."""
    return (found.vectors * found.AV).sum(-1)


def sought(values: np.ndarray, which: str) -> np.ndarray:
    """The spectrum in the order in which `which` seeks it."""
    if which == "magnitude":
        return values[np.argsort(-np.abs(values), kind="stable")]
    return np.sort(values) if which == "smallest" else np.sort(values)[::-1]


def agree(found: RitzPairs, M: Tensor, expected: np.ndarray, which: str, tol: float) -> None:
    """The pairs are those expected, orthonormal, residuals below tol, and off by no more than they say."""
    dtype = found.vectors.dtype
    assert found.vectors.shape == (1, len(expected), len(M))
    images = found.vectors[0].double() @ M.double()
    torch.testing.assert_close(
        found.AV[0].double(), images, atol=30 * EPS[dtype] * max(1, found.norm), rtol=0
    )
    order = {"descending": which != "smallest", "magnitude": which == "magnitude"}
    proof = certify(Space(len(M)), found.vectors, found.AV, **order)
    assert proof.orthogonality.item() <= 60 * EPS[dtype]
    if not len(expected):
        return
    values, residuals = proof.values[0].numpy(), proof.residuals[0].numpy()
    rounding = 60 * EPS[dtype] * max(found.norm, EPS[dtype])
    assert residuals.max() <= tol * np.abs(values).max() + rounding
    if which in ("largest", "smallest", "magnitude"):
        bound = error_bounds(proof.values, proof.residuals, found.completeness.bound, which=which)[0].numpy()
    else:
        bound = residuals
    if which == "magnitude":  # +a and -a are in no order
        values, expected = np.sort(np.abs(values)), np.sort(np.abs(expected))
        bound = np.full_like(bound, bound.max())
    # What lies within a residual of the last pair may be taken for it.
    assert (np.abs(values - expected) <= bound + residuals.max() + rounding).all()
