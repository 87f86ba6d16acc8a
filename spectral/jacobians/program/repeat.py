"""Whether a function is its record: run again at another input, it carries out the same operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spectral.jacobians.program.trace import Geometry, Stored, Trace, Value, aten, total
from spectral.jacobians.program.trees import leaves

# What these make has no content, until it is written to.
_EMPTY = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
}


class Repeat(Trace):
    """A second trace, at an input near the first, with a graph.

    Where it has the first one's operations, on the same values and the same constants to the last bit, and
    nothing was written to a value that no operation wrote, then the record is the function at both inputs: a
    value that left torch and came back as a constant would be another one here, however little it weighs.
    What is written unseen, by an extension or through a pointer, shows in sums of each value where it is made
    and where it is read.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sums: dict[int, complex | None] = {}  # of each value's storage; None where it has no content
        self._pairs: list[tuple[complex, complex]] = []
        self._unwritten = False

    def run(self, function: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        """function(y), with a graph that keeps no values."""
        x = y.detach().clone().requires_grad_()
        forget = torch.autograd.graph.saved_tensors_hooks(lambda t: None, lambda t: t)
        with torch.enable_grad(), forget:
            output = self.traced(function, x)
        self._read(output)
        return output

    def before(self, target: Any, args: Any, kwargs: Any, written: list[Tensor]) -> None:
        """Sum what is read, for what was written unseen; a view reads nothing."""
        if not written and _views(target):
            return
        for t in leaves((args, kwargs)):
            if isinstance(t, Tensor) and not (len(written) == 1 and t is written[0]):
                self._read(t)

    def after(self, target: Any, args: Any, kwargs: Any, written: list[Tensor], out: Any, seen: Any) -> None:
        """Sum what was made."""
        for t in written or leaves(out):
            stored = self.stored(t) if isinstance(t, Tensor) else None
            if stored is not None and (written or id(stored) not in self._sums):
                self._sums[id(stored)] = None if target in _EMPTY else total(t, stored.first)

    def _read(self, t: Tensor) -> None:
        stored = self.stored(t)
        if stored is None or id(stored) not in self._sums:
            return
        before = self._sums[id(stored)]
        if before is None:
            self._unwritten = True
        else:
            self._pairs.append((before, total(t, stored.first)))

    def is_that_of(self, first: Trace) -> bool:
        """Whether the function did what it did in another trace, and nothing else."""
        if self._unwritten or self.result != first.result or len(self.calls) != len(first.calls):
            return False
        same = all(
            mine.function == its.function
            and mine.outputs == its.outputs
            and _alike((mine.args, mine.kwargs), (its.args, its.kwargs))
            for mine, its in zip(self.calls, first.calls, strict=True)
        )
        mine, its = self.constants(), first.constants()
        same = same and mine.keys() == its.keys() and all(_kept(mine[i], its[i]) for i in mine)
        return same and all(then == now for then, now in self._pairs)


def _views(target: Any) -> bool:
    """Whether an operation gives another view of what it is given."""
    return any(one.alias_info is not None for one in target._schema.arguments)


def _kept(mine: Stored, its: Stored) -> bool:
    """Whether what came from outside is what it was."""
    return mine.total == its.total and _alike(mine.owner, its.owner)


def _alike(a: Any, b: Any) -> bool:
    """Whether two arguments are the same, constants to the last bit."""
    if a is b:
        return True
    if isinstance(a, Tensor):
        if not isinstance(b, Tensor) or a.layout is not torch.strided or Geometry.of(a) != Geometry.of(b):
            return False
        return a.device == b.device and (a.data_ptr() == b.data_ptr() or torch.equal(a, b))
    if type(a) is not type(b):
        return False
    if isinstance(a, Value):
        return a == b
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    try:
        return bool(a == b)
    except NotImplementedError:  # packed weights have no numbers that can be seen
        return False
