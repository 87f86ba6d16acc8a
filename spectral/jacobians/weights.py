"""Whether the weights that a Jacobian was made of are still the same."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor

from spectral.jacobians.cpu import openmp
from spectral.jacobians.model import modules_in, parameters_of

_ROW = 1 << 12  # bytes


class Weights:
    """Parameters at one time, by what tells of a change: torch's counts of writes, then checksums.

    A model that projects its weights anew at each call writes to them, and changes nothing.
    """

    def __init__(self, function: Any, others: list[Tensor]) -> None:
        self._function, self._modules = function, modules_in(function)
        self._named = parameters_of(self._modules)
        each = {id(p): p for p in self._named + others if not p.is_inference() and not p.is_meta}
        numbers = [p for p in each.values() if p.is_floating_point() or p.is_complex()]
        self._kept = [p for p in numbers if _values(p) is not None]
        values = [*map(_values, self._kept)]
        self._versions, self._places = self._now(values)
        self._sums = _sums(values)

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
            if _sums(values) != self._sums:
                return True
            self._versions, self._places = versions, places
        return False

    def _now(self, values: list[Tensor]) -> tuple[list[int], list[int]]:
        """Torch's counts of writes, and where the values lie."""
        return [p._version for p in self._kept], [t.data_ptr() for t in values]


def _sums(values: list[Tensor]) -> list[int]:
    """A checksum of each one's bytes."""
    if not openmp.vector_bytes():
        return [*map(_sum, values)]
    from spectral.jacobians.cpu.checksum import checksum  # noqa: PLC0415  Numba takes a third of a second

    compiled = checksum()
    return [compiled(t.data_ptr(), t.numel() * t.element_size()) if _in_a_row(t) else _sum(t) for t in values]


def _in_a_row(t: Tensor) -> bool:
    """Whether t's entries fill a part of the host's memory."""
    if t.device.type != "cpu":
        return False
    return t.is_contiguous() or (t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last))


def _values(p: Tensor) -> Any:
    """The numbers that a tensor keeps; None where its layout hides them."""
    if p.layout is torch.strided:
        return p
    return p.detach()._values() if p.layout is torch.sparse_coo else None


def _sum(p: Tensor) -> int:
    """A checksum of its bytes: of the sums of words along the rows and the columns of a table.

    One other word shows in both, and two in exchange in one at least; sums are as fast as memory, checksums
    are not.
    """
    entries = p.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    entries = entries.clone() if entries.storage_offset() % 8 else entries  # words begin at multiples of 8
    whole = len(entries) // _ROW * _ROW
    words = entries[:whole].view(torch.int64).view(-1, _ROW // 8)
    found = 0
    for part in (words.sum(0), words.sum(1), entries[whole:]):
        found = zlib.crc32(part.cpu().numpy().data, found)
    return found
