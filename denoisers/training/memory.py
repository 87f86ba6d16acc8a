"""Memory of a step used again by the next: pages fresh from the system are a third of a step's time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from spectral.jacobians.cpu.memory import TRIM_THRESHOLD, keep_freed, tunable

_MMAP_MAX = -4  # of glibc's malloc.h
_MOST = 2**31 - 1


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Let glibc keep what is freed meanwhile, at any size, where it is `tunable`.

    By itself it gives blocks beyond 32 MiB back to the system at once, and the heap's end above 64 MiB: a
    network's maps, which the next step asks for again.  Afterwards what is free goes back, and less is kept.
    """
    library = tunable()
    if library is None:
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, _MOST)
    try:
        yield
    finally:
        library.mallopt(_MMAP_MAX, 65536)
        keep_freed()
        library.malloc_trim(0)
