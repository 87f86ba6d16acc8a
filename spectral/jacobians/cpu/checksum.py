"""Checksums of tensors' bytes, as fast as memory is read.

    a <- rotate(a + P w, 31) Q        w the 64-bit words, four sums a in turn, all modulo 2^64

is one to one in w and in a (P, Q odd), so that one other word always shows; after xxHash64.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import carray, types

from spectral.kernels.compiled import cfunc, njit

_P, _Q = np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x9E3779B185EBCA87)
_LEFT, _RIGHT = np.uint64(31), np.uint64(33)


@njit(inline="always")
def _mixed(total, word):  # type: ignore[no-untyped-def]
    total = total + word * _P
    return ((total << _LEFT) | (total >> _RIGHT)) * _Q


@cache
def checksum() -> Callable[[int, int], int]:
    """Of so many bytes at an address; compiled when it is first asked for."""

    @cfunc(types.uint64(types.voidptr, types.int64))
    def work(place, size):  # type: ignore[no-untyped-def]
        words, rest = carray(place, size // 8, np.uint64), carray(place, size, np.uint8)
        a, b, c, d = np.uint64(size), np.uint64(1), np.uint64(2), np.uint64(3)
        whole = len(words) // 4 * 4
        for i in range(0, whole, 4):
            a, b = _mixed(a, words[i]), _mixed(b, words[i + 1])
            c, d = _mixed(c, words[i + 2]), _mixed(d, words[i + 3])
        for i in range(whole, len(words)):
            a = _mixed(a, words[i])
        for i in range(8 * len(words), size):
            a = _mixed(a, np.uint64(rest[i]))
        return _mixed(_mixed(_mixed(a, b), c), d)

    return work.ctypes
