"""The compiled part of `direct`: a piece of a plane with zeros around, panels of its overlapping rows."""

from functools import cache
from typing import Any

import torch
from numba import carray, types

from spectral.jacobians.cpu.direct import PANELS, TASK
from spectral.jacobians.cpu.openmp import REAL
from spectral.jacobians.cpu.simd import ROWS, claim, narrow, narrow_onto, panel, panel_onto, pointer
from spectral.kernels.compiled import cfunc, njit

PLACES = PANELS * ROWS


@njit()
def _piece(task, x, plane, first, count, space):  # type: ignore[no-untyped-def]
    """The channels of so many places from the first, of a plane (height, width) with zeros around."""
    channels, height, width = task.channels, task.before_height, task.before_width
    across = width + 2 * task.padding_width
    row, column = divmod(first, across)
    row, column = row - task.padding_height, column - task.padding_width
    for i in range(count):
        to = i * channels
        if 0 <= row < height and 0 <= column < width:
            at = ((plane * height + row) * width + column) * channels
            for c in range(channels):
                space[to + c] = x[at + c]
        else:
            for c in range(channels):
                space[to + c] = 0
        column += 1
        if column == width + task.padding_width:
            row, column = row + 1, -task.padding_width


@njit()
def _written(task, out, plane, first, done, count, filter, sums):  # type: ignore[no-untyped-def]
    """The sums of places that are pixels of the output, into a plane of it, the filters that there are; but
    for those that are `done`."""
    filters, height, width = task.filters, task.after_height, task.after_width
    across = task.before_width + 2 * task.padding_width
    some = min(task.group, filters - filter)
    row, column = divmod(first + done, across)
    for i in range(done, count):
        if column < width:
            to = ((plane * height + row) * width + column) * filters + filter
            for k in range(some):
                out[to + k] = sums[i * task.group + k]
        column += 1
        if column == across:
            row, column = row + 1, 0


@cache
def worker(dtype: torch.dtype, one_vector: bool) -> Any:
    """The C function, void (*)(void *task), that takes blocks of places until none are left; of filters it
    takes two vectors at a time, or one."""
    real, size = REAL[dtype], dtype.itemsize

    @cfunc(types.void(types.voidptr))
    def work(address):  # type: ignore[no-untyped-def]
        task = carray(address, 1, TASK)[0]
        x, weight, out = pointer(task.x, real), pointer(task.weight, real), pointer(task.out, real)
        channels, group, across = task.channels, task.group, task.before_width + 2 * task.padding_width
        beyond = (task.taps_height - 1) * across + task.taps_width - 1
        row = task.taps_width * channels
        lines = task.before_height * task.taps_height * task.before_depth * task.taps_depth == 1
        lines = lines and task.padding_height + task.padding_depth == 0
        mine = task.workspace + claim(address, 1) * task.room * size
        space, sums = pointer(mine, real), pointer(mine + (task.room - PLACES * group) * size, real)
        total = task.after_height * across
        blocks = -(-total // PLACES)
        taken = claim(address, 0)
        while taken < task.images * task.after_depth * blocks:
            plane, block = divmod(taken, blocks)
            image, depth = divmod(plane, task.after_depth)
            first = block * PLACES
            count = min(PLACES, total - first)
            rows = -(-count // ROWS) * ROWS
            kept = -1
            for filter in range(0, task.filters, group):
                done = 0
                if lines:  # one product a panel, most of them where the result is to be
                    whole = filter + group <= task.filters
                    done = min(count, max(task.after_width - first, 0)) // ROWS * ROWS if whole else 0
                for i in range(done * group, rows * group):
                    sums[i] = 0
                for a in range(task.taps_depth):
                    at = depth + a - task.padding_depth
                    if not 0 <= at < task.before_depth:
                        continue
                    source, begin = space, 0
                    ahead = first - task.padding_width
                    if lines and ahead >= 0 and ahead + rows + beyond <= task.before_width:
                        source = x
                        begin = (image * task.before_width + ahead) * channels
                    elif kept != at:
                        kept = at
                        _piece(task, x, image * task.before_depth + at, first, rows + beyond, space)
                    for b in range(task.taps_height):
                        of_taps = (filter // group * task.taps_depth + a) * task.taps_height + b
                        for place in range(0, rows, ROWS):
                            left, to = begin + (place + b * across) * channels, place * group
                            columns = of_taps * row * group
                            if place < done:
                                pixel = (plane * task.after_width + first + place) * task.filters + filter
                                if one_vector:
                                    narrow(
                                        source, left, channels, weight, columns, out, pixel, row, task.filters
                                    )
                                else:
                                    panel(
                                        source, left, channels, weight, columns, out, pixel, row, task.filters
                                    )
                            elif one_vector:
                                narrow_onto(source, left, channels, weight, columns, sums, to, row, group)
                            else:
                                panel_onto(source, left, channels, weight, columns, sums, to, row, group)
                _written(task, out, plane, first, done, count, filter, sums)
            taken = claim(address, 0)

    return work
