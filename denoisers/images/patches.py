"""Patches of large pictures: without end, each at a place and in a symmetry of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from denoisers.images.folder import pictures_in, read_grey
from denoisers.images.pictures import read_colour
from denoisers.images.source import Images, generators, side_of
from denoisers.images.stack import Stack, is_stack
from spectral.errors import OptionError, ShapeError


class Patches:
    """size x size pixels of pictures (C, H, W), float32 (n, C, size, size).

    Every picture is equally likely, every place in it as well, and every rotation and reflection of the
    square; and with `zoom` every average of the picture over r x r pixels, r = 1, ..., zoom, of which patches
    can be cut.  Raises OptionError for no picture or zoom < 1, ShapeError for one below size, or pictures of
    different numbers of channels.
    """

    def __init__(
        self, pictures: Sequence[Images], size: int, names: Sequence[object] = (), zoom: int = 1
    ) -> None:
        self.pictures, self.size = [*pictures], side_of(size)
        if not self.pictures:
            raise OptionError("there are no pictures to take patches of")
        if zoom < 1:
            raise OptionError(f"zoom must be >= 1, got {zoom}")
        for i, picture in enumerate(self.pictures):
            name = names[i] if names else f"picture {i}"
            if picture.ndim != 3 or len(picture) != len(self.pictures[0]):
                raise ShapeError(f"{name} has shape {picture.shape}, not (C, H, W) with C as the first has")
            if min(picture.shape[1:]) < size:
                height, width = picture.shape[1:]
                raise ShapeError(
                    f"{name} is {height}x{width}, and patches have {size}: leave it out, or take smaller ones"
                )
        most = (min(zoom, min(picture.shape[1:]) // size) for picture in self.pictures)
        self._averaged = [
            [_average(picture, r) for r in range(1, top + 1)]
            for picture, top in zip(self.pictures, most, strict=True)
        ]

    @classmethod
    def at(cls, path: str | Path, size: int, *, colour: bool = False, zoom: int = 1) -> Patches:
        """Of the pictures directly in a folder, or of an .npz file, all of which are read now.

        Raises what the class, `Stack`, `read_grey` and `read_colour` raise; FileNotFoundError where there are
        none.
        """
        if is_stack(path):
            stack = Stack(path, size, colour=colour)
            return cls([stack.whole(i) for i in range(stack.count)], size, stack.names, zoom)
        files = pictures_in(path)
        read = (read_colour(f) if colour else read_grey(f, convert=True) for f in files)
        return cls([picture[0] for picture in read], size, files, zoom)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, size, size)."""
        return len(self.pictures[0]), self.size, self.size

    def __call__(self, n: int, *, seed: int = 0, first: int = 0) -> Images:
        """Images first, ..., first + n - 1."""
        drawn = generators(n, seed, first)
        out = np.empty((n, *self.shape), dtype=np.float32)
        for patch, rng in zip(out, drawn, strict=True):
            averages = self._averaged[int(rng.integers(len(self.pictures)))]
            # One average takes no draw, so that patches without zoom are what they were.
            picture = averages[int(rng.integers(len(averages))) if len(averages) > 1 else 0]
            row, column = (rng.integers(side - self.size + 1) for side in picture.shape[1:])
            square = picture[:, row : row + self.size, column : column + self.size]
            square = np.rot90(square, int(rng.integers(4)), axes=(1, 2))
            patch[:] = square.swapaxes(1, 2) if rng.integers(2) else square
        return out


def _average(picture: Images, r: int) -> Images:
    """(C, H, W) -> (C, H // r, W // r), over r x r pixels."""
    channels, height, width = picture.shape[0], picture.shape[1] // r, picture.shape[2] // r
    whole = picture[:, : height * r, : width * r]
    return picture if r == 1 else whole.reshape(channels, height, r, width, r).mean((2, 4))
