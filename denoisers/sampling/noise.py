"""Noise that belongs to an image: image i of a seed gets the same in any batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Noise:
    """Standard normal noise of images first, ..., first + count - 1 of a seed, from a stream for each.

    The stream of image i is NumPy's Philox under SeedSequence(seed, spawn_key=(i,)): neither the batch, nor
    the device, nor images that have stopped change what it gives. It draws float32.
    """

    def __init__(
        self,
        seed: int,
        first: int,
        count: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        keys = (np.random.SeedSequence(seed, spawn_key=(first + i,)) for i in range(count))
        self.streams = [np.random.Generator(np.random.Philox(key)) for key in keys]
        self.shape, self.dtype, self.device = shape, dtype, device

    def __call__(self, which: Sequence[int] | None = None) -> Tensor:
        """The next noise of some of the images, or of all: (len(which), *shape)."""
        streams = self.streams if which is None else [self.streams[i] for i in which]
        drawn = np.stack([s.standard_normal(self.shape, dtype=np.float32) for s in streams])
        return torch.from_numpy(drawn).to(self.device, self.dtype)
