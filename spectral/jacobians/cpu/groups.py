"""The compiled part of `norms`: sums of channels, and what they leave, a vector of channels at a time."""

from functools import cache
from typing import Any

import torch
from numba import carray, types

from spectral.jacobians.cpu.norms import PIXELS, TASK
from spectral.jacobians.cpu.openmp import REAL
from spectral.jacobians.cpu.simd import BYTES, claim, gated, load, pointer, store
from spectral.kernels.compiled import cfunc, njit


@njit(inline="always")
def _sloped(t, at, slope, slope_at, back):  # type: ignore[no-untyped-def]
    """h of one vector: s g on the way back, t ahead."""
    return gated(load(t, at), slope, slope_at) if back else load(t, at)


@njit()
def _sums(task, image, first, last, sums, real, lanes):  # type: ignore[no-untyped-def]
    """The sums of h and of z h of every channel, from one pixel up to another."""
    t, z, slope = pointer(task.t, real), pointer(task.z, real), pointer(task.slope, real)
    channels, pixels, step, back = task.channels, task.pixels, task.of_pixel, task.back != 0
    own = image % task.known
    for c in range(2 * channels):
        sums[c] = 0
    for begin in range(first, last, PIXELS):
        end = min(begin + PIXELS, last)
        for c in range(0, channels, lanes):
            at = (image * pixels + begin) * channels + c
            z_at = (own * pixels + begin) * channels + c
            slope_at = own * task.of_image + begin * step + c
            h = _sloped(t, at, slope, slope_at, back)
            total, along = h, load(z, z_at) * h
            for _ in range(begin + 1, end):
                at, z_at, slope_at = at + channels, z_at + channels, slope_at + step
                h = _sloped(t, at, slope, slope_at, back)
                total, along = total + h, along + load(z, z_at) * h
            store(sums, c, load(sums, c) + total)
            store(sums, channels + c, load(sums, channels + c) + along)


@njit()
def _means(task, sums, at, means):  # type: ignore[no-untyped-def]
    """The means of h and of z h over each group, for every channel of it; its shares' sums begin at `at`."""
    channels, width = task.channels, task.channels // task.groups
    for kind in range(2):
        for group in range(task.groups):
            begin, total = kind * channels + group * width, 0.0
            for share in range(task.shares):
                for c in range(width):
                    total += sums[at + share * 2 * channels + begin + c]
            for c in range(width):
                means[begin + c] = total / (width * task.pixels)


@njit()
def _left(task, image, first, last, means, real, lanes):  # type: ignore[no-untyped-def]
    """h - mean h - z mean(z h), times s ahead, from one pixel up to another."""
    t, z, out = pointer(task.t, real), pointer(task.z, real), pointer(task.out, real)
    slope, back = pointer(task.slope, real), task.back != 0
    channels, pixels = task.channels, task.pixels
    own = image % task.known
    for p in range(first, last):
        at, z_at = (image * pixels + p) * channels, (own * pixels + p) * channels
        slope_at = own * task.of_image + p * task.of_pixel
        for c in range(0, channels, lanes):
            h = _sloped(t, at + c, slope, slope_at + c, back)
            value = h - load(means, c) - load(z, z_at + c) * load(means, channels + c)
            store(out, at + c, value if back else gated(value, slope, slope_at + c))


@cache
def worker(dtype: torch.dtype) -> Any:
    """The C function, void (*)(void *task), that takes shares of images: for their sums, for the result, or
    for both of a whole image."""
    real = REAL[dtype]
    lanes, row = BYTES // dtype.itemsize, 2 * dtype.itemsize

    @cfunc(types.void(types.voidptr))
    def work(address):  # type: ignore[no-untyped-def]
        task = carray(address, 1, TASK)[0]
        shares, total = task.shares, task.images * task.shares
        sums = pointer(task.sums, real)
        means = pointer(task.sums + (total + claim(address, 1)) * task.channels * row, real)
        current = -1
        taken = claim(address, 0)
        while taken < total:
            image, share = divmod(taken, shares)
            first, last = task.pixels * share // shares, task.pixels * (share + 1) // shares
            if shares == 1 or not task.second:
                own = pointer(task.sums + taken * task.channels * row, real)
                _sums(task, image, first, last, own, real, lanes)
            if shares == 1 or task.second:
                if image != current:
                    current = image
                    _means(task, sums, image * shares * 2 * task.channels, means)
                _left(task, image, first, last, means, real, lanes)
            taken = claim(address, 0)

    return work
