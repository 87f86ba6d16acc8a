"""Any source with its pixels in another order, the same for all images."""

from __future__ import annotations

import numpy as np

from denoisers.images.source import Images, Source
from spectral.options import seed_of


class Shuffled:
    """Images of a source whose pixels are permuted, channels together, by one fixed random permutation.

    All that a denoiser of pixels without places could use is as before; what is local no longer is (arXiv
    2310.02557, figure 21). `restore` puts pixels back.
    """

    def __init__(self, source: Source, permutation_seed: int = 0) -> None:
        self.source = source
        self.count: int | None = getattr(source, "count", None)  # of a finite one
        _, height, width = source.shape
        self.order = np.random.default_rng(seed_of(permutation_seed)).permutation(height * width)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.source.shape

    def __call__(self, n: int, *, seed: int = 0, first: int = 0) -> Images:
        """Images first, ..., first + n - 1 of the source, shuffled."""
        images = self.source(n, seed=seed, first=first)
        return images.reshape(*images.shape[:2], len(self.order))[..., self.order].reshape(images.shape)

    def restore(self, images: Images) -> Images:
        """Shuffled images (n, C, H, W) with every pixel where it was."""
        back = np.argsort(self.order)
        return images.reshape(*images.shape[:2], len(back))[..., back].reshape(images.shape)
