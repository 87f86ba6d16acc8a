"""How the slopes of pointwise units are kept: in which layout, and those that are zero or one as bits.

A gate of images (g, C, H, W) on a CPU, C a multiple of 8, is uint8 (g, H, W, C / 8); any other is int8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spectral.jacobians.cpu import gates
from spectral.jacobians.cpu.gates import packed, unpacked
from spectral.jacobians.program.steps import in_memory


def in_channels_last(t: Tensor, really: bool = True) -> Tensor:
    """Images in the layout in which most convolutions are fastest, or in torch's own; slopes share it.

    An image has one to three axes of pixels.
    """
    if t.ndim not in (3, 4, 5) or not really:
        return t.contiguous()
    if t.shape[1] == 1:  # both layouts at once: torch looks at the strides to tell which is meant
        return t.reshape(len(t), *t.shape[2:], 1).movedim(-1, 1)
    if t.ndim == 3:
        return t.movedim(1, -1).contiguous().movedim(-1, 1)
    return t.contiguous(memory_format=torch.channels_last if t.ndim == 4 else torch.channels_last_3d)


def gate(x: Tensor) -> Tensor:
    """The gate that is one where x is positive, or true."""
    if x.device.type == "cpu" and x.ndim == 4 and x.shape[1] % 8 == 0:
        return packed(x)
    return in_channels_last((x > 0).to(torch.int8))


def is_gate(slope: Tensor) -> bool:
    """Whether a slope is kept as bits or bytes."""
    return slope.dtype in (torch.uint8, torch.int8)


def factor(slope: Tensor) -> Tensor:
    """What to multiply by: numbers, or bytes."""
    return unpacked(slope) if slope.dtype == torch.uint8 else slope


def laid_out(slope: Tensor, channels_last: bool) -> Tensor:
    """A slope for images with channels last, or in torch's own layout, where no gate is bits."""
    if channels_last and is_gate(slope):
        return gate(factor(slope))
    return in_channels_last(factor(slope), channels_last)


def beside(slope: Tensor, t: Tensor) -> Tensor:
    """The slope with its entries in memory in the order of t's, where it has as many.

    A product of two orders takes ten times as long, and may come out in one that the next step does not want.
    """
    size = t.shape[t.ndim - slope.ndim :]
    if is_gate(slope) or slope.shape != size or slope.device.type != "cpu":
        return slope
    long = {axis for axis in range(-len(size), 0) if size[axis] > 1}
    order, own = in_memory(t, len(size)), in_memory(slope, len(size))
    alike = [axis for axis in order if axis in long] == [axis for axis in own if axis in long]
    if alike or any(t.stride(axis) == 0 for axis in long):
        return slope
    return slope.permute(order).contiguous().permute([order.index(axis) for axis in range(-len(size), 0)])


def times(t: Tensor, slope: Tensor, owned: bool = False) -> Tensor:
    """s t; in place where t is `owned`."""
    if slope.dtype != torch.uint8 or t.shape[-3:] != shape_of(slope)[1:]:
        return t.mul_(factor(slope)) if owned else t * factor(slope)
    return gates.times(t, slope, t if owned else torch.empty_like(t))


def product(first: Tensor, second: Tensor) -> Tensor:
    """The slope that is two slopes' product."""
    both = factor(first) * factor(second)
    return gate(both) if is_gate(both) else both


def shape_of(slope: Tensor) -> torch.Size:
    """The size that a slope has as a factor."""
    if slope.dtype != torch.uint8:
        return slope.shape
    images, *sides, eighths = slope.shape
    return torch.Size((images, 8 * eighths, *sides))
