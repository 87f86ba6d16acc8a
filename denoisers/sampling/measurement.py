"""Linear measurements of an image, and their noise: what `denoisers.solve` takes for one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from spectral.errors import OptionError, ShapeError
from spectral.operators import LinearOperator
from spectral.options import number

Map = Callable[[Tensor], Tensor]


@runtime_checkable
class Measurement(Protocol):
    """A linear map A of images, and its transpose; A = M' where M has orthonormal columns."""

    def measure(self, images: Tensor, /) -> Tensor:
        """A x of each image: (B, C, H, W) -> (B, ...)."""

    def adjoint(self, values: Tensor, /) -> Tensor:
        """A' v: (B, ...) -> (B, C, H, W)."""


def functions_of(measurement: Any, shape: tuple[int, ...] | None) -> tuple[Map, Map]:
    """(A, A') on batches of images, from anything that `denoisers.solve` takes.

    Raises:
        OptionError: it is none of those, or an operator without the shape of its images.
        ShapeError: the operator's vectors are no images of that shape.
    """
    if isinstance(measurement, LinearOperator):
        return _of_operator(measurement, shape)
    for names in (("measure", "adjoint"), ("A", "A_adjoint")):  # the latter: linear physics of deepinv
        pair = [getattr(measurement, name, None) for name in names]
        if all(callable(f) for f in pair):
            return pair[0], pair[1]  # type: ignore[return-value]
    if isinstance(measurement, (tuple, list)) and len(measurement) == 2 and all(map(callable, measurement)):
        return measurement[0], measurement[1]
    raise OptionError(
        "a measurement is an object with measure(x) and adjoint(v), or with A(x) and A_adjoint(v), a pair of "
        f"functions (A, A'), or a spectral.LinearOperator; got a {type(measurement).__name__}"
    )


def _of_operator(A: LinearOperator, shape: tuple[int, ...] | None) -> tuple[Map, Map]:
    if shape is None:
        raise OptionError("of an operator on vectors tell the image's shape=(C, H, W)")
    sides = tuple(shape)
    if A.batch or A.shape[1] != math.prod(sides):
        raise ShapeError(
            f"{A!r} takes vectors of length {A.shape[1]}{' in a batch' if A.batch else ''}, and an image of "
            f"shape {sides} has {math.prod(sides)} entries"
        )

    def measure(x: Tensor) -> Tensor:
        return A.apply(x.flatten(1).to(A.device, A.dtype)).to(x)

    def adjoint(v: Tensor) -> Tensor:
        return A.apply_transpose(v.flatten(1).to(A.device, A.dtype)).to(v).unflatten(1, sides)

    return measure, adjoint


def noise_of(measurement: Any, noise: Any, count: int) -> Tensor:
    """tau, (count,): what was told, one number or one an image; else that of deepinv's physics; else 0.

    Raises:
        OptionError: it is no finite number >= 0, there are not `count` of them, or the physics' noise is
            neither Gaussian nor none.
    """
    if noise is None:
        noise = _of_physics(getattr(measurement, "noise_model", None))
    if isinstance(noise, Tensor) and noise.numel() > 1:
        told = noise.detach().flatten().to("cpu", torch.float64)
        if len(told) != count:
            raise OptionError(f"noise is one number, or one an image: got {len(told)} for {count} images")
    else:
        told = torch.full((count,), number("noise", noise), dtype=torch.float64)
    if not (told.isfinite().all() and (told >= 0).all()):
        raise OptionError(f"noise is a standard deviation, finite and >= 0, got {noise}")
    return told


def _of_physics(model: Any) -> Any:
    """The standard deviation of a noise model of deepinv, which is known by its name: it is not imported."""
    kind = type(model).__name__
    if model is None or kind == "ZeroNoise":
        return 0.0
    if kind == "GaussianNoise":
        return model.sigma
    raise OptionError(
        f"the measurement's noise is {kind}, and only GaussianNoise is known here: tell noise=, a standard "
        "deviation that stands for it, or noise=0 for none"
    )
