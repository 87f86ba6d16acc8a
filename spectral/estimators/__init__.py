"""Traces, diagonals, norms and densities by random probes, each with an error bar."""

from spectral.estimators.density import schatten_norm, spectral_density
from spectral.estimators.diagonal import diagonal
from spectral.estimators.norms import asymmetry, effective_rank, frobenius_norm
from spectral.estimators.results import Density, Estimate
from spectral.estimators.trace import trace

__all__ = [
    "Density",
    "Estimate",
    "asymmetry",
    "diagonal",
    "effective_rank",
    "frobenius_norm",
    "schatten_norm",
    "spectral_density",
    "trace",
]
