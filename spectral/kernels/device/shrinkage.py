"""Risks of diagonal estimators on whole arrays, one noise level after the other."""

from typing import Any

from spectral.kernels.arrays import companion, namespace


def risks(c: Any, levels: list[float], rule: str, factor: float) -> Any:
    """`spectral.kernels.shrinkage.risks` of c (n, d) on c's device: float64 (n, S)."""
    xp = namespace(c)
    c = c.astype(xp.float64)
    if rule == "oracle":
        energy = c * c
        return xp.stack([(energy * s**2 / (energy + s**2)).sum(1) for s in levels], axis=1)
    return xp.stack([s**2 * _thresholded(xp, c / s, factor, rule == "hard").sum(1) for s in levels], axis=1)


def _thresholded(xp: Any, m: Any, factor: float, hard: bool) -> Any:
    """The risk of each coefficient m, in units of its noise."""
    erfc = companion(xp, "special").erfc
    a, b = -factor - m, factor - m
    density_a, density_b = (xp.exp(-0.5 * x * x) * (2 * xp.pi) ** -0.5 for x in (a, b))
    outside = 0.5 * erfc(-a * 0.5**0.5) + 0.5 * erfc(b * 0.5**0.5)
    killed = m * m * (1 - outside)
    if hard:
        return killed + outside + b * density_b - a * density_a
    return killed + (1 + factor**2) * outside + a * density_b - b * density_a
