"""Measured Hoelder exponents of the generators' contours and backgrounds, by structure functions."""

from math import comb

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from benchmarks.theory.report import Expected, Section, cell
from spectral.kernels.philox import uniforms
from spectral.kernels.smoothness import gain_1d, gain_2d

Array = NDArray[np.float64]
EXPONENTS = (1.0, 1.5, 2.0, 3.0, 5.0)
LAGS = np.array([8, 16, 32, 64])
SLACK = 0.05


def noise(count: int, seed: int, index: int) -> Array:
    """Uniform noise on [-1, 1]."""
    out = np.empty(count)
    uniforms(np.uint64(seed), np.uint64(index), out)
    return 2 * out - 1


def contour(length: int, exponent: float, seed: int, index: int) -> Array:
    """One contour of spectral exponent `exponent` in float64: (length,)."""
    return scipy.fft.irfft(scipy.fft.rfft(noise(length, seed, index)) * gain_1d(length, exponent), length)


def background(size: int, exponent: float, seed: int, index: int) -> Array:
    """One background of spectral exponent `exponent` in float64: (size, size).

    Differences of high order fall below float32 rounding, so the field is filtered in float64, as the
    contour.
    """
    spectrum = scipy.fft.rfft2(noise(size * size, seed, index).reshape(size, size))
    return scipy.fft.irfft2(spectrum * gain_2d(size, exponent)[:, : size // 2 + 1], (size, size))


def structure_function(field: Array, order: int, lags: NDArray[np.int_]) -> Array:
    """S(h) = mean |D_h^p f|^2 along the last axis, periodic, for the lags h: (len(lags),).

    D_h^p f(x) = sum_j (-1)^j C(p, j) f(x + j h); for f of regularity H < p and h well inside the grid,
    S(h) ~ h^2H.
    """
    out = []
    for h in lags:
        difference = sum(
            (-1) ** j * comb(order, j) * np.roll(field, -j * h, axis=-1) for j in range(order + 1)
        )
        out.append(np.mean(np.square(difference)))
    return np.array(out)


def hoelder(field: Array, expected: float) -> float:
    """Half the slope of log S(h) against log h, with p the least order two above the expected exponent."""
    s = structure_function(field, int(np.floor(expected)) + 2, LAGS)
    return float(np.polyfit(np.log(LAGS), np.log(s), 1)[0] / 2)


def section(n: int, seed: int) -> Section:
    """Exponents alpha - 1/2 of contours and alpha - 1 of backgrounds, for spectral exponent alpha."""
    cells = []
    for s in EXPONENTS:
        demanded = s >= 1.5
        for row, smooth, make, size in (
            ("contour", s - 0.5, contour, 2**14),
            ("background", s - 1.0, background, 2**11),
        ):
            found = np.array([hoelder(make(size, s, seed, i), smooth) for i in range(n)])
            expected = Expected(smooth) if demanded else None
            cells.append(cell(row, f"spectral exponent {s:g}", found, expected, SLACK))
    note = (
        f"{n} fields of 2^14 samples and of 2^11 x 2^11 pixels; lags {', '.join(map(str, LAGS))}; "
        "differences of order floor(H) + 2. `released` uses spectral exponents alpha and beta, `exact` "
        "alpha + 1/2 and beta + 1. At exponent 1 a background has H = 0 and a logarithmic structure "
        "function: nothing is demanded there."
    )
    return Section("Hoelder exponents", note, cells)
