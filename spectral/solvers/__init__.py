"""Solvers that know an operator only by its products, and certificates for what they return."""

from spectral.solvers.certificate import Completeness
from spectral.solvers.dense import dense, dense_svd
from spectral.solvers.filtering import chebyshev
from spectral.solvers.golub_kahan import RitzTriplets, golub_kahan
from spectral.solvers.krylov_schur import SchurPairs, dense_schur, krylov_schur
from spectral.solvers.lanczos import RitzPairs, finish, lanczos
from spectral.solvers.lobpcg import lobpcg
from spectral.solvers.randomized import randomized, randomized_svd
from spectral.solvers.search import Progress

__all__ = [
    "Completeness",
    "Progress",
    "RitzPairs",
    "RitzTriplets",
    "SchurPairs",
    "chebyshev",
    "dense",
    "dense_schur",
    "dense_svd",
    "finish",
    "golub_kahan",
    "krylov_schur",
    "lanczos",
    "lobpcg",
    "randomized",
    "randomized_svd",
]
