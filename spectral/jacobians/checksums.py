"""Checksums of what tensors hold: of storages while a model is recorded, of weights between solves.

By their bytes in compiled code where that can be (`cpu/checksum.py`), else by torch's own sums.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from spectral.jacobians.cpu import openmp

_COARSE = {torch.float16, torch.bfloat16, torch.float32, torch.complex64}
_ENTRIES = 1 << 14  # of a storage's row
_BYTES = 1 << 12  # of a row of weights


def of_storage(t: Tensor) -> float:
    """A number that tells the content of t's whole storage, and the order of it.

    By its bytes in compiled code, where that can be and there is no more to it, as to quantised ones.  Else
    entries are weighed by two random vectors, one within rows and one for the rows: matrix products, as fast
    as memory; not a number where the content holds one, or cannot be multiplied: like nothing else.
    """
    storage = t.untyped_storage()
    if t.device.type == "cpu" and not t.is_quantized and (compiled := _compiled()):
        return compiled(storage.data_ptr(), storage.nbytes())
    entry = torch.float32 if t.dtype in _COARSE else torch.float64
    with torch.no_grad():
        try:
            flat = torch.empty(0, dtype=t.dtype, device=t.device)
            flat = flat.set_(storage, 0, (storage.nbytes() // t.dtype.itemsize,), (1,))
            if flat.is_complex():
                flat = torch.view_as_real(flat).flatten()
            flat = flat.to(entry)
            whole = len(flat) // _ENTRIES
            within, across = _drawn(entry, t.device, 1 << whole.bit_length())
            rest = flat[whole * _ENTRIES :]
            total = rest.dot(within[: len(rest)]) * across[whole]
            if whole:
                total += (flat[: whole * _ENTRIES].view(whole, _ENTRIES) @ within).dot(across[:whole])
            return total.item()
        except RuntimeError:  # eight bits, and quantised ones
            return math.nan


Place = tuple[int, int]
"""An address, and bytes there."""


def place_of(t: Tensor) -> Place:
    """Where t's storage lies, all of it."""
    storage = t.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def of_entries(values: list[Tensor], known: Mapping[Place, float] = {}) -> list[float]:
    """A checksum of each one's entries, by their bytes; of a storage that one fills it is `of_storage`'s.

    Some of these may be `known`, by place.
    """
    compiled, sums = _compiled(), list[float]()
    for t in values:
        if compiled and _in_a_row(t):
            place = t.data_ptr(), t.numel() * t.element_size()
            sums.append(known[place] if place in known else compiled(*place))
        else:
            sums.append(_by_words(t))
    return sums


def _compiled() -> Callable[[int, int], int] | None:
    """Of so many bytes at an address; None where no kernels run."""
    return _by_bytes() if openmp.vector_bytes() else None


@functools.cache
def _by_bytes() -> Callable[[int, int], int]:
    from spectral.jacobians.cpu.checksum import checksum  # noqa: PLC0415  Numba takes a third of a second

    return checksum()


@functools.lru_cache(8)
def _drawn(dtype: torch.dtype, device: torch.device, rows: int) -> tuple[Tensor, Tensor]:
    """The random weights of `of_storage`: within a row, and of so many rows."""
    generator = torch.Generator().manual_seed(7)
    drawn = torch.rand(_ENTRIES + rows, generator=generator, dtype=torch.float64, device="cpu") + 0.5
    drawn = drawn.to(device, dtype)
    return drawn[:_ENTRIES], drawn[_ENTRIES:]


def _in_a_row(t: Tensor) -> bool:
    """Whether t's entries fill a part of the host's memory."""
    if t.device.type != "cpu":
        return False
    return t.is_contiguous() or (t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last))


def _by_words(p: Tensor) -> int:
    """A checksum of its bytes: of the sums of words along the rows and the columns of a table.

    One other word shows in both, and two in exchange in one at least; sums are as fast as memory, checksums
    are not.
    """
    entries = p.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    entries = entries.clone() if entries.storage_offset() % 8 else entries  # words begin at multiples of 8
    whole = len(entries) // _BYTES * _BYTES
    words = entries[:whole].view(torch.int64).view(-1, _BYTES // 8)
    found = 0
    for part in (words.sum(0), words.sum(1), entries[whole:]):
        found = zlib.crc32(part.cpu().numpy().data, found)
    return found
