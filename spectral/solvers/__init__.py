"""Solvers that know an operator only by its products, and certificates for what they return."""

from spectral.solvers.chebyshev import Chebyshev
from spectral.solvers.control import Control, Progress
from spectral.solvers.dense import Dense, DenseSVD
from spectral.solvers.found import Completeness, RitzPairs, RitzTriplets, SchurPairs
from spectral.solvers.golub_kahan import GolubKahan
from spectral.solvers.krylov_schur import DenseSchur, KrylovSchur
from spectral.solvers.lanczos import Lanczos, finish
from spectral.solvers.lobpcg import LOBPCG
from spectral.solvers.method import Method
from spectral.solvers.search import KrylovMethod
from spectral.solvers.target import ComplexTarget, Target

__all__ = [
    "LOBPCG",
    "Chebyshev",
    "Completeness",
    "ComplexTarget",
    "Control",
    "Dense",
    "DenseSVD",
    "DenseSchur",
    "GolubKahan",
    "KrylovMethod",
    "KrylovSchur",
    "Lanczos",
    "Method",
    "Progress",
    "RitzPairs",
    "RitzTriplets",
    "SchurPairs",
    "Target",
    "finish",
]
