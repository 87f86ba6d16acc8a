"""Certified spectra of neural denoisers' Jacobians, from products with J and J' alone."""

from spectral import errors
from spectral.operators import LinearOperator, as_operator, from_functions, jacobian
from spectral.results import EigenPairs, SingularTriplets
from spectral.spectra import top_eigs, top_svd

__all__ = [
    "EigenPairs",
    "LinearOperator",
    "SingularTriplets",
    "as_operator",
    "errors",
    "from_functions",
    "jacobian",
    "top_eigs",
    "top_svd",
]
