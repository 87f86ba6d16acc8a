"""The orthonormal cosine basis."""

from spectral.bases.base import Array, Band, as_images
from spectral.kernels.arrays import companion, namespace


class DCT:
    """Two-dimensional DCT-II: psi_{k,l}(i, j) = a_k a_l cos(pi k (2i + 1) / 2H) cos(pi l (2j + 1) / 2W).

    a_0 = H^-1/2 and a_k = (2/H)^1/2 for k > 0 along the rows, W along the columns. Any shape (H, W).
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.details: tuple[Band, ...] = ((slice(0, shape[0]), slice(0, shape[1])),)

    def analysis(self, images: Array) -> Array:
        """Cosine coefficients (..., H, W) of images (..., H, W)."""
        x = as_images(images, self.shape)
        return companion(namespace(x), "fft").dctn(x, axes=(-2, -1), norm="ortho")

    def synthesis(self, coefficients: Array) -> Array:
        """Images (..., H, W) from cosine coefficients (..., H, W)."""
        c = as_images(coefficients, self.shape)
        return companion(namespace(c), "fft").idctn(c, axes=(-2, -1), norm="ortho")
