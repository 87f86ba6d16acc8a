"""Whether the weights that a Jacobian was made of are still the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spectral.jacobians.checksums import Place, of_entries
from spectral.jacobians.model import modules_in, parameters_of


class Weights:
    """Parameters at one time, by what tells of a change: torch's counts of writes, then checksums.

    A model that projects its weights anew at each call writes to them, and changes nothing.  `sums` are
    checksums that are known, by place.
    """

    def __init__(self, function: Any, others: list[Tensor], sums: Mapping[Place, float] = {}) -> None:
        self._function, self._modules = function, modules_in(function)
        self._named = parameters_of(self._modules)
        each = {id(p): p for p in self._named + others if not p.is_inference() and not p.is_meta}
        numbers = [p for p in each.values() if p.is_floating_point() or p.is_complex()]
        self._kept = [p for p in numbers if _values(p) is not None]
        values = [*map(_values, self._kept)]
        self._versions, self._places = self._now(values)
        self._sums = of_entries(values, sums)

    def changed(self, thorough: bool) -> bool:
        """Whether some are others than they were; all by their bytes, where it is `thorough`."""
        if thorough:
            self._modules = modules_in(self._function)
        now = parameters_of(self._modules)
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
        """Torch's counts of writes, and where the values lie."""
        return [p._version for p in self._kept], [t.data_ptr() for t in values]


def _values(p: Tensor) -> Any:
    """The numbers that a tensor keeps; None where its layout hides them."""
    if p.layout is torch.strided:
        return p
    return p.detach()._values() if p.layout is torch.sparse_coo else None
