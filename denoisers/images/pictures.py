"""A folder of pictures as a source: grey or colour, cut or reduced to one size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from denoisers.images.folder import check_opaque, opened, pictures_in, planes_of, read_grey, size_of
from denoisers.images.source import Images, generators, side_of
from spectral import storage
from spectral.errors import OptionError, ShapeError
from spectral.options import choice

KIND = "images of a folder"


class Folder:
    """The pictures directly in a folder, in the order of their names, float32 (n, C, size, size) in [0, 1].

    Turned upright where their EXIF data say so. `fit`: "resize" takes the largest square in the middle and
    averages it down (or interpolates it up) to size x size; "crop" cuts size x size pixels at a place that
    depends on (seed, i), "centre" in the middle. Image i is picture i, of which there are `count`; a picture
    is read when it is asked for, or all of them once into the file `cache`, 4 bytes an entry, which is read
    in their place, and written anew where names, lengths or dates of the pictures are others.

    Raises FileNotFoundError where there are none; OptionError for an unknown fit, and for a cache of crops,
    which are others for each seed. A call raises OptionError beyond the last picture, ShapeError for one
    below size to be cut, FileContentError for a cache that is damaged, OSError for one that cannot be
    written, and what `read_grey` and `read_colour` raise.
    """

    def __init__(
        self,
        path: str | Path,
        size: int,
        *,
        colour: bool = False,
        fit: Literal["resize", "crop", "centre"] = "resize",
        cache: str | Path | None = None,
    ) -> None:
        choice("fit", fit, ("resize", "crop", "centre"))
        if cache is not None and fit == "crop":
            raise OptionError("crops are others for each seed, and not cached: fit='resize' or 'centre'")
        self.files = pictures_in(path)
        self.size, self.colour, self.fit = side_of(size), colour, fit
        self._cache = None if cache is None else Path(cache)
        self._images: Images | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3 or 1, size, size)."""
        return 3 if self.colour else 1, self.size, self.size

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return len(self.files)

    @property
    def names(self) -> list[str]:
        """Of the pictures' files."""
        return [file.name for file in self.files]

    def side(self, i: int) -> int:
        """The shorter side of picture i's file, in pixels; 0 of what cannot be opened."""
        return min(size_of(self.files[i]))

    def __call__(self, n: int, *, seed: int = 0, first: int = 0) -> Images:
        """Pictures first, ..., first + n - 1."""
        places = generators(n, seed, first)
        if first + n > self.count:
            raise OptionError(f"the folder holds {self.count} pictures, and {first + n} were asked for")
        if self._cache is not None:
            return self._cached(self._cache)[first : first + n].copy()
        return self._read(first, places)

    def _read(self, first: int, places: list[np.random.Generator]) -> Images:
        out = np.empty((len(places), *self.shape), np.float32)
        for i, rng in enumerate(places):
            file = self.files[first + i]
            whole = read_colour(file) if self.colour else read_grey(file, convert=True)
            out[i] = self._fitted(whole[0], rng, file)
        return out

    def _cached(self, file: Path) -> Images:
        """All of them, from the file that keeps them where it is of these pictures."""
        if self._images is None:
            about = self._about()
            tensors, held = storage.read(file, KIND) if file.is_file() else ({}, None)
            if held == about:
                self._images = tensors["images"].numpy()
            else:
                self._images = self._read(0, generators(self.count, 0, 0))
                storage.write(file, KIND, {"images": torch.from_numpy(self._images)}, about)
        return self._images

    def _about(self) -> dict[str, Any]:
        """What the images follow from."""
        stats = [file.stat() for file in self.files]
        files = [[f.name, s.st_size, s.st_mtime_ns] for f, s in zip(self.files, stats, strict=True)]
        return {"files": files, "shape": list(self.shape), "fit": self.fit}

    def _fitted(self, picture: Images, rng: np.random.Generator, file: Path) -> Images:
        if self.fit == "resize":
            return squared(picture, self.size)
        height, width = picture.shape[1:]
        side = self.size
        if side > min(height, width):
            raise ShapeError(f"{file} is {height}x{width}, below {side}: leave it out, or fit='resize'")
        top, left = (height - side) // 2, (width - side) // 2
        if self.fit == "crop":
            top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        return picture[:, top : top + side, left : left + side]


def squared(picture: Images, size: int) -> Images:
    """The largest square in the middle of (C, H, W), averaged down or interpolated up to (C, size, size)."""
    height, width = picture.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[:, top : top + side, left : left + side]
    if side == size:
        return square
    # Channel by channel in floats: Pillow resizes 8 bits a pixel to 8 bits.
    rule = Image.Resampling.BOX if side > size else Image.Resampling.BILINEAR
    planes = [Image.fromarray(p).resize((size, size), rule) for p in square]
    return np.stack([np.asarray(p) for p in planes]).clip(0, 1)


def read_colour(path: str | Path) -> Images:
    """A picture file of 8 bits a channel as float32 (1, 3, H, W) in [0, 1], turned upright; grey is repeated.

    Raises FileNotFoundError for a missing file, FileContentError for a file that is no picture, one that is
    transparent in part, or of several frames.
    """
    picture = opened(path)
    if picture.mode.startswith("I") or picture.mode == "F":
        return read_grey(path).repeat(3, 1)
    check_opaque(picture, str(path))
    return planes_of(picture)[None]
