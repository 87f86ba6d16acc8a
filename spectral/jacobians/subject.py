"""What a spectrum or an estimate is asked of: a model at an image, or an operator as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from spectral.errors import OptionError
from spectral.jacobians.cpu import openmp
from spectral.jacobians.jacobian import jacobian
from spectral.jacobians.keywords import keywords_of
from spectral.jacobians.of_model import OfModel
from spectral.operators import LinearOperator, as_operator


def operator_of(
    subject: Any,
    y: Tensor | None,
    batched: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
) -> LinearOperator:
    """The Jacobian of a model at y; without y the operator, matrix or SciPy operator itself.

    Raises:
        OptionError: a model came without y, an operator with one, or keywords or a batch without a model.
        SpectralError: the weights of a Jacobian have changed; or as `openmp.check_fork`.
    """
    if y is None:
        given = {"model_kwargs": bool(keywords_of(model_kwargs)), "batched": batched}
        if any(given.values()):
            names = " and ".join(name for name, is_given in given.items() if is_given)
            raise OptionError(f"{names} goes with a model, and there is no input y: pass (model, y)")
        if callable(subject) and not hasattr(subject, "shape"):
            raise OptionError("a model needs an input to take its Jacobian at: pass (model, y)")
        if isinstance(subject, OfModel):
            subject.check_weights()
        elif isinstance(subject, LinearOperator):
            subject.check_current()
        openmp.check_fork()  # solvers work on vectors in torch's threads, whatever forms the products
        return as_operator(subject)
    if not isinstance(y, Tensor):
        raise OptionError(
            f"y must be a tensor, got {type(y).__name__}: torch.as_tensor(y), after the model; an operator "
            "is given alone, with k=..."
        )
    if isinstance(subject, LinearOperator) or (hasattr(subject, "shape") and not callable(subject)):
        raise OptionError(f"y goes with a model; a {type(subject).__name__} is given alone")
    return jacobian(subject, y, batched=batched, model_kwargs=model_kwargs)
