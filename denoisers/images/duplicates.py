"""Images that are nearly the same, as in sets of faces and of photographs taken in series."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d

from denoisers.images.source import Images
from spectral.errors import OptionError, ShapeError

POOLED = 20  # side to which images are averaged before they are compared


def distinct(images: Images, correlation: float = 0.95, *, block: int = 1024) -> NDArray[np.intp]:
    """The places of images that are not nearly the same as one kept before them, in order, (M,).

    Averaged to 20x20 pixels, centred, and scaled to norm 1, two images are nearly the same where their inner
    product exceeds `correlation`, as in the released code of arXiv 2310.02557.  In blocks: N images take
    M N products and block x M numbers.  An image without contrast is like no other.

    Args:
        images: (N, C, H, W), also as a memory map.
        correlation: in (0, 1].
        block: images compared at a time.

    Raises:
        ShapeError: images have another number of axes.
        OptionError: correlation or block is out of range.
    """
    if images.ndim != 4:
        raise ShapeError(f"images have shape (N, C, H, W), got {images.shape}")
    if not 0 < correlation <= 1 or block < 1:
        raise OptionError(f"correlation lies in (0, 1] and block is >= 1, got {correlation}, {block}")
    chosen: list[int] = []
    kept: list[torch.Tensor] = []
    for start in range(0, len(images), block):
        new = _features(images[start : start + block])
        apart = torch.ones(len(new), dtype=torch.bool)
        for earlier in kept:
            apart &= (new @ earlier.T).amax(1) <= correlation
        alike = new @ new.T > correlation
        mine: list[int] = []
        for i in apart.nonzero()[:, 0].tolist():
            if not alike[i, mine].any():
                mine.append(i)
        chosen += [start + i for i in mine]
        if mine:
            kept.append(new[mine])
    return np.array(chosen, dtype=np.intp)


def _features(images: Images) -> torch.Tensor:
    """(n, C 20 20), of norm 1, or 0 where there is no contrast."""
    x = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    side = min(POOLED, *x.shape[2:])
    x = adaptive_avg_pool2d(x, side).flatten(1)
    x = x - x.mean(1, keepdim=True)
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return torch.where(norm > 1e-6, x / norm.clamp(min=1e-6), 0)
