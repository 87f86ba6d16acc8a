"""Certified spectra of neural denoisers' Jacobians, from products with J and J' alone."""

from spectral.operators import LinearOperator, as_operator, jacobian

__all__ = ["LinearOperator", "as_operator", "jacobian"]
