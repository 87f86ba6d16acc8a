"""How far out an eigenvalue of a non-symmetric operator can hide from one Krylov space."""

from __future__ import annotations

import math

import numpy as np
import scipy

from spectral.linalg.unseen import least_share

# Where two eigenvalues of the test matrices meet, rounding parts them by its square root.
RESOLUTION = 1e-8
STEPS = 60


def unseen_height(
    H: np.ndarray,
    C: np.ndarray,
    *,
    block: int,
    dimension: int,
    failure: float,
    magnitude: bool,
    error: float = 0.0,
) -> float:
    """An upper bound on the real parts (or moduli) of all eigenvalues of A, from one block Krylov space.

    Let the space grow from `block` orthonormal rows X_1, uniformly random in n dimensions, with
    A V' = V' H + X_{m+1}' C.  Let mu be the eigenvalue of A farthest out and u a unit left eigenvector,
    u^H A = mu u^H.  Multiplying the relation by u^H, s = X_{m+1} u and w = V u obey

        w^H = s^H C (mu - H)^{-1},     |s| <= 1,

    so that |X_1 u|, the length of w's first block, is at most

        g(mu) = |C (mu - H)^{-1} E_1|,     E_1 the first `block` columns of the identity.

    But u does not depend on X_1.  Its real or its imaginary part has a length of sqrt(1/2) or more, so that
    |X_1 u|^2 is at least half a Beta(b/2, (n - b)/2) variable, and below delta^2 with probability `failure`
    alone: otherwise g(mu) >= delta.  Right of every eigenvalue of H (outside of their circle) g is
    subharmonic and vanishes at infinity, so its maximum over a vertical line (a circle) falls as that moves
    out, and all that lies beyond the first line where it is below delta is excluded.  It reaches delta on a
    line just if delta is a singular value of C (z - H)^{-1} E_1 somewhere on it, that is, if a matrix of
    twice H's size has an eigenvalue there.  A may be as far from normal as it likes, no product with A' is
    needed, and nothing but X_1 is random, so the space may be stopped by what it shows.

    Products are rounded: A V' = V' H + X_{m+1}' C + E, |u^H E| <= e, is the relation with (C; 3 e) in place
    of C and (s; E' u / (3 e)), no longer than (1 + 1/9)^(1/2), in place of s.

    Args:
        H: (m, m), the projected matrix, its first `block` rows those of the start.
        C: (c, m), the coupling to the next block; no rows where the space is spanned.
        block: b.
        dimension: n.
        failure: probability that the bound does not hold.
        magnitude: bound moduli instead of real parts.
        error: e.

    Source: the symmetric case is that of van Dorsselaer, Hochstenbach and van der Vorst, SIAM J. Matrix Anal.
    Appl. 22 (2000); the test of a line, Boyd and Balakrishnan, Systems and Control Letters 15 (1990).
    """
    values = np.linalg.eigvals(H)
    rim = float((np.abs(values) if magnitude else values.real).max())
    size, coupling = float(np.linalg.norm(H, 2)), float(np.linalg.norm(C))
    if len(C) == 0 or (coupling == 0 and error == 0) or block >= dimension:
        return rim + error
    delta = least_share(block, dimension, failure) * math.sqrt(0.5)
    if error:
        C = np.concatenate([C, 3 * error * np.eye(len(H))])
        coupling, delta = math.hypot(coupling, 3 * error), delta / math.sqrt(1 + 1 / 9)
    tests = _Tests(H, C, block, delta, RESOLUTION * size, magnitude)
    # |(z - H)^{-1}| <= 1 / d at a distance d from the field of values.
    field = size if magnitude else float(np.linalg.eigvalsh((H + H.T) / 2)[-1])
    near, far = RESOLUTION * size, max(field - rim, 0.0) + coupling / delta + RESOLUTION * size
    for _ in range(STEPS):
        if far <= 1.02 * near:
            break
        middle = math.sqrt(near * far)
        near, far = (middle, far) if tests.reached(rim + middle) else (near, middle)
    return rim + far


class _Tests:
    """Whether g reaches delta on a vertical line Re z = x, or on a circle |z| = x."""

    def __init__(
        self, H: np.ndarray, C: np.ndarray, block: int, delta: float, resolution: float, magnitude: bool
    ) -> None:
        self.H, self.C, self.delta, self.resolution = H, C, delta, resolution
        self.magnitude = magnitude
        m = len(H)
        self.eye, self.zero = np.eye(m), np.zeros((m, m))
        self.start = self.eye[:, :block]
        # C p = delta u and E_1' q = delta v, p = (z - H)^{-1} E_1 v and q = (z - H)^{-H} C' u; q is rescaled.
        weight = np.linalg.norm(C)
        self.forward = self.start @ self.start.T * (weight / delta)
        self.backward = C.T @ C / (weight * delta)

    def reached(self, x: float) -> bool:
        """Whether g >= delta somewhere on the line or circle; in doubt, yes."""
        if self.magnitude:
            # conj(z) = x^2 / z; g may also be above delta all round.
            M = np.block([[self.H, self.forward], [self.zero, x**2 * self.eye]])
            N = np.block([[self.eye, self.zero], [self.backward, self.H.T]])
            places = np.abs(scipy.linalg.eigvals(M, N))
            places = places[np.isfinite(places)]
        else:
            # conj(z) = 2 x - z
            M = np.block([[self.H, self.forward], [-self.backward, 2 * x * self.eye - self.H.T]])
            places = np.linalg.eigvals(M).real
        try:
            at_x = self.C @ np.linalg.solve(x * self.eye - self.H, self.start)
        except np.linalg.LinAlgError:  # x is an eigenvalue of H to the last digit
            return True
        on = np.abs(places - x) <= self.resolution
        return bool(on.any() or np.linalg.norm(at_x, 2) >= self.delta)
