"""C^alpha images, two smooth regions parted by a smooth contour, as networks take them."""

import numpy as np
from numpy.typing import NDArray

from spectral.kernels import calpha
from spectral.kernels.smoothness import Kind


def synthesize(
    n: int, *, size: int, alpha: float, beta: float | None = None, kind: Kind = "released", seed: int = 0
) -> NDArray[np.float32]:
    """`spectral.kernels.calpha.synthesize` with a channel axis: float32 (n, 1, size, size) in [0, 1].

    Image i depends on (seed, i) and the other arguments, never on n. Raises OptionError for arguments out of
    range.
    """
    return calpha.synthesize(n, size=size, alpha=alpha, beta=beta, kind=kind, seed=seed)[:, None]
