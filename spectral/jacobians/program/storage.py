"""Steps between tensors that share a storage: entries seen through a view, written through one, converted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from spectral.jacobians.program.steps import Step

if TYPE_CHECKING:
    from spectral.jacobians.program.reach import Rows


@dataclass
class Cast(Step):
    """t -> t in another precision; from real to complex numbers and, for the transpose, back."""

    source: torch.dtype
    target: torch.dtype

    def apply(self, *tangents: Tensor) -> Tensor:
        """t in the target's precision."""
        return _converted(tangents[0], self.target)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """g in the source's precision."""
        return (_converted(g, self.source),)

    def reach(self, rows: Rows) -> Rows:
        """Itself."""
        return rows

    def select(self, index: Tensor, n: int) -> Cast:
        """Itself: it does the same to every entry."""
        return self


@dataclass
class Take(Step):
    """t -> the entries of t at `index` into its flat form, of the index's shape; 0 where that is negative."""

    index: Tensor
    input_size: torch.Size

    def apply(self, *tangents: Tensor) -> Tensor:
        """t at the index."""
        (t,) = tangents
        taken = _flat(t, self.input_size)[..., self.index.clamp(min=0).flatten()]
        taken = taken.masked_fill(self.index.flatten() < 0, 0)
        return _shaped(taken, self.index.shape)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """g added up where it came from."""
        flat = _flat(g, self.index.shape).masked_fill(self.index.flatten() < 0, 0)
        total = g.new_zeros(*flat.shape[:-1], self.input_size.numel())
        total.index_add_(-1, self.index.clamp(min=0).flatten(), flat)
        return (_shaped(total, self.input_size),)


@dataclass
class Put(Step):
    """t_1, t_2 -> t_1 with the entries of t_2 at `index` into its flat form; either t may be constant.

    `which` says what the inputs are: both, t_1 alone ("rest") or t_2 alone ("part").
    """

    index: Tensor
    size: torch.Size
    which: Literal["both", "rest", "part"]

    def apply(self, *tangents: Tensor) -> Tensor:
        """t_1 with t_2 in its place."""
        if self.which == "part":
            part = _flat(tangents[-1], self.index.shape)
            total = part.new_zeros(*part.shape[:-1], self.size.numel())
        else:
            total = _flat(tangents[0], self.size).clone()
            part = _flat(tangents[-1], self.index.shape) if self.which == "both" else total.new_zeros(())
        total[..., self.index.flatten()] = part
        return _shaped(total, self.size)

    def transpose(self, g: Tensor) -> tuple[Tensor, ...]:
        """g without the place for t_1, and of the place for t_2."""
        flat = _flat(g, self.size)
        part = _shaped(flat[..., self.index.flatten()], self.index.shape)
        if self.which == "part":
            return (part,)
        rest = flat.clone()
        rest[..., self.index.flatten()] = 0
        rest = _shaped(rest, self.size)
        return (rest, part) if self.which == "both" else (rest,)


def _flat(t: Tensor, size: torch.Size) -> Tensor:
    """t (..., *size) as (..., entries)."""
    return t.reshape(*t.shape[: t.ndim - len(size)], size.numel())


def _shaped(t: Tensor, size: torch.Size) -> Tensor:
    """t (..., entries) as (..., *size)."""
    return t.reshape((*t.shape[:-1], *size))


def _converted(t: Tensor, dtype: torch.dtype) -> Tensor:
    return (t.real if t.is_complex() and not dtype.is_complex else t).to(dtype)
