"""How far a program looks along the rows of an image: which rows of its input each row of a value is made of.

Row i of a value that has rows is made of rows

    s i + low, ..., s i + high          of the input,

s, low and high fractions: s is 2 after a pooling by two and 1/2 after a doubling.  Each kind of step tells,
in a method `reach`, what it makes of this; one that has none, or mixes all rows, is refused by name.  The
interval may be too wide, never too narrow.  Rows beside those that there are count as made of rows beside
the input's, so that what is padded where an image was cut is told from what was there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch

from spectral.errors import ReachError
from spectral.jacobians.program.steps import Linear, Local, Step


@dataclass(frozen=True)
class Rows:
    """Where a value has its rows, and what they are made of; see the module's text.

    Attributes:
        count: how many there are.
        axis: told from the last.
        inner: entries along that axis which make up one row, where others were merged into it.
        stride, low, high: s, low and high.
    """

    count: int
    axis: int = -2
    inner: int = 1
    stride: Fraction = Fraction(1)
    low: Fraction = Fraction(0)
    high: Fraction = Fraction(0)

    def window(self, step: Fraction, low: Fraction, high: Fraction, count: int) -> Rows:
        """Of a value whose row j is made of rows step j + low to step j + high of this one.

        The interval is widened until row -1 and row `count`, which are not there, are made of rows that are
        not: those that were there may have been cut off, and something else is padded in their place.
        """
        if self.inner != 1:
            raise ReachError("it works along an axis into which rows were merged")
        low, high = min(low, step - 1), max(high, self.count - step * count)
        return replace(
            self,
            count=count,
            stride=self.stride * step,
            low=self.low + self.stride * low,
            high=self.high + self.stride * high,
        )

    def joined(self, *others: Rows) -> Rows:
        """Of a value made of several, row by row."""
        low, high = self.low, self.high
        for other in others:
            if (other.count, other.axis, other.inner, other.stride) != (
                self.count,
                self.axis,
                self.inner,
                self.stride,
            ):
                raise ReachError("it puts together rows of different places")
            low, high = min(low, other.low), max(high, other.high)
        return replace(self, low=low, high=high)

    def apart_from(self, axes: Sequence[int], what: str) -> Rows:
        """Itself, where an operation along some axes, told from the last, leaves rows to themselves."""
        if self.axis in axes:
            raise ReachError(f"{what} all rows")
        return self

    def without(self, axes: Sequence[int], what: str) -> Rows:
        """Of a value of which some axes, told from the last, were taken away."""
        self.apart_from(axes, what)
        return replace(self, axis=self.axis + sum(axis > self.axis for axis in axes))

    def summed(self, axes: Sequence[int], kept: bool, what: str) -> Rows:
        """Of sums over some axes, told from the last, which are `kept` with one entry or go."""
        return (self.apart_from if kept else self.without)(axes, what)

    def spread(self, before: torch.Size, after: torch.Size) -> Rows:
        """Of a value broadcast from one size to another, along other axes than that of the rows."""
        if before[self.axis] != after[self.axis]:
            raise ReachError("it spreads one row over all")
        return self

    def reshaped(self, before: torch.Size, after: torch.Size) -> Rows:
        """Of the same numbers in another shape, where each row's stay together."""
        if before.numel() == 0:
            raise ReachError("it is empty")
        place = len(before) + self.axis
        ahead, block = math.prod(before[:place]), self.inner * math.prod(before[place + 1 :])
        for axis, length in enumerate(after):
            rest = math.prod(after[axis + 1 :])
            if math.prod(after[:axis]) == ahead and length % self.count == 0:
                inner = length // self.count
                if inner * rest == block:
                    return replace(self, axis=axis - len(after), inner=inner)
        raise ReachError("it puts numbers of different rows together")

    def reversed_order(self, order: Sequence[int]) -> Rows:
        """Of a value whose axis i was axis order[i]."""
        axes = len(order)
        place = [axis % axes for axis in order].index(self.axis % axes)
        return replace(self, axis=place - axes)


def together(rows: Sequence[Rows], sizes: Sequence[torch.Size], after: torch.Size) -> Rows:
    """Of values of some sizes, broadcast to one, and put together row by row."""
    first, *others = (one.spread(size, after) for one, size in zip(rows, sizes, strict=True))
    return first.joined(*others)


@dataclass(frozen=True)
class Reach:
    """What a program asks of strips.

    Attributes:
        above, below: rows of the input, beside its own, that a row of the output may be made of.
        multiple: cuts are at multiples of it, so that poolings begin where they do in the whole image.
    """

    above: int
    below: int
    multiple: int

    @property
    def halo(self) -> tuple[int, int]:
        """Rows above and below that strips are given: the reach, rounded up to where cuts may be."""
        return _up(self.above, self.multiple), _up(self.below, self.multiple)

    def covers(self, other: Reach) -> bool:
        """Whether strips made for this one do for another."""
        return (
            self.halo[0] >= other.above
            and self.halo[1] >= other.below
            and self.multiple % other.multiple == 0
        )


def reach_of(
    steps: Sequence[Step], result: int | None, input_size: torch.Size, output_size: torch.Size
) -> Reach:
    """The reach of a program's steps from an image (..., H, W) to another with as many rows.

    Raises:
        ReachError: a step mixes all rows, or is of a kind that does not tell.
    """
    if len(input_size) < 2:
        raise ReachError(f"an image has rows and columns, and the input has the shape {tuple(input_size)}")
    known = {0: Rows(input_size[-2])}
    multiple = 1
    for step in steps:
        try:
            rows = step.reach(*(known[i] for i in step.inputs))
        except ReachError as failure:
            raise ReachError(
                f"{name_of(step)}: {failure}: an image cannot be cut into strips for it"
            ) from failure
        known[step.output] = rows
        multiple = math.lcm(multiple, rows.stride.numerator)
    if result is None:
        return Reach(0, 0, multiple)
    last = known[result]
    if replace(last, low=Fraction(0), high=Fraction(0)) != Rows(input_size[-2]) or len(output_size) < 2:
        raise ReachError(
            f"an output of shape {tuple(output_size)} has not the rows of an input of shape "
            f"{tuple(input_size)}: an image cannot be cut into strips for it"
        )
    return Reach(max(math.ceil(-last.low), 0), max(math.ceil(last.high), 0), multiple)


def name_of(step: Step) -> str:
    """A step in words: its kind, and the operation of torch where it stands for any."""
    kind = type(step).__name__.lower()
    return f"{kind} of {step.function.target}" if isinstance(step, (Linear, Local)) else kind


def _up(rows: int, multiple: int) -> int:
    return -(-rows // multiple) * multiple
