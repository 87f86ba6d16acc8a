"""Convolutions along one to three axes, stride 1: products of overlapping rows of channels with a matrix.

    out[i, j, l] = sum over taps a, b, c and channels of w[:, :, a, b, c] x[i + a, j + b, l + c]
                 = sum over a, b of X[i + a, j + b, l] W_ab,    X[i, j, l] = x[i, j, l], x[i, j, l + 1], ...

The numbers of X[i, j, l], k C of them, lie one after another: no patches are made.  A worker has a piece of
one plane of x in its own room, with zeros around the image, and the sums of some filters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spectral.jacobians.cpu import openmp

PANELS = 21  # at a time, of the places of a plane in order, so many that their sums stay in a first cache

_AXES = ("depth", "height", "width")
TASK = openmp.layout(
    "taken workers images channels filters "
    + " ".join(f"{kind}_{axis}" for kind in ("before", "after", "taps", "padding") for axis in _AXES)
    + " group room x weight out workspace"
)


def offered(weight: Tensor) -> bool:
    """Whether `Direct` takes weights (K, C, ...): real, K at least half a vector, on x86 CPUs."""
    return 0 < openmp.lanes(weight) <= 2 * len(weight) and weight.numel() > 0


class Direct:
    """x -> w * x for weights w (K, C, ...), `offered`, stride 1, with zeros around the images."""

    def __init__(self, weight: Tensor, padding: list[int]) -> None:
        from spectral.jacobians.cpu import windows  # noqa: PLC0415  it takes Numba, a third of a second

        filters, channels, *taps = weight.shape
        lanes = openmp.lanes(weight)
        # By one vector of filters where two would have an empty one.
        self._group = 2 * lanes if -(-filters // lanes) % 2 == 0 else lanes
        whole = -(-filters // self._group) * self._group
        self._taps, self._padding = _of_three(taps, 1), _of_three(padding, 0)
        columns = weight.new_zeros(whole, channels, *self._taps)
        columns[:filters] = weight.reshape(filters, channels, *self._taps)
        columns = columns.unflatten(0, (-1, self._group)).permute(0, 3, 4, 5, 2, 1)
        self.weight = columns.contiguous()  # (groups, depth, height, width, C, group)
        self.filters, self.channels, self._axes = filters, channels, len(taps)
        self._places = windows.PLACES
        self._work = windows.worker(weight.dtype, self._group == lanes).address

    def __call__(self, x: Tensor) -> Tensor:
        """w * x (m, K, ...), channels last, of x (m, C, ...), which is copied where it is not."""
        x = x.movedim(1, -1).contiguous()
        images, *sides = x.shape[:-1]
        before = _of_three(sides, 1)
        padded = [n + 2 * p for n, p in zip(before, self._padding, strict=True)]
        after = [n - k + 1 for n, k in zip(padded, self._taps, strict=True)]
        out = x.new_empty(images, *after[3 - self._axes :], self.filters)
        blocks = images * after[0] * -(-after[1] * padded[2] // self._places)
        threads = max(1, min(torch.get_num_threads(), blocks))
        # A piece of a plane, as far as the last panel reaches, and the sums.
        reach = self._places + (self._taps[1] - 1) * padded[2] + self._taps[2]
        room = reach * self.channels + self._places * self._group
        workspace = x.new_empty(threads * room)
        geometry = *before, *after, *self._taps, *self._padding
        places = (t.data_ptr() for t in (x, self.weight, out, workspace))
        task = openmp.task(0, 0, images, self.channels, self.filters, *geometry, self._group, room, *places)
        if out.numel():
            openmp.region(self._work, task, threads)()
        return out.movedim(-1, 1)


def _of_three(given: list[int], missing: int) -> list[int]:
    """Of the last axes, of three."""
    return [missing] * (3 - len(given)) + list(given)
