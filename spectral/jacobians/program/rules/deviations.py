"""Variances, deviations and lengths, as norms written by hand have them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spectral.jacobians.program.rules.base import Seen, axes_of, named, rule
from spectral.jacobians.program.rules.rows import averaged
from spectral.jacobians.program.rules.shapes import restored, spread
from spectral.jacobians.program.steps import Input, Operation, Step, aten, counts, unchanged

if TYPE_CHECKING:
    from spectral.jacobians.program.reach import Rows


@dataclass
class WeightedSum(Step):
    """t -> sum w t over some axes, told from the last; back, g -> w g."""

    weight: Tensor
    axes: tuple[int, ...]
    keeps_axes: bool

    def apply(self, *tangents: Tensor) -> Tensor:
        """sum w t."""
        return (self.weight * tangents[0]).sum(self.axes, keepdim=self.keeps_axes)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """w g."""
        return (self.weight * restored(g, self.axes, self.keeps_axes),)

    def reach(self, rows: Rows) -> Rows:
        """Itself, where each row has sums of its own."""
        return rows.summed(self.axes, self.keeps_axes, "it sums over")

    def select(self, index: Tensor, n: int) -> WeightedSum | None:
        """With the weights of some inputs."""
        inside = -self.weight.ndim not in self.axes
        return replace(self, weight=self.weight[index]) if inside and counts(self.weight.shape, n) else None


def _sum(seen: Seen, weight: Tensor, axes: tuple[int, ...], keeps_axes: bool) -> Step | None:
    return WeightedSum(seen.inputs, seen.output, weight.contiguous(), axes, keeps_axes)


@rule(aten.var.correction, aten.std.correction, aten.var_mean.correction, aten.std_mean.correction)
def _spread(seen: Seen) -> Step | None:
    """d var = 2 / (n - c) sum (x - mean) t, and d std = d var / (2 std), 0 where std is."""
    (x,) = seen.primals
    if not x.ndim or x.is_complex():
        return None
    axes, keeps = axes_of(seen.given(1, "dim"), x.ndim), bool(seen.kwargs.get("keepdim", False))
    correction = seen.kwargs.get("correction")
    count = math.prod(x.shape[axis] for axis in axes)
    freedom = count - (1 if correction is None else correction)
    if freedom <= 0:
        return None
    if seen.entry == 1:
        mean = Operation(aten.mean.dim, ((Input(0), list(axes), keeps), {}))
        inside = unchanged if -x.ndim not in axes else None
        back = spread(axes, keeps, 1 / count)
        return seen.linear(mean, back=back, narrow=inside, rows=averaged(axes, keeps))
    centred = x - x.mean(axes, keepdim=True)
    if "std" not in str(seen.target):
        return _sum(seen, (2 / freedom) * centred, axes, keeps)
    deviation = (centred.square().sum(axes, keepdim=True) / freedom).sqrt()
    return _sum(seen, torch.where(deviation == 0, 0, centred / (freedom * deviation)), axes, keeps)


@rule(aten.linalg_vector_norm.default, *named("norm", overload="ScalarOpt_dim"))
def _length(seen: Seen) -> Step | None:
    """d |x| = sum x t / |x|, 0 where |x| is."""
    (x,) = seen.primals
    order = seen.given(1, "ord", 2) if seen.target is aten.linalg_vector_norm.default else seen.given(1, "p")
    if order not in (2, None) or not x.ndim or x.is_complex() or seen.like.dtype != x.dtype:
        return None
    axes, keeps = axes_of(seen.given(2, "dim"), x.ndim), bool(seen.given(3, "keepdim", False))
    length = torch.linalg.vector_norm(x, dim=axes, keepdim=True)
    return _sum(seen, torch.where(length == 0, 0, x / length), axes, keeps)
