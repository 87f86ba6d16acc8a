"""C^alpha images, two smooth regions parted by a smooth contour, as networks take them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectral.kernels import calpha
from spectral.kernels.smoothness import Kind


def synthesize(
    n: int,
    *,
    size: int,
    alpha: float,
    beta: float | None = None,
    kind: Kind = "released",
    seed: int = 0,
    first: int = 0,
) -> NDArray[np.float32]:
    """`spectral.kernels.calpha.synthesize` with a channel axis: float32 (n, 1, size, size) in [0, 1].

    Image i depends on (seed, i) and the other arguments, never on n. Raises OptionError for arguments out of
    range.
    """
    images = calpha.synthesize(n, size=size, alpha=alpha, beta=beta, kind=kind, seed=seed, first=first)
    return images[:, None]


@dataclass(frozen=True)
class CAlpha:
    """C^alpha images as a `denoisers.images.source.Source`: alpha of the contour, beta of the backgrounds.

    beta is alpha unless given. Errors are those of `synthesize`, when images are asked for.
    """

    size: int
    alpha: float
    beta: float | None = None
    kind: Kind = "released"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(1, size, size)."""
        return 1, self.size, self.size

    def __call__(self, n: int, *, seed: int = 0, first: int = 0) -> NDArray[np.float32]:
        """Images first, ..., first + n - 1."""
        return synthesize(
            n, size=self.size, alpha=self.alpha, beta=self.beta, kind=self.kind, seed=seed, first=first
        )
