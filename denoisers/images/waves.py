"""Sine waves of any phase and intensity: a set whose optimal denoiser has two eigenvectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from denoisers.images.source import Images, side_of, uniforms
from spectral.errors import OptionError


@dataclass(frozen=True)
class Waves:
    """x(p) = offset + a cos(2 pi k.p / size - phi), phi uniform on [0, 2 pi), a on [0, amplitude].

    k = (rows, columns) in whole periods a side. In the plane of the two images of `basis` the image lies at
    (a cos phi, a sin phi): the optimal denoiser's Jacobian has rank 2 (arXiv 2310.02557, figure 20). With an
    offset the plane does not go through zero, which a bias-free network sees as a third dimension; without
    one the images are not in [0, 1].

    Raises OptionError for size < 2, a frequency of zero or beyond size / 2, or amplitude <= 0.
    """

    size: int
    frequency: tuple[int, int] = (0, 1)
    amplitude: float = 0.5
    offset: float = 0.5

    def __post_init__(self) -> None:
        half = side_of(self.size) / 2
        if not any(self.frequency) or max(map(abs, self.frequency)) >= half:
            raise OptionError(f"a frequency is not zero and below {half:g} periods, got {self.frequency}")
        if not self.amplitude > 0:
            raise OptionError(f"amplitude must be positive, got {self.amplitude}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(1, size, size)."""
        return 1, self.size, self.size

    def basis(self) -> NDArray[np.float64]:
        """cos and sin of 2 pi k.p / size, (2, 1, size, size), orthogonal, of norm size / sqrt(2)."""
        p = np.arange(self.size)
        phase = 2 * np.pi / self.size * (self.frequency[0] * p[:, None] + self.frequency[1] * p)
        return np.stack([np.cos(phase), np.sin(phase)])[:, None]

    def __call__(self, n: int, *, seed: int = 0, first: int = 0) -> Images:
        """Images first, ..., first + n - 1, float32 (n, 1, size, size)."""
        u = uniforms(n, 2, seed, first)
        a, phi = self.amplitude * u[:, 0], 2 * np.pi * u[:, 1]
        weights = np.stack([a * np.cos(phi), a * np.sin(phi)], 1)
        return (self.offset + np.tensordot(weights, self.basis(), 1)).astype(np.float32)
