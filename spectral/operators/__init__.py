"""Linear operators: the contract, its algebra, what matrices and callables are made into, and subspaces."""

from spectral.operators.base import LinearOperator
from spectral.operators.compression import Compression
from spectral.operators.interop import as_operator, from_functions
from spectral.operators.subspace import Subspace

__all__ = ["Compression", "LinearOperator", "Subspace", "as_operator", "from_functions"]
