"""Products with the Jacobian of a black box, by finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from spectral.ambient import tell
from spectral.errors import NotFiniteError, OptionError, ShapeError, TransposeMissingError
from spectral.jacobians.jacobian import check_asked
from spectral.jacobians.keywords import keywords_of
from spectral.jacobians.model import Model, same_random_numbers
from spectral.jacobians.ways import called
from spectral.operators import LinearOperator
from spectral.options import number


class FiniteDifference(LinearOperator):
    """J v = (f(y + h v) - f(y)) / h, one evaluation a product and no transpose (Ramani, Blu, Unser 2008).

    h makes the perturbation's root mean square `step`.  The quotient is J v averaged over the segment: where
    f is piecewise linear and the segment crosses kinks (ReLU, median, a clamp) it is the mean of several
    Jacobians, and where `step` is small rounding is divided by it.

    Attributes:
        output: f(y).
        step: root mean square of the perturbation, in the units of y.

    Raises:
        OptionError: the step is not positive and finite, y no dense floating-point tensor, f cannot be
            called, or model_kwargs is no mapping.
        ShapeError: f changes the shape, or the step is neither one number nor one for each input.
        NotFiniteError: y, or f(y), holds NaN or infinity.
        NotDeterministicError: two evaluations at y differ: their difference would tell nothing.
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        y: Tensor,
        step: float | Tensor,
        batched: bool = False,
        model_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        check_asked(model, y, batched)
        if not torch.isfinite(y).all():
            raise NotFiniteError("y holds NaN or infinity")
        batch = (y.shape[0],) if batched else ()
        self._model = Model(model, keywords_of(model_kwargs))
        with same_random_numbers(y.device):
            _, self._y, self.output = called(self._model, y.detach().clone(), tell, recorded=False)
            with self._model.ready():
                self._model.check_deterministic(self._y, self.output)
        y = self._y
        step = step if isinstance(step, Tensor) else number("step", step)
        self.step = torch.as_tensor(step, dtype=y.dtype, device=y.device)
        if self.step.shape not in ((), batch):
            raise ShapeError(f"step is one number, or one for each input, got shape {tuple(self.step.shape)}")
        if not bool(((self.step > 0) & self.step.isfinite()).all()):
            raise OptionError(f"the step of a finite difference must be positive and finite, got {step}")
        if self.output.shape != y.shape:
            raise ShapeError(f"the denoiser maps {tuple(y.shape)} to {tuple(self.output.shape)}")
        if not torch.isfinite(self.output).all():
            raise NotFiniteError(f"{self._model.name} returned NaN or infinity at y")
        d = y[0].numel() if batched else y.numel()
        super().__init__((d, d), dtype=y.dtype, device=y.device, batch=batch)

    def _evaluate(self, y: Tensor) -> Tensor:
        with same_random_numbers(y.device), self._model.ready():
            return self._model(y).detach()

    def _apply(self, V: Tensor) -> Tensor:
        return torch.stack([self._product(v) for v in V.unbind(-2)], -2)

    def _product(self, v: Tensor) -> Tensor:
        size = self.domain.norms(v).unsqueeze(-1) / math.sqrt(v.shape[-1])
        h = self.step.unsqueeze(-1) / torch.where(size > 0, size, 1.0)
        moved = self._evaluate(self._y + (h * v).reshape(self._y.shape))
        return (moved - self.output).reshape(v.shape) / h

    def _apply_transpose(self, V: Tensor) -> Tensor:
        raise TransposeMissingError("a black box has no product with its transpose")
