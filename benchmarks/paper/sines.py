"""Figure 20: sines of one period, of any phase and intensity. The optimum has two eigenvectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.known import SMALLER, Known
from benchmarks.paper.need import Need
from benchmarks.paper.networks import Scale, blind, sharper
from denoisers.images import Waves


def need(scale: Scale) -> Need:
    """The network that learned them."""
    return sharper(scale, blind(scale, "sines", SMALLER), 0.75, 5000)


def source(size: int) -> Waves:
    """The set that the network is trained on."""
    return Waves(size, offset=0.0)


def tangents(size: int, n: int) -> NDArray[np.float64]:
    """Cosine and sine, n times."""
    return np.repeat(source(size).basis()[None], n, 0)


SINES = Known(
    need=need,
    source=source,
    tangents=tangents,
    dimension=2,
    about="sines of one period a side about 0, phase uniform, amplitude uniform on [0, 0.5]",
).figure("sines", "figure 20", "Sines of any phase and intensity")
