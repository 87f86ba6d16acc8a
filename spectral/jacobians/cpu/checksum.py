"""Checksums of tensors' bytes, as fast as memory is read.

    a <- rotate(a + P w, 31) Q        w the 64-bit words, four sums a in turn, all modulo 2^64

is one to one in w and in a (P, Q odd), so that one other word always shows; after xxHash64.
"""

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from numba import carray, types

from spectral.jacobians.cpu import openmp
from spectral.jacobians.cpu.simd import claim, pointer
from spectral.kernels.compiled import cfunc, njit

_P, _Q = np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x9E3779B185EBCA87)
_LEFT, _RIGHT = np.uint64(31), np.uint64(33)

_PIECE = 2**18  # bytes that one thread takes at a time: always as many, so that threads change no sum

TASK = openmp.layout("taken pieces place size sums")


@njit(inline="always")
def _mixed(total, word):  # type: ignore[no-untyped-def]
    total = total + word * _P
    return ((total << _LEFT) | (total >> _RIGHT)) * _Q


@njit(inline="always")
def _of(words, rest, size):  # type: ignore[no-untyped-def]
    """Of so many bytes, as words and one by one."""
    a, b, c, d = np.uint64(size), np.uint64(1), np.uint64(2), np.uint64(3)
    count = size // 8
    whole = count // 4 * 4
    for i in range(0, whole, 4):
        a, b = _mixed(a, words[i]), _mixed(b, words[i + 1])
        c, d = _mixed(c, words[i + 2]), _mixed(d, words[i + 3])
    for i in range(whole, count):
        a = _mixed(a, words[i])
    for i in range(8 * count, size):
        a = _mixed(a, np.uint64(rest[i]))
    return _mixed(_mixed(_mixed(a, b), c), d)


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
    task = openmp.task(0, pieces, place, size, sums.ctypes.data)
    openmp.region(by_pieces, task, min(torch.get_num_threads(), pieces))()
    return of(sums.ctypes.data, sums.nbytes)
