"""Products of matrices, softmax: what fully connected layers are made of, and attention written by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spectral.jacobians.program.rules.base import Seen, named, rule
from spectral.jacobians.program.steps import Step, aten, within

if TYPE_CHECKING:
    from spectral.jacobians.program.reach import Rows


@dataclass
class Matmul(Step):
    """t_1, t_2 -> a (t_1 x_2 + x_1 t_2), of matrices (..., n, k) and (..., k, m); or one of the two alone.

    `reached` says of which factors there are tangents; both are kept, for attention to be made of them.
    """

    left: Tensor
    right: Tensor
    reached: tuple[bool, bool] = (True, True)
    scale: float = 1.0

    @property
    def depth(self) -> int:
        """Multiplications per entry of the output, by each factor that is reached."""
        first, second = self.reached
        return (self.right.shape[-2] if first else 0) + (self.left.shape[-1] if second else 0)

    def apply(self, *tangents: Tensor) -> Tensor:
        """a (t_1 x_2 + x_1 t_2)."""
        if self.reached == (True, True):
            total = (tangents[0] @ self.right).add_(self.left @ tangents[1])
        else:
            total = tangents[0] @ self.right if self.reached[0] else self.left @ tangents[0]
        return total if self.scale == 1 else total.mul_(self.scale)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """a g x_2*, a x_1* g."""
        g = g if self.scale == 1 else self.scale * g
        first, second = self.reached
        parts = (g @ self.right.mH if first else None, self.left.mH @ g if second else None)
        return tuple(part for part in parts if part is not None)

    def lean(self) -> Matmul:
        """Without a factor that products do not need."""
        first, second = self.reached
        left = self.left if second else self.left.new_empty(0)
        return replace(self, left=left, right=self.right if first else self.right.new_empty(0))

    def reach(self, *rows: Rows) -> Rows:
        """Rows of the product, where it leaves them to themselves."""
        if self.reached == (True, True):
            first, second = (one.apart_from((-1, -2), "it multiplies across") for one in rows)
            return first.joined(second)
        return rows[0].apart_from((-1 if self.reached[0] else -2,), "it sums over")

    def select(self, index: Tensor, n: int) -> Matmul | None:
        """That of some inputs: rows, beside a matrix of weights; or a stack of matrices, each with heads."""
        if self.reached == (True, False) and self.right.ndim == 2:
            return self
        factors = [t for t in (self.left, self.right) if t.numel()]
        if not all(t.ndim == 3 and len(t) % n == 0 for t in factors):
            return None
        left, right = (t[within(index, n, len(t))] if t.numel() else t for t in (self.left, self.right))
        return replace(self, left=left, right=right)


@dataclass
class Softmax(Step):
    """t -> s (t - sum s t), the sum over one axis, told from the last."""

    value: Tensor
    axis: int

    def apply(self, *tangents: Tensor) -> Tensor:
        """s (t - sum s t)."""
        weighted = self.value * tangents[0]
        return weighted.sub_(self.value * weighted.sum(self.axis, keepdim=True))

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """The same."""
        return (self.apply(g),)

    def reach(self, rows: Rows) -> Rows:
        """Itself, where each row has a sum of its own."""
        return rows.apart_from((self.axis,), "it sums over")

    def select(self, index: Tensor, n: int) -> Softmax | None:
        """That of some inputs."""
        size = self.value.shape
        inside = len(size) > 1 and size[0] % n == 0 and self.axis > -len(size)
        return replace(self, value=self.value[within(index, n, size[0])]) if inside else None


@dataclass
class LogSoftmax(Softmax):
    """t -> t - sum s t, and back g -> g - s sum g."""

    def apply(self, *tangents: Tensor) -> Tensor:
        """t - sum s t."""
        return tangents[0] - (self.value * tangents[0]).sum(self.axis, keepdim=True)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """g - s sum g."""
        return (g - self.value * g.sum(self.axis, keepdim=True),)


@rule(aten.mm.default, aten.bmm.default)
def _product(seen: Seen) -> Step | None:
    return _of_factors(seen, *seen.args[:2])


def _of_factors(seen: Seen, left: Tensor, right: Tensor, scale: float = 1.0) -> Step | None:
    """The product of two matrices, unless they are one and the same."""
    if left is right:
        return None
    if not left.layout is right.layout is torch.strided:  # of a sparse matrix torch knows the way back
        return seen.linear(seen.operation(aten.mm.default, (left, right))) if scale == 1 else None
    reached = seen.reaches(left), seen.reaches(right)
    return Matmul(seen.inputs, seen.output, seen.hold(left), seen.hold(right), reached, scale)


@rule(aten.addmm.default, aten.baddbmm.default, promotes=True)
def _affine(seen: Seen) -> Step | None:
    """b bias + a x w: the product alone, where y does not reach the bias."""
    bias, *factors = seen.args[:3]
    scale = seen.given(4, "alpha", 1)
    if seen.reaches(bias) or isinstance(scale, complex):
        return None
    return _of_factors(seen, factors[0], factors[1], float(scale))


@rule(*named("_softmax", "_safe_softmax", "_log_softmax"))
def _softmax(seen: Seen) -> Step | None:
    (x,) = seen.primals
    dim = seen.given(1, "dim")
    if not x.ndim or seen.like.dtype != x.dtype:
        return None
    axis = dim - x.ndim if dim >= 0 else dim
    value = seen.operation()(x) if seen.value is None else seen.hold(seen.value)
    if seen.target is aten._log_softmax.default:
        return LogSoftmax(seen.inputs, seen.output, value.exp(), axis)
    return Softmax(seen.inputs, seen.output, value, axis)
