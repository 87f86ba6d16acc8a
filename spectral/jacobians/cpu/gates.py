"""Gates, slopes that are zero or one, as bits: of where x is positive, and products with them.

    bits (g, H, W, C / 8), uint8, channel 8 i + k of a pixel at bit k of byte i

On x86 CPUs by compiled code, in one pass: made of images in either layout, and applied with channels last.
Else by NumPy's and torch's.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spectral.jacobians.cpu import openmp

TASK = openmp.layout("taken pieces count gates x bits out")
PIECE = 2**15  # entries that a thread takes at a time
PLANES = openmp.layout("taken pieces pixels channels x bits")
PIXELS = 2**9  # that a thread takes at a time, in each plane of an image

_AT_ONCE = 2**20  # entries of a gate that are numbers at a time: all would be as large as an image


def packed(x: Tensor) -> Tensor:
    """Where x (g, C, H, W) is positive, or true, as bits; C a multiple of 8."""
    images, channels, height, width = x.shape
    bits = torch.empty(images, height, width, channels // 8, dtype=torch.uint8)
    if _compiled(x):
        _run(x, bits)
        return bits
    if openmp.lanes(x) and x.is_contiguous() and x.numel():
        _from_planes(x, bits)
        return bits
    rows = max(1, _AT_ONCE // max(1, images * channels * width))
    for some, out in zip(x.split(rows, 2), bits.split(rows, 1), strict=True):
        opened = some > 0
        if some.is_contiguous(memory_format=torch.channels_last):
            out.numpy()[...] = np.packbits(opened.permute(0, 2, 3, 1).numpy(), axis=-1, bitorder="little")
            continue
        planes = opened.contiguous().view(torch.uint8)
        packs = planes[:, ::8].clone()
        for k in range(1, 8):
            packs |= planes[:, k::8] << k
        out.copy_(packs.permute(0, 2, 3, 1))
    return bits


def unpacked(bits: Tensor) -> Tensor:
    """The gate (g, C, H, W) of `packed` bits, int8."""
    gate = np.unpackbits(bits.numpy(), axis=-1, bitorder="little").view(np.int8)
    return torch.from_numpy(gate).permute(0, 3, 1, 2)


def times(x: Tensor, bits: Tensor, out: Tensor) -> Tensor:
    """x (m, C, H, W) where its gate is open, else 0, into `out` of x's size and layout, which may be x.

    Image i has gate i mod g.
    """
    images, height = bits.shape[:2]
    whole = x.ndim == 4 and len(x) % max(images, 1) == 0 and out.stride() == x.stride()
    if whole and _compiled(x) and bits.is_contiguous():
        _run(x, bits, out)
        return out
    rows = max(1, _AT_ONCE * height // max(1, 8 * bits.numel()))
    for some, gate, into in zip(x.split(rows, -2), bits.split(rows, 1), out.split(rows, -2), strict=True):
        torch.mul(some, unpacked(gate), out=into)
    return out


def _compiled(x: Tensor) -> bool:
    """Whether there is a kernel for images like x: whole bytes a vector, whole vectors an image."""
    lanes = openmp.lanes(x)
    whole = lanes >= 8 and x.shape[1] % 8 == 0 and x.numel() > 0 and x[0].numel() % lanes == 0
    return whole and x.is_contiguous(memory_format=torch.channels_last)


def _run(x: Tensor, bits: Tensor, out: Tensor | None = None) -> None:
    """Make the bits of x; or, where there is an `out`, x times their gate into it."""
    from spectral.jacobians.cpu.bits import worker  # noqa: PLC0415  it takes Numba, a third of a second

    pieces = -(-x.numel() // PIECE)
    places = x.data_ptr(), bits.data_ptr(), 0 if out is None else out.data_ptr()
    openmp.by_pieces(worker(x.dtype, out is None).address, pieces, x.numel(), 8 * bits.numel(), *places)


def _from_planes(x: Tensor, bits: Tensor) -> None:
    """Make the bits of x in torch's own layout."""
    from spectral.jacobians.cpu.bits import from_planes  # noqa: PLC0415  it takes Numba

    images, channels, height, width = x.shape
    pieces = images * -(-height * width // PIXELS)
    places = x.data_ptr(), bits.data_ptr()
    openmp.by_pieces(from_planes(x.dtype).address, pieces, height * width, channels, *places)
