"""Linear operators: the contract, its algebra, and Jacobians of models."""

from spectral.operators.base import LinearOperator, as_operator, from_functions
from spectral.operators.jacobian import Jacobian, jacobian

__all__ = ["Jacobian", "LinearOperator", "as_operator", "from_functions", "jacobian"]
