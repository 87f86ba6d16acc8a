"""Orthonormal bases of images, fixed and chosen by geometry."""

from spectral.bases.bandlet import BandletBasis, BandletFrame, Forests, pixel_bandlets, wavelet_bandlets
from spectral.bases.base import Basis, Pixels
from spectral.bases.dct import DCT
from spectral.bases.hartley import Hartley
from spectral.bases.wavelet import Wavelet

__all__ = [
    "DCT",
    "BandletBasis",
    "BandletFrame",
    "Basis",
    "Forests",
    "Hartley",
    "Pixels",
    "Wavelet",
    "pixel_bandlets",
    "wavelet_bandlets",
]
