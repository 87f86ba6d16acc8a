"""Traces, diagonals, norms and densities by random probes, each with an error bar."""

from spectral.estimators.norms import asymmetry
from spectral.estimators.results import Estimate

__all__ = ["Estimate", "asymmetry"]
