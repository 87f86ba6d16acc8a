"""How many vectors of a block go through a network at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]

GAIN = 0.95  # twice as many at once must take less than this share of the time, a vector, to be worth it


class Chunks:
    """A product of blocks, in chunks of the size that was fastest, fewer where memory runs out.

    The first blocks are timed, in chunks of 1, 2, 4, ... vectors as long as that gains and there is room; on
    a CPU one image often keeps every core busy.  Rounding may differ between sizes, in the last digits.

    Attributes:
        size: vectors at once.
        growing: whether a larger size is still to be tried.
    """

    def __init__(self, vector_bytes: int) -> None:
        self.vector_bytes = vector_bytes
        self.size, self.growing = 1, True

    def __call__(self, product: Product, V: Tensor) -> Tensor:
        """product(V) for V (m, ...), chunk by chunk."""
        if self.growing and len(V) >= 2 * self.size:
            self._grow(product, V)
        done: list[Tensor] = []
        at = 0
        while at < len(V):
            try:
                done.append(product(V[at : at + self.size]))
            except RuntimeError as failure:
                if self.size == 1 or not _out_of_memory(failure):
                    raise
                self.size, self.growing = self.size // 2, False
            else:
                at += self.size
        return done[0] if len(done) == 1 else torch.cat(done)

    def _grow(self, product: Product, V: Tensor) -> None:
        room = free_bytes(V.device) // (2 * max(self.vector_bytes, 1))
        seconds = _seconds(product, V[: self.size])
        while 2 * self.size <= min(len(V), room):
            try:
                twice = _seconds(product, V[: 2 * self.size])
            except RuntimeError as failure:
                if not _out_of_memory(failure):
                    raise
                twice = torch.inf
            if twice > 2 * GAIN * seconds:
                self.growing = False
                break
            self.size, seconds = 2 * self.size, twice


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on a device."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not every system tells
        return 1 << 30


def _seconds(product: Product, V: Tensor) -> float:
    """Of one product, the better of two after one to warm up."""
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        product(V)
        if V.device.type == "cuda":
            torch.cuda.synchronize(V.device)
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def _out_of_memory(failure: RuntimeError) -> bool:
    """On CPUs torch says so in the text of a plain RuntimeError."""
    return isinstance(failure, torch.OutOfMemoryError) or "not enough memory" in str(failure)
