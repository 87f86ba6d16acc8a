"""The compiled part of `gates`."""

from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray, types

from spectral.jacobians.cpu.gates import PIECE, TASK
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
