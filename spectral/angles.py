"""How two bases compare: principal angles, cluster by cluster, and which vector became which.

Single eigenvectors of close eigenvalues are arbitrary within their common span, so bases are compared by
spans; across noise levels, where eigenvalues cross, by matching.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

from spectral.base import Result
from spectral.errors import OptionError, ShapeError
from spectral.results import EigenPairs, SingularTriplets

Basis = Tensor | EigenPairs | SingularTriplets


def subspace_angles(first: Basis, second: Basis) -> Tensor:
    """The principal angles theta_1 <= theta_2 <= ... between two spans, in radians, (min(k, m),) float64.

        cos theta_i = sigma_i(Q P'),    sin theta_i = sigma_i(Q - (Q P') P), the smallest first,

    Q and P orthonormal rows of the two spans, Q's the smaller; angles below pi / 4 are taken from the sines,
    so that they are right to rounding.

    Args:
        first, second: rows (k, *shape) and (m, *shape), independent, real or complex, or a result of
            `top_eigs` or `top_svd` (whose right vectors are taken).

    Raises:
        ShapeError: the vectors have different lengths, or come from a batch.

    Source: Bjoerck and Golub, Math. Comp. 27 (1973); Knyazev and Argentati, SIAM J. Sci. Comput. 23 (2002).
    """
    Q, P = _orthonormal(first), _orthonormal(second)
    if Q.shape[1] != P.shape[1]:
        raise ShapeError(f"vectors of {Q.shape[1]} and of {P.shape[1]} entries span no common space")
    if len(Q) > len(P):
        Q, P = P, Q
    Q, P = Q.to(torch.promote_types(Q.dtype, P.dtype)), P.to(torch.promote_types(Q.dtype, P.dtype))
    inside = Q @ P.mH
    cosine = torch.linalg.svdvals(inside).clamp(max=1)
    sine = torch.linalg.svdvals(Q - inside @ P).clamp(max=1).flip(0)
    return torch.where(sine**2 < 0.5, sine.asin(), cosine.acos())


def clusters(values: Tensor, gap: float) -> list[slice]:
    """Positions of ordered values (k,), cut where neighbours differ by more than `gap`."""
    cuts = ((values[1:] - values[:-1]).abs() > gap).nonzero().flatten() + 1
    ends = [0, *cuts.tolist(), len(values)]
    return [slice(a, b) for a, b in itertools.pairwise(ends) if a < b]


def cluster_angles(
    first: EigenPairs | SingularTriplets, second: Basis, *, gap: float
) -> list[tuple[slice, float]]:
    """For each cluster of `first`, the largest angle of its span to the span of `second`, in radians.

    0 where all of the cluster lies in `second`, pi / 2 where one of its directions is orthogonal to it.

    Args:
        gap: values of `first` closer than this are one cluster; twice their `errors` is the least that can
            tell them apart.

    Returns:
        (positions, angle), cluster by cluster.
    """
    if not gap >= 0:
        raise OptionError(f"gap is a distance between values, not negative; got {gap}")
    rows = _rows(first)
    found = []
    for part in clusters(first.values, gap):
        angles = subspace_angles(rows[part], second)
        wider = part.stop - part.start > len(_rows(second))
        found.append((part, math.pi / 2 if wider else angles[-1].item()))
    return found


@dataclass(frozen=True, eq=False)
class Matching(Result):
    """Which vector of a second basis continues each vector of a first.

    index (k,): positions in the second, no two alike; overlap (k,): |<e_i, f_index[i]>| of unit vectors, near
    1 where a vector went on, near 0 where it dissolved; phase (k,): what the second's vector is multiplied by
    to agree with the first's, a sign for real ones.
    """

    index: Tensor
    overlap: Tensor
    phase: Tensor


def match(first: Basis, second: Basis) -> Matching:
    """Follow vectors from one basis to another, as from one noise level to the next.

    The assignment that maximises sum_i |<e_i, f_index[i]>|^2, each f used once (Kuhn's Hungarian method); so
    eigenvalues may cross.  Where values are close, vectors mix and overlaps are small: look at
    `cluster_angles`.

    Args:
        first, second: k and m >= k unit vectors, as in `subspace_angles`.

    Raises:
        ShapeError: the vectors have different lengths, come from a batch, or the second are fewer.
    """
    E, F = _unit(_rows(first)), _unit(_rows(second))
    if E.shape[1] != F.shape[1] or len(E) > len(F):
        raise ShapeError(f"cannot match {tuple(E.shape)} to {tuple(F.shape)}: as long, and at least as many")
    dtype = torch.promote_types(E.dtype, F.dtype)
    G = E.to(dtype) @ F.to(dtype).mH
    _, index = scipy.optimize.linear_sum_assignment(-(G.abs() ** 2).numpy())
    chosen = G.gather(1, torch.as_tensor(index).unsqueeze(1)).squeeze(1)
    phase = torch.where(chosen.abs() > 0, chosen / chosen.abs().clamp(min=1e-300), torch.ones_like(chosen))
    return Matching(torch.as_tensor(index), chosen.abs(), phase)


def _rows(basis: Basis) -> Tensor:
    """(k, n) in float64 or complex128 on the CPU."""
    if isinstance(basis, Tensor):
        rows = basis
    else:
        if basis.values.ndim != 1:
            raise ShapeError("a batched result holds a basis for each image: pass its vectors[i]")
        rows = basis.right if isinstance(basis, SingularTriplets) else basis.vectors
    if rows.ndim < 2 or 0 in rows.shape:
        raise ShapeError(f"a basis is (k, *shape), at least one vector; got {tuple(rows.shape)}")
    return rows.detach().flatten(1).to("cpu", torch.complex128 if rows.is_complex() else torch.float64)


def _unit(rows: Tensor) -> Tensor:
    return rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp(min=1e-300)


def _orthonormal(basis: Basis) -> Tensor:
    return torch.linalg.qr(_rows(basis).mT)[0].mT
