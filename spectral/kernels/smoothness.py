"""The filters that make white noise as smooth as a C^alpha image asks."""

from functools import lru_cache
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray

Kind = Literal["released", "exact"]

SUBCOLUMNS = {"released": 1, "exact": 8}  # contour samples a pixel
SHIFT = {
    "released": (0.0, 0.0),
    "exact": (0.5, 1.0),
}  # spectral exponent less regularity: contour, background


@lru_cache(maxsize=4)
def gain_1d(size: int, exponent: float) -> NDArray[np.float64]:
    """|k|^-exponent at the integer frequencies of a real transform, (size // 2 + 1,); 1 at k = 0."""
    return np.maximum(np.arange(size // 2 + 1.0), 1) ** -exponent


@lru_cache(maxsize=4)
def gain_2d(size: int, exponent: float) -> NDArray[np.float32]:
    """|k|^-exponent at the integer frequencies of a complex transform, (size, size); 1 at k = 0."""
    k = scipy.fft.fftfreq(size, 1 / size)
    return (np.maximum(np.hypot(k[:, None], k), 1) ** -exponent).astype(np.float32)
