"""Memory of a step used again by the next: pages fresh from the system are a third of a step's time."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_MOST = 2**31 - 1


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Let glibc keep what is freed meanwhile, at any size; other C libraries are left as they are.

    By itself it gives blocks beyond 32 MiB back to the system at once, and the heap's end above 64 MiB: a
    network's maps, which the next step asks for again.  Afterwards it does so again, and what is free goes
    back.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, _MOST)
    try:
        yield
    finally:
        # The thresholds that it comes to by itself, in a process that has freed large blocks.
        library.mallopt(_MMAP_MAX, 65536)
        library.mallopt(_MMAP_THRESHOLD, 2**25)
        library.mallopt(_TRIM_THRESHOLD, 2**26)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, where it is glibc, whose constants these are."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  a look-up, which fails elsewhere
    except (AttributeError, OSError, TypeError):
        return None
    return library
