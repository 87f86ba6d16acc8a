"""Convolutions along one axis, stride 1: with channels last, products of overlapping rows with a matrix.

    out[t] = sum over taps j and channels c of w[:, c, j] x[t + j - p, c] = X_t W,
    X_t = x[t - p], x[t - p + 1], ...

whose k C numbers lie one after another: no patches are made.  Rows beyond the ends are zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spectral.jacobians.cpu import openmp

PANELS = 8  # at a time

TASK = openmp.layout("taken workers images before after channels filters taps padding x weight out workspace")


def offered(weight: Tensor) -> bool:
    """Whether `Lines` take weights (K, C, k): real, K a multiple of two vectors, on x86 CPUs."""
    if (
        weight.device.type != "cpu"
        or weight.dtype not in (torch.float32, torch.float64)
        or not weight.numel()
    ):
        return False
    vector = openmp.vector_bytes()
    return vector > 0 and len(weight) * weight.itemsize % (2 * vector) == 0


class Lines:
    """x -> w * x for weights w (K, C, k), `offered`, stride 1."""

    def __init__(self, weight: Tensor, padding: int) -> None:
        from spectral.jacobians.cpu import simd, windows  # noqa: PLC0415  they take Numba, a third of a second

        self.filters, self.channels, self.taps = weight.shape
        self.padding = padding
        group = 2 * simd.BYTES // weight.itemsize
        columns = weight.permute(2, 1, 0).reshape(self.taps * self.channels, -1, group)
        self.weight = columns.transpose(0, 1).contiguous()  # (K / group, k C, group)
        self._work = windows.worker(weight.dtype).address
        self._block = PANELS * simd.ROWS
        self._room = windows.room(self.channels, self.taps, self.filters)

    def __call__(self, x: Tensor) -> Tensor:
        """w * x (m, K, L'), channels last, of x (m, C, L), which is copied where it is not."""
        x = x.movedim(1, -1).contiguous()
        images, length, _ = x.shape
        after = length + 2 * self.padding - self.taps + 1
        out = x.new_empty(images, after, self.filters)
        blocks = images * -(-after // self._block)
        threads = max(1, min(torch.get_num_threads(), blocks))
        workspace = x.new_empty(threads * self._room)
        sizes = images, length, after, self.channels, self.filters, self.taps, self.padding
        places = (t.data_ptr() for t in (x, self.weight, out, workspace))
        openmp.region(self._work, openmp.task(0, 0, *sizes, *places), threads)()
        return out.movedim(-1, 1)
