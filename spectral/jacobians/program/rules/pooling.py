"""Maxima: the derivative is that of the entry that was taken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spectral.jacobians.program.rules.base import Seen, rule
from spectral.jacobians.program.rules.rows import windowed
from spectral.jacobians.program.steps import Step, aten, counts

if TYPE_CHECKING:
    from spectral.jacobians.program.reach import Rows


@dataclass
class Gather(Step):
    """t (..., H, W) -> t[..., indices], with `indices` (..., h, w) into the H W pixels of each plane.

    `windows` are what they were chosen from: kernel, stride, padding and dilation.
    """

    indices: Tensor
    sides: torch.Size
    windows: tuple[Any, Any, Any, Any]

    def apply(self, *tangents: Tensor) -> Tensor:
        """t at the indices."""
        t = tangents[0].flatten(-2)
        indices = self.indices.flatten(-2).expand(*t.shape[:-1], -1)
        return t.gather(-1, indices).unflatten(-1, self.indices.shape[-2:])

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """g added up where it came from."""
        indices = self.indices.expand(g.shape).flatten(-2)
        total = g.new_zeros(*g.shape[:-2], self.sides.numel())
        return (total.scatter_add_(-1, indices, g.flatten(-2)).unflatten(-1, self.sides),)

    def reach(self, rows: Rows) -> Rows:
        """Rows of what is taken: of all that it may be taken from."""
        return windowed(rows, self.indices.shape, *self.windows)

    def select(self, index: Tensor, n: int) -> Gather | None:
        """With the indices of some inputs."""
        return replace(self, indices=self.indices[index]) if counts(self.indices.shape, n) else None


@rule(aten.max_pool2d_with_indices.default)
def _maximum(seen: Seen) -> Step | None:
    if seen.entry != 0:
        return None
    kernel = seen.args[1]
    windows = (
        kernel,
        seen.given(2, "stride") or kernel,
        seen.given(3, "padding", 0),
        seen.given(4, "dilation", 1),
    )
    return Gather(seen.inputs, seen.output, seen.hold(seen.outputs[1]), seen.primals[0].shape[-2:], windows)
