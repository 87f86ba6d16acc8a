"""Pictures of one .npz file as a source, and pictures by the path of whatever holds them."""

from __future__ import annotations

import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from denoisers.images.pictures import Folder, squared
from denoisers.images.source import Images, generators, side_of
from spectral.errors import FileContentError, OptionError

SUFFIX = ".npz"
KEY = "images"


class Stack:
    """The pictures of an .npz file, its array `images`, float32 (n, C, size, size) in [0, 1].

    The array is uint8, (n, H, W) in grey or (n, H, W, 3) in colour. Image i is picture i, its largest square
    in the middle averaged down (or interpolated up) to size x size, as `Folder` has it; colour is turned into
    luminance 0.299 R + 0.587 G + 0.114 B where grey is asked for, grey is repeated where colour is.

    Raises FileNotFoundError for a missing file; FileContentError for one that is no .npz, or holds no such
    array. A call raises OptionError beyond the last picture.
    """

    def __init__(self, path: str | Path, size: int, *, colour: bool = False) -> None:
        self.path = Path(path)
        self.size, self.colour = side_of(size), colour
        if not self.path.is_file():
            raise FileNotFoundError(f"no file of pictures at {self.path}")
        self._pixels = _read(self.path, self.path.stat().st_mtime_ns)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3 or 1, size, size)."""
        return 3 if self.colour else 1, self.size, self.size

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return len(self._pixels)

    @property
    def names(self) -> list[str]:
        """Of the pictures, by their places."""
        return [f"{self.path.name}[{i}]" for i in range(self.count)]

    def side(self, i: int) -> int:
        """The shorter side of picture i as it lies in the file, in pixels."""
        return min(self._pixels[i].shape[:2])

    def __call__(self, n: int, *, seed: int = 0, first: int = 0) -> Images:
        """Pictures first, ..., first + n - 1."""
        generators(n, seed, first)  # n, first and seed are what they are elsewhere
        if first + n > self.count:
            raise OptionError(f"{self.path} holds {self.count} pictures, and {first + n} were asked for")
        out = np.empty((n, *self.shape), np.float32)
        for i in range(n):
            out[i] = squared(self.whole(first + i), self.size)
        return out

    def whole(self, i: int) -> Images:
        """Picture i as it is, (C, H, W)."""
        pixels = self._pixels[i]
        if not self.colour and pixels.ndim == 3:
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))
        floats = pixels.astype(np.float32) / np.float32(255)
        if self.colour:
            planes = floats if floats.ndim == 3 else np.repeat(floats[..., None], 3, -1)
            return np.ascontiguousarray(planes.transpose(2, 0, 1))
        return floats[None]


def is_stack(path: str | Path) -> bool:
    """Whether a path names an .npz file rather than a folder."""
    return Path(path).suffix.lower() == SUFFIX and not Path(path).is_dir()


def pictures_at(
    path: str | Path, size: int, *, colour: bool = False, cache: str | Path | None = None
) -> Folder | Stack:
    """The pictures that a path holds, whole: a `Stack` of an .npz file, a `Folder` of anything else.

    cache: as of `Folder`. Raises what these raise; OptionError for a cache of an .npz file.
    """
    if not is_stack(path):
        return Folder(path, size, colour=colour, cache=cache)
    if cache is not None:
        raise OptionError(f"a cache is of a folder's pictures, and {path} is one file already")
    return Stack(path, size, colour=colour)


@lru_cache(maxsize=1)
def _read(path: Path, changed: int) -> NDArray[np.uint8]:
    """The array of an .npz file that is to hold pictures, shared by the sources of all sizes."""
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no zip archive")
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in file.files if name == KEY} or sorted(file.files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise FileContentError(f"{path} is not an .npz file that NumPy can read: {error}") from error
    want = f"uint8 pictures (n, H, W), or (n, H, W, 3) in colour, as its array '{KEY}'"
    if isinstance(held, list):
        raise FileContentError(f"{path} holds {', '.join(held) or 'nothing'}, not {want}: save it with that")
    images = held[KEY]
    fits = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    if images.dtype != np.uint8 or not fits or not images.size:
        raise FileContentError(f"{path} holds {images.dtype} {images.shape}, not {want}: save it as that")
    images.setflags(write=False)
    return np.asarray(images)
