"""This library's front doors, as README calls them."""

import torch
from torch import Tensor

import spectral
from benchmarks.peers.answer import Answer, Network


def triplets(f: Network, y: Tensor, k: int) -> Answer:
    """`top_svd`."""
    J = spectral.jacobian(f, y)
    found = spectral.top_svd(J, k=k)
    return Answer(found.values, J.count, found.right.flatten(1), found.left.flatten(1), says=told(found))


def symmetric(f: Network, y: Tensor, k: int) -> Answer:
    """`top_eigs`."""
    J = spectral.jacobian(f, y)
    found = spectral.top_eigs(J, k=k, which="magnitude")
    return Answer(found.values, J.count, found.vectors.flatten(1), says=told(found))


def full(f: Network, y: Tensor, k: int) -> Answer:
    """`top_eigs_full`."""
    J = spectral.jacobian(f, y)
    found = spectral.top_eigs_full(J, k=k, which="magnitude")
    return Answer(found.values, J.count, found.vectors.flatten(1), says=told(found))


def trace(f: Network, y: Tensor, rtol: float = 0.01) -> Answer:
    """`trace` to one per cent."""
    J = spectral.jacobian(f, y)
    found = spectral.trace(J, rtol=rtol)
    says = f"+- {found.halfwidth(0.95):.1f} at 95 %"
    return Answer(torch.tensor(found.value, dtype=torch.float64), J.count, error=found.stderr, says=says)


def told(found: spectral.EigenPairs | spectral.FullEigenPairs | spectral.SingularTriplets) -> str:
    """Its largest residual over the largest value, and the certificate's verdict."""
    worst = (found.residuals.max() / found.values.abs().max()).item()
    complete = "complete" if bool(found.complete) else "complete but for a gap"
    return f"residual {worst:.0e}, {complete}"
