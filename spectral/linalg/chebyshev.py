"""Polynomials of an operator that are 1 at a place in its spectrum and near 0 far from it.

With Chebyshev polynomials T_j,

    p(t) = sum_j g_j T_j(gamma) T_j(t) / norm,    t = (lambda - c) / h in [-1, 1]

with g_j Jackson's damping, which keeps p from ringing, and gamma such that p is the same at both ends of an
interval (Weisse et al., Rev. Mod. Phys. 78 (2006)).
"""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import NDArray
from torch import Tensor

from spectral.linalg.bounds import SpectralBounds
from spectral.operators.base import Each, LinearOperator

EDGE, FOOT = 0.9, 0.1
HIGHEST_DEGREE = 4000


class ChebyshevFilter(Each):
    """p(A) = sum_j a_j T_j((A - c) / h), by the three-term recurrence: as many products with A as p's degree.

    Attributes:
        A: symmetric.
        coefficients: a_0, ..., a_m.
        centre, radius: c and h; the spectrum of A lies within [c - h, c + h].
    """

    def __init__(
        self, A: LinearOperator, coefficients: NDArray[np.float64], centre: float, radius: float
    ) -> None:
        super().__init__(A, symmetric=True)
        self.coefficients, self.centre, self.radius = coefficients, centre, radius

    @property
    def degree(self) -> int:
        """m."""
        return len(self.coefficients) - 1

    def at(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """p of eigenvalues of A."""
        t = (values - self.centre) / self.radius
        return np.asarray(np.polynomial.chebyshev.chebval(t, self.coefficients))

    def _apply(self, V: Tensor) -> Tensor:
        a = self.coefficients.tolist()
        before, now = V, (self.A.apply(V) - self.centre * V) / self.radius
        total = a[0] * V + a[1] * now
        for coefficient in a[2:]:
            after = (2 / self.radius) * (self.A.apply(now) - self.centre * now) - before
            before, now = now, after
            total += coefficient * now
        return total

    _apply_transpose = _apply


class Window:
    """p for the eigenvalues from low to high, either of which may lie beyond the spectrum's end.

    Attributes:
        coefficients: a_0, ..., a_m.
        edge: the least p inside.
        stretch: max |x - lambda| / (p(x) - p(lambda)) over ends x and lambda outside: how much larger an
            error in A can be than one in p(A).
    """

    def __init__(self, spectrum: SpectralBounds, low: float, high: float, degree: int | None) -> None:
        self.low, self.high = low, high
        self.centre, self.radius = (spectrum.low + spectrum.high) / 2, (spectrum.high - spectrum.low) / 2
        self._top, self._bottom = (
            math.acos(min(1.0, max(-1.0, (x - self.centre) / self.radius))) for x in (high, low)
        )
        ends = [angle for angle in (self._top, self._bottom) if 0 < angle < math.pi]
        # Jackson's window is close to a Gaussian of standard deviation pi / m in the angle.
        width = (self._bottom - self._top) / len(ends)
        m = degree or min(math.ceil(math.pi * math.sqrt(-2 * math.log(EDGE)) / width), HIGHEST_DEGREE)
        self._shape(m)
        while self.edge < FOOT and m > 1:
            m = min(m - 1, 9 * m // 10)
            self._shape(m)
        x = np.cos(ends)[:, None] - np.cos(self._angles)
        fall = _value_at(np.array(ends), self.coefficients)[:, None] - self._p
        told = ~self._inside & (fall > 0)
        self.stretch = self.radius * float((np.abs(x)[told] / fall[told]).max(initial=1.0))

    def _shape(self, m: int) -> None:
        """The window of degree m, as high at one end of the interval as at the other."""
        gamma = 0.0 if self._top == 0 else math.pi
        if self._top > 0 and self._bottom < math.pi:
            ends = np.array([self._top, self._bottom])
            lower, upper = self._top, self._bottom
            for _ in range(60):
                gamma = (lower + upper) / 2
                at_top, at_bottom = _value_at(ends, _coefficients(m, gamma))
                lower, upper = (gamma, upper) if at_top > at_bottom else (lower, gamma)
        self.coefficients = _coefficients(m, gamma)
        # p at the angles j pi / N, by a cosine transform.
        size = 16 * max(m, 16)
        padded = np.zeros(size + 1)
        padded[: m + 1] = self.coefficients / 2
        padded[0] *= 2
        self._p = scipy.fft.dct(padded, type=1)
        self._angles = np.pi * np.arange(size + 1) / size
        self._inside = (self._angles >= self._top) & (self._angles <= self._bottom)
        at_ends = _value_at(np.array([self._top, self._bottom]), self.coefficients)
        self.edge = min(float(at_ends.min()), float(self._p[self._inside].min(initial=1.0)))

    @property
    def degree(self) -> int:
        """m."""
        return len(self.coefficients) - 1

    def filter(self, A: LinearOperator) -> ChebyshevFilter:
        """p(A)."""
        return ChebyshevFilter(A, self.coefficients, self.centre, self.radius)

    def depth(self, bound: float) -> float:
        """How far from the ends an eigenvalue with p <= bound may lie; inf where anywhere."""
        if bound < self.edge:
            return 0.0
        if bound >= 1:
            return math.inf
        hidden = self._inside & (self._p <= bound)
        x = self.centre + self.radius * np.cos(self._angles[hidden])
        # One step of the grid further, since between two of its points p is not looked at.
        step = self.radius * np.pi / (len(self._p) - 1)
        return float(np.minimum(x - self.low, self.high - x).max(initial=0.0)) + step


def jackson(count: int) -> NDArray[np.float64]:
    """Jackson's factors g_0, ..., g_(count - 1), which keep a truncated Chebyshev series from ringing."""
    j, a = np.arange(count), math.pi / (count + 1)
    return ((count + 1 - j) * np.cos(a * j) + np.sin(a * j) / math.tan(a)) / (count + 1)


def _coefficients(m: int, gamma: float) -> NDArray[np.float64]:
    """Coefficients of Jackson's kernel of degree m about the angle gamma, 1 there."""
    j = np.arange(m + 1)
    coefficients = jackson(m + 1) * np.cos(j * gamma) * np.where(j == 0, 1, 2)
    return coefficients / float((coefficients * np.cos(j * gamma)).sum())


def _value_at(angles: NDArray[np.float64], coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """sum_j a_j cos(j angle)."""
    return np.cos(np.outer(angles, np.arange(len(coefficients)))) @ coefficients
