"""Certified spectra of neural denoisers' Jacobians, from products with J and J' alone."""

from spectral import errors
from spectral.operators import LinearOperator, as_operator, jacobian
from spectral.results import EigenPairs
from spectral.spectra import top_eigs

__all__ = ["EigenPairs", "LinearOperator", "as_operator", "errors", "jacobian", "top_eigs"]
