"""Checksums of tensors' bytes, as fast as memory is read.

    a <- h(a + w),    h(x) = (x ^ (x >> 29)) Q        w the 64-bit words, many sums a in turn, modulo 2^64

is one to one in w and in a (Q odd), so that one other word always shows.  h spreads each bit over many, the
highest too, which a product alone leaves where it is, so that other signs do not make up for each other.  Nor
do they from sum to sum: all are summed up the same way, times another number P.
"""

from collections.abc import Callable
from functools import cache, partial

import numpy as np
from numba import carray, types

from spectral.jacobians.cpu import openmp
from spectral.jacobians.cpu.simd import claim, pointer
from spectral.kernels.compiled import cfunc, njit

_P, _Q = np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x9E3779B185EBCA87)
_SHIFT = np.uint64(29)  # not between two numbers' signs, which would then undo each other

_SUMS = 64  # enough for LLVM to take them by vectors
_PIECE = 2**20  # bytes that one thread takes at a time: always as many, so that threads change no sum

TASK = openmp.layout("taken pieces place size sums")


@njit(inline="always")
def _mixed(total, word):  # type: ignore[no-untyped-def]
    total = total + word
    return (total ^ (total >> _SHIFT)) * _Q


@njit(inline="always")
def _of(words, rest, size):  # type: ignore[no-untyped-def]
    """Of so many bytes, as words and one by one."""
    sums, count = np.empty(_SUMS, np.uint64), size // 8
    for k in range(_SUMS):
        sums[k] = k + 1
    whole = count // _SUMS * _SUMS
    for i in range(0, whole, _SUMS):
        for k in range(_SUMS):
            sums[k] = _mixed(sums[k], words[i + k])
    total = np.uint64(size)
    for i in range(whole, count):
        total = _mixed(total, words[i])
    for i in range(8 * count, size):
        total = _mixed(total, np.uint64(rest[i]))
    for k in range(_SUMS):
        total = _mixed(total, sums[k] * _P)
    return total


@cache
def checksum() -> Callable[[int, int], int]:
    """Of so many bytes at an address; compiled when it is first asked for."""

    @cfunc(types.uint64(types.voidptr, types.int64))
    def work(place, size):  # type: ignore[no-untyped-def]
        return _of(carray(place, size // 8, np.uint64), carray(place, size, np.uint8), size)

    @cfunc(types.void(types.voidptr))
    def by_pieces(address):  # type: ignore[no-untyped-def]
        task = carray(address, 1, TASK)[0]
        sums = pointer(task.sums, np.uint64)
        i = claim(address, 0)
        while i < task.pieces:
            place, size = task.place + i * _PIECE, min(task.size - i * _PIECE, _PIECE)
            sums[i] = _of(pointer(place, np.uint64), pointer(place, np.uint8), size)
            i = claim(address, 0)

    return partial(_whole, work.ctypes, by_pieces.address)


def _whole(of: Callable[[int, int], int], by_pieces: int, place: int, size: int) -> int:
    """That of a piece, or of the sums of several, which threads share."""
    pieces = -(-size // _PIECE)
    if pieces < 2:
        return of(place, size)
    sums = np.empty(pieces, np.uint64)
    openmp.by_pieces(by_pieces, pieces, place, size, sums.ctypes.data)
    return of(sums.ctypes.data, sums.nbytes)
