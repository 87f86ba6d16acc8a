"""What an orthonormal basis of images is."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spectral.errors import OptionError, ShapeError
from spectral.kernels.arrays import as_array

Array = NDArray[np.floating[Any]]
Band = tuple[slice, slice]


class Basis(Protocol):
    """An orthonormal basis of images of one shape (H, W).

    Coefficients are laid out as an image, so that analysis Q and synthesis Q' map (..., H, W) to (..., H, W),
    in float32 or float64, whichever comes in; Q Q' = Q' Q = I. NumPy arrays, CuPy arrays and torch tensors
    may come in; the work is done where they lie, and a NumPy or CuPy array comes out.
    """

    shape: tuple[int, int]
    details: tuple[Band, ...]
    """Rectangles of the coefficient array that hold one kind of coefficient each, coarse scale excluded."""

    def analysis(self, images: Array) -> Array:
        """Coefficients <x, psi_k> of images (..., H, W)."""
        ...

    def synthesis(self, coefficients: Array) -> Array:
        """Images sum_k c_k psi_k from coefficients (..., H, W)."""
        ...


class Pixels:
    """The canonical basis: the coefficients are the pixels."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.details: tuple[Band, ...] = ((slice(0, shape[0]), slice(0, shape[1])),)

    def analysis(self, images: Array) -> Array:
        """A copy of the images."""
        return as_images(images, self.shape).copy()

    def synthesis(self, coefficients: Array) -> Array:
        """A copy of the coefficients."""
        return as_images(coefficients, self.shape).copy()


def as_images(x: Array, shape: tuple[int, int]) -> Array:
    """x as a float32 or float64 array (..., H, W), on the device where it lies.

    Raises ShapeError where the last two axes are not `shape`, OptionError where x is not real.
    """
    x = as_array(x)
    if x.dtype.kind not in "fiub":
        raise OptionError(f"images must be real numbers, got {x.dtype}")
    if x.shape[-2:] != shape:
        raise ShapeError(f"this basis is for images (..., {shape[0]}, {shape[1]}), got shape {x.shape}")
    return x if x.dtype in (np.float32, np.float64) else x.astype(np.float64)
