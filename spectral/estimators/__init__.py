"""Traces, diagonals, norms and densities by random probes, each with an error bar."""

from spectral.estimators.diagonal import diagonal
from spectral.estimators.norms import asymmetry, effective_rank, frobenius_norm
from spectral.estimators.results import Estimate
from spectral.estimators.trace import trace

__all__ = ["Estimate", "asymmetry", "diagonal", "effective_rank", "frobenius_norm", "trace"]
