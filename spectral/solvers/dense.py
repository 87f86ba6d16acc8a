"""Spectra by forming the matrix: for small problems, and where most of the spectrum is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from spectral.linalg.svd import svd
from spectral.linalg.unseen import rounding
from spectral.operators.base import LinearOperator
from spectral.solvers.control import Control
from spectral.solvers.found import Completeness, RitzPairs, RitzTriplets
from spectral.solvers.method import FoundT, Method
from spectral.solvers.target import Target

DENSE_AT_MOST = 8192  # n up to which forming a matrix is thought of: 0.5 GB of float64


class Formed(Method[FoundT]):
    """A method that forms the matrix, from n products; nothing can be missed.

    The completeness bound is the next value, at confidence 1; n^2 float64 numbers are held.
    """

    name: ClassVar[str] = "dense"

    def least(self, target: Target, n: int) -> int:
        """All n."""
        return n


@dataclass(frozen=True, eq=False)
class Dense(Formed[RitzPairs]):
    """Eigenpairs by LAPACK's eigh in float64."""

    finds: ClassVar[type] = RitzPairs

    def solve(self, A: LinearOperator, target: Target, control: Control) -> RitzPairs:
        """The wanted eigenpairs of a symmetric A; see `Method.solve`."""
        M = A.dense().double()
        M = M if A.batch else M[None]
        theta, Y = torch.linalg.eigh(target.sign * (M + M.mT) / 2)
        order = torch.argsort(target.height(theta), dim=-1, descending=True)
        theta = theta.gather(-1, order)
        norm = theta.abs().max().item()
        error = rounding(A.eps, norm)
        wanted = target.wanted(theta, error)
        V = Y.gather(-1, order[:, None, :wanted].expand(-1, A.shape[0], -1)).mT.to(A.dtype)
        V = A.domain.own(V).contiguous()
        return RitzPairs(
            vectors=V,
            AV=A.apply(V),
            completeness=Completeness(target.sign * target.remaining(theta.cpu(), error), 1.0, 0),
            spent={"solve": A.shape[0], "residuals": wanted},
            norm=norm,
        )


@dataclass(frozen=True, eq=False)
class DenseSVD(Formed[RitzTriplets]):
    """Singular triplets by LAPACK's svd in float64."""

    finds: ClassVar[type] = RitzTriplets

    def solve(self, A: LinearOperator, target: Target, control: Control) -> RitzTriplets:
        """The largest singular triplets of A (r, n); see `Method.solve`."""
        M = A.dense().double()
        Y, sigma, Zh = svd(M if A.batch else M[None])
        norm = sigma.max().item()
        error = rounding(A.eps, norm)
        wanted = target.wanted(sigma, error)
        sides = (A.codomain, Y.mT), (A.domain, Zh)
        U, V = (space.own(X[:, :wanted].to(A.dtype)).contiguous() for space, X in sides)
        return RitzTriplets(
            right=V,
            left=U,
            AV=A.apply(V),
            ATU=A.apply_transpose(U),
            completeness=Completeness(target.remaining(sigma.cpu(), error), 1.0, 0),
            spent={"solve": A.shape[1], "residuals": wanted},
            norm=norm,
        )
