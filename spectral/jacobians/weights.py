"""Whether the weights that a Jacobian was made of are still the same."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor

from spectral.jacobians.model import modules_in, parameters_of
from spectral.jacobians.program.trace import weighed


class Weights:
    """Parameters at one time, by what tells of a change: torch's counts of writes, then checksums.

    On a GPU sums as fast as its memory come first; since their rounding may differ, checksums have the last
    word.  A model that projects its weights anew at each call writes to them, and changes nothing.
    """

    def __init__(self, function: Any, others: list[Tensor]) -> None:
        self._function, self._modules = function, modules_in(function)
        self._named = parameters_of(self._modules)
        each = {id(p): p for p in self._named + others if not p.is_inference() and not p.is_meta}
        numbers = [p for p in each.values() if p.is_floating_point() or p.is_complex()]
        self._kept = [p for p in numbers if _values(p) is not None]
        self._versions = [p._version for p in self._kept]
        self._places = [_values(p).data_ptr() for p in self._kept]
        self._sums = [weighed(_flat(_values(p))) if p.is_cuda else None for p in self._kept]
        self._checksums = [_checksum(_values(p)) for p in self._kept]

    def changed(self, thorough: bool) -> bool:
        """Whether some are others than they were; all by their bytes, where it is `thorough`."""
        if thorough:
            self._modules = modules_in(self._function)
        now = parameters_of(self._modules)
        if len(now) != len(self._named) or any(a is not b for a, b in zip(now, self._named, strict=True)):
            return True
        for i, p in enumerate(self._kept):
            values = _values(p)
            if thorough or p._version != self._versions[i] or values.data_ptr() != self._places[i]:
                total = weighed(_flat(values)) if p.is_cuda else None
                if total is None or total != self._sums[i]:
                    if _checksum(values) != self._checksums[i]:
                        return True
                    self._sums[i] = total
                self._versions[i], self._places[i] = p._version, values.data_ptr()
        return False


def _values(p: Tensor) -> Any:
    """The numbers that a tensor keeps; None where its layout hides them."""
    if p.layout is torch.strided:
        return p
    return p.detach()._values() if p.layout is torch.sparse_coo else None


def _flat(p: Tensor) -> Tensor:
    return p.detach().resolve_conj().resolve_neg().reshape(-1)


def _checksum(p: Tensor) -> int:
    """Of its bytes."""
    return zlib.crc32(_flat(p).cpu().contiguous().view(torch.uint8).numpy().data)
