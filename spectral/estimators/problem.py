"""What an estimate is asked of: an operator as it is, or a model at an image."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from spectral.errors import OptionError
from spectral.operators import LinearOperator, as_operator, jacobian


def operator_of(
    model_or_operator: Any, y: Tensor | None, batched: bool = False, **model_kwargs: Any
) -> LinearOperator:
    """The Jacobian of a model at y; without y the operator, matrix or SciPy operator itself.

    Raises:
        OptionError: a model came without y, or an operator with one.
    """
    if y is None:
        if callable(model_or_operator) and not hasattr(model_or_operator, "matvec"):  # as SciPy's operators
            raise OptionError("a model has a Jacobian at an image: pass the noisy image y too")
        if model_kwargs or batched:
            raise OptionError(
                "batched and model arguments belong to a model; an operator states its own batch"
            )
        return as_operator(model_or_operator)
    if isinstance(model_or_operator, LinearOperator):
        raise OptionError("an operator is asked alone: leave y out, or pass the model")
    return jacobian(model_or_operator, y, batched=batched, **model_kwargs)
