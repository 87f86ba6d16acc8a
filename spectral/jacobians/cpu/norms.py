"""The derivative of a norm of groups of channels, with the slope beside it: two looks at a vector, not ten.

    ahead  t -> s (t - mean t - z mean(z t))        means over each group's pixels and channels
    back   g -> h - mean h - z mean(z h),  h = s g

The first look takes the sums of every channel, the second makes the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spectral.jacobians.cpu import openmp

PIXELS = 64  # whose sums are made in registers; they are summed in turn
_SHARES = 4  # of an image for each thread: what one has left others may take

TASK = openmp.layout(
    "taken workers second images shares t out sums back "
    "known pixels channels groups z slope of_image of_pixel"
)


def offered(z: Tensor, slope: Tensor) -> bool:
    """Whether `Groups` take z (n, C, ...): channels last, whole vectors of them, on x86 CPUs.

    The slope is of z's size, channels last as well, or one number for each channel, (n, C, 1, ...).
    """
    if z.ndim < 3 or not z.numel():
        return False
    lanes = openmp.lanes(z)
    alike = slope.dtype == z.dtype and slope.shape in (z.shape, (*z.shape[:2], *[1] * (z.ndim - 2)))
    whole = lanes > 0 and z.shape[1] % lanes == 0
    return alike and whole and _channels_last(z) and _channels_last(slope)


@dataclass
class Groups:
    """A norm of `groups` groups of channels at z, with slope s: both `offered`."""

    z: Tensor
    slope: Tensor
    groups: int

    def __post_init__(self) -> None:
        from spectral.jacobians.cpu import groups  # noqa: PLC0415  it takes Numba, a third of a second

        images, self._channels = self.z.shape[:2]
        self._pixels = self.z[0, 0].numel()
        of_each = self.slope.shape == self.z.shape
        self._held = (
            *(images, self._pixels, self._channels, self.groups, self.z.data_ptr(), self.slope.data_ptr()),
            *(self.slope[0].numel(), self._channels if of_each else 0),
        )
        self._work = groups.worker(self.z.dtype).address

    def ahead(self, t: Tensor) -> Tensor:
        """s (t - mean t - z mean(z t)) for t (m, C, ...), channels last; image i has the z of i mod n."""
        return self._run(t, 0)

    def back(self, g: Tensor) -> Tensor:
        """The transpose."""
        return self._run(g, 1)

    def _run(self, t: Tensor, back: int) -> Tensor:
        if not _channels_last(t):
            t = t.movedim(1, -1).contiguous().movedim(-1, 1)
        out, images, threads = torch.empty_like(t), len(t), torch.get_num_threads()
        shares = 1 if images % threads == 0 else min(-(-self._pixels // PIXELS), _SHARES * threads)
        threads = min(threads, images * shares)
        sums = torch.empty((images * shares + threads) * 2 * self._channels, dtype=t.dtype)
        places = t.data_ptr(), out.data_ptr(), sums.data_ptr()
        task = openmp.task(0, 0, 0, images, shares, *places, back, *self._held)
        work = openmp.region(self._work, task, threads)
        work()
        if shares > 1:
            task[:3] = [0, 0, 1]
            work()
        return out


def _channels_last(t: Tensor) -> bool:
    return t.movedim(1, -1).is_contiguous()
