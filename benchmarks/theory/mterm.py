"""How fast the M-term error |x - x_M|^2 falls with M, in fixed and in adapted bases."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.theory.oracle_slopes import ALPHAS
from benchmarks.theory.report import Section, cell
from spectral.bases import DCT, BandletFrame, Basis, Wavelet, pixel_bandlets, wavelet_bandlets
from spectral.kernels.calpha import synthesize

Array = NDArray[np.floating[Any]]
THRESHOLDS = 2.0 ** -np.arange(-5.0, 6.5, 0.5)
WINDOW = (2**-11, 2**-8)  # beyond the coarse scale, short of the contours' blur by a pixel
LIMITS = {"DCT": "1/2", "db4": "1", "bandlet on db4": "2, straight flows"}


def curves(n: int, size: int, seed: int) -> dict[int, dict[str, tuple[Array, Array]]]:
    """M / d and |x - x_M|^2 / |x|^2, each (n, T), of every basis on `exact` images less their mean."""
    shape = (size, size)
    levels = size.bit_length() - 4
    fixed: dict[str, Basis] = {"DCT": DCT(shape), "db4": Wavelet(shape, "db4", levels)}
    frames = {
        "bandlet on db4": wavelet_bandlets(shape, "db4", levels, 32),
        "pixel Alpert": pixel_bandlets(shape),
    }
    out = {}
    for alpha in ALPHAS:
        images = synthesize(n, size=size, alpha=alpha, kind="exact", seed=seed).astype(np.float64)
        images -= images.mean(axis=(1, 2), keepdims=True)
        found = {name: _fixed(images, basis) for name, basis in fixed.items()}
        found |= {name: _adapted(images, frame) for name, frame in frames.items()}
        out[alpha] = found
    return out


def _terms(c: Array, threshold: float) -> tuple[float, float]:
    """M / d and the relative error of keeping the coefficients with |c| > threshold."""
    energy = c**2
    kept = np.abs(c) > threshold
    return float(kept.mean()), float(energy[~kept].sum() / energy.sum())


def _fixed(images: Array, basis: Basis) -> tuple[Array, Array]:
    found = np.array([[_terms(c, t) for t in THRESHOLDS] for c in basis.analysis(images)])
    return found[..., 0], found[..., 1]


def _adapted(images: Array, frame: BandletFrame) -> tuple[Array, Array]:
    """At each T, the basis that minimises |x - x_M|^2 + T^2 M = sum min(c^2, T^2)."""
    forests = frame.search(frame.base.analysis(images), THRESHOLDS, cost="hard")
    found = np.array(
        [
            [_terms(forests.basis(i, t).analysis(x), threshold) for t, threshold in enumerate(THRESHOLDS)]
            for i, x in enumerate(images)
        ]
    )
    return found[..., 0], found[..., 1]


def exponents(terms: Array, errors: Array) -> Array:
    """p in |x - x_M|^2 ~ M^-p by least squares in logarithms over the window of M / d: (n,).

    NaN where the window holds fewer than three of an image's points.
    """
    out = []
    for m, e in zip(terms, errors, strict=True):
        inside = (m >= WINDOW[0]) & (m <= WINDOW[1])
        enough = inside.sum() > 2
        out.append(-np.polyfit(np.log(m[inside]), np.log(e[inside]), 1)[0] if enough else np.nan)
    return np.array(out)


def section(found: dict[int, dict[str, tuple[Array, Array]]], n: int, size: int) -> Section:
    """The table of exponents, beside the asymptotic ones."""
    cells = [
        cell(f"{name} (limit {limit})", f"alpha = {alpha}", exponents(*found[alpha][name]))
        for name, limit in LIMITS.items()
        for alpha in ALPHAS
    ]
    note = (
        f"`exact`, {size}x{size}, {n} images, mean removed. p in |x - x_M|^2 ~ M^-p, least squares over "
        f"2^{np.log2(WINDOW[0]):.0f} <= M/d <= 2^{np.log2(WINDOW[1]):.0f}. Adapted bases minimise "
        "sum min(c^2, T^2); M counts coefficients, not the bits of the geometry. Limits hold for M/d to 0 "
        "and alpha > 1; nothing is demanded of these cells. Pixel Alpert keeps at least one coefficient a "
        "square of 16, has no point in the window, and is in the figure alone."
    )
    return Section("M-term decay", note, cells)
