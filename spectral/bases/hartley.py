"""The Hartley basis: the real orthonormal basis in which stationary images are uncorrelated."""

from spectral.bases.base import Array, Band, as_images
from spectral.kernels.arrays import companion, namespace


class Hartley:
    """psi_k(x) = (cos + sin)(2 pi (k_1 x_1 / H + k_2 x_2 / W)) / sqrt(H W), for any shape (H, W).

    With X the orthonormal discrete Fourier transform, the coefficients are Re X - Im X. The transform is its
    own inverse, and multiplying coefficients by gains that are even in k is a convolution by an even kernel.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.details: tuple[Band, ...] = ((slice(0, shape[0]), slice(0, shape[1])),)

    def analysis(self, images: Array) -> Array:
        """Hartley coefficients (..., H, W) of images (..., H, W), frequencies in the order of fftfreq."""
        x = as_images(images, self.shape)
        spectrum = companion(namespace(x), "fft").fft2(x, norm="ortho")
        return spectrum.real - spectrum.imag

    def synthesis(self, coefficients: Array) -> Array:
        """Images (..., H, W) from Hartley coefficients (..., H, W)."""
        return self.analysis(coefficients)
