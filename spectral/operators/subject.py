"""What a spectrum or an estimate is asked of: a model at an image, or an operator as it is."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from spectral.errors import OptionError
from spectral.operators.base import LinearOperator, as_operator
from spectral.operators.jacobian import jacobian


def operator_of(subject: Any, y: Tensor | None, batched: bool = False, **model_kwargs: Any) -> LinearOperator:
    """The Jacobian of a model at y; without y the operator, matrix or SciPy operator itself.

    Raises:
        OptionError: a model came without y, an operator with one, or keywords without a model.
    """
    if y is None:
        if model_kwargs or batched:
            names = ", ".join([*model_kwargs, *(["batched"] if batched else [])])
            raise OptionError(f"{names}: for a model, but there is no input y")
        if callable(subject) and not hasattr(subject, "shape"):
            raise OptionError("a model needs an input to take its Jacobian at: pass (model, y)")
        return as_operator(subject)
    if not isinstance(y, Tensor):
        raise OptionError(
            f"y must be a tensor, got {type(y).__name__}: an operator is given alone, with k=..."
        )
    if not callable(subject) or isinstance(subject, LinearOperator):
        raise OptionError(f"y goes with a model; a {type(subject).__name__} is given alone")
    return jacobian(subject, y, batched=batched, **model_kwargs)
