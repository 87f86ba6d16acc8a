"""Images beside one another in one PNG file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spectral.errors import ShapeError

GAP = 2  # pixels of white between images
SIDE = 192  # smaller images are enlarged to at least so many pixels a side, by a whole factor


def tile(images: Tensor, columns: int | None = None) -> Tensor:
    """Images (B, C, H, W) row by row in one of (C, rows (H + 2) - 2, columns (W + 2) - 2), white between.

    columns: ceil(sqrt(B)) unless given. Raises ShapeError for anything but grey or colour images.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ShapeError(f"a grid takes images (B, 1 or 3, H, W), got {tuple(images.shape)}")
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    channels, height, width = images.shape[1:]
    out = images.new_ones(channels, rows * (height + GAP) - GAP, columns * (width + GAP) - GAP)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + GAP), (i % columns) * (width + GAP)
        out[:, top : top + height, left : left + width] = image
    return out


def write_grid(path: str | Path, images: Tensor, columns: int | None = None) -> Path:
    """Write images (B, C, H, W), clipped to [0, 1], as one PNG of 8 bits; small ones enlarged; the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    factor = max(1, SIDE // max(images.shape[2:])) if images.ndim == 4 else 1
    enlarged = images.detach().float().cpu().clamp(0, 1)
    enlarged = enlarged.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    pixels = tile(enlarged, columns).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])).save(
        path, "PNG"
    )
    return path
