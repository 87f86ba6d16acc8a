"""What an answer is worth: true residuals by autograd in float64, and angles to certified subspaces."""

import math
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

import spectral
from benchmarks.peers.answer import Answer, Network, forward_mode

TIGHT = 1e-7


class Truth:
    """Certified solves in float64, each when it is asked for, and products by torch's own differentiation.

    Args:
        f, y: the network in float64, and its input.
        what: they are, in words.
        k: how many pairs or triplets.
    """

    def __init__(self, f: Network, y: Tensor, what: str, k: int) -> None:
        self.f, self.y, self.k = f, y, k
        self.told = (
            f"{what[0].upper()}{what[1:]}, d = {y.numel()}, k = {k}; threads: {torch.get_num_threads()}"
        )
        self.input = y.clone().requires_grad_()
        self.output = f(self.input)

    @cached_property
    def svd(self) -> spectral.SingularTriplets:
        """The next one too, for its gap."""
        return certain(spectral.top_svd(self.f, self.y, k=self.k + 1, tol=TIGHT))

    @cached_property
    def eigs(self) -> spectral.EigenPairs:
        """Of S, the next one too."""
        return certain(spectral.top_eigs(self.f, self.y, k=self.k + 1, which="magnitude", tol=TIGHT))

    @cached_property
    def full(self) -> spectral.FullEigenPairs:
        """Of J."""
        return certain(spectral.top_eigs_full(self.f, self.y, k=self.k, which="magnitude", tol=TIGHT))

    def gaps(self, symbol: str, values: Tensor) -> str:
        """The first, the k-th and the next value."""
        first, last, beyond = (f"{values[i].item():.4f}" for i in (0, self.k - 1, self.k))
        return f"{symbol}_1 = {first}, {symbol}_{self.k} = {last}, {symbol}_{self.k + 1} = {beyond}"

    def push(self, V: Tensor) -> Tensor:
        """J v for each row, complex ones too."""
        if V.is_complex():
            return torch.complex(self.push(V.real), self.push(V.imag))
        rows = V.double().reshape(-1, *self.y.shape)
        with forward_mode():
            products = [torch.func.jvp(self.f, (self.y,), (v,))[1] for v in rows]
        return torch.stack(products).detach().flatten(1)

    def pull(self, U: Tensor) -> Tensor:
        """J' u for each row, complex ones too."""
        if U.is_complex():
            return torch.complex(self.pull(U.real), self.pull(U.imag))
        rows = U.double().reshape(-1, *self.y.shape)
        pulled = [torch.autograd.grad(self.output, self.input, u, retain_graph=True)[0] for u in rows]
        return torch.stack(pulled).flatten(1)

    def of_triplets(self, a: Answer) -> tuple[float, float]:
        """The worst of |J v - sigma u| and |J' u - sigma v| over sigma_1, and the angle to the truth."""
        assert a.right is not None and a.left is not None
        U, V, sigma = a.left.double(), a.right.double(), a.values.double()[:, None]
        if not U.any():
            return math.nan, math.nan
        JV = self.push(V)
        U = U * (U * JV).sum(-1, keepdim=True).sign()  # a left vector of another step may have another sign
        off = torch.cat([norms(JV - sigma * U), norms(self.pull(U) - sigma * V)])
        return (off.max() / self.svd.values[0]).item(), angle(V, self.svd.right[: self.k])

    def of_pairs(self, a: Answer) -> list[tuple[float, float]]:
        """The worst |A v - lambda v| over |lambda_1| of A, and the angle to the truth: of J, and of S."""
        assert a.right is not None
        wide = torch.complex128 if a.right.is_complex() or a.values.is_complex() else torch.float64
        V, values = a.right.to(wide), a.values.to(wide)[:, None]
        forward, backward = self.push(V), self.pull(V)
        return [
            ((norms(AV - values * V).max() / size.abs().max()).item(), angle(V, subspace))
            for AV, size, subspace in (
                (forward, self.full.values, self.full.schur_vectors),
                ((forward + backward) / 2, self.eigs.values, self.eigs.vectors[: self.k]),
            )
        ]


Found = TypeVar("Found", spectral.SingularTriplets, spectral.EigenPairs, spectral.FullEigenPairs)


def certain(found: Found) -> Found:
    """What was found, if nothing is short of the tolerance or may be missing."""
    if not (bool(found.converged.all()) and bool(found.complete.all())):
        raise ArithmeticError(f"no truth to compare with:\n{found}")
    return found


def norms(V: Tensor) -> Tensor:
    """|v| for each row."""
    return torch.linalg.vector_norm(V, dim=-1)


def angle(V: Tensor, W: Tensor) -> float:
    """The largest principal angle between spans, of the smaller one to the larger, in degrees."""
    if V.is_complex():  # pairs in conjugates: their real span
        V = torch.cat([V.real, V.imag])
    _, s, Vh = torch.linalg.svd(V.double(), full_matrices=False)
    P, Q = Vh[s > 1e-6 * s[0]], torch.linalg.qr(W.double().flatten(1).T)[0].T
    small, large = (P, Q) if len(P) <= len(Q) else (Q, P)
    outside = small - (small @ large.T) @ large
    return torch.rad2deg(torch.asin(torch.linalg.matrix_norm(outside, 2).clamp(max=1))).item()
