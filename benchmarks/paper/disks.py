"""Figure 5: disks of five free parameters, whose tangent space is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.known import SEED, Known
from benchmarks.paper.need import Need
from benchmarks.paper.networks import Scale, blind, sharper
from denoisers.images import Disks


def need(scale: Scale) -> Need:
    """The network that learned disks."""
    return sharper(scale, blind(scale, "disks"), 1.5)


def tangents(size: int, n: int) -> NDArray[np.float64]:
    """By place, radius and the two intensities."""
    disks = Disks(size)
    return disks.tangents(disks.parameters(n, seed=SEED))


DISKS = Known(
    need=need,
    source=Disks,
    tangents=tangents,
    dimension=5,
    about="disks with an edge of 0.5 pixels: place, radius and two intensities uniform",
    slope="below 1 (the optimum has 1)",
).figure("disks", "figure 5", "Disks: five degrees of freedom")
