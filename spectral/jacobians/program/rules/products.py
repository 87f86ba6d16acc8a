"""Products of matrices, softmax: what fully connected layers are made of, and attention written by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spectral.jacobians.program.rules.base import Seen, named, rule
from spectral.jacobians.program.steps import Leading, Step, aten, cast, counts


@dataclass
class Matmul:
    """t_1, t_2 -> t_1 x_2 + x_1 t_2, of matrices (..., n, k) and (..., k, m), as in attention."""

    inputs: tuple[int, ...]
    output: int
    left: Tensor
    right: Tensor
    leading: Leading = "free"

    def apply(self, *tangents: Tensor) -> Tensor:
        """t_1 x_2 + x_1 t_2."""
        t, u = tangents
        return t @ self.right + self.left @ u

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """g x_2*, x_1* g."""
        return g @ self.right.mH, self.left.mH @ g

    def to(self, dtype: torch.dtype) -> Matmul:
        """The factors in another precision."""
        return replace(self, left=cast(self.left, dtype), right=cast(self.right, dtype))

    def select(self, index: Tensor, n: int) -> None:
        """The first axis of a stack of matrices may count heads as well."""


@dataclass
class Softmax:
    """t -> s (t - sum s t), the sum over one axis, told from the last."""

    inputs: tuple[int, ...]
    output: int
    value: Tensor
    axis: int
    leading: Leading = "free"

    def apply(self, *tangents: Tensor) -> Tensor:
        """s (t - sum s t)."""
        weighted = self.value * tangents[0]
        return weighted.sub_(self.value * weighted.sum(self.axis, keepdim=True))

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """The same."""
        return (self.apply(g),)

    def to(self, dtype: torch.dtype) -> Softmax:
        """The softmax in another precision."""
        return replace(self, value=cast(self.value, dtype))

    def select(self, index: Tensor, n: int) -> Softmax | None:
        """That of some inputs."""
        inside = counts(self.value.shape, n) and self.axis > -self.value.ndim
        return replace(self, value=self.value[index]) if inside else None


@rule(aten.mm.default, aten.bmm.default)
def _product(seen: Seen) -> Step | None:
    if len(seen.factors) == 1:
        return seen.linear(seen.operation())
    if len(seen.inputs) == 1:  # a matrix times itself
        return None
    left, right = map(seen.hold, seen.args[:2])
    return Matmul(seen.inputs, seen.output, left, right)


@rule(aten.addmm.default, aten.baddbmm.default, promotes=True)
def _affine(seen: Seen) -> Step | None:
    """bias + x w: the product alone, where y reaches one factor and not the bias."""
    bias, *factors = seen.args[:3]
    if seen.reaches(bias) or sum(map(seen.reaches, factors)) != 1 or seen.given(4, "alpha", 1) != 1:
        return None
    product = aten.mm.default if seen.target is aten.addmm.default else aten.bmm.default
    return seen.linear(seen.operation(product, tuple(factors)))


@rule(*named("_softmax", "_safe_softmax"))
def _softmax(seen: Seen) -> Step | None:
    (x,) = seen.primals
    dim = seen.given(1, "dim")
    if not x.ndim or seen.like.dtype != x.dtype:
        return None
    axis = dim - x.ndim if dim >= 0 else dim
    return Softmax(seen.inputs, seen.output, seen.operation()(x), axis)
