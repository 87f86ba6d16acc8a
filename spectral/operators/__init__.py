"""Linear operators: the contract, its algebra, and what explicit matrices and callables are made into."""

from spectral.operators.base import LinearOperator
from spectral.operators.interop import as_operator, from_functions

__all__ = ["LinearOperator", "as_operator", "from_functions"]
