"""Memory for results, used again: pages fresh from the system cost time at every product.

glibc is told, when a model is recorded, to keep freed blocks of up to 32 MiB, the most that it can, and as
much of the heap's end as one recording after another fills; larger blocks are kept here.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
import weakref
from collections import deque
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALL = 2**25  # bytes; what is smaller the C library keeps
HEAP = 8 * SMALL  # bytes at the heap's end that it keeps; beyond, `trim` gives all back
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
SET_BY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")  # in the environment
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


@cache
def glibc() -> ctypes.CDLL | None:
    """The C library of this process, where it is glibc."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  a look-up, which fails elsewhere
    except (AttributeError, OSError, TypeError):
        return None
    return library


def tunable() -> ctypes.CDLL | None:
    """The same, where the environment sets no thresholds: those that a user has set stay."""
    told = "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "") or any(map(os.environ.get, SET_BY))
    return None if told else glibc()


def keep_freed() -> None:
    """Let glibc keep what is freed, within SMALL and HEAP, where it is `tunable`.

    By itself it keeps a quarter of that, once it has seen a block of 32 MiB freed.
    """
    library = tunable()
    if library is not None:
        library.mallopt(MMAP_THRESHOLD, SMALL)
        library.mallopt(TRIM_THRESHOLD, HEAP)


def trim(freed: int) -> None:
    """Give back to the system what the C library keeps, in pieces, of many bytes freed; glibc can."""
    library = glibc() if freed >= HEAP else None
    if library is not None:
        library.malloc_trim(0)


_current: weakref.ref[Pool] | None = None


def shared() -> Pool:
    """The pool of all that hold it, which ends with the last of them."""
    global _current  # noqa: PLW0603
    pool = None if _current is None else _current()
    if pool is None:
        pool = Pool()
        _current = weakref.ref(pool)
    return pool
