"""What solvers find, before it is certified."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from spectral.base import Result


@dataclass(frozen=True, eq=False)
class Completeness(Result):
    """With probability at least `confidence`, no eigenvalue outside those returned lies beyond `bound`.

    To be exact: S has no eigenvalue beyond `bound` on the orthogonal complement of the vectors the probe
    locked, so at most k of its eigenvalues lie beyond it.
    bound (B,) or (): larger than it for "largest", smaller for "smallest", larger in magnitude for
    "magnitude"; infinite, with confidence 0, where no probe was made.  products: what it cost.
    The chance is over the probe's random starts, not over operators.
    """

    bound: Tensor
    confidence: float
    products: int


@dataclass(frozen=True)
class RitzPairs:
    """Eigenpairs of a symmetric operator.

    vectors (B, k, n), orthonormal rows in the order of preference; AV (B, k, n), A v for each, formed
    after the solve; products spent, by purpose; `norm`, the largest |A x| seen for a unit x; notes for the
    user.
    """

    vectors: Tensor
    AV: Tensor
    completeness: Completeness
    spent: dict[str, int]
    norm: float
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RitzTriplets:
    """Singular triplets.

    right (B, k, n) and left (B, k, r), orthonormal rows, the largest value first; AV and ATU, A v and A' u of
    each, formed after the solve; the rest as in `RitzPairs`.
    """

    right: Tensor
    left: Tensor
    AV: Tensor
    ATU: Tensor
    completeness: Completeness
    spent: dict[str, int]
    norm: float
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SchurPairs(RitzPairs):
    """An invariant subspace of an operator that need not be symmetric.

    vectors (1, m, n): orthonormal rows that span it, m = k, or k + 1 where k would part a complex pair;
    AV (1, m, n), A q for each; conditions (m,): lower bounds of the eigenvalues' own, the highest
    eigenvalue first; eps, the relative rounding of a product; left: the same of A', None where it was not
    asked for.
    """

    conditions: np.ndarray
    eps: float
    left: RitzPairs | None = None
