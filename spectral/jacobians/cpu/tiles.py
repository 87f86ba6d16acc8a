"""The compiled part of `winograd`: tiles transformed, multiplied and transformed back, a vector at a time."""

from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray, types
from numba.extending import register_jitable

from spectral.jacobians.cpu.openmp import REAL
from spectral.jacobians.cpu.simd import (
    BYTES,
    ROWS,
    claim,
    gated,
    load,
    load_six,
    load_wide,
    narrow,
    panel,
    pointer,
    store,
    store_all,
    whole,
)
from spectral.jacobians.cpu.winograd import AA, BB, FORMED, PRODUCT, RUN, SUM, TASK, WEIGHTS, A, B, G
from spectral.kernels.compiled import cfunc, njit

GATE = REAL | {torch.uint8: np.uint8, torch.int8: np.int8}
"""What gates are kept as: numbers, bits, zeros and ones."""

_AAA, _BBB, _ABB, _BAA = A**3, B**3, A * BB, B * AA


@njit(inline="always")
def _before(d):  # type: ignore[no-untyped-def]
    """B' d, of six lanes."""
    even_a, odd_a = d[4] - BB * d[2], A * d[3] - _ABB * d[1]
    even_b, odd_b = d[4] - AA * d[2], B * d[3] - _BAA * d[1]
    return (
        d[4] - SUM * d[2] + PRODUCT * d[0],
        even_a + odd_a,
        even_a - odd_a,
        even_b + odd_b,
        even_b - odd_b,
        d[5] - SUM * d[3] + PRODUCT * d[1],
    )


@njit(inline="always")
def _behind(m):  # type: ignore[no-untyped-def]
    """A' m, four of six lanes."""
    even_a, odd_a, even_b, odd_b = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    return (
        m[0] + even_a + even_b,
        A * odd_a + B * odd_b,
        AA * even_a + BB * even_b,
        _AAA * odd_a + _BBB * odd_b + m[5],
    )


@cache
def transformer(dtype: torch.dtype) -> Any:
    """The C function, void (*)(void *task), that forms G g G' in float64, a group of filters at a time.

    The task is a `WEIGHTS`: (K, C, 3, 3) of any strides into what `_transformed` says.
    """
    real = REAL[dtype]
    group, lanes = 2 * BYTES // dtype.itemsize, BYTES // 8

    @cfunc(types.void(types.voidptr))
    def work(address):  # type: ignore[no-untyped-def]
        task = carray(address, 1, WEIGHTS)[0]
        weight, out = pointer(task.weight, real), pointer(task.out, real)
        taps = pointer(task.workspace + claim(address, 1) * FORMED * 2 * BYTES, real)
        formed = 9 * group
        i = claim(address, 0)
        while i < task.groups:
            wide = min(group, task.columns - i * group)
            for first in range(0, task.channels, RUN):
                run = min(RUN, task.channels - first)
                for c in range(run):
                    for k in range(group):
                        inside = i * group + k < task.filters
                        at = (i * group + k) * task.filter_step + (first + c) * task.channel_step
                        for m in range(3):
                            for n in range(3):
                                tap = at + m * task.row_step + n * task.column_step
                                taps[(3 * m + n) * group + k] = weight[tap] if inside else real(0)
                    for k in range(0, group, lanes):
                        left = _by_points(_taps(taps, k, 3 * group))
                        middle = _by_points(_taps(taps, k + group, 3 * group))
                        right = _by_points(_taps(taps, k + 2 * group, 3 * group))
                        at, step = formed + c * group + k, RUN * group
                        store_all(taps, at, step, _by_points((left[0], middle[0], right[0])))
                        store_all(taps, at + 6 * step, step, _by_points((left[1], middle[1], right[1])))
                        store_all(taps, at + 12 * step, step, _by_points((left[2], middle[2], right[2])))
                        store_all(taps, at + 18 * step, step, _by_points((left[3], middle[3], right[3])))
                        store_all(taps, at + 24 * step, step, _by_points((left[4], middle[4], right[4])))
                        store_all(taps, at + 30 * step, step, _by_points((left[5], middle[5], right[5])))
                for entry in range(36):
                    at = (entry * task.columns + i * group) * task.channels + first * wide
                    for c in range(run):
                        for k in range(wide):
                            out[at + c * wide + k] = taps[formed + (entry * RUN + c) * group + k]
            i = claim(address, 0)

    return work


@njit(inline="always")
def _taps(source, at, step):  # type: ignore[no-untyped-def]
    """Three lanes of a column of taps."""
    return load_wide(source, at), load_wide(source, at + step), load_wide(source, at + 2 * step)


@njit(inline="always")
def _by_points(g):  # type: ignore[no-untyped-def]
    """G g, of three lanes: the values of a polynomial at six points."""
    even_a, odd_a = G[1][0] * g[0] + G[1][2] * g[2], G[1][1] * g[1]
    even_b, odd_b = G[3][0] * g[0] + G[3][2] * g[2], G[3][1] * g[1]
    return (G[0][0] * g[0], even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, g[2])


@cache
def worker(dtype: torch.dtype, gate_in: torch.dtype, gate_out: torch.dtype) -> Any:
    """The C function, void (*)(void *task), that takes blocks of tiles until none are left."""
    real = REAL[dtype]
    before_is, behind_is = GATE[gate_in], GATE[gate_out]
    size, numbers = dtype.itemsize, gate_in == dtype

    @cfunc(types.void(types.voidptr))
    def work(address):  # type: ignore[no-untyped-def]
        task = carray(address, 1, TASK)[0]
        panels = -(-task.tiles // ROWS)
        mine = claim(address, 1) * workspace(task.block, task.channels, task.filters, size)
        space = task.workspace + mine
        after = space + 36 * _plane(task.block, task.channels, size) * size
        scratch = after + 36 * _plane(task.block, whole(task.filters, BYTES // size), size) * size
        before, behind, tile = pointer(space, real), pointer(after, real), pointer(scratch, real)
        taken = claim(address, 0)
        while taken < task.blocks:
            first = panels * taken // task.blocks * ROWS
            count = min(panels * (taken + 1) // task.blocks * ROWS, task.tiles) - first
            # Beside the image zeros, and slopes of zero: any other may be infinite.
            beside = (task.zeros - task.gate_in) // size if numbers else 0
            _tiles_in(task, first, count, before, tile, real, before_is, beside)
            _products(task, count, before, behind, real)
            _tiles_out(task, first, count, behind, tile, real, behind_is)
            taken = claim(address, 0)

    return work


@register_jitable
def per_image(height, width):  # type: ignore[no-untyped-def]
    """Output tiles of one image."""
    return -(-height // 4) * -(-width // 4)


@register_jitable
def _plane(block, channels, size):  # type: ignore[no-untyped-def]
    """Numbers between one entry of the tiles of a block and the next: never a multiple of a page."""
    return block * channels + BYTES // size


@register_jitable
def workspace(block, channels, filters, size):  # type: ignore[no-untyped-def]
    """Bytes that a worker needs: transformed inputs, their products, and one tile of one vector."""
    columns = whole(filters, BYTES // size)
    return 36 * ((_plane(block, channels, size) + _plane(block, columns, size)) * size + BYTES)


@njit(inline="always")
def _places(tile, tiles, height, width, channels, gates, outside, beside, at, gate_at):  # type: ignore[no-untyped-def]
    """Where the 6x6 pixels of a tile, and their gates, begin; `outside`, `beside` those beside the image."""
    image, place = divmod(tile, per_image(height, width))
    across = -(-width // 4)
    for i in range(6):
        for j in range(6):
            row, column = 4 * (place // across) + i - 1, 4 * (place % across) + j - 1
            pixel = row * width + column
            inside = tile < tiles and 0 <= row < height and 0 <= column < width
            at[6 * i + j] = (image * height * width + pixel) * channels if inside else outside
            if gates:
                own = image % gates * height * width + pixel
                gate_at[6 * i + j] = own * channels if inside else beside


@njit(inline="always")
def _columns_in(x, at, gate, gate_at, gates, c, tile, lanes):  # type: ignore[no-untyped-def]
    """B' d of one vector of channels, into `tile`."""
    for j in range(6):
        d = _column(x, at, j, c)
        if gates:
            d = _gated(d, gate, gate_at, j, c)
        store_all(tile, j * lanes, 6 * lanes, _before(d))


@njit()
def _tiles_in(task, first, count, before, tile, real, slope, beside):  # type: ignore[no-untyped-def]
    """B' d B of `count` tiles, and of zeros up to a multiple of ROWS."""
    height, width, channels, lanes = task.height, task.width, task.channels, BYTES // task.size
    x, gate, gates = pointer(task.x, real), pointer(task.gate_in, slope), task.gates_in
    outside = (task.zeros - task.x) // task.size  # zeros, wherever they lie
    plane = _plane(task.block, channels, task.size)
    at, gate_at = np.empty(36, np.intp), np.empty(36, np.intp)
    for t in range(whole(count, ROWS)):
        _places(first + t, task.tiles, height, width, channels, gates, outside, beside, at, gate_at)
        for begin in range(0, channels, lanes):
            c = min(begin, channels - lanes)  # of the last vector, which may begin within the one before
            _columns_in(x, at, gate, gate_at, gates, c, tile, lanes)
            for i in range(6):
                d = load_six(tile, 6 * i * lanes, lanes)
                store_all(before, 6 * i * plane + t * channels + c, plane, _before(d))


@njit(inline="always")
def _column(source, at, j, c):  # type: ignore[no-untyped-def]
    """Column j of the pixels whose places are at[6 i + j], channels c and on."""
    return (
        load(source, at[j] + c),
        load(source, at[j + 6] + c),
        load(source, at[j + 12] + c),
        load(source, at[j + 18] + c),
        load(source, at[j + 24] + c),
        load(source, at[j + 30] + c),
    )


@njit(inline="always")
def _gated(d, gate, at, j, c):  # type: ignore[no-untyped-def]
    """The same column of the gate times d."""
    return (
        gated(d[0], gate, at[j] + c),
        gated(d[1], gate, at[j + 6] + c),
        gated(d[2], gate, at[j + 12] + c),
        gated(d[3], gate, at[j + 18] + c),
        gated(d[4], gate, at[j + 24] + c),
        gated(d[5], gate, at[j + 30] + c),
    )


@njit()
def _products(task, count, before, behind, real):  # type: ignore[no-untyped-def]
    """The sums over channels, one matrix product for each of the 36 entries."""
    lanes = BYTES // task.size
    channels, width = task.channels, whole(task.filters, lanes)
    weight = pointer(task.weight, real)
    plane_in, plane_out = _plane(task.block, channels, task.size), _plane(task.block, width, task.size)
    for entry in range(36):
        for k in range(0, width, 2 * lanes):
            columns = (entry * width + k) * channels
            for t in range(0, count, ROWS):
                source, target = entry * plane_in + t * channels, entry * plane_out + t * width + k
                if k + lanes < width:
                    panel(before, source, channels, weight, columns, behind, target, channels, width)
                else:
                    narrow(before, source, channels, weight, columns, behind, target, channels, width)


@njit()
def _tiles_out(task, first, count, behind, tile, real, slope):  # type: ignore[no-untyped-def]
    """A' m A of `count` tiles, times the gate, into the result or added to it."""
    height, width, filters, lanes = task.height, task.width, task.filters, BYTES // task.size
    out, gate = pointer(task.out, real), pointer(task.gate_out, slope)
    gates = task.gates_out
    wide = whole(filters, lanes)
    plane = _plane(task.block, wide, task.size)
    ones = pointer(task.ones, np.int8)
    across = -(-width // 4)
    for t in range(count):
        image, place = divmod(first + t, per_image(height, width))
        top, left = 4 * (place // across), 4 * (place % across)
        gate_image = image % gates if gates else 0
        for begin in range(0, filters, lanes):
            k = min(begin, filters - lanes)
            for j in range(6):
                m = load_six(behind, j * plane + t * wide + k, 6 * plane)
                store_all(tile, j * lanes, 6 * lanes, _behind(m))
            for i in range(min(4, height - top)):
                y = _behind(load_six(tile, 6 * i * lanes, lanes))
                pixel = (top + i) * width + left
                at = (image * height * width + pixel) * filters + k
                gate_at = (gate_image * height * width + pixel) * filters + k
                for j in range(4):
                    if j < width - left:
                        value = y[j]
                        if gates:
                            value = gated(value, gate, gate_at + j * filters)
                        if task.adds:
                            if k < begin:  # where the vector before has been added, nothing is
                                value = gated(value, ones, k - begin)
                            value = load(out, at + j * filters) + value
                        store(out, at + j * filters, value)
