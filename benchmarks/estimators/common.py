"""Spectra, matrices and pictures that the sections share, and how they write."""

from __future__ import annotations

import torch
from torch import Tensor

import denoisers
from benchmarks.page import ROOT, insert
from denoisers.images import folder
from spectral.estimators import Estimate
from spectral.operators import LinearOperator, as_operator, from_functions

PAGE = ROOT / "docs/estimators/index.md"
SIGMA = 0.15


def spectra(n: int) -> dict[str, Tensor]:
    """The five spectra of the XTrace paper (Epperly, Tropp, Webber 2024)."""
    i = torch.arange(1, n + 1, dtype=torch.float64)
    return {
        "flat 1..3": 1 + 2 * (i - 1) / (n - 1),
        "i^-2": i**-2,
        "0.9^i": 0.9**i,
        "0.7^i": 0.7**i,
        "step 1 / 1e-3": torch.where(i <= n // 20, 1.0, 1e-3).double(),
    }


def rotated(values: Tensor, seed: int = 0) -> LinearOperator:
    """The symmetric matrix with these eigenvalues and uniformly random eigenvectors."""
    n = len(values)
    G = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    Q, R = torch.linalg.qr(G)
    A = (Q * R.diagonal().sign() * values) @ (Q * R.diagonal().sign()).T
    return as_operator((A + A.T) / 2)


def copies(A: LinearOperator, runs: int) -> LinearOperator:
    """A symmetric A as `runs` independent problems, so that one call makes as many runs."""
    M = A.dense()
    return from_functions(lambda V: V @ M, n=len(M), dtype=M.dtype, batch=(runs,), symmetric=True)


def photograph(
    rows: slice = slice(None), columns: slice = slice(None)
) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """The network `photos`, and the shipped photograph or a crop of it, noisy and clean."""
    clean = torch.from_numpy(folder.photograph())
    y = clean + SIGMA * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    model = denoisers.load("photos").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, y[..., rows, columns].contiguous(), clean[..., rows, columns].contiguous()


def covered(found: Estimate, truth: float | Tensor) -> Tensor:
    """Which 95 % intervals hold the truth."""
    low, high = (torch.as_tensor(bound) for bound in found.interval())
    return (low <= truth) & (truth <= high)


def share(hits: Tensor) -> float:
    """The fraction that is true."""
    return hits.double().mean().item()


def percent(fraction: float) -> str:
    """95.2 %"""
    return f"{100 * fraction:.1f} %"


def said(found: Estimate) -> str:
    """value +- half of the 95 % interval."""
    return f"{float(found):.1f} +- {float(found.halfwidth()):.1f}"


def publish(name: str, text: str) -> None:
    """Print a section and put it into the page."""
    print(text, flush=True)
    insert(PAGE, name, text)
