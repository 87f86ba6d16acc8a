"""Spectra by forming the matrix: for small problems, and where most of the spectrum is wanted."""

from __future__ import annotations

import torch

from spectral.operators.base import LinearOperator
from spectral.solvers.certificate import Completeness, rounding
from spectral.solvers.golub_kahan import RitzTriplets
from spectral.solvers.lanczos import RitzPairs
from spectral.solvers.search import Target, Which, remaining

DENSE_AT_MOST = 8192  # n up to which forming a matrix is thought of: 0.5 GB of float64


def dense(
    A: LinearOperator, k: int = 1, *, which: Which = "largest", above: float | None = None
) -> RitzPairs:
    """The wanted eigenpairs of a symmetric operator from its n columns, by LAPACK in float64.

    Nothing can be missed: the completeness bound is the next eigenvalue, at confidence 1.

    Args:
        A: symmetric; n products form it, and n^2 float64 numbers hold it.
        k, which, above: as in `lanczos`.
    """
    target = Target(k, which, above)
    M = A.dense().double()
    M = M if A.batch else M[None]
    theta, Y = torch.linalg.eigh(target.sign * (M + M.mT) / 2)
    order = torch.argsort(target.height(theta), dim=-1, descending=True)
    theta = theta.gather(-1, order)
    norm = theta.abs().max().item()
    wanted = target.wanted(theta, rounding(A.eps, norm))
    V = Y.gather(-1, order[:, None, :wanted].expand(-1, A.shape[0], -1)).mT.to(A.dtype).contiguous()
    return RitzPairs(
        vectors=V,
        images=A.apply(V) if A.batch else A.apply(V[0])[None],
        completeness=Completeness(
            target.sign * remaining(target, theta.cpu(), rounding(A.eps, norm)), 1.0, 0
        ),
        spent={"solve": A.shape[0], "residuals": wanted},
        norm=norm,
    )


def dense_svd(A: LinearOperator, k: int = 1, *, above: float | None = None) -> RitzTriplets:
    """The largest singular triplets of an operator from its n columns, by LAPACK in float64.

    Args:
        A: of shape (r, n); n products form it.
        k, above: as in `golub_kahan`.
    """
    M = A.dense().double()
    Y, sigma, Zh = torch.linalg.svd(M if A.batch else M[None], full_matrices=False)
    target = Target(k, above=above)
    norm = sigma.max().item()
    wanted = target.wanted(sigma, rounding(A.eps, norm))
    U, V = (X[:, :wanted].to(A.dtype).contiguous() for X in (Y.mT, Zh))
    images = (
        (A.apply(V), A.apply_transpose(U))
        if A.batch
        else (A.apply(V[0])[None], A.apply_transpose(U[0])[None])
    )
    return RitzTriplets(
        right=V,
        left=U,
        images=images,
        completeness=Completeness(remaining(target, sigma.cpu(), rounding(A.eps, norm)), 1.0, 0),
        spent={"solve": A.shape[1], "residuals": wanted},
        norm=norm,
    )
