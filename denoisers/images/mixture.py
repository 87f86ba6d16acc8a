"""Images of several sources in turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from denoisers.images.source import Images, Source
from spectral.errors import OptionError, ShapeError


class Mixture:
    """Image i is image i // m of source i % m, of m sources of one shape, float32 (n, C, H, W).

    Raises OptionError for no source, ShapeError for sources of different shapes.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = [*sources]
        if not self.sources:
            raise OptionError("there are no sources to take images of")
        shapes = {source.shape for source in self.sources}
        if len(shapes) > 1:
            raise ShapeError(f"the sources' images have different shapes: {sorted(shapes)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.sources[0].shape

    def __call__(self, n: int, *, seed: int = 0, first: int = 0) -> Images:
        """Images first, ..., first + n - 1."""
        if n < 0 or first < 0:
            raise OptionError(f"n and first must be >= 0, got n={n}, first={first}")
        out = np.empty((n, *self.shape), dtype=np.float32)
        for j, source in enumerate(self.sources):
            start = (j - first) % len(self.sources)
            count = len(range(start, n, len(self.sources)))
            if count:
                number = (first + start) // len(self.sources)
                out[start :: len(self.sources)] = source(count, seed=seed, first=number)
        return out
