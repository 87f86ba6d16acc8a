"""The compiled part of `lines`: panels of overlapping rows, those at the ends from a copy with zeros."""

from functools import cache
from typing import Any

import torch
from numba import carray, types
from numba.extending import register_jitable

from spectral.jacobians.cpu.lines import PANELS, TASK
from spectral.jacobians.cpu.simd import BYTES, ROWS, claim, panel, pointer
from spectral.jacobians.cpu.winograd import REAL
from spectral.kernels.compiled import cfunc, njit


@register_jitable
def room(channels, taps, filters):  # type: ignore[no-untyped-def]
    """Numbers that a worker needs: the rows of one panel, and what comes of them."""
    return (ROWS + taps - 1) * channels + ROWS * filters


@njit()
def _panel(task, x, weight, out, space, image, row, filter, group):  # type: ignore[no-untyped-def]
    """ROWS rows of the output, those of them that there are, a group of filters."""
    channels, filters, reach = task.channels, task.filters, ROWS + task.taps - 1
    depth = task.taps * channels
    first, count = row - task.padding, min(ROWS, task.after - row)
    source, at = x, (image * task.before + first) * channels
    if first < 0 or first + reach > task.before:
        for i in range(reach):
            inside = 0 <= first + i < task.before
            for c in range(channels):
                space[i * channels + c] = x[at + i * channels + c] if inside else 0
        source, at = space, 0
    to = (image * task.after + row) * filters + filter
    if count == ROWS:
        panel(source, at, channels, weight, filter * depth, out, to, depth, filters)
    else:
        made = reach * channels
        panel(source, at, channels, weight, filter * depth, space, made, depth, group)
        for i in range(count):
            for k in range(group):
                out[to + i * filters + k] = space[made + i * group + k]


@cache
def worker(dtype: torch.dtype) -> Any:
    """The C function, void (*)(void *task), that takes blocks of panels until none are left."""
    real = REAL[dtype]
    size = dtype.itemsize
    group = 2 * BYTES // size

    @cfunc(types.void(types.voidptr))
    def work(address):  # type: ignore[no-untyped-def]
        task = carray(address, 1, TASK)[0]
        x, weight, out = pointer(task.x, real), pointer(task.weight, real), pointer(task.out, real)
        mine = claim(address, 1) * room(task.channels, task.taps, task.filters) * size
        space = pointer(task.workspace + mine, real)
        blocks = -(-task.after // (PANELS * ROWS))
        taken = claim(address, 0)
        while taken < task.images * blocks:
            image, block = divmod(taken, blocks)
            begin = block * PANELS * ROWS
            for filter in range(0, task.filters, group):
                for row in range(begin, min(begin + PANELS * ROWS, task.after), ROWS):
                    _panel(task, x, weight, out, space, image, row, filter, group)
            taken = claim(address, 0)

    return work
