"""Linear measurements of an image, and the projection on the images that have given measured values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from denoisers.chunks import CHUNK_PIXELS
from spectral.errors import NotFiniteError, NotSymmetricError, OptionError, ShapeError
from spectral.operators import LinearOperator

Map = Callable[[Tensor], Tensor]

TOLERANCE = 1e-4  # relative: by it A A' = c I, and <A x, u> = <x, A' u>, are told
FORMED = 2048  # values, at most, of a measurement whose A A' is formed
_NULL = 1e-6  # of the largest eigenvalue of A A': below, a direction that was not measured


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


class Constraint:
    """P x = x + A' (A A')^+ (v - A x), the nearest image with A x = v.

    With A = M' and orthonormal columns of M this is x + M (v - M' x). Where A A' = c I the inverse is a
    division; otherwise, for up to 2048 values an image, A A' is formed and inverted once.

    Attributes:
        values: v, (B, ...).
        shape: of an image.

    Raises:
        ShapeError: A does not give values of that shape.
        NotSymmetricError: the second function is not the transpose of the first.
        NotFiniteError: values, or what A gives, are not finite.
        OptionError: A A' is no multiple of the identity and too large to be formed, or no image has such
            values.
    """

    def __init__(self, measure: Map, adjoint: Map, values: Tensor) -> None:
        self.measure, self.adjoint, self.values = measure, adjoint, values
        if not values.isfinite().all():
            raise NotFiniteError("the measured values hold NaN or infinity")
        generator = torch.Generator().manual_seed(0)
        u = torch.randn((2, *values.shape[1:]), generator=generator).to(values)
        try:
            back = adjoint(u)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError) as failure:
            raise ShapeError(
                f"the measurement's transpose does not take values of shape {tuple(u.shape[1:])}, one row an "
                f"image: {failure}"
            ) from failure
        self.shape = tuple(back.shape[1:])
        x = torch.randn(back.shape, generator=generator).to(values)
        again, measured = measure(back), measure(x)
        if again.shape != u.shape:
            raise ShapeError(
                f"the measurement of an image has shape {tuple(again.shape[1:])}, and the values given have "
                f"{tuple(values.shape[1:])}: the first axis of values counts the images"
            )
        size = measured.norm() * u.norm() + x.norm() * back.norm()
        if not abs((measured * u).sum() - (x * back).sum()) <= TOLERANCE * size:
            raise NotSymmetricError(
                "adjoint is not the transpose of measure: <A x, u> and <x, A' u> differ; scale it, or take "
                "torch.func.vjp of measure at an image of zeros"
            )
        c = (u * again).sum() / u.square().sum()
        self.scale, self.inverse = c, None
        if not (again - c * u).norm() <= TOLERANCE * again.norm():
            self.inverse = self._inverse()

    def project(self, images: Tensor, index: Tensor) -> Tensor:
        """P of images (b, C, H, W) whose values are those numbered `index`, (b,)."""
        missing = self.values[index] - self.measure(images)
        if self.inverse is None:
            return images + self.adjoint(missing / self.scale)
        flat = missing.flatten(1)
        return images + self.adjoint((flat @ self.inverse).view_as(missing))

    def _inverse(self) -> Tensor:
        r = self.values[0].numel()
        if r > FORMED:
            raise OptionError(
                f"the measurement's columns are not orthonormal, and A A' of {r} values is too large to be "
                f"inverted here (at most {FORMED}): give M' with orthonormal columns of M (of a matrix "
                "A those of torch.linalg.qr(A.T), with values to match), or one with A A' a multiple of I"
            )
        eye = torch.eye(r, dtype=self.values.dtype, device=self.values.device)
        eye = eye.view(r, *self.values.shape[1:])
        chunk = max(1, CHUNK_PIXELS // math.prod(self.shape))
        gram = torch.cat([self.measure(self.adjoint(part)).flatten(1) for part in eye.split(chunk)]).double()
        weights, basis = torch.linalg.eigh((gram + gram.T) / 2)
        seen = weights > _NULL * weights[-1]
        span = basis[:, seen]
        flat = self.values.flatten(1).double()
        if not (flat - flat @ span @ span.T).norm() <= 1e-3 * flat.norm():
            raise OptionError(
                "no image has these values: the measurement's rows depend on one another and the values do "
                "not agree; measure an image, or leave out rows"
            )
        return ((span / weights[seen]) @ span.T).to(self.values)
