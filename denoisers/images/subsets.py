"""Finite training sets: N images of a source, and two that have none in common."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from denoisers.images.source import Images, Source
from spectral.errors import OptionError
from spectral.options import seed_of, whole


class Subsets(NamedTuple):
    """S1 and S2, (N, C, H, W) each."""

    first: Images
    second: Images


def disjoint(source: Source, count: int, seed: int = 0) -> Subsets:
    """Two sets of N images with none in common, by seed: S1 and S2 of N' > N begin with those of N.

    Of a source without end, S1 are its images 0, 2, ..., S2 its images 1, 3, ... of the sequence `seed`; of a
    finite one (with `count`, as `Folder`) these are places in a permutation by that seed. Raises OptionError
    for N < 1, or a source of fewer than 2 N images.
    """
    n = whole("count", count)
    if n < 1:
        raise OptionError(f"a subset holds at least one image, got {n}")
    available = getattr(source, "count", None)
    if available is None:
        images = source(2 * n, seed=seed)
        return Subsets(images[::2], images[1::2])
    if available < 2 * n:
        raise OptionError(f"two sets of {n} images need {2 * n}, the source has {available}: ask for fewer")
    places = order(available, seed)[: 2 * n]
    chosen = np.concatenate([source(1, first=int(i)) for i in places])
    return Subsets(chosen[::2], chosen[1::2])


def order(available: int, seed: int) -> NDArray[np.int64]:
    """The places of a finite source in the order in which its sets are filled: S1, S2, S1, S2, ..."""
    return np.random.default_rng(seed_of(seed)).permutation(available)
