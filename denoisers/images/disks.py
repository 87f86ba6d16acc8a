"""Disks: images with five degrees of freedom, and their tangent space in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from denoisers.images.source import Images, side_of, uniforms
from spectral.errors import OptionError

LEAST, MOST = 3 / 80, 38 / 80  # radii, in sides of the image


@dataclass(frozen=True)
class Disks:
    """x(p) = b + (a - b) S((r - |p - c|) / w): a disk of intensity a on a ground b, its edge w pixels soft.

    S(t) = 1 / (1 + e^-t). The centre c is uniform on the image, r on [3/80, 38/80] sides, a and b on [0, 1]
    (arXiv 2310.02557, section 4.2). Raises OptionError for size < 2 or softness <= 0.
    """

    size: int
    softness: float = 0.5

    def __post_init__(self) -> None:
        side_of(self.size)
        if not self.softness > 0:
            raise OptionError(f"softness is a width in pixels, positive, got {self.softness}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(1, size, size)."""
        return 1, self.size, self.size

    def parameters(self, n: int, *, seed: int = 0, first: int = 0) -> NDArray[np.float64]:
        """(row, column, radius, foreground, background) of each image, (n, 5), the first three in pixels."""
        u = uniforms(n, 5, seed, first)
        u[:, :2] *= self.size - 1
        u[:, 2] = self.size * (LEAST + (MOST - LEAST) * u[:, 2])
        return u

    def __call__(self, n: int, *, seed: int = 0, first: int = 0) -> Images:
        """Images first, ..., first + n - 1, float32 (n, 1, size, size)."""
        return self.render(self.parameters(n, seed=seed, first=first)).astype(np.float32)

    def render(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        """The images of given parameters (n, 5): float64 (n, 1, size, size)."""
        inside, _, _ = self._parts(parameters)
        a, b = (parameters[:, i, None, None] for i in (3, 4))
        return (b + (a - b) * inside)[:, None]

    def tangents(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        """The five derivatives of each image by its parameters, (n, 5, 1, size, size)."""
        inside, offsets, distance = self._parts(parameters)
        edge = inside * (1 - inside) / self.softness * (parameters[:, 3] - parameters[:, 4])[:, None, None]
        unit = offsets / np.maximum(distance, 1e-12)[:, None]
        parts = [edge * unit[:, 0], edge * unit[:, 1], edge, inside, 1 - inside]
        return np.stack(parts, 1)[:, :, None]

    def _parts(
        self, parameters: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The soft mask, p - c, and |p - c|."""
        grid = np.stack(np.meshgrid(np.arange(self.size), np.arange(self.size), indexing="ij"))
        offsets = grid[None] - parameters[:, :2, None, None]
        distance = np.sqrt((offsets**2).sum(1))
        t = (parameters[:, 2, None, None] - distance) / self.softness
        return 0.5 * (1 + np.tanh(t / 2)), offsets, distance
