"""Memory for results, used again: pages fresh from the system cost time at every product.

glibc keeps freed blocks of up to 32 MiB for the next that ask, but only once it has seen one so large freed;
larger ones go back to the system at once.  The first is shown to it here, the others are kept here.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
import weakref
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALL = 2**25  # bytes; what is smaller the C library keeps
LOOSE = 4  # a block may be so many times as large as what is asked for

Block = NDArray[np.uint8]


class Pool:
    """Tensors on the CPU whose memory comes back when nothing holds them any more.

    No more is ever held than has been in use at once.  Calls may come from several threads.
    """

    def __init__(self) -> None:
        self._returned: deque[Block] = deque()  # where blocks come back, at any moment
        self._free: list[Block] = []
        self._lent = self._most = 0
        self._lock = threading.Lock()
        torch.empty(2**25 - 2**12, dtype=torch.uint8)  # shown and freed, none of its pages ever touched

    def empty(self, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of any content.

        Raises:
            torch.OutOfMemoryError: there is no such memory; what was free is given back.
        """
        need = math.prod(size) * dtype.itemsize
        if need < SMALL:
            return torch.empty(size, dtype=dtype)
        with self._lock:
            block = self._taken(need)
        lent = block[:need]
        weakref.finalize(lent, self._returned.append, block).atexit = False
        return torch.from_numpy(lent).view(dtype).view(size)

    @property
    def held(self) -> int:
        """Bytes lent and free."""
        with self._lock:
            self._collect()
            return self._held()

    def _held(self) -> int:
        return self._lent + sum(block.nbytes for block in self._free)

    def _taken(self, need: int) -> Block:
        self._collect()
        fits = [i for i, block in enumerate(self._free) if need <= block.nbytes <= LOOSE * need]
        if fits:
            block = self._free.pop(min(fits, key=lambda i: self._free[i].nbytes))
        else:
            while self._free and self._held() + need > self._most:
                self._free.pop(0)
            try:
                block = np.empty(need, np.uint8)
            except MemoryError as failure:
                self._free.clear()
                raise torch.OutOfMemoryError(str(failure)) from failure
        self._lent += block.nbytes
        self._most = max(self._most, self._lent)
        return block

    def _collect(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            self._lent -= block.nbytes
            self._free.append(block)


def trim(freed: int) -> None:
    """Give back to the system what the C library keeps, in pieces, of many bytes freed; glibc can."""
    if freed < 8 * SMALL:
        return
    release = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if release is not None:
        release(0)


_current: weakref.ref[Pool] | None = None


def shared() -> Pool:
    """The pool of all that hold it, which ends with the last of them."""
    global _current  # noqa: PLW0603
    pool = None if _current is None else _current()
    if pool is None:
        pool = Pool()
        _current = weakref.ref(pool)
    return pool
