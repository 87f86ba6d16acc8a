"""One protocol for all sources of images: image i of seed s is the same in any batch."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from spectral.errors import OptionError
from spectral.options import seed_of, whole

Images = NDArray[np.float32]


@runtime_checkable
class Source(Protocol):
    """Images without end, or as many as `count` says, numbered from 0.

    `source(n, seed=s, first=f)` gives images f, ..., f + n - 1 of the sequence s, float32 (n, C, H, W) in
    [0, 1]; image i depends on (s, i) alone.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""

    def __call__(self, n: int, *, seed: int = 0, first: int = 0) -> Images:
        """Images first, ..., first + n - 1."""


def generators(n: int, seed: int, first: int, purpose: int = 0) -> list[np.random.Generator]:
    """A generator for each of images first, ..., first + n - 1 of a seed, a stream of its own for a purpose.

    Raises:
        OptionError: n < 0, first < 0 or a bad seed.
    """
    n, first = whole("n", n), whole("first", first)
    if n < 0 or first < 0:
        raise OptionError(f"n and first must be >= 0, got n={n}, first={first}")
    keys = (np.random.SeedSequence(seed_of(seed), spawn_key=(purpose, first + i)) for i in range(n))
    return [np.random.Generator(np.random.Philox(key)) for key in keys]


def uniforms(n: int, parameters: int, seed: int, first: int) -> NDArray[np.float64]:
    """`parameters` uniform draws on [0, 1) for each image, (n, parameters)."""
    drawn = [g.random(parameters) for g in generators(n, seed, first)]
    return np.array(drawn).reshape(n, parameters)


def side_of(size: int) -> int:
    """A side in pixels.

    Raises:
        OptionError: it is below 2.
    """
    if whole("size", size) < 2:
        raise OptionError(f"size must be >= 2, got {size}")
    return int(size)
