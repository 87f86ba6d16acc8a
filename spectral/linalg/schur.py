"""Real Schur forms: eigenvalues in an order of preference, their invariant subspaces, vectors and conditions.

    H = Z T Z'    Z orthogonal, T quasi-triangular: real eigenvalues on its diagonal, complex pairs in 2x2
                  blocks, which are never split

The leading columns of Z span invariant subspaces.  They stay orthonormal where eigenvectors are nearly
parallel, so they are what a solver keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy

Height = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class RealSchur:
    """T and Z of a real matrix (m, m) with H = Z T Z'; see the module's text.

    resolution: the error of H; eigenvalues closer than that count as this far apart, so that equal ones which
    have as many vectors get vectors that are not parallel.
    """

    T: np.ndarray
    Z: np.ndarray
    resolution: float = 0.0

    @classmethod
    def of(cls, H: np.ndarray, resolution: float = 0.0) -> RealSchur:
        """The Schur form of H, in the order in which LAPACK finds it."""
        T, Z = scipy.linalg.schur(H) if H.size else (H, H)  # SciPy before 1.14 refuses an empty matrix
        return cls(T, Z, resolution)

    @cached_property
    def values(self) -> np.ndarray:
        """Eigenvalues (m,), complex, along the diagonal of T; of a pair, the one with Im > 0 first."""
        diagonal, above, below = np.diag(self.T), np.diag(self.T, 1), np.diag(self.T, -1)
        i = np.flatnonzero(below)
        middle, half = (diagonal[i] + diagonal[i + 1]) / 2, (diagonal[i] - diagonal[i + 1]) / 2
        root = np.sqrt((half**2 + above[i] * below[i]).astype(complex))
        values = diagonal.astype(complex)
        values[i], values[i + 1] = middle + root, middle - root
        return values

    def order(self, height: Height) -> np.ndarray:
        """Indices of `values` by decreasing height; pairs stay together, their heights being equal."""
        return np.argsort(-height(self.values), kind="stable")

    def leading(self, chosen: np.ndarray) -> RealSchur:
        """The Schur form with the eigenvalues at the indices `chosen` first (whole pairs), in any order."""
        if not len(chosen):
            return self
        select = np.zeros(len(self.T), dtype=np.int32)
        select[chosen] = 1
        T, Z, *_ = scipy.linalg.lapack.dtrsen(select, self.T, self.Z, job=b"N")
        return replace(self, T=T, Z=Z)

    def ordered(self, height: Height) -> RealSchur:
        """The Schur form with its eigenvalues in order along the diagonal."""
        form, top = self, 0
        while top < len(self.T):
            best = top + int(np.argmax(height(form.values[top:])))
            if best > top:
                # Blocks too close to be told apart are left where they are.
                T, Z, _ = scipy.linalg.lapack.dtrexc(form.T, form.Z, best + 1, top + 1)
                form = replace(form, T=T, Z=Z)
            pair = top + 1 < len(form.T) and form.T[top + 1, top] != 0
            top += 2 if pair else 1
        return form

    @cached_property
    def vectors(self) -> np.ndarray:
        """Unit eigenvectors of H in columns (m, m), complex, in the order of `values`."""
        S, U = self._complex
        Y = self.Z @ (U @ _triangular_eigenvectors(S, self.resolution))
        # Either of a complex pair may come first on the diagonal of S.
        return np.where(np.diag(S).imag * self.values.imag < 0, Y.conj(), Y)

    @cached_property
    def conditions(self) -> np.ndarray:
        """1 / |w^H v| for the unit left and right eigenvectors of each eigenvalue, (m,); at most 1 / eps."""
        S, _ = self._complex
        right = _triangular_eigenvectors(S, self.resolution)
        left = _triangular_eigenvectors(S.T[::-1, ::-1], self.resolution)[::-1, ::-1]
        return 1 / np.maximum(np.abs((left * right).sum(0)), np.finfo(float).eps)

    @cached_property
    def _complex(self) -> tuple[np.ndarray, np.ndarray]:
        """The complex Schur form (S, U) of T = U S U^H."""
        return scipy.linalg.rsf2csf(self.T, np.eye(len(self.T)))


def departure(T: np.ndarray) -> float:
    """Henrici's departure from normality, (|T|_F^2 - sum |lambda|^2)^(1/2): 0 for a normal matrix."""
    values = RealSchur(T, np.eye(len(T))).values
    return float(np.sqrt(max(np.linalg.norm(T) ** 2 - (np.abs(values) ** 2).sum(), 0.0)))


def _triangular_eigenvectors(S: np.ndarray, resolution: float) -> np.ndarray:
    """Unit eigenvectors in columns of an upper triangular complex S, by back substitution for all at once."""
    s = np.diag(S)
    # What keeps equal eigenvalues apart makes the vectors of Jordan blocks parallel, but for that much.
    least = max(resolution, np.finfo(float).eps * np.abs(S).max(initial=0.0), np.finfo(float).tiny)
    Y = np.eye(len(S), dtype=complex)
    for row in range(len(S) - 2, -1, -1):
        gap = s[row + 1 :] - s[row]
        gap = np.where(np.abs(gap) < least, least, gap)
        Y[row, row + 1 :] = S[row, row + 1 :] @ Y[row + 1 :, row + 1 :] / gap
        if np.abs(Y[row]).max() > 1e100:  # on the way to overflow, in a long Jordan block
            Y /= np.maximum(np.abs(Y[row]), 1.0)
    return Y / np.linalg.norm(Y, axis=0)
