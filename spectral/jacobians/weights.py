"""Whether the weights that a Jacobian was made of are still the same, and what else a model holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spectral.jacobians.checksums import Place, of_entries
from spectral.jacobians.model import modules_in, parameters_of


class Weights:
    """Parameters at one time, by what tells of a change: torch's counts of writes, then checksums.

    Tensors of integers and masks count as those of real numbers do, where the model looked at them.  A model
    that projects its weights anew at each call writes to them, and changes nothing.  `sums` are checksums
    that are known, by place.

    Attributes:
        modules: that the model holds, as they were when it was last asked for all.
    """

    def __init__(self, function: Any, others: list[Tensor], sums: Mapping[Place, float] = {}) -> None:
        self._function, self.modules = function, modules_in(function)
        self._named = parameters_of(self.modules)
        each = {id(p): p for p in self._named + others if not (p.is_meta or p.is_quantized)}
        self._kept = [p for p in each.values() if _values(p) is not None]
        values = [*map(_values, self._kept)]
        self._versions, self._places = self._now(values)
        self._sums = of_entries(values, sums)

    def changed(self, thorough: bool) -> bool:
        """Whether some are others than they were; all by their bytes, where it is `thorough`."""
        if thorough:
            self.modules = modules_in(self._function)
        now = parameters_of(self.modules)
        if len(now) != len(self._named) or any(a is not b for a, b in zip(now, self._named, strict=True)):
            return True
        values = [*map(_values, self._kept)]
        versions, places = self._now(values)
        if thorough or versions != self._versions or places != self._places:
            if of_entries(values) != self._sums:
                return True
            self._versions, self._places = versions, places
        return False

    def _now(self, values: list[Tensor]) -> tuple[list[int], list[int]]:
        """Torch's counts of writes, none of what was made in inference mode, and where the values lie."""
        versions = [0 if p.is_inference() else p._version for p in self._kept]
        return versions, [t.data_ptr() for t in values]


class Held:
    """What modules, and another object that is called, hold by name at one time: numbers, words and things.

    Numbers and words by their value, all else by its identity: that something is another tells of no other
    function, but only then can there be one.
    """

    def __init__(self, modules: list[nn.Module], owner: Any = None) -> None:
        self._owner = owner
        self._named = self._now(modules)

    def changed(self, modules: list[nn.Module]) -> bool:
        """Whether anything is another than it was, of the modules that there are now."""
        now = self._now(modules)
        alike = len(now) == len(self._named) and all(map(_alike, now, self._named))
        return not alike

    def _now(self, modules: list[nn.Module]) -> list[Any]:
        found: list[Any] = []
        for one in [*modules, *([] if self._owner is None else [self._owner])]:
            found.append(one)
            for name, value in vars(one).items():
                if name == "training":
                    continue
                found.append(name)
                if name in _TABLES_OF_MODULES and isinstance(value, dict):
                    found += value.items() if value else ()
                else:
                    found.append(value)
        return found


# Of a module: what it holds by name, and its hooks.
_TABLES_OF_MODULES = {name for name, table in vars(nn.Module()).items() if isinstance(table, dict)}
_BY_VALUE = (bool, int, float, complex, str, bytes, type(None))


def _alike(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_alike, a, b))
    return type(a) is type(b) and isinstance(a, _BY_VALUE) and a == b


def _values(p: Tensor) -> Any:
    """The numbers that a tensor keeps; None where its layout hides them."""
    if p.layout is torch.strided:
        return p
    return p.detach()._values() if p.layout is torch.sparse_coo else None
