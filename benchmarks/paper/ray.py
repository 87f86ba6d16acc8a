"""Figure 19: one image times s > 0. The optimum has one eigenvector, the image itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.known import SMALLER, Known
from benchmarks.paper.need import Need
from benchmarks.paper.networks import Scale, blind, sharper
from denoisers.images import Ray
from denoisers.images.calpha import CAlpha

ALPHA = 3.0


def need(scale: Scale) -> Need:
    """The network that learned them."""
    return sharper(scale, blind(scale, "ray", SMALLER, alpha=ALPHA), 0.75, 3500)


def source(size: int) -> Ray:
    """The set that the network is trained on; at another side, a ray of another image."""
    return Ray(CAlpha(size, ALPHA)(1)[0])


def tangents(size: int, n: int) -> NDArray[np.float64]:
    """The image, n times."""
    return np.repeat(source(size).image[None, None].astype(np.float64), n, 0)


RAY = Known(
    need=need,
    source=source,
    tangents=tangents,
    dimension=1,
    about="one C^alpha image (alpha = 3) times s, uniform on (0, 1]",
).figure("ray", "figure 19", "One image times s > 0")
