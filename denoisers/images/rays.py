"""A ray: one image times s > 0, whose optimal denoiser projects on that image."""

from __future__ import annotations

import numpy as np

from denoisers.images.source import Images, uniforms
from spectral.errors import ShapeError


class Ray:
    """s x for one image x (C, H, W) in [0, 1], s uniform on (0, 1] (arXiv 2310.02557, figure 19).

    Raises ShapeError for anything but one image.
    """

    def __init__(self, image: Images) -> None:
        if image.ndim != 3:
            raise ShapeError(f"a ray is of one image (C, H, W), got {image.shape}")
        self.image = np.asarray(image, np.float32)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        c, h, w = self.image.shape
        return c, h, w

    def __call__(self, n: int, *, seed: int = 0, first: int = 0) -> Images:
        """Images first, ..., first + n - 1."""
        s = 1 - uniforms(n, 1, seed, first)  # on (0, 1]
        return s.astype(np.float32).reshape(-1, 1, 1, 1) * self.image
