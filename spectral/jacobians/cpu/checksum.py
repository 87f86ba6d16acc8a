"""Checksums of tensors' bytes, as fast as memory is read.

    a <- rotate(a + P w, 31) Q        w the 64-bit words, four sums a in turn, all modulo 2^64

is one to one in w and in a (P, Q odd), so that one other word always shows; after xxHash64 (Y. Collet).
"""

import ctypes
from functools import cache
from typing import Any

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
def _work() -> Any:
    @cfunc(types.void(types.CPointer(types.voidptr), types.voidptr, types.int64, types.voidptr))
    def work(places, sizes, count, out):  # type: ignore[no-untyped-def]
        lengths, sums = carray(sizes, count, np.int64), carray(out, count, np.uint64)
        for k in range(count):
            n = lengths[k]
            words, rest = carray(places[k], n // 8, np.uint64), carray(places[k], n, np.uint8)
            a, b, c, d = np.uint64(n), np.uint64(1), np.uint64(2), np.uint64(3)
            whole = len(words) // 4 * 4
            for i in range(0, whole, 4):
                a, b = _mixed(a, words[i]), _mixed(b, words[i + 1])
                c, d = _mixed(c, words[i + 2]), _mixed(d, words[i + 3])
            for i in range(whole, len(words)):
                a = _mixed(a, words[i])
            for i in range(8 * len(words), n):
                a = _mixed(a, np.uint64(rest[i]))
            sums[k] = _mixed(_mixed(_mixed(a, b), c), d)

    return work


def checksums(places: list[int], sizes: list[int]) -> list[int]:
    """Of so many bytes at each of some addresses."""
    count = len(places)
    lengths, sums = np.array(sizes, np.int64), np.empty(count, np.uint64)
    _work().ctypes((ctypes.c_void_p * count)(*places), lengths.ctypes.data, count, sums.ctypes.data)
    return [*map(int, sums)]
