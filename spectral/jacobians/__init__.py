"""The Jacobian of any PyTorch callable at one input: the model, its program, the CPU's kernels."""

from spectral.jacobians.jacobian import Jacobian, jacobian

__all__ = ["Jacobian", "jacobian"]
