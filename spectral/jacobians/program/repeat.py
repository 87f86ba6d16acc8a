"""Whether a function is its record: run again at another input, it carries out the same operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spectral.jacobians.checksums import of_storage
from spectral.jacobians.program.trace import EMPTY, Geometry, Stored, Trace, Value, aten, is_whole
from spectral.jacobians.program.trees import leaves

# Of what these write to they read nothing.
_OVERWRITING = {
    aten.copy_.default,
    aten.fill_.Scalar,
    aten.fill_.Tensor,
    aten.zero_.default,
    aten.normal_.default,
    aten.uniform_.default,
}
SHARE = 50  # times what was made may be read; a model that reads more is not watched to the end


class Repeat(Trace):
    """A second trace, at an input near the first, with a graph.

    Where it has the first one's operations, on the same values and the same constants to the last bit, and
    nothing was written to a value that no operation wrote, then the record is the function at both inputs: a
    value that left torch and came back as a constant would be another one here, however little it weighs.
    What is written unseen, by an extension, another thread or through a pointer, shows in checksums of each
    storage where it is made and wherever it is read.
    """

    def __init__(self) -> None:
        super().__init__()
        # Of each storage, and the precision it is told of; None where it has no content.
        self._sums: dict[int, tuple[float, torch.dtype] | None] = {}
        self._pairs: list[tuple[float, float]] = []
        self._lost = self._unlike = False
        self._made, self._looked_at = 1 << 20, 0  # bytes

    def run(self, function: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        """function(y), with a graph that keeps no values."""
        x = y.detach().clone().requires_grad_()
        forget = torch.autograd.graph.saved_tensors_hooks(lambda t: None, lambda t: t)
        with torch.enable_grad(), forget:
            output = self.traced(function, x)
        self._read(output)
        return output

    def before(self, target: Any, args: Any, kwargs: Any, written: list[Tensor]) -> None:
        """Look at what is read; a view reads nothing, and an operation not what it overwrites as a whole."""
        if not written and _views(target):
            return
        fresh = [t for t in written if (target in _OVERWRITING or "out" in kwargs) and is_whole(t)]
        for t in leaves((args, kwargs)):
            if isinstance(t, Tensor) and not any(t is one for one in fresh):
                self._read(t)

    def after(self, target: Any, args: Any, kwargs: Any, written: list[Tensor], out: Any, seen: Any) -> None:
        """Look at what was made."""
        for t in written or leaves(out):
            stored = self.stored(t) if isinstance(t, Tensor) else None
            if stored is not None and (written or id(stored) not in self._sums):
                self._made += t.untyped_storage().nbytes()
                self._sums[id(stored)] = None if target in EMPTY else _sum(t)

    def _read(self, t: Tensor) -> None:
        stored = self.stored(t)
        if stored is None or self._lost:
            return
        if id(stored) not in self._sums:
            if stored.total is not None:  # from outside, and looked at this moment
                self._sums[id(stored)] = stored.total, _real(stored.first.dtype)
            return
        before = self._sums[id(stored)]
        self._looked_at += t.untyped_storage().nbytes()
        if before is None or self._looked_at > SHARE * self._made:
            self._lost = True
        elif before[1] != _real(t.dtype):  # by its bits
            self._unlike = True
        else:
            self._pairs.append((before[0], of_storage(t)))

    def is_that_of(self, first: Trace) -> bool:
        """Whether the function did what it did in another trace, and nothing else."""
        if self._lost or self._unlike or self.result != first.result or len(self.calls) != len(first.calls):
            return False
        same = all(
            mine.function == its.function
            and mine.outputs == its.outputs
            and _alike((mine.args, mine.kwargs), (its.args, its.kwargs))
            for mine, its in zip(self.calls, first.calls, strict=True)
        )
        mine, its = self.constants(), first.constants()
        same = same and mine.keys() == its.keys() and all(_kept(mine[i], its[i]) for i in mine)
        return same and self.fixed == first.fixed and all(then == now for then, now in self._pairs)

    def moved(self, first: Trace) -> bool:
        """Whether it went another trace's way, and constants of it, real numbers, were others here."""
        if [c.function for c in self.calls] != [c.function for c in first.calls]:
            return False
        mine, its = self.constants(), first.constants()
        if mine.keys() != its.keys():
            return False
        given = [leaves([(c.args, c.kwargs) for c in trace.calls]) for trace in (self, first)]
        given += [[one[i].owner for i in mine] for one in (mine, its)]
        pairs = [*zip(given[0], given[1], strict=False), *zip(given[2], given[3], strict=False)]
        return any(_real_number(a) and _real_number(b) and not _alike(a, b) for a, b in pairs)

    @property
    def unseen(self) -> bool:
        """Whether something was seen to change that no operation wrote to."""
        return any(then != now and not math.isnan(then + now) for then, now in self._pairs)


def _real_number(x: Any) -> bool:
    return x.is_floating_point() if isinstance(x, Tensor) else isinstance(x, float)


def _sum(t: Tensor) -> tuple[float, torch.dtype]:
    return of_storage(t), _real(t.dtype)


def _real(dtype: torch.dtype) -> torch.dtype:
    """Of complex numbers the precision of their parts."""
    return dtype.to_real() if dtype.is_complex else dtype


def _views(target: Any) -> bool:
    """Whether an operation gives another view of what it is given."""
    return any(one.alias_info is not None for one in target._schema.arguments)


def _kept(mine: Stored, its: Stored) -> bool:
    """Whether what came from outside is what it was."""
    a, b = mine.owner, its.owner
    if a is None or b is None:
        return False
    if a is b:
        return mine.total == its.total
    if Geometry.of(a) != Geometry.of(b) or a.device != b.device:
        return False
    return mine.total == its.total and (a.data_ptr() == b.data_ptr() or torch.equal(a, b))


def _alike(a: Any, b: Any) -> bool:
    """Whether two arguments are the same, constants to the last bit."""
    if a is b:
        return True
    if isinstance(a, Tensor):
        dense = isinstance(b, Tensor) and a.layout is torch.strided and b.layout is torch.strided
        return dense and a.device == b.device and Geometry.of(a) == Geometry.of(b) and torch.equal(a, b)
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
