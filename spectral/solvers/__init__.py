"""Eigensolvers that know an operator only by its products, and certificates for what they return."""

from spectral.solvers.certificate import Completeness
from spectral.solvers.dense import dense
from spectral.solvers.lanczos import RitzPairs, lanczos
from spectral.solvers.search import Progress

__all__ = ["Completeness", "Progress", "RitzPairs", "dense", "lanczos"]
