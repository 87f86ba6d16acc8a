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
    """A product of blocks, in chunks of the size that is fastest, fewer where memory runs out.

    Sizes 1, 2, 4, ... are timed on the blocks that come, as long as that gains and there is room; on a CPU
    one image often keeps every core busy.  Rounding may differ between sizes, in the last digits.

    Attributes:
        size: vectors at once.
        growing: whether twice as many are still to be tried.
    """

    def __init__(self, vector_bytes: int) -> None:
        self.vector_bytes = vector_bytes
        self.size, self.growing = 1, True
        self._taken: dict[int, list[float]] = {}

    def __call__(self, product: Product, V: Tensor) -> Tensor:
        """product(V) for V (m, ...), chunk by chunk."""
        done: list[Tensor] = []
        at = 0
        while at < len(V):
            size = self._next(len(V) - at, V.device)
            timed = self._undecided(size, len(V))
            began = time.perf_counter()
            try:
                done.append(product(V[at : at + size]))
            except RuntimeError as failure:
                if size == 1 or not out_of_memory(failure):
                    raise
                self.size, self.growing = size // 2, False
                continue
            at += size
            if timed:
                if V.is_cuda:
                    torch.cuda.synchronize(V.device)
                self._learn(size, time.perf_counter() - began)
        return done[0] if len(done) == 1 else torch.cat(done)

    def _next(self, left: int, device: torch.device) -> int:
        """The size in use; once it was timed, twice that."""
        twice = 2 * self.size
        if self.growing and twice <= left and len(self._taken.get(self.size, ())) > 1:
            room = free_bytes(device) // (2 * max(self.vector_bytes, 1))
            if twice <= room:
                return twice
        return min(self.size, left)

    def _undecided(self, size: int, block: int) -> bool:
        """Whether the time of a chunk is of use, as it makes the host wait for a GPU: two of each size are,
        in blocks that could go in larger chunks."""
        return self.growing and 2 * self.size <= block and len(self._taken.get(size, ())) < 2

    def _learn(self, size: int, seconds: float) -> None:
        """Two timings of a size decide, the first being the dearer for what it sets up."""
        taken = self._taken.setdefault(size, [])
        taken.append(seconds / size)
        if size > self.size and len(taken) > 1:
            if min(taken) < GAIN * min(self._taken[self.size]):
                self.size = size
            else:
                self.growing = False


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on a device."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not every system tells
        return 1 << 30


def out_of_memory(failure: RuntimeError) -> bool:
    """On CPUs torch says so in the text of a plain RuntimeError."""
    return isinstance(failure, torch.OutOfMemoryError) or "not enough memory" in str(failure)
