"""The compiled part of `gates`."""

from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray, types

from spectral.jacobians.cpu.gates import PIECE, PIXELS, PLANES, TASK
from spectral.jacobians.cpu.openmp import REAL
from spectral.jacobians.cpu.simd import BYTES, claim, gated, load, pointer, store, store_positive
from spectral.kernels.compiled import cfunc


@cache
def worker(dtype: torch.dtype, packs: bool) -> Any:
    """The C function, void (*)(void *task), that takes pieces of x in the order of memory.

    It writes the bits of its signs, where it `packs`, else x where its gate is open and 0 elsewhere; gates
    come again for further images.
    """
    real, lanes = REAL[dtype], BYTES // dtype.itemsize

    @cfunc(types.void(types.voidptr))
    def work(address):  # type: ignore[no-untyped-def]
        task = carray(address, 1, TASK)[0]
        x, bits, out = pointer(task.x, real), pointer(task.bits, np.uint8), pointer(task.out, real)
        i = claim(address, 0)
        while i < task.pieces:
            gate = i * PIECE % task.gates
            for at in range(i * PIECE, min((i + 1) * PIECE, task.count), lanes):
                if packs:
                    store_positive(bits, gate, load(x, at))
                else:
                    store(out, at, gated(load(x, at), bits, gate))
                gate += lanes
                if gate == task.gates:
                    gate = 0
            i = claim(address, 0)

    return work


@cache
def from_planes(dtype: torch.dtype) -> Any:
    """The C function, void (*)(void *task), that writes the bits of planes' signs, some pixels at a time."""
    real = REAL[dtype]

    @cfunc(types.void(types.voidptr))
    def work(address):  # type: ignore[no-untyped-def]
        task = carray(address, 1, PLANES)[0]
        x, bits = pointer(task.x, real), pointer(task.bits, np.uint8)
        pixels, groups = task.pixels, task.channels // 8
        bytes_of = np.empty(PIXELS, np.uint8)
        i = claim(address, 0)
        while i < task.pieces:
            image, piece = divmod(i, -(-pixels // PIXELS))
            first = piece * PIXELS
            count = min(PIXELS, pixels - first)
            for group in range(groups):
                at = (image * groups + group) * 8 * pixels + first
                for p in range(count):
                    byte = np.uint8(0)
                    for k in range(8):
                        byte |= np.uint8(x[at + k * pixels + p] > 0) << np.uint8(k)
                    bytes_of[p] = byte
                to = (image * pixels + first) * groups + group
                for p in range(count):
                    bits[to + p * groups] = bytes_of[p]
            i = claim(address, 0)

    return work
